"""Rows of texts: each text is one, and says something; what does not is refused or dropped by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset, IterableDataset

from hf_distill.data.forms.chat_rows import Invalid, numbers_of, of_stream, without_invalid
from hf_distill.errors import DataError

LISTS_OF_TEXTS = frozenset({"tokens", "words", "candidates"})
"""Columns that hold lists of texts; in any other a list would be cut into tokens as a pair, or crash."""


def read_texts(rows: Any, split: str, columns: Sequence[str], invalid: Invalid, streamed: int) -> tuple[Any, list[str]]:
    """The rows whose texts say something, and lines that tell of others; of a stream the first are looked at."""
    is_stream = isinstance(rows, IterableDataset)
    looked_at: Any = Dataset.from_list(list(rows.take(streamed))) if is_stream else rows
    if len(looked_at) == 0:
        raise DataError(f"split {split!r} has no rows; check the file, data.{split}_split and data.{split}_limit")
    faults: dict[int, str] = {}
    empty: dict[str, None] = {}
    for column in [name for name in columns if name in looked_at.column_names]:
        for number, value in enumerate(looked_at[column]):
            if isinstance(value, list) and column not in LISTS_OF_TEXTS:
                where = f"split {split!r}: row {numbers_of(rows)(number)} has a list in column {column!r}"
                raise DataError(
                    f"{where}, {_short(value)}, where one text is meant; choose one of each row in a function "
                    "(data.path: package.module:function), or join them"
                )
            if not _has_text(value):
                faults.setdefault(number, _short(value))
                empty[column] = None
    if is_stream and invalid == "drop":
        names = [name for name in columns if name in looked_at.column_names]
        return rows.filter(lambda row: all(_has_text(row[name]) for name in names)), of_stream(split, invalid)
    if is_stream and not faults:
        return rows.map(_refuse_empty(split, columns), with_indices=True), []
    return without_invalid(rows, split, faults, invalid, f"have no text in column {', '.join(map(repr, empty))}")


def _refuse_empty(split: str, columns: Sequence[str]) -> Callable[[Mapping[str, Any], int], Mapping[str, Any]]:
    """What looks at rows of a stream as they come."""

    def refuse(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        for name in columns:
            if name in row and not _has_text(row[name]):
                told = f"split {split!r}: row {number} of the stream has no text in column {name!r}"
                raise DataError(f"{told} ({_short(row[name])}); correct it, or set data.invalid_rows: drop")
        return row

    return refuse


def _has_text(value: Any) -> bool:
    """Whether it is a text, or a list of words, that says something."""
    if isinstance(value, list):
        return any(map(_has_text, value)) and all(isinstance(word, str) for word in value)
    return isinstance(value, str) and bool(value.strip())


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
