"""Labels in a column: what kind they are, what they are called, and how a row's becomes what a model wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from numbers import Integral, Real
from typing import Any, Literal

import datasets

from hf_distill.data.labels import check_apart, check_texts, is_missing, is_number, joined
from hf_distill.errors import DataError, LabelError
from hf_distill.names import are_generic, shortened
from hf_distill.types import Rows

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""The three kinds of labels, named as Transformers' ``config.problem_type`` names them."""

STREAMED_LABELS = 10_000
"""How many rows of a stream are read to learn its labels' names, where its features do not tell them."""

MOST_CLASSES = 20
"""More numbers than these in a column, with fractions or written 1.0, 2.0, are scores and no classes."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The labels of a data set."""

    problem_type: ProblemType
    names: tuple[str, ...]
    """In the order of the model's outputs; ``("score",)`` for regression."""
    multi_hot: bool = False
    """Whether a row's several labels are a list of 0 and 1 (or of shares), one for each name."""

    def encode(self, value: Any) -> int | float | list[float] | None:
        """One row's label as a model wants it; None stays None (an unlabelled row)."""
        if value is None:
            return None
        if self.problem_type == "regression":
            return _score(value)
        if self.problem_type == "single_label_classification":
            return self.index(value)
        if self.multi_hot:
            return self._shares(value)
        given = {self.index(item) for item in value}
        return [float(i in given) for i in range(len(self.names))]

    def index(self, value: Any) -> int:
        """The number of a class, given by name or number; another value is refused (DataError)."""
        name = class_name(value)
        if name in self.names:
            return self.names.index(name)
        # Where the names are numbers themselves, another number is another class, and no place among them.
        is_place = isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) < len(self.names)
        if is_place and not all(map(is_number, self.names)):
            return int(value)
        raise DataError(
            f"label {value!r} is none of the {len(self.names)} labels of the training split "
            f"({shortened(self.names)}); correct the row or map the label column in data.columns"
        )

    def _shares(self, values: Any) -> list[float]:
        if len(values) != len(self.names) or not all(_is_share(value) for value in values):
            raise DataError(
                f"a label is {list(values)!r}, but the others are lists of {len(self.names)} numbers from 0 to 1, one "
                "for each label; correct the row"
            )
        return [float(value) for value in values]


def class_name(value: Any) -> str:
    """What a class is called: whole numbers alike, also where a gap in their column made them 1.0, 2.0."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def read_label_set(
    rows: Rows,
    column: str,
    problem_type: ProblemType | None,
    names: Sequence[str] | None = None,
    of_words: bool = False,
) -> LabelSet:
    """Learn the labels from a split: from its features where they name them, else from its values.

    Lists mean several labels at once: lists of one length that hold only numbers from 0 to 1 have one for each label
    (multi-hot). Floats with fractions mean regression, all else one class of many; ``problem_type`` overrules that.
    Names that are found in values are sorted; ``names`` are given by a person, in the order of multi-hot lists.
    Lists ``of_words`` are never multi-hot.
    """
    feature = rows.features[column] if rows.features else None
    found_names, values = _feature_names(feature), []
    if found_names is None:
        given = (
            rows[column] if isinstance(rows, datasets.Dataset) else (r[column] for r in islice(rows, STREAMED_LABELS))
        )
        values = [value for value in given if not is_missing(value)]
    found = _problem_type(feature, values)
    if problem_type is not None and problem_type != found:
        if "multi_label_classification" in (found, problem_type) or isinstance(feature, datasets.ClassLabel):
            raise DataError(f"task.problem_type is {problem_type}, but column {column!r} looks like {found}")
        found = problem_type
    elif found == "single_label_classification":
        check_texts(values, column, problem_type)
    if found == "regression":
        return LabelSet(problem_type=found, names=("score",))
    several = found == "multi_label_classification" and found_names is None
    multi_hot = several and not of_words and _are_multi_hot(values)
    own = found_names or ([f"LABEL_{i}" for i in range(len(values[0]))] if multi_hot else _names_in(values, found))
    if names is not None:
        own = _given_names(names, own, column, in_order=multi_hot)
    elif found_names is None:
        check_apart(own, column)
    if len(own) < 2:
        raise DataError(
            f"column {column!r} of the training split holds {len(own)} class ({shortened(own)}); "
            "a classifier needs at least two: check data.columns and data.train_limit"
        )
    return LabelSet(problem_type=found, names=tuple(own), multi_hot=multi_hot)


def notes_of(rows: Rows, column: str, labels: LabelSet, problem_type: ProblemType | None) -> Iterator[str]:
    """What was assumed of a label column, or looks wrong in it."""
    if not isinstance(rows, datasets.Dataset) or labels.problem_type == "regression":
        return
    feature = rows.features[column]
    values = [value for value in rows[column] if not is_missing(value, _feature_names(feature) is not None)]
    if labels.multi_hot:
        yield f"labels: lists of {len(labels.names)} numbers from 0 to 1 are read as one for each label"
    elif any(isinstance(value, float) for value in values) and problem_type is None:
        yield (
            "labels: whole numbers with a decimal point are read as classes; set task.problem_type: regression if they "
            "are scores"
        )
    if "-1" in labels.names and len(labels.names) > 3:
        count = sum(value == -1 for value in values)
        yield (
            f"labels: -1 is read as a class like others ({count:,} rows); if it marks rows without a label, remove "
            "them, or give the column its names (ClassLabel)"
        )
    if labels.problem_type == "single_label_classification" and problem_type is None and (found := joined(values)):
        yield (
            f"warning: labels: {found!r} is read as one class; where it means several, make it a list (jsonl, parquet, "
            "or a function in data.path)"
        )
    if labels.problem_type == "single_label_classification" and len(values) >= MOST_CLASSES:
        distinct = len(set(map(str, values))) if column == "label" else 0
        if distinct > len(values) / 2:
            yield (
                f"warning: labels: {distinct:,} classes in {len(values):,} rows: nearly every row is a class of its "
                "own; check data.columns"
            )


def as_given(rows: Rows, column: str, labels: LabelSet) -> LabelSet:
    """The labels of a model as a split gives them: several may be lists of 0 and 1 (multi-hot), one for each."""
    feature = rows.features.get(column) if rows.features else None
    several = labels.problem_type == "multi_label_classification" and _feature_names(feature) is None
    if not several or labels.multi_hot or all(map(is_number, labels.names)) or not isinstance(rows, datasets.Dataset):
        return labels
    values = [value for value in rows[column] if not is_missing(value)] if column in rows.column_names else []
    return replace(labels, multi_hot=_are_multi_hot(values) and len(values[0]) == len(labels.names))


def label_decoder(rows: Rows, column: str, labels: LabelSet) -> Callable[[Any], Any]:
    """What turns a row's label into something that ``labels`` knows, and what stands for none into None.

    Indices of named features become their names. Within lists, None stands for a word without a tag.
    """
    feature = rows.features.get(column) if rows.features else None
    names = _feature_names(feature)
    if names is not None and labels.problem_type != "regression" and not are_generic(labels.names):
        if set(names) != set(labels.names):
            raise LabelError(
                f"column {column!r} names the labels {shortened(names)}, but the model's are "
                f"{shortened(labels.names)}; build the student with the data's labels as its id2label"
            )

        def named(value: Any) -> Any:
            if not isinstance(value, Integral) or value < len(names):
                return value if isinstance(value, str) else names[value]
            raise DataError(f"column {column!r} holds {value}, but names {len(names)} labels only; correct the row")
    else:

        def named(value: Any) -> Any:
            return value

    def decode(value: Any) -> Any:
        if is_missing(value, names is not None):
            return None
        if isinstance(value, (list, tuple)):
            return [None if is_missing(item, names is not None) else named(item) for item in value]
        return named(value)

    return decode


def _feature_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else None


def _problem_type(feature: Any, values: Sequence[Any]) -> ProblemType:
    if isinstance(feature, datasets.ClassLabel):
        return "single_label_classification"
    if getattr(feature, "feature", None) is not None or any(isinstance(value, (list, tuple)) for value in values):
        return "multi_label_classification"
    if values and all(isinstance(value, Real) and not isinstance(value, Integral) for value in values):
        whole = all(float(value).is_integer() for value in values) and len(set(values)) <= MOST_CLASSES
        return "single_label_classification" if whole else "regression"
    return "single_label_classification"


def _names_in(values: Sequence[Any], found: ProblemType) -> list[str]:
    """The names of classes, sorted."""
    single = found == "single_label_classification"
    given = [*(values if single else chain.from_iterable(values))]
    if (odd := next((value for value in given if isinstance(value, (dict, list))), None)) is not None:
        raise DataError(
            f"a label is {odd!r}; expected a text, a number, or a list of them: name the part of it that tells the "
            "class in data.columns ({label: column.part}), or make it one in a function (data.path)"
        )
    distinct = {value for value in given if not is_missing(value)}
    numeric = all(isinstance(value, Real) and float(value).is_integer() for value in distinct)
    are_bools = any(isinstance(value, bool) for value in distinct)
    return sorted({class_name(value) for value in distinct}, key=int if numeric and not are_bools else str)


def _given_names(names: Sequence[str], own: Sequence[str], column: str, in_order: bool) -> list[str]:
    """The names that ``task.labels`` gives, where they fit what a column holds: names, or places among them."""
    places = all(name.isdigit() and int(name) < len(names) for name in own)
    if places and not in_order and not any(map(is_number, names)):
        return list(names)
    unknown = [] if in_order else [name for name in own if name not in names]
    if unknown or (in_order and len(names) != len(own)):
        held = f"lists of {len(own)}" if in_order else f"{shortened(unknown)}, too"
        raise DataError(f"task.labels: it names {len(names)} labels, but column {column!r} holds {held}; name them all")
    return list(names)


def _are_multi_hot(values: Sequence[Any]) -> bool:
    lengths = {len(value) for value in values}
    return len(lengths) == 1 and min(lengths) > 1 and all(map(_is_share, chain.from_iterable(values)))


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and 0 <= float(value) <= 1


def _score(value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.inf
    if math.isinf(found):
        raise DataError(
            f"label {value!r} is no finite number, but the labels are scores (regression); correct the row, or set "
            "data.missing_labels where it stands for none"
        )
    return found
