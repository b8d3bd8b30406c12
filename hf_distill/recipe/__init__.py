"""The recipe: one YAML file, read strictly into frozen dataclasses, its keys in the order of the flow."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_distill.recipe.data import UNLABELLED, DataConfig, TestDataConfig
from hf_distill.recipe.ensemble import MemberConfig, check_ensemble
from hf_distill.recipe.server import ServerConfig, check_served_generation
from hf_distill.recipe.stages import ObjectiveConfig, StageConfig, check_stages, in_stage
from hf_distill.recipe.student import LoraConfig, StudentConfig, VocabularyConfig, WidthConfig
from hf_distill.recipe.writing import LabelConfig, LabelFilters, RolloutConfig
from hf_distill.strict import refuse_unless

__all__ = [
    "UNLABELLED",
    "CacheConfig",
    "DataConfig",
    "EvaluateConfig",
    "HubConfig",
    "LabelConfig",
    "LabelFilters",
    "LoraConfig",
    "MemberConfig",
    "ObjectiveConfig",
    "Recipe",
    "RolloutConfig",
    "ServerConfig",
    "StageConfig",
    "StudentConfig",
    "TaskConfig",
    "TeacherConfig",
    "TestDataConfig",
    "VocabularyConfig",
    "WidthConfig",
]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What the rows mean."""

    name: str
    """As in ``TASKS``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """What is kept of a teacher that is cached."""

    scheme: Literal["auto", "sampled", "top_k", "naive_top_k", "dense"] = "auto"
    """``auto``: dense for classes, sampled for a vocabulary."""
    draws: int | None = None
    """Of ``sampled``: tokens drawn a position; 50 unless given."""
    k: int | None = None
    """Of ``top_k`` and ``naive_top_k``: how many tokens are kept; 64 unless given."""
    path: str | None = None
    """A folder to use, refused where it holds a cache of something else; found by itself unless given."""
    verify: int = 0
    """How many rows are compared with the live teacher before it is used."""

    def __post_init__(self) -> None:
        where = "recipe.teacher.cache"
        refuse_unless(
            self.draws is None or self.scheme in ("auto", "sampled"),
            f"{where}.draws: does nothing for {self.scheme}; remove it",
        )
        refuse_unless(
            self.k is None or self.scheme in ("top_k", "naive_top_k"),
            f"{where}.k: does nothing for {self.scheme}; remove it, or set scheme: top_k",
        )
        refuse_unless(self.verify >= 0, f"{where}.verify: expected at least 0 rows, got {self.verify}")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Where targets come from."""

    model: str | None = None
    """A Hub id or folder."""
    revision: str | None = None
    """A branch, tag or commit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 where the device computes it in hardware, else float32."""
    labels: list[str] | None = None
    """The names of its outputs in its own order, where its config does not tell them."""
    kind: Literal["live", "cached"] = "live"
    """``cached``: it looks at every row once, and what it says is read from disk in every epoch."""
    cache: CacheConfig | None = None
    """What a cached teacher keeps."""
    device_map: str | None = None
    """How to spread it over devices, as ``from_pretrained`` takes it."""
    recipe: Any = None
    """How to make it: another recipe's path, or a mapping that inherits version, seed, task and data."""
    ensemble: tuple[MemberConfig, ...] | None = None
    """Several teachers in place of one: the student learns from the weighted mean of their probabilities."""
    route: str | None = None
    """A column of the data that names, in each row, the member of ``ensemble`` that alone teaches it."""
    server: ServerConfig | None = None
    """The endpoint behind which it runs."""

    def __post_init__(self) -> None:
        refuse_unless(
            [self.model, self.recipe, self.ensemble, self.server].count(None) == 3,
            "recipe.teacher: expected exactly one of model, recipe, ensemble and server",
        )
        if self.ensemble is not None:
            self._check_ensemble(self.ensemble)
        refuse_unless(
            self.route is None or self.ensemble is not None,
            "recipe.teacher.route: does nothing for a single teacher; remove it, or name several in ensemble",
        )
        if self.server is not None:
            self._check_server()
        for name in ("revision", "labels"):
            refuse_unless(
                self.model is not None or getattr(self, name) is None,
                f"recipe.teacher.{name}: does nothing for a teacher made by a recipe; remove it",
            )
        refuse_unless(
            not isinstance(self.recipe, Recipe) or self.recipe.teacher is None,
            "recipe.teacher.recipe.teacher: a teacher's recipe trains on labels alone; remove it",
        )
        refuse_unless(
            self.kind == "cached" or self.cache is None,
            "recipe.teacher.cache: does nothing for a live teacher; set kind: cached, or remove it",
        )

    def _check_ensemble(self, members: tuple[MemberConfig, ...]) -> None:
        for name, default in (("revision", None), ("labels", None), ("device_map", None), ("dtype", "auto")):
            refuse_unless(
                getattr(self, name) == default,
                f"recipe.teacher.{name}: does nothing beside ensemble; say it of each member",
            )
        check_ensemble(members, self.route)

    def _check_server(self) -> None:
        for name, default in (("revision", None), ("dtype", "auto"), ("labels", None), ("device_map", None)):
            refuse_unless(
                getattr(self, name) == default,
                f"recipe.teacher.{name}: does nothing for a served teacher, which the server loads; remove it",
            )
        cache = self.cache or CacheConfig()
        refuse_unless(
            cache.scheme in ("auto", "top_k"),
            f"recipe.teacher.cache.scheme: a server gives the likeliest tokens, of which {cache.scheme} cannot be "
            "made; set it to top_k, or remove it",
        )
        for name, value in (("draws", cache.draws), ("k", cache.k)):
            refuse_unless(
                value is None,
                f"recipe.teacher.cache.{name}: does nothing for a served teacher; teacher.server.top_k tells how many "
                "tokens are kept: remove it",
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How the models are compared."""

    split: Literal["test", "validation"] = "test"
    """The rows that all models are scored on."""
    metric: str | None = None
    """The metric that decides; the task's own unless given."""
    scorers: tuple[str, ...] = ()
    """What judges the texts that models write: of ``SCORERS``, or package.module:function; the task's unless given."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How models write: settings of ``transformers.GenerationConfig``, which the student keeps."""
    control: bool = True
    """Whether the same student is trained without a teacher, too."""
    resamples: int = 1000
    """Of the bootstrap that gives the intervals."""
    batch_size: int = 32
    """Rows of a batch when throughput is measured."""
    start: bool = False
    """Whether the student is scored before it is trained, too: of use where it is made of something trained."""
    floor: bool = False
    """Whether a linear bag-of-words model is trained and told, too."""

    def __post_init__(self) -> None:
        refuse_unless(self.resamples >= 100, f"recipe.evaluate.resamples: expected at least 100, got {self.resamples}")
        refuse_unless(self.batch_size >= 1, f"recipe.evaluate.batch_size: expected at least 1, got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Whether and where the student is pushed."""

    push: bool = False
    """Push when the run is complete."""
    model_id: str | None = None
    """``user/name``."""
    private: bool = True
    """Whether a repository that is made for it is private."""

    def __post_init__(self) -> None:
        refuse_unless(
            not self.push or self.model_id is not None, "recipe.hub.model_id: required to push; name user/model"
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run depends on. The keys stand in the order of the flow."""

    version: int
    """Of this format: 1."""
    name: str
    """Of the run, and of its folder: letters, digits, dot, dash and underscore."""
    seed: int = 42
    """Decides splits, initial weights, order and dropout."""
    task: TaskConfig
    """A name, or a mapping of ``name`` and options."""
    data: DataConfig
    """Where the rows come from."""
    teacher: TeacherConfig | None = None
    """None: plain fine-tuning."""
    label: LabelConfig | None = None
    """Whether the student learns from texts that the teacher wrote, and how they come about."""
    student: StudentConfig
    """How the small model is born."""
    rollout: RolloutConfig | None = None
    """Whether the student learns from what it writes itself, and how it writes."""
    objectives: tuple[ObjectiveConfig, ...] = (ObjectiveConfig(kind="labels"),)
    """The terms of the loss."""
    stages: tuple[StageConfig, ...] = ()
    """Parts of the training, one after the other, that have objectives and rollouts in place of the recipe's."""
    training: dict[str, Any] = field(default_factory=dict)
    """Goes untouched to ``transformers.TrainingArguments``."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How the models are compared."""
    hub: HubConfig = HubConfig()
    """Whether and where the student is pushed."""

    def __post_init__(self) -> None:
        refuse_unless(
            self.version == 1, f"recipe.version: expected 1, got {self.version!r}; this release reads version 1"
        )
        refuse_unless(
            re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is not None,
            f"recipe.name: expected letters, digits, '.', '_' and '-', got {self.name!r}; it names the run's folder",
        )
        refuse_unless(self.seed >= 0, f"recipe.seed: expected at least 0, got {self.seed}")
        refuse_unless(len(self.objectives) > 0, "recipe.objectives: expected at least one, got an empty list")
        refuse_unless(
            self.teacher is not None or self.data == self.data.labelled(),
            "recipe.data: unlabelled rows teach nothing without a teacher; remove unlabelled_split and "
            "unlabelled_files, or name a teacher",
        )
        refuse_unless(
            self.rollout is None or self.teacher is not None,
            "recipe.rollout: only a teacher can judge what a student writes; name one, or remove it",
        )
        refuse_unless(
            self.rollout is None or self.teacher is None or self.teacher.kind == "live",
            "recipe.teacher.kind: a cache holds what a teacher said of the data, nothing of what a student will write; "
            "set it to live, or remove rollout",
        )
        if self.teacher is not None and self.teacher.route is not None:
            self._check_route(self.teacher.route)
        if self.label is not None:
            self._check_label()
        if self.stages:
            self._check_stages()
        if self.teacher is not None and self.teacher.server is not None:
            self._check_served()

    def _check_served(self) -> None:
        check_served_generation(self.evaluate.generation, 1, "recipe.evaluate.generation")
        if self.label is not None:
            check_served_generation(self.label.generation, self.label.hypotheses, "recipe.label.generation")
            refuse_unless(
                self.label.batch_size == LabelConfig.batch_size,
                "recipe.label.batch_size: does nothing for a served teacher; teacher.server.concurrency tells how "
                "many rows it writes for at once: remove it",
            )

    def _check_route(self, route: str) -> None:
        refuse_unless(
            not self.data.streaming,
            f"recipe.teacher.route: who teaches a row ({route}) is checked before anything is trained, which a stream "
            "does not allow; set data.streaming to false, or remove route",
        )
        refuse_unless(
            self.rollout is None,
            "recipe.teacher.route: what a student writes names no teacher; remove route, or remove rollout",
        )

    def _check_label(self) -> None:
        refuse_unless(
            self.teacher is None or self.teacher.ensemble is None,
            "recipe.label: several teachers score texts together, and write none; name one teacher, or remove label",
        )
        refuse_unless(self.teacher is not None, "recipe.label: nobody is there to write; name a teacher, or remove it")
        refuse_unless(
            self.teacher is None or self.teacher.kind == "live",
            "recipe.label: a cached teacher keeps what it says of the data's texts, and writes none; set teacher.kind "
            "to live, or remove label",
        )
        refuse_unless(
            not self.data.streaming,
            "recipe.label: a stream's rows have no ids to be written for once; set data.streaming to false",
        )

    def _check_stages(self) -> None:
        check_stages(self.stages, self.training)
        refuse_unless(self.rollout is None, "recipe.rollout: does nothing beside stages; put it into those that write")
        lora = self.student.lora
        refuse_unless(
            lora is None or not lora.merge,
            "recipe.student.lora.merge: a stage goes on with the adapters that the one before left, and merged ones "
            "are gone; set it to false, or remove stages",
        )
        self.by_stage()  # Each is checked as a recipe is.

    def by_stage(self) -> dict[str, Recipe]:
        """A recipe for each stage, by its name; of a recipe without stages itself, whose name is empty here.

        Raises:
            RecipeError: Where one is no recipe.
        """
        if not self.stages:
            return {"": self}
        recipes = {}
        for stage in self.stages:
            with in_stage(stage.name):
                recipes[stage.name] = dataclasses.replace(
                    self,
                    stages=(),
                    objectives=stage.objectives,
                    rollout=stage.rollout,
                    training=stage.merged(self.training),
                )
        return recipes

    def to_dict(self) -> dict[str, Any]:
        """Plain data that loads again to an equal recipe, keys in the order of the flow."""
        plain = dataclasses.asdict(self)
        for name in ("label", "rollout", "stages"):
            if not plain[name]:  # A recipe without it keeps the hash that it had before there was this key.
                del plain[name]
        for name in ("ensemble", "route", "server"):
            if self.teacher is not None and plain["teacher"][name] is None:
                del plain["teacher"][name]
        plain["task"] = {"name": self.task.name, **self.task.options}
        plain["objectives"] = _plain(self.objectives)
        if self.stages:
            del plain["objectives"]
            plain["stages"] = [{**dataclasses.asdict(s), "objectives": _plain(s.objectives)} for s in self.stages]
        if self.teacher is not None and isinstance(self.teacher.recipe, Recipe):
            plain["teacher"]["recipe"] = self.teacher.recipe.to_dict()
        for number, member in enumerate(self.teacher.ensemble or () if self.teacher is not None else ()):
            if isinstance(member.recipe, Recipe):
                plain["teacher"]["ensemble"][number]["recipe"] = member.recipe.to_dict()
        return plain


def _plain(objectives: tuple[ObjectiveConfig, ...]) -> list[dict[str, Any]]:
    return [{"kind": each.kind, "weight": each.weight, **each.options} for each in objectives]
