"""What a rule of the table in :mod:`hf_distill.pipeline.compatibility` is, and the cases that rules look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hf_distill.data.load import Data
from hf_distill.errors import HfDistillError, RecipeError
from hf_distill.evaluation.metrics import primary_metric
from hf_distill.evaluation.written import scorer_names
from hf_distill.objectives import Objective
from hf_distill.recipe import CacheConfig, Recipe
from hf_distill.tasks import Task
from hf_distill.types import OF_THE_DATA, Need

Trait = Literal["none", "served", "cached", "several"]
"""What a rule says of the teacher: there is none, it runs behind an endpoint, its targets are read from disk, there are
several."""

ALL: frozenset[Need] = frozenset(get_args(Need))

GIVES: dict[str, frozenset[Need]] = {
    "none": frozenset(),
    "served": frozenset({"logits"}),
    "several": frozenset({"logits"}),
    "cached": frozenset({"logits", "hidden_states"}),
}
"""What a teacher gives of which this can be said; any other gives all."""

CACHE = ("a cache", "keeps", "is made", "a live teacher (teacher.kind: live)")
SERVER = ("a server", "gives", "is asked", "a teacher that is loaded here (teacher.model)")
"""Words for who knows only some probabilities, what it does with them, how it comes to them, and who knows all."""


@dataclass(frozen=True, kw_only=True)
class TargetsCase:
    """A teacher and the objectives that ask it.

    Attributes:
        teacher: What can be said of the teacher, see :data:`Trait`.
        cache: What is kept of a cached one.
        task: Whose outputs are compared.
        objectives: By name.
        name: Of one of them, where a rule is about one.
    """

    teacher: frozenset[str]
    cache: CacheConfig = field(default_factory=CacheConfig)
    task: Task
    objectives: Mapping[str, Objective]
    name: str = ""

    @property
    def objective(self) -> Objective:
        """The one that a rule is about."""
        return self.objectives[self.name]

    @property
    def divergence(self) -> str:
        """Of the objective; the name of its class where it has none."""
        return getattr(self.objective, "divergence", None) or type(self.objective).__name__

    @property
    def beyond(self) -> str:
        """What the objective needs that a teacher of this kind does not give; empty where it gives all."""
        given = [gives for trait, gives in GIVES.items() if trait in self.teacher]
        return " and ".join(sorted(self.objective.needs - OF_THE_DATA - ALL.intersection(*given)))

    @property
    def scheme(self) -> str:
        """How a cache keeps logits."""
        return self.task.cache_schemes[0] if self.cache.scheme == "auto" else self.cache.scheme

    @property
    def knows_some(self) -> bool:
        """Whether only some probabilities of each position are known: from a server, or a cache of a vocabulary."""
        return "served" in self.teacher or ("cached" in self.teacher and self.scheme != "dense")

    @property
    def words(self) -> tuple[str, str, str, str]:
        """For messages about a teacher of whom only some probabilities are known."""
        return SERVER if "served" in self.teacher else CACHE

    @property
    def asks(self) -> bool:
        """Whether the objective compares with logits of which only some probabilities are known."""
        return self.knows_some and "logits" in self.objective.needs

    @property
    def temperatures(self) -> dict[str, float]:
        """At which temperature each objective that asks for logits compares."""
        asking = {name: each for name, each in self.objectives.items() if "logits" in each.needs}
        return {name: float(getattr(each, "options", {}).get("temperature", 1.0)) for name, each in asking.items()}

    @property
    def shown_temperatures(self) -> str:
        """The same for people."""
        return ", ".join(f"{name} {value:g}" for name, value in self.temperatures.items())


@dataclass(frozen=True, kw_only=True)
class RecipeCase:
    """A recipe with its task, its data, and the objectives of all its stages."""

    recipe: Recipe
    task: Task
    data: Data
    objectives: Mapping[str, Objective]
    name: str = ""

    @property
    def teacher(self) -> frozenset[str]:
        """What can be said of the teacher, see :data:`Trait`."""
        return self.recipe.teacher.traits if self.recipe.teacher is not None else frozenset({"none"})

    @property
    def cache(self) -> CacheConfig:
        """What is kept of a cached teacher."""
        return (self.recipe.teacher.cache if self.recipe.teacher is not None else None) or CacheConfig()

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return primary_metric(self.task, self.recipe.evaluate)

    @property
    def scorers(self) -> str:
        """What judges the texts that models write; empty where none are written."""
        return ", ".join(scorer_names(self.task, self.recipe.evaluate.scorers))

    @property
    def asks(self) -> bool:
        """Whether any objective asks the teacher for logits."""
        return any("logits" in objective.needs for objective in self.objectives.values())

    @property
    def reads_twice(self) -> str:
        """The objective that reads a text twice to get two views of it; empty where none does."""
        if "text_pair" in (self.data.train.column_names or ["text_pair"]):
            return ""
        return next((name for name, each in self.objectives.items() if "pairs" in each.needs), "")

    @property
    def top_k(self) -> int | None:
        """How many tokens a server is asked for, where the recipe tells."""
        return self.recipe.teacher.top_k if self.recipe.teacher is not None else None

    @property
    def outside_split(self) -> str:
        """How to get rows out of scope."""
        splits = [name for name, rows in self.data.outside.items() if len(rows)]
        return f"set evaluate.split to {splits[0]}" if splits else "add such rows"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that does not go with another.

    Attributes:
        teacher: What must be said of the teacher; None where any is meant.
        what: What does not go with it, in words.
        breaks: Whether a case breaks the rule.
        message: What is told; it may name what the case knows, as ``{case.metric}``.
        error: The type that is raised.
    """

    teacher: Trait | None
    what: str
    breaks: Callable[[Any], bool]
    message: str
    error: type[HfDistillError] = RecipeError

    def check(self, case: TargetsCase | RecipeCase) -> None:
        """Raise the rule's error where the case breaks it."""
        if (self.teacher is None or self.teacher in case.teacher) and self.breaks(case):
            raise self.error(self.message.format(case=case))
