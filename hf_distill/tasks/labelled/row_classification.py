"""What tasks share that make one decision a row: one class, several classes, or a score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

import torch
from datasets import IterableDataset
from torch import Tensor
from torch.nn import functional
from transformers import PretrainedConfig
from typing_extensions import override

from hf_distill.data.classes import ProblemType, as_given, label_decoder, notes_of, read_label_set
from hf_distill.data.rows import Data
from hf_distill.data.set_aside import set_aside
from hf_distill.errors import DataError, RecipeError
from hf_distill.recipe.parse import check_choice, check_option
from hf_distill.tasks.encoding import columns_of, label_column
from hf_distill.tasks.labelled.label_sets import label_set_of
from hf_distill.tasks.labelled.labelled_task import ClassificationTask
from hf_distill.types import IGNORED, Batch, Distribution, LogitSource, Rows, Tokenizer, View

_DISTRIBUTIONS: dict[ProblemType, Distribution] = {
    "single_label_classification": "categorical",
    "multi_label_classification": "bernoulli",
    "regression": "real",
}


class RowClassification(ClassificationTask, abstract=True):
    """Rows with a ``label`` each.

    Labels are strings or whole numbers (one class), lists of them (several at once; also multi-hot, a list with 0 or 1
    for each label) or floats (a score). Rows whose label is None, empty or -1 of a ClassLabel are unlabelled: the
    teacher's targets alone teach there. Rows in memory may call the column ``labels``.

    Args:
        problem_type: Overrules what the label column looks like: whole numbers that are a score, for instance.
        out_of_scope: The label of rows that are of no class. A run leaves them out of the training rows; where models
            are scored, they tell how well a model's confidence knows them from all others.
        labels: The names of the labels, where the data do not tell them: of numbers and multi-hot lists in their order.
    """

    _mixes: bool = False  # Whether rows may be mixtures of two.

    def __init__(
        self,
        problem_type: ProblemType | None = None,
        out_of_scope: str | None = None,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__(labels)
        check_choice("problem_type", problem_type, (*get_args(ProblemType), None))
        check_option("out_of_scope", out_of_scope, isinstance(out_of_scope, str | None), "the name of a label")
        self._asked_type = problem_type
        self.out_of_scope = out_of_scope

    @property
    @override
    def distribution(self) -> Distribution:
        return _DISTRIBUTIONS[self.label_set.problem_type]

    @override
    def set_aside(self, data: Data) -> Data:
        if self.out_of_scope is None:
            return data
        found = read_label_set(data.train, "label", self._asked_type).problem_type
        if found != "single_label_classification":
            told = f"only where a row has one class of many, and this is {found}; remove it"
            raise RecipeError(f"task.out_of_scope: {told}")
        return set_aside(data, self.out_of_scope)

    @override
    def read_labels(self, train: Rows) -> None:
        self.labels = read_label_set(
            train, label_column(columns_of(train), "label"), self._asked_type, self._asked_names
        )

    @override
    def label_notes(self, train: Rows) -> Iterator[str]:
        yield from notes_of(train, "label", self.label_set, self._asked_type)

    @override
    def follow(self, config: PretrainedConfig) -> None:
        self.labels = label_set_of(config)

    @override
    def model_options(self) -> dict[str, Any]:
        return {**super().model_options(), "problem_type": self.label_set.problem_type}

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        found = super().completed(batch, tokenizer)
        labels, classes = found.get("labels"), len(self.label_set.names)
        if labels is None:
            return found
        if self.distribution == "categorical":
            if self._mixes and labels.is_floating_point():  # Shares of the classes.
                return found
            if labels.is_floating_point():
                raise DataError(
                    f"labels: expected the number of one class a row, got {labels.dtype}: set config.problem_type of "
                    "the model to multi_label_classification or regression, or give whole numbers"
                )
            return {**found, "labels": labels.view(-1)}
        if labels.numel() != len(labels) * classes:
            raise DataError(
                f"labels: expected [{len(labels)}, {classes}] numbers for {classes} outputs, got {list(labels.shape)}; "
                "give one number (0 or 1 of each class) an output"
            )
        # As whole numbers, too: a mark of Transformers for no label stays one.
        whole = labels if labels.is_floating_point() else labels.float().masked_fill(labels == IGNORED, math.nan)
        return {**found, "labels": whole}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        return self._view(logits, hidden_states, batch, batch.get("labels"))

    @override
    def training_rows(self, rows: Rows) -> dict[str, int]:
        if self.distribution != "categorical" or isinstance(rows, IterableDataset):
            return {}
        decode = label_decoder(rows, "label", self.label_set)
        indices = Counter(self.label_set.encode(decode(value)) for value in rows["label"])
        return {name: indices[i] for i, name in enumerate(self.label_set.names)}

    def _unlabelled(self) -> int | float | list[float]:
        if self.distribution == "categorical":
            return IGNORED
        return math.nan if self.distribution == "real" else [math.nan] * len(self.label_set.names)

    def _encoder(self, rows: Rows) -> Callable[[Mapping[str, list[Any]], int], list[Any]]:
        """What gives the labels of so many rows of a batch as models learn them."""
        unlabelled: Any = self._unlabelled()
        column = label_column(columns_of(rows), "label")
        labels = as_given(rows, column, self.label_set)
        decode = label_decoder(rows, column, labels)

        def encoded(batch: Mapping[str, list[Any]], count: int) -> list[Any]:
            given = [labels.encode(decode(value)) for value in batch.get(column, [None] * count)]
            return [unlabelled if label is None else label for label in given]

        return encoded

    def _mixable(self, labels: Tensor) -> Tensor:
        """Labels of which mixtures can be taken: shares of the classes for one class; NaN where there is none."""
        if self.distribution != "categorical":
            return labels
        shares = functional.one_hot(labels.clamp(min=0), len(self.label_set.names)).float()
        return shares.masked_fill((labels == IGNORED)[:, None], math.nan)

    def _label_tensor(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        """The labels of encoded rows, ``[B]`` or ``[B, C]``."""
        values = [row.get(label_column(row, "labels")) for row in rows]
        filled = [self._unlabelled() if value is None else value for value in values]
        return torch.tensor(filled, dtype=torch.long if self.distribution == "categorical" else torch.float)

    def _labelled(self, batch: Batch, positions: Tensor) -> Tensor:
        """Which rows of ``positions`` ``[B]`` have a label."""
        labels = batch.get("labels")
        if labels is None:
            return torch.zeros_like(positions)
        if labels.is_floating_point():
            return ~labels.view(len(labels), -1).isnan().any(-1) & positions
        return (labels != IGNORED) & positions
