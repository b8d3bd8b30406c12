"""What one model gave on a split, as figures of its rows that add up, so that rows can be resampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from hf_distill.errors import LabelError, ModelError, TeacherError
from hf_distill.evaluation.analysis import Evaluated
from hf_distill.evaluation.metrics import LOWER_IS_BETTER, Judge, Scorer
from hf_distill.models.hardware import place
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import Task
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.types import Batch, LogitSource

Read = Callable[[Batch], Sequence[Any]]
"""What is read of each row of a batch."""

LABEL_ORDER = "its labels are in the order you think (teacher.labels), that it was trained for this task"


@dataclass(frozen=True)
class Chance:
    """What a model that knows nothing reaches of a metric, by what guess; and what to check where a teacher does."""

    metric: str
    value: float
    guess: str
    check: str = "it reads its own tokenizer's tokens and was trained for this task"


class Scores(ABC):
    """What one model gave on every row of a split. Metrics are made of sums over rows: a point is one draw of each."""

    outside: np.ndarray | None = None

    @property
    @abstractmethod
    def rows(self) -> np.ndarray:
        """``[N, ...]``: what must be the same for two models that were scored on the same rows."""

    @property
    def outside_rows(self) -> int:
        """How many rows of no class come after those N."""
        return 0 if self.outside is None else len(self.outside)

    @property
    def confidences(self) -> tuple[np.ndarray, np.ndarray] | None:
        """How sure each decision was (a probability), and whether it was right; None where that is not told."""
        return None

    @property
    def calibration_error(self) -> float | None:
        """Mean distance between how sure and how right the model is; None where it tells no probabilities."""
        return None if self.confidences is None else calibration_error(*self.confidences)

    @abstractmethod
    def chance(self, metric: str) -> Chance | None:
        """What a model that knows nothing reaches, where this metric decides; None where that is not known."""

    @abstractmethod
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric on resampled rows.

        Args:
            counts: ``[R, N + outside_rows]``, how often each row was drawn.

        Returns:
            ``[R]`` each.
        """

    @abstractmethod
    def agreement(self, teacher: Any) -> float | None:
        """The share of decisions that are the teacher's, whose scores on the same rows are given; None: undefined."""

    @abstractmethod
    def analysis(self, models: Mapping[str, Any], evaluated: Evaluated, examples: int = 5) -> dict[str, Any]:
        """Tell where this student loses against its teacher, and what to improve next.

        Args:
            models: Scores of ``teacher``, ``student`` (these) and perhaps ``control``, on the same rows.
            evaluated: The rows.
            examples: How many of them to show.

        Returns:
            Ready for JSON, a model's figures under its name: ``summary`` (sentences), ``measure`` (what ``classes``,
            ``lengths`` and ``rows`` hold), and as far as there are such: ``classes``, ``lengths`` (quartiles),
            ``confusions``, ``calibration`` (expected error), ``examples``, and ``rows`` and ``written`` of tokens.
        """

    def metrics(self) -> dict[str, float]:
        """Every metric on all rows."""
        once = self.score(np.ones((1, len(self.rows) + self.outside_rows)))
        return {name: float(values[0]) for name, values in once.items()}

    def better_order(self) -> dict[str, str] | None:
        """What each label that is read wrongly is rather, where another order of the outputs is clearly better."""
        return None

    def check_order(self) -> None:
        """Stop where the outputs of a teacher with these scores, on validation rows, stand in another order.

        Raises:
            TeacherError: It names what each label that is read wrongly is rather.
        """
        if order := self.better_order():
            swaps = ", ".join(f"{name} is rather {other}" for name, other in order.items())
            raise TeacherError(
                f"the teacher's outputs are in another order than the labels: on {len(self.rows):,} validation rows, "
                f"what is read as {swaps}; it would teach wrong classes: name its outputs in its own order in "
                "teacher.labels"
            )

    def check_above_chance(self, metric: str) -> None:
        """Stop where a teacher with these scores knows nothing of the task: it could only teach noise.

        Raises:
            TeacherError: At or below chance.
        """
        chance = self.chance(metric)
        if chance is None:
            return
        value = self.metrics()[chance.metric]
        if not (value < chance.value if chance.metric in LOWER_IS_BETTER else value > chance.value):
            raise TeacherError(
                f"the teacher's {chance.metric} on the evaluated split is {value:.3f}, no better than {chance.guess} "
                f"({chance.value:.3f}); it would teach noise: check that {chance.check}, or make one with "
                "teacher.recipe"
            )


@dataclass(frozen=True, eq=False)
class DecisionScores(Scores):
    """What one model decided on every row of a split.

    Args:
        logits: ``[N, C]``, raw scores; ``[N, 1]`` for real values.
        labels: ``[N]`` class numbers, ``[N, C]`` of 0/1 (several labels a row), or ``[N]`` real values.
        problem_type: How the logits are read.
        label_names: One name a class, in the order of the logits.
        outside: ``[M, C]``, raw scores for rows that are of no class; None where there are none.
        scorers: What else judges decisions.
    """

    logits: np.ndarray
    labels: np.ndarray
    problem_type: str
    label_names: tuple[str, ...]
    outside: np.ndarray | None = None
    scorers: Sequence[Scorer] = ()
    many: ClassVar[bool] = False  # Whether a row may have several labels.

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        expected = self.logits.shape if self.many else self.logits.shape[:1]
        if len(self.logits) == 0 or self.labels.shape != expected:
            raise LabelError(
                f"expected labels of shape {expected} and at least one row for {self.problem_type}, "
                f"got {self.labels.shape}; check the label column of the evaluation split"
            )
        scored = self.logits if self.outside is None else np.concatenate([self.logits, self.outside])
        if broken := int(np.isnan(scored).any(axis=1).sum()):
            raise ModelError(
                f"the model gave NaN for {broken} of {len(scored)} rows, so it cannot be scored; training diverged or "
                "the precision is too low: lower training.learning_rate, or use float32"
            )

    @property
    @abstractmethod
    def decisions(self) -> np.ndarray:
        """``[N]`` class numbers, ``[N, C]`` of 0/1 (probability above 0.5), or ``[N]`` real values."""

    @property
    @override
    def rows(self) -> np.ndarray:
        return self.labels

    @cached_property
    def _judges(self) -> list[Judge]:
        return [each.judge(self.decisions.tolist(), self.labels.tolist()) for each in self.scorers]

    def _detect(self, inside: np.ndarray, outside: np.ndarray) -> dict[str, np.ndarray]:
        """How well rows of a class are told from rows of none, from counts of both, where there are such."""
        return {}

    @abstractmethod
    def _score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """The built-in metrics, from ``[R, N]`` counts."""

    @override
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        inside, outside = np.split(counts, [len(self.labels)], axis=1)
        scores = self._score(inside) | (self._detect(inside, outside) if self.outside is not None else {})
        for judge in self._judges:
            scores |= judge(inside)
        return scores


class Scoreable(Protocol):
    """What is scored and timed: a trained model, or a teacher."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Its own."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the card says of it: ``model``, ``hub_id``, ``revision``, ``license``, ``origin``."""

    @property
    def models(self) -> Sequence[PreTrainedModel]:
        """What runs here when it is asked; several where they answer as one, none where it is elsewhere."""

    @property
    def folders(self) -> Sequence[Path]:
        """Where its weights lie."""

    def run(self, inputs: Batch, has_vocabulary: bool) -> Tensor | LogitSource:
        """Its logits in the order of the task's labels, or what those over a vocabulary are made of."""

    def score(self, evaluation: Evaluation) -> Any:
        """Its scores on labelled rows."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What candidates are scored on, and how.

    Attributes:
        task: Bound to the data.
        rows: Labelled.
        config: How and by what texts are written and judged.
        reference: The teacher that candidates are compared with token by token, itself among them.
        outside: Rows that are of none of the classes, where the task has such.
        batch_size: Rows of a forward pass; an eighth of them where a row is as long as the model reads.
    """

    task: Any
    rows: Dataset
    config: EvaluateConfig = field(default_factory=EvaluateConfig)
    reference: Scoreable | None = None
    outside: Dataset | None = None
    batch_size: int = 64


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient; 0 where it is not defined."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Mean distance between how sure and how right decisions are, in equally wide bins of confidence."""
    bin_numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_numbers, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def by_row(
    models: Sequence[PreTrainedModel], task: Task, tokenizer: Any, rows: Dataset, batch_size: int, read: Read
) -> list[Any]:
    """What is read of each encoded row, in their order; several processes share them."""
    device = torch.device("cpu")
    for model in models:
        place(model, PartialState().device)
        device = model.eval().device
    order = np.argsort(rows["length"], kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    collate = with_row_ids(task.collator(tokenizer))
    found: list[tuple[int, Any]] = []
    with PartialState().split_between_processes(batches) as own, torch.inference_mode():
        for numbers in own:
            batch = {name: value.to(device) for name, value in collate(list(rows.select(numbers))).items()}
            found += list(zip(numbers.tolist(), read(batch), strict=True))
    everything = gather_object(found) if PartialState().num_processes > 1 else found
    return [value for _, value in sorted(everything, key=lambda each: each[0])]
