"""The recipe: one YAML file, read strictly into frozen dataclasses, its keys in the order of the flow."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_distill.recipe.data import UNLABELLED, DataConfig, TestDataConfig
from hf_distill.recipe.ensemble import MemberConfig
from hf_distill.recipe.generation import LabelConfig, LabelFilters, RolloutConfig
from hf_distill.recipe.parse import refuse_unless
from hf_distill.recipe.server import ServerConfig, check_served_generation
from hf_distill.recipe.stages import ObjectiveConfig, StageConfig, check_stages, in_stage
from hf_distill.recipe.student import LoraConfig, StudentConfig, VocabularyConfig, WidthConfig
from hf_distill.recipe.teacher import CacheConfig, TeacherConfig

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
