"""``objectives``, ``stages`` and ``training`` of a recipe: what the student learns from, in which order, and how."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from hf_distill.errors import HfDistillError, RecipeError
from hf_distill.names import nearest_or_all
from hf_distill.recipe.generation import RolloutConfig
from hf_distill.recipe.parse import Bound, Section, bound, gathered, is_number, names_code, shown

RESERVED_TRAINING = {
    "output_dir": "the run's folder is runs/<name>, see name and --runs",
    "seed": "use recipe.seed",
    "data_seed": "use recipe.seed",
    "hub_token": "log in with `hf auth login` or set HF_TOKEN",
    "push_to_hub": "use recipe.hub.push",
    "hub_model_id": "use recipe.hub.model_id",
    "hub_private_repo": "use recipe.hub.private",
    "hub_strategy": "the student is pushed once, when the run is complete",
    "hub_always_push": "the student is pushed once, when the run is complete",
    "hub_revision": "the student is pushed to the main branch",
    "label_smoothing_factor": "it would do nothing here; the teacher's logits are the soft labels",
    "logging_nan_inf_filter": "a loss that is not finite stops the training, see recipe.training_guard",
    "label_names": "it would do nothing here; the task knows its labels",
    "average_tokens_across_devices": "it would do nothing here; every term is divided by its count over all processes",
    "resume_from_checkpoint": "a run goes on by itself; delete its folder to start anew",
    "enable_jit_checkpoint": "the command saves a checkpoint at SIGTERM anyway",
    "do_train": "a run always trains",
    "do_predict": "a run always evaluates",
    "debug": "it breaks off on the masks of most models; training_guard stops where a loss is not finite",
}
"""Keys of TrainingArguments that have their place elsewhere, or would do nothing, and why."""
NUMERIC_TRAINING = {
    "learning_rate", "num_train_epochs", "weight_decay", "warmup_steps", "per_device_train_batch_size",
    "per_device_eval_batch_size", "gradient_accumulation_steps", "max_grad_norm", "logging_steps",
}  # fmt: skip
"""Keys of TrainingArguments whose values must be finite numbers of at least 0."""
COUNTS = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
"""Those of them that must be whole numbers of at least 1."""

LENGTHS = ("max_steps", "num_train_epochs")
"""Keys of ``training`` that say how long it lasts; the first decides where both are there."""


def code_of_training(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """What of a DeepSpeed config names code: a compiler as ``module.function``; a file or a text could hold one."""
    config = value.get("deepspeed") if isinstance(value, Mapping) else None
    if isinstance(config, str):
        yield f"{where}.deepspeed", config
    compiler = config.get("compile") if isinstance(config, Mapping) else None
    backend = compiler.get("backend") if isinstance(compiler, Mapping) else None
    if isinstance(backend, str) and "." in backend:
        yield f"{where}.deepspeed.compile.backend", backend


def folder_name(reason: str) -> dict[str, Bound]:
    """Metadata of a field whose values name folders."""
    names = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{,99}")
    return bound(
        "at most 100 letters, digits, '.', '_' and '-'", lambda name: names.fullmatch(name) is not None, reason
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section, where="recipe.objectives"):
    """One term of the loss."""

    kind: str = field(metadata=names_code("an objective, or package.module:Class"))
    """As in ``OBJECTIVES``, or ``package.module:Class``."""
    weight: float | dict[str, Any] = 1.0
    """Its factor in the loss; or ``{from: 1.0, to: 0.1, shape: cosine}`` over all steps of the training."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the objective."""

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        return cls, gathered(value, ("kind", "weight"), where)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "weight": self.weight, **self.options}


@dataclass(frozen=True, kw_only=True)
class StageConfig(Section, where="recipe.stages"):
    """A part of the training, with an optimiser of its own, that goes on with the student that the one before left."""

    name: str = field(metadata=folder_name("it names the stage's folder"))
    """Of the stage, and of its folder."""
    objectives: tuple[ObjectiveConfig, ...]
    """The terms of its loss."""
    rollout: RolloutConfig | None = None
    """Whether the student learns from what it writes itself in this stage, and how it writes."""
    training: dict[str, Any] = field(default_factory=dict, metadata={"code": code_of_training})
    """What differs from the recipe's ``training``; of ``max_steps`` and ``num_train_epochs`` one replaces both."""

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        if isinstance(value, Mapping):
            check_training_values(value.get("training"), f"{where}.training")
        return cls, value

    @property
    def replaced(self) -> set[str]:
        """The keys of the recipe's ``training`` that do nothing in this stage."""
        return {*self.training, *(LENGTHS if any(key in self.training for key in LENGTHS) else ())}

    def merged(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """The stage's whole ``training``."""
        return {**{key: value for key, value in training.items() if key not in self.replaced}, **self.training}


def replaced_by_all(key: str, stages: Sequence[StageConfig]) -> bool:
    """Whether a key of the recipe's ``training`` does nothing."""
    return len(stages) > 0 and all(key in stage.replaced for stage in stages)


@contextmanager
def in_stage(name: str) -> Iterator[None]:
    """Errors that name the stage; as they are where the name is empty, for a recipe without stages."""
    try:
        yield
    except HfDistillError as error:
        if not name:
            raise
        raise type(error)(f"stage {name}: {error}") from error


def check_training_values(training: Any, where: str) -> None:
    """Refuse keys of ``training`` that have their place elsewhere, and numbers that are none."""
    if not isinstance(training, Mapping):
        return
    for key, value in training.items():
        if key in RESERVED_TRAINING:
            raise RecipeError(f"{where}.{key}: cannot be set here: {RESERVED_TRAINING[key]}")
        numeric = is_number(value)
        if key in NUMERIC_TRAINING and value is not None and not (numeric and 0 <= value < float("inf")):
            raise RecipeError(f"{where}.{key}: expected a finite number of at least 0, got {shown(value)}")
        if key in COUNTS and value is not None and (value < 1 or value != int(value)):
            raise RecipeError(f"{where}.{key}: expected a whole number of at least 1, got {shown(value)}")
        if key in LENGTHS and value is not None and (not numeric or (value <= 0 and (key, value) != ("max_steps", -1))):
            raise RecipeError(
                f"{where}.{key}: expected a number above 0, got {shown(value)}; it says how long training lasts"
            )


def check_training(training: Mapping[str, Any]) -> None:
    """Refuse keys that TrainingArguments does not know, and values that are not among those it names."""
    from transformers import TrainingArguments

    known = {each.name: each for each in dataclasses.fields(TrainingArguments) if each.init}
    for key, value in training.items():
        if key not in known:
            raise RecipeError(f"recipe.training.{key}: TrainingArguments has no such key{nearest_or_all(key, known)}")
        choices = [*known[key].metadata.get("choices", ())]
        if choices and value is not None and value not in choices:
            raise RecipeError(f"recipe.training.{key}: expected one of {', '.join(choices)}, got {shown(value)}")
