"""The recipe: one YAML file, read strictly into frozen dataclasses, its keys in the order of the flow.

May be imported: the dataclasses, ``load_recipe.load_recipe`` and ``load_recipe.dump_recipe``.
Never belongs here: anything that imports torch, or looks at data or models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import override

from hf_distill.names import is_hub_id
from hf_distill.recipe.data import UNLABELLED, DataConfig, TestDataConfig
from hf_distill.recipe.generation import LabelConfig, LabelFilters, RolloutConfig
from hf_distill.recipe.members import EnsembleTeacher, MemberConfig, with_inherited
from hf_distill.recipe.parse import Section, at_least, bound, gathered, names_code, refuse_unless, shown
from hf_distill.recipe.rules import RULES, check_rules
from hf_distill.recipe.server import ServedTeacher, ServerConfig
from hf_distill.recipe.stages import (
    ObjectiveConfig,
    StageConfig,
    check_training_values,
    code_of_training,
    folder_name,
    in_stage,
)
from hf_distill.recipe.student import FromConfig, FromParts, FromPretrained, PluginStudent, StudentConfig
from hf_distill.recipe.student_parts import LoraConfig, VocabularyConfig, WidthConfig
from hf_distill.recipe.teacher import (
    CacheConfig,
    LocalTeacher,
    PluginTeacher,
    SingleTeacher,
    TeacherConfig,
    TrainedTeacher,
)

__all__ = [
    "UNLABELLED", "CacheConfig", "DataConfig", "EnsembleTeacher", "EvaluateConfig", "FromConfig", "FromParts",
    "FromPretrained", "HubConfig", "LabelConfig", "LabelFilters", "LocalTeacher", "LoraConfig", "MemberConfig",
    "ObjectiveConfig", "PluginStudent", "PluginTeacher", "Recipe", "RolloutConfig", "ServedTeacher", "ServerConfig",
    "SingleTeacher", "StageConfig", "StudentConfig", "TaskConfig", "TeacherConfig", "TestDataConfig",
    "TrainedTeacher", "VocabularyConfig", "WidthConfig",
]  # fmt: skip


SHARED = ("caches", "labels", "teachers")
"""Folders beside those of the runs, whose names no run can have."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Section, where="recipe.task"):
    """What the rows mean."""

    name: str = field(metadata=names_code("a task, or package.module:Class"))
    """As in ``TASKS``, or ``package.module:Class``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task."""

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        return cls, gathered({"name": value} if isinstance(value, str) else value, ("name",), where)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Section, where="recipe.evaluate"):
    """How the models are compared."""

    split: Literal["test", "validation"] = "test"
    """The rows that all models are scored on."""
    metric: str | None = None
    """The metric that decides; the task's own unless given."""
    scorers: tuple[str, ...] = field(
        default=(), metadata=names_code("scorers, package.module:function or evaluate:folder_or_hub_id")
    )
    """What judges texts that models write: of ``SCORERS``, package.module:function, or evaluate:folder_or_hub_id, which
    judges decisions, too; the task's unless given."""
    generation: dict[str, Any] = field(default_factory=dict)
    """How models write: settings of ``transformers.GenerationConfig``, which the student keeps."""
    control: bool = True
    """Whether the same student is trained without a teacher, too."""
    resamples: int = field(default=1000, metadata=at_least(100))
    """Of the bootstrap that gives the intervals."""
    batch_size: int = field(default=32, metadata=at_least(1))
    """Rows of a batch when throughput is measured."""
    start: bool = False
    """Whether the student is scored before it is trained, too: of use where it is made of something trained."""
    floor: bool = False
    """Whether a linear bag-of-words model is trained and told, too."""
    examples: bool | None = None
    """Whether the card quotes rows of the split; unless given, where anybody can read them: of a public data set on the
    Hub, or of a loader of ours."""

    @override
    def to_dict(self) -> dict[str, Any]:
        # A recipe without a newer key keeps the hash that it had before there was this key.
        return {name: value for name, value in super().to_dict().items() if name != "examples" or value is not None}


@dataclass(frozen=True, kw_only=True)
class HubConfig(Section, where="recipe.hub"):
    """Whether and where the student is pushed."""

    push: bool = False
    """Push when the run is complete."""
    model_id: str | None = field(
        default=None,
        metadata=bound("user/name, of letters, digits, '-', '_' and '.'", is_hub_id, "so the Hub names models"),
    )
    """``user/name``; a name alone is one of the user's."""
    private: bool = True
    """Whether a repository that is made for it is private, and a public one refused."""
    force: bool = False
    """Whether the student takes the place of what others than this run put into the repository."""

    @override
    def check(self) -> None:
        self.require(not self.push or self.model_id is not None, ".model_id: required to push; name user/model")


@dataclass(frozen=True, kw_only=True)
class Recipe(Section, where="recipe"):
    """Everything that a run depends on. The keys stand in the order of the flow."""

    version: int = field(metadata=bound("1", lambda value: value == 1, "this release reads version 1"))
    """Of this format: 1."""
    name: str = field(metadata=folder_name("it names the run's folder"))
    """Of the run, and of its folder: letters, digits, dot, dash and underscore."""
    seed: int = field(default=42, metadata=bound("0 to 4,294,967,295", lambda seed: 0 <= seed < 2**32))
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
    objectives: tuple[ObjectiveConfig, ...] = field(
        default=(ObjectiveConfig(kind="labels"),), metadata=bound("at least one", bool)
    )
    """The terms of the loss."""
    stages: tuple[StageConfig, ...] = ()
    """Parts of the training, one after the other, that have objectives and rollouts in place of the recipe's."""
    training: dict[str, Any] = field(default_factory=dict, metadata={"code": code_of_training})
    """Goes untouched to ``transformers.TrainingArguments``."""
    training_guard: bool = True
    """Whether a loss or a gradient that is not finite, or a loss that grows a hundredfold, stops the training."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """How the models are compared."""
    hub: HubConfig = HubConfig()
    """Whether and where the student is pushed."""

    @override
    def check(self) -> None:
        told = (
            f".name: {self.name} is the folder beside the runs in which they share what they made; choose another name"
        )
        self.require(self.name.lower() not in SHARED, told)
        check_rules(RULES, self)
        self.by_stage()  # Each is checked as a recipe is.

    def by_stage(self) -> dict[str, Recipe]:
        """A recipe for each stage, by its name; of a recipe without stages itself, whose name is empty here."""
        if not self.stages:
            return {"": self}
        recipes = {}
        for stage in self.stages:
            with in_stage(stage.name):
                own: dict[str, Any] = {"objectives": stage.objectives, "rollout": stage.rollout}
                recipes[stage.name] = dataclasses.replace(self, stages=(), training=stage.merged(self.training), **own)
        return recipes

    @property
    def takes_words_of_the_data(self) -> bool:
        """Whether the student's tokens are made or chosen of the texts of the data, by itself or by its teacher."""
        own = self.student.takes_words_of_the_data
        if own is not None or self.teacher is None:
            return bool(own)
        return any(
            each.match(lambda _: False, lambda made: made.recipe.takes_words_of_the_data)
            for each in self.teacher.models
        )

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        if not isinstance(value, Mapping):
            return cls, value
        if "stages" in value:
            idle = f"{where}.objectives: do nothing beside stages, each of which has its own; remove them"
            refuse_unless("objectives" not in value, idle)
            stages = value["stages"]
            refuse_unless(bool(stages), f"{where}.stages: expected a list of stages, got {shown(stages)}")
        check_training_values(value.get("training"), f"{where}.training")
        return cls, with_inherited(value)

    @override
    def to_dict(self) -> dict[str, Any]:
        # A recipe without a newer key keeps the hash that it had before there was this key.
        idle = {name for name in ("label", "rollout", "stages") if not getattr(self, name)}
        idle |= {"objectives"} if self.stages else set()
        idle |= {"training_guard"} if self.training_guard else set()
        return {name: value for name, value in super().to_dict().items() if name not in idle}
