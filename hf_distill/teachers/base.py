"""What every teacher is: one protocol from the first check of a recipe to the card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from hf_distill.errors import TeacherError
from hf_distill.evaluation.predict import predict_decisions
from hf_distill.evaluation.scores import Evaluation, Scores
from hf_distill.generation.writer import Writer
from hf_distill.models.fingerprints import weights_mark
from hf_distill.names import check_values
from hf_distill.recipe import LabelConfig, Recipe
from hf_distill.tasks import Task
from hf_distill.teachers.cache_store import Plan
from hf_distill.types import OF_THE_DATA, Batch, LogitSource, Need, Targets, Tokenizer

Layers = Collection[int]
"""Layers, as indices."""

States = Mapping[Need, Layers]
"""Which hidden states are needed; of kinds that are not named, all."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What loading a teacher takes beside its part of a recipe."""

    task: Task
    generation: Mapping[str, Any]  # How models write that are scored.
    train: Callable[[Recipe], Path]  # Makes what a teacher's own recipe asks for, unless it is there.


class Teacher(ABC):
    """Gives targets for batches, is scored, and may write. A new kind needs a name, ``provides`` and ``targets``.

    Attributes:
        provides: What it can give.
        tokenizer: Its own; None where it reads the student's tokens.
        model: The model that a student may be made of and that objectives look into; of several teachers the first.
            None where none is held here, and where targets come from none.
        config: The config of that model, also where it is not held; None where it is not known.
        facts: What the card says of it: ``model``, ``hub_id``, ``revision``, ``license``, ``origin``.
        folders: Where its weights lie; empty where they are elsewhere.
        device: Where its inputs belong.
        dtype: What it computes in.
        likeliest: How many tokens it gives probabilities of, at temperature 1; None: of all, at any temperature.
        reads_new_texts: Whether it can be asked about other texts than those of the data.
        plan: What it reads from disk; None where it is not cached.
    """

    provides: frozenset[Need] = frozenset()
    tokenizer: Tokenizer | None = None
    model: PreTrainedModel | None = None
    config: PretrainedConfig | None = None
    facts: Mapping[str, Any] = {}
    folders: tuple[Path, ...] = ()
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    likeliest: int | None = None
    reads_new_texts: bool = True
    plan: Plan | None = None

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse a class that provides nothing, or what does not exist."""
        super().__init_subclass__(**arguments)
        check_values(cls, "provides", get_args(Need), TeacherError, several=True)
        if not cls.provides - OF_THE_DATA:
            raise TeacherError(
                f"{cls.__module__}.{cls.__qualname__}: provides: expected what it gives of {', '.join(get_args(Need))}"
            )

    @classmethod
    def load(cls, config: Any, loading: Loading) -> Teacher:
        """The teacher that ``teacher`` of a recipe asks for."""
        try:
            teacher = cls(**config.options)
        except TypeError as error:
            raise TeacherError(f"recipe.teacher: {error}") from error
        teacher.follow(loading.task)
        return teacher

    @classmethod  # noqa: B027
    def check(cls, config: Any, recipe: Recipe, task: Task) -> None:
        """Refuse what ``teacher`` of a recipe says wrong of the teacher itself, without loading weights."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in logs and caches."""

    @abstractmethod
    def targets(
        self, task: Task, batch: Batch, needs: frozenset[Need], layers: Layers = (), states: States | None = None
    ) -> Targets:
        """Give what objectives need of a batch, detached; the rest is None.

        Args:
            task: Says which part of the batch is the teacher's, and which positions count.
            batch: As the student gets it, on the student's device.
            needs: What to give.
            layers: Whose projections are needed.
            states: Which hidden states are needed; all others may be empty.
        """

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """All models that run here when it is asked."""
        return () if self.model is None else (self.model,)

    @property
    def outputs(self) -> int:
        """How many logits a position has."""
        raise self._cannot("be cached: it does not say how many logits a position has (outputs)")

    def follow(self, task: Task) -> None:  # noqa: B027  # Most give what they give, whatever the labels are.
        """Give logits in the order of a task's labels, or refuse the task."""

    def beside(self, tokenizer: Tokenizer) -> Teacher:
        """Itself as the teacher of a student with this tokenizer."""
        return self

    def to(self, device: torch.device) -> None:  # noqa: B027  # Where nothing is held, nothing moves.
        """Move what it holds to a device."""

    def shares_encoder(self, student: PreTrainedModel) -> bool:
        """Whether it can read what the frozen encoder of a student makes of a batch."""
        return False

    def rows_at_once(self, rows: int) -> int:
        """How many rows it is best asked for at once, where ``rows`` fit into a forward pass."""
        return rows

    def identity(self) -> dict[str, Any]:
        """Plain data on which its targets depend; a cache is found again by it."""
        return {
            "teacher": Path(self.name).name,
            "weights": "+".join(map(weights_mark, self.folders)) or self.name,
            "dtype": str(self.dtype).removeprefix("torch."),
            "labels": None,
        }

    def verify(self, recipe: Recipe, task: Task, *, writes_only: bool = False) -> None:  # noqa: B027
        """Check, before it is relied upon, that it gives what a run asks for: texts alone where it ``writes_only``."""

    def score(self, evaluation: Evaluation) -> Scores:
        """What it says of labelled rows, as scores."""
        task = evaluation.task
        if self.tokenizer is None or task.row_labels is None:
            raise self._cannot(f"be scored in {task.name}; give it its own tokenizer, and define score")

        def answer(batch: Batch) -> Tensor:
            logits = self.targets(task, batch, frozenset({"logits"})).logits
            if not isinstance(logits, Tensor):
                raise self._cannot(f"be scored in {task.name}: its logits are not those of classes; define score")
            return logits

        return predict_decisions(self, evaluation, answer)

    def run(self, inputs: Batch, has_vocabulary: bool) -> Tensor | LogitSource:
        """Logits in the order of the task's labels, or what they are made of; of teachers that run here."""
        raise self._cannot("be run: its models are not here")

    def writer(self, config: LabelConfig, task: Task, options: Mapping[str, Any]) -> Writer:
        """What writes its texts, as long and ended as the task has them; ``options`` are the rows'."""
        raise self._cannot("write; remove label, or take a teacher that writes")

    def _cannot(self, what: str) -> TeacherError:
        return TeacherError(f"{type(self).__name__} {self.name!r} cannot {what}")
