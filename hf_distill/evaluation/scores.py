"""What one model gave on a split, as figures of its rows that add up, so that rows can be resampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.tasks import Task
from hf_distill.teachers import place
from hf_distill.training.setup import with_row_ids
from hf_distill.types import Batch


class RowScores(ABC):
    """What one model gave on every row of a split. Metrics are ratios of sums over rows."""

    @property
    @abstractmethod
    def rows(self) -> np.ndarray:
        """``[N, ...]``: what must be the same for two models that were scored on the same rows."""

    @property
    @abstractmethod
    def calibration_error(self) -> float:
        """Mean distance between how sure and how right the model is."""

    @property
    @abstractmethod
    def chance(self) -> tuple[str, float, str]:
        """A metric, what it is of a model that knows nothing, and what such a model does."""

    @abstractmethod
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric on resampled rows.

        Args:
            counts: ``[R, N]``, how often each row was drawn.

        Returns:
            ``[R]`` each.
        """

    @abstractmethod
    def agreement(self, teacher: Any) -> float | None:
        """The share of decisions that are the teacher's, whose scores on the same rows are given; None: undefined."""

    def metrics(self) -> dict[str, float]:
        """Every metric on all rows."""
        return {name: float(values[0]) for name, values in self.score(np.ones((1, len(self.rows)))).items()}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """A quotient; 0 where it is not defined."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Mean distance between how sure and how right decisions are, in equally wide bins of confidence."""
    bin_numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(bin_numbers, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def by_row(
    model: PreTrainedModel | None,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    batch_size: int,
    read: Callable[[Batch], Sequence[Any]],
) -> list[Any]:
    """What is read of each encoded row, in their order; several processes share them.

    Args:
        model: The one that reads; it is moved to this process's device. None where it is elsewhere.
        task: Whose rows these are.
        tokenizer: Pads them.
        rows: Encoded.
        batch_size: Rows of a batch, which are of about the same length.
        read: From a batch on that device to one value a row.
    """
    device = torch.device("cpu")
    if model is not None:
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
