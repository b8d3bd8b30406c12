"""Which rows have a label: what counts as none, how many there are, what becomes of the rows without one, and which
texts are hardly meant as classes."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from datasets import ClassLabel, Dataset, IterableDataset

from hf_distill.errors import DataError
from hf_distill.names import one_line
from hf_distill.types import IGNORED

COUNTED = ("label", "labels", "answers")
"""Columns that may lack a value in a row of which a teacher alone then teaches."""

SCORED = ("validation", "test")
"""Splits whose rows models are scored on, so that each needs a label."""

STREAMED_ROWS = 1000  # So many rows of a stream are looked at before training.

MissingLabels = Literal["refuse", "drop", "unlabelled"]

Missing = Callable[[Any], bool]


def is_missing(value: Any, named: bool = False) -> bool:
    """Whether a value stands for no label, as -100 does in Transformers.

    ``named``: where numbers are indices of names, of which none is below 0.
    """
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(is_missing(item, named) for item in value)
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, int) and (value == IGNORED or (named and value < 0)))


def are_named(rows: Dataset | IterableDataset, column: str) -> bool:
    """Whether a column's numbers are indices of names (ClassLabel)."""
    feature = rows.features.get(column) if rows.features else None
    return isinstance(getattr(feature, "feature", feature), ClassLabel)


def settle(splits: Mapping[str, Any], policy: MissingLabels) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """Do what ``data.missing_labels`` says, and count.

    A row without a label has None for it afterwards, whatever it was. Streams are not counted.

    Returns:
        The splits, and for each how many rows have a label and how many have none (before they are dropped).

    Raises:
        DataError: Where every row needs a label and some have none.
    """
    settled, counts = dict(splits), {}
    for name in COUNTED:
        there = [split for split, rows in settled.items() if name in (rows.column_names or next(iter(rows), ()))]
        tests = _tests(settled, there, name)
        for split in there:
            rows = settled[split]
            if isinstance(rows, IterableDataset):
                settled[split] = _settled_stream(rows, name, tests[split], policy)
                continue
            values = rows[name]
            without = [number for number, value in enumerate(values) if tests[split](value)]
            counts[split] = (len(values) - len(without), len(without))
            keeps_none = policy == "unlabelled" and split not in SCORED
            if without and not keeps_none and (policy != "drop" or len(without) == len(values)):
                raise _refusal(split, without, values)
            if without:
                settled[split] = _emptied(rows, name, without) if keeps_none else _without(rows, without)
    return settled, counts


def told(counts: Mapping[str, tuple[int, int]]) -> str:
    """How many rows have a label, by split, in one line."""
    return "; ".join(f"{split}: {have:,} rows with a label, {none:,} without" for split, (have, none) in counts.items())


def _tests(splits: Mapping[str, Any], there: list[str], name: str) -> dict[str, Missing]:
    """What tells a missing label in each split.

    Numbers below 0 that no training row has mark what a benchmark hides; where a training row has one, they are labels
    like others (-1, 0, 1).
    """
    train = splits.get("train")
    values = _first(train, name) if "train" in there else []
    negative = any(type(value) is int and value < 0 and value != IGNORED for value in values)
    named = {split: are_named(splits[split], name) for split in there}

    def test(named: bool) -> Missing:
        return lambda value: is_missing(value, named)

    return {split: test(named[split] or (split in SCORED and not negative)) for split in there}


def _first(rows: Dataset | IterableDataset, name: str) -> Any:
    return rows[name] if isinstance(rows, Dataset) else [row[name] for row in islice(rows, STREAMED_ROWS)]


def _refusal(split: str, without: list[int], values: Any) -> DataError:
    first = values[without[0]]
    count = f"{len(without):,} of {len(values):,} rows have no label"
    found = f"split {split!r}: {count} (first: row {without[0]}, {first!r})"
    if len(without) == len(values):
        return DataError(
            f"{found}; benchmarks hide the labels of their test split: name one that has labels (data.test_split: "
            "validation), or label the rows"
        )
    why = "models are scored there" if split in SCORED else "data.missing_labels is refuse"
    other = "" if split in SCORED else " (or unlabelled, for the teacher alone to teach on them)"
    return DataError(f"{found}, but {why}: label them, or set data.missing_labels: drop{other}")


def _without(rows: Dataset, numbers: list[int]) -> Dataset:
    left_out = set(numbers)
    return rows.select([i for i in range(len(rows)) if i not in left_out])


def _emptied(rows: Dataset, name: str, numbers: list[int]) -> Dataset:
    """The same rows with None where there is no label."""
    values = list(rows[name])
    if all(values[i] is None for i in numbers):
        return rows
    for i in numbers:
        values[i] = None
    feature = rows.features[name]
    order = rows.column_names
    return rows.remove_columns(name).add_column(name, values, feature=feature).select_columns(order)


def _settled_stream(rows: IterableDataset, name: str, missing: Missing, policy: MissingLabels) -> IterableDataset:
    if policy == "drop":
        return rows.filter(lambda row: not missing(row[name]))
    if policy == "refuse":
        values = _first(rows, name)
        if without := [i for i, value in enumerate(values) if missing(value)]:
            raise _refusal("train", without, values)

        def labelled(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
            if missing(row[name]):
                told = f"split 'train': row {number} has no label ({row[name]!r}), but data.missing_labels is refuse"
                raise DataError(f"{told}: label it, or set data.missing_labels: drop")
            return row

        return rows.map(labelled, with_indices=True)
    return rows


def check_texts(values: Sequence[Any], column: str, problem_type: str | None) -> None:
    """Refuse numbers and lists that are written as texts, unless a person says that each is a class."""
    texts = {value for value in values if isinstance(value, str)}
    if problem_type is not None or not texts:
        return
    ways = "set task.problem_type: single_label_classification if each is a class"
    for decimal, way in (
        (".", "set task.problem_type: regression if they are scores"),
        (",", "write them with a point"),
    ):
        numbers = {text for text in texts if is_number(text.replace(decimal, ".", 1))}
        if len(numbers) > len(texts) / 2 and any(float(text.replace(decimal, ".", 1)) % 1 for text in numbers):
            odd = next((f", and {text!r}, which is none" for text in sorted(texts - numbers)), "")
            raise DataError(
                f"column {column!r} holds numbers written as texts ({min(numbers)!r}{odd}), which would be "
                f"{len(texts):,} classes; {way}, or {ways}"
            )
    lists = {text for text in texts if text.strip()[0] + text.strip()[-1] in ("[]", "()", "{}")}
    if len(lists) > len(texts) / 2:
        raise DataError(
            f"column {column!r} holds lists written as texts ({min(lists)!r}), which would be {len(texts):,} classes; "
            f"make them lists (jsonl, parquet, or a function in data.path), or {ways}"
        )


def check_apart(names: Sequence[str], column: str) -> None:
    """Refuse names that differ in nothing that a reader sees."""
    by_key: dict[str, str] = {}
    for name in names:
        other = by_key.setdefault(unicodedata.normalize("NFC", one_line(name)).casefold(), name)
        if other != name:
            raise DataError(
                f"column {column!r} has the labels {other!r} and {name!r}, which differ by case, blanks or unseen "
                "characters only and would be two classes; write them alike, or list all classes in task.labels to "
                "keep them apart"
            )


def joined(values: Sequence[Any]) -> str | None:
    """A text that may be several labels: all its parts stand in other texts, too."""
    texts = {value for value in values if isinstance(value, str)}
    for separator in (";", "|", ","):
        parts = {text: {part.strip() for part in text.split(separator)} for text in texts}
        counts = Counter(part for of_text in parts.values() for part in of_text)
        several = sorted(text for text in texts if len(parts[text]) > 1)
        if several and all(counts[part] > 1 for text in several for part in parts[text]):
            return several[0]
    return None


def is_number(name: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False
