"""What the rules of :mod:`hf_distill.pipeline.compatibility` look at, and how they find what does not go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from hf_distill.data.rows import Data
from hf_distill.evaluation.metrics import primary_metric, scorer_names
from hf_distill.objectives import Objective
from hf_distill.recipe import CacheConfig, Recipe
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher, EnsembleTeacher, ServedTeacher
from hf_distill.types import OF_THE_DATA, Need

ALL: frozenset[Need] = frozenset(get_args(Need))

GIVES: dict[str, frozenset[Need]] = {
    "none": frozenset(),
    "served": ServedTeacher.provides,
    "several": EnsembleTeacher.provides,
    "cached": CachedTeacher.provides,
}
"""What a teacher gives of which this can be said; any other gives all."""

CACHE = ("a cache", "keeps", "is made", "a live teacher (teacher.kind: live)")
SERVER = ("a server", "gives", "is asked", "a teacher that is loaded here (teacher.model)")
"""Words for who knows only some probabilities, what it does with them, how it comes to them, and who knows all."""


@dataclass(frozen=True, kw_only=True)
class RecipeCase:
    """A recipe with its task, its data, and the objectives of all its stages."""

    recipe: Recipe
    task: Task
    data: Data
    objectives: Mapping[str, Objective]

    @property
    def traits(self) -> frozenset[str]:
        """What can be said of the teacher: ``none``, ``served``, ``several``, ``cached``."""
        return self.recipe.teacher.traits if self.recipe.teacher is not None else frozenset({"none"})

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return primary_metric(self.task, self.recipe.evaluate)

    @property
    def scorers(self) -> str:
        """What judges the texts that models write; empty where none are written."""
        return ", ".join(scorer_names(self.task, self.recipe.evaluate.scorers))

    @property
    def sets_top_k(self) -> bool:
        """Whether the recipe tells how many tokens a server is asked for."""
        endpoint = self.recipe.teacher.endpoint if self.recipe.teacher is not None else None
        return endpoint is not None and endpoint.top_k is not None

    @property
    def asks(self) -> bool:
        """Whether any objective asks the teacher for logits."""
        return any("logits" in objective.needs for objective in self.objectives.values())


@dataclass(frozen=True, kw_only=True)
class TargetsCase:
    """A teacher and the objectives that ask it; the rules of objectives are about the one that is named."""

    traits: frozenset[str]
    cache: CacheConfig = field(default_factory=CacheConfig)
    task: Task
    objectives: Mapping[str, Objective]
    provides: frozenset[Need] = ALL
    name: str = ""

    @property
    def objective(self) -> Objective:
        """The one that is named."""
        return self.objectives[self.name]

    @property
    def scheme(self) -> str:
        """How a cache keeps logits; ``none`` where the task's cannot be kept."""
        return next(iter(self.task.cache_schemes), "none") if self.cache.scheme == "auto" else self.cache.scheme

    @property
    def knows_some(self) -> bool:
        """Whether only some probabilities of each position are known: from a server, or a cache of a vocabulary."""
        return "served" in self.traits or ("cached" in self.traits and self.scheme not in ("dense", "none"))

    @property
    def words(self) -> tuple[str, str, str, str]:
        """For messages about a teacher of whom only some probabilities are known."""
        return SERVER if "served" in self.traits else CACHE

    @property
    def temperatures(self) -> dict[str, float]:
        """At which temperature each objective that asks for logits compares."""
        asking = {name: each for name, each in self.objectives.items() if "logits" in each.needs}
        return {name: float(getattr(each, "options", {}).get("temperature", 1.0)) for name, each in asking.items()}

    @property
    def shown_temperatures(self) -> str:
        """The same for people."""
        return ", ".join(f"{name} {value:g}" for name, value in self.temperatures.items())


def beyond(trait: str) -> Callable[[TargetsCase], object]:
    """Finds the objective and what it needs that a teacher of this kind, any where it is empty, does not give."""

    def found(case: TargetsCase) -> object:
        given = case.provides.intersection(*(gives for name, gives in GIVES.items() if name in case.traits))
        beyond = " and ".join(sorted(case.objective.needs - OF_THE_DATA - given))
        return (case.name, beyond) if (not trait or trait in case.traits) and beyond else None

    return found


def crosses(trait: str) -> Callable[[TargetsCase], object]:
    """Finds an objective that compares models with different tokens."""
    return lambda case: case.name if trait in case.traits and case.objective.cross_tokenizer else None


def other_divergence(case: TargetsCase) -> object:
    """The objective that compares all probabilities, where only some are known."""
    divergence = getattr(case.objective, "divergence", None) or type(case.objective).__name__
    compares = case.knows_some and "logits" in case.objective.needs
    keeper, keeps, _, whole = case.words
    return (case.name, divergence, keeper, keeps, whole) if compares and divergence != "forward_kl" else None


def moving_temperature(case: TargetsCase) -> object:
    """The objective whose temperature moves, where probabilities are known at one alone."""
    moves = case.knows_some and "temperature" in case.objective.schedules
    return (case.name, case.objective.schedules["temperature"], case.words[3]) if moves else None


def several_temperatures(case: TargetsCase) -> object:
    """The temperatures, where there are several and probabilities are known at one alone."""
    several = case.knows_some and len(set(case.temperatures.values())) > 1
    return (case.words[0], case.words[2], case.shown_temperatures) if several else None


def no_outside_rows(case: RecipeCase) -> object:
    """The evaluated split, where it holds no row out of scope."""
    split, label = case.recipe.evaluate.split, case.task.out_of_scope
    if label is None or len(case.data.outside[split]):
        return None
    others = [name for name, rows in case.data.outside.items() if len(rows)]
    return split, repr(label), f"set evaluate.split to {others[0]}" if others else "add such rows"


def reads_twice(case: RecipeCase) -> object:
    """The objective that reads a text twice, where nothing makes its two views differ."""
    if not case.recipe.student.disable_dropout or "text_pair" in (case.data.train.column_names or ["text_pair"]):
        return None
    return next((name for name, each in case.objectives.items() if "pairs" in each.needs), None)
