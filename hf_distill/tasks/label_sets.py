"""Class labels: what kind they are, what they are called, and in which order a model gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from numbers import Integral, Real
from typing import Any, Literal

import datasets
from transformers import PretrainedConfig

from hf_distill.errors import DataError, LabelError
from hf_distill.names import are_generic, folded, shortened
from hf_distill.types import Rows

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""The three kinds of labels, named as Transformers' ``config.problem_type`` names them."""

STREAMED_ROWS = 10_000
"""How many rows of a stream are read to learn its labels' names, where its features do not tell them."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The labels of a data set."""

    problem_type: ProblemType
    names: tuple[str, ...]
    """In the order of the model's outputs; ``("score",)`` for regression."""

    def encode(self, value: Any) -> int | float | list[float] | None:
        """One row's label as a model wants it; None stays None (an unlabelled row)."""
        if value is None:
            return None
        if self.problem_type == "regression":
            return float(value)
        if self.problem_type == "single_label_classification":
            return self.index(value)
        given = {self.index(item) for item in value}
        return [float(i in given) for i in range(len(self.names))]

    def index(self, value: Any) -> int:
        """The number of a class, given by name or number; another value is refused (DataError)."""
        if isinstance(value, Integral) and not isinstance(value, bool) and str(value) not in self.names:
            if 0 <= int(value) < len(self.names):
                return int(value)
        elif str(value) in self.names:
            return self.names.index(str(value))
        raise DataError(
            f"label {value!r} is none of the {len(self.names)} labels of the training split "
            f"({shortened(self.names)}); correct the row or map the label column in data.columns"
        )


def read_label_set(rows: Rows, column: str, problem_type: ProblemType | None) -> LabelSet:
    """Learn the labels from a split: from its features where they name them, else from its values.

    Floats mean regression, lists mean several labels at once, all else one class of many; ``problem_type`` overrules
    the first (whole numbers may be a score). Names found in values are sorted.
    """
    feature = rows.features[column] if rows.features else None
    names, values = _feature_names(feature), []
    if names is None:
        given = rows[column] if isinstance(rows, datasets.Dataset) else (r[column] for r in islice(rows, STREAMED_ROWS))
        values = [value for value in given if value is not None]
    found = _problem_type(feature, values)
    if problem_type is not None and problem_type != found:
        if problem_type != "regression" or found != "single_label_classification":
            raise DataError(f"task.problem_type is {problem_type}, but column {column!r} looks like {found}")
        found = problem_type
    if found == "regression":
        return LabelSet(problem_type=found, names=("score",))
    if names is None:
        distinct = set(values if found == "single_label_classification" else chain.from_iterable(values))
        numeric = all(isinstance(value, Integral) for value in distinct)
        names = list(map(str, sorted(distinct))) if numeric else sorted(map(str, distinct))
    if len(names) < 2:
        raise DataError(
            f"column {column!r} of the training split holds {len(names)} class ({shortened(names)}); "
            "a classifier needs at least two: check data.columns and data.train_limit"
        )
    return LabelSet(problem_type=found, names=tuple(names))


def label_set_of(config: PretrainedConfig) -> LabelSet:
    """The labels that a model's config declares."""
    names = tuple(_output_names(config))
    declared = config.problem_type or ("regression" if config.num_labels == 1 else "single_label_classification")
    return LabelSet(problem_type=declared, names=("score",) if declared == "regression" else names)


def label_decoder(rows: Rows, column: str, labels: LabelSet) -> Callable[[Any], Any]:
    """What turns a row's label into something that ``labels`` knows: indices of named features into their names."""
    feature = rows.features.get(column) if rows.features else None
    names = _feature_names(feature)
    if names is None or labels.problem_type == "regression" or are_generic(labels.names):
        return lambda value: value
    if set(names) != set(labels.names):
        raise LabelError(
            f"column {column!r} names the labels {shortened(names)}, but the model's are {shortened(labels.names)}; "
            "build the student with the data's labels as its id2label"
        )
    if isinstance(feature, datasets.ClassLabel):
        return lambda value: None if value is None else names[value]
    return lambda value: None if value is None else [names[item] for item in value]


def align_labels(labels: LabelSet, teacher: PretrainedConfig, names: Sequence[str] | None = None) -> list[int] | None:
    """For each label of the data, the index of the teacher's output of that name."""
    count = teacher.num_labels
    if count != len(labels.names) or (names is not None and len(names) != count):
        raise LabelError(
            f"the teacher gives {count} outputs and the data has {len(labels.names)} labels ({shortened(labels.names)})"
            + (f" and teacher.labels names {len(names)}" if names is not None else "")
            + "; use a teacher of the same labels, or make one with teacher.recipe"
        )
    own = list(names) if names is not None else _output_names(teacher)
    if labels.problem_type == "regression" or (names is None and are_generic(own)):
        return None
    index = {folded(name): i for i, name in enumerate(own)}
    missing = [name for name in labels.names if folded(name) not in index]
    if missing or len(index) != count:
        raise LabelError(
            f"the teacher does not know the labels {shortened(missing or labels.names)}; its outputs are called "
            f"{shortened(own)}; if they mean the same, name them in teacher.labels in the teacher's order"
        )
    order = [index[folded(name)] for name in labels.names]
    return None if order == list(range(count)) else order


def _output_names(config: PretrainedConfig) -> list[str]:
    """What a model's config calls its outputs, in their order."""
    names: Any = config.id2label
    return [str(names[i]) for i in range(len(names))]


def _feature_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _problem_type(feature: Any, values: Sequence[Any]) -> ProblemType:
    if isinstance(feature, datasets.ClassLabel):
        return "single_label_classification"
    if getattr(feature, "feature", None) is not None or any(isinstance(value, (list, tuple)) for value in values):
        return "multi_label_classification"
    if values and all(isinstance(value, Real) and not isinstance(value, Integral) for value in values):
        return "regression"
    return "single_label_classification"
