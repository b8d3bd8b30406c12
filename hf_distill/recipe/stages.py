"""``objectives`` and ``stages`` of a recipe: what the student learns from, and in which order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from hf_distill.errors import HfDistillError
from hf_distill.recipe.generation import RolloutConfig
from hf_distill.recipe.parse import Bound, Section, bound, gathered
from hf_distill.recipe.training import check_training_values

LENGTHS = ("max_steps", "num_train_epochs")
"""Keys of ``training`` that say how long it lasts; the first decides where both are there."""


def folder_name(reason: str) -> dict[str, Bound]:
    """Metadata of a field whose values name folders."""
    names = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
    return bound("letters, digits, '.', '_' and '-'", lambda name: names.fullmatch(name) is not None, reason)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section, where="recipe.objectives"):
    """One term of the loss."""

    kind: str
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
    training: dict[str, Any] = field(default_factory=dict)
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
        own = set(self.training)
        return own | set(LENGTHS) if own & set(LENGTHS) else own

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
