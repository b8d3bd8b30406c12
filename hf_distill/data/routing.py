"""Assigns rows to teachers, where each row names one of several."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from datasets import ClassLabel, Dataset

from hf_distill.data.rows import Data
from hf_distill.errors import DataError
from hf_distill.names import nearest
from hf_distill.types import TAUGHT_BY


def with_teachers(data: Data, route: str, names: Sequence[str], kept: Collection[str]) -> Data:
    """Add to every row the index of the teacher that alone teaches it."""
    parts: dict[str, Any] = {}
    notes = []
    for split, rows in data.splits.items():
        taught = _taught(rows, split, route, names)
        counts = Counter(taught)
        shown = ", ".join(f"{counts[number]:,} by {name}" for number, name in enumerate(names))
        notes.append(f"teacher: of {len(rows):,} {split} rows {shown} are taught")
        read = rows if route in kept else rows.remove_columns([route])
        parts[split] = read.add_column(TAUGHT_BY, taught)
    return dataclasses.replace(data, **parts, notes=(*data.notes, *notes))


def _taught(rows: Dataset, split: str, route: str, names: Sequence[str]) -> list[int]:
    if route not in rows.column_names:
        raise DataError(
            f"split {split!r} has no column {route!r}, in which teacher.route looks for the name of each row's "
            f"teacher; it has {', '.join(rows.column_names)}; add it, or map it in data.columns"
        )
    feature, values = rows.features[route], list(rows[route])
    if isinstance(feature, ClassLabel):
        values = [None if value is None else feature.int2str(value) for value in values]
    index = {name: number for number, name in enumerate(names)}
    if unknown := [(number, value) for number, value in enumerate(values) if str(value) not in index]:
        number, value = unknown[0]
        raise DataError(
            f"split {split!r}: {len(unknown):,} of {len(values):,} rows name no teacher in column {route!r} (first: "
            f"row {number}, {value!r}); the teachers are called {', '.join(names)}{nearest(str(value), names)}"
        )
    return [index[str(value)] for value in values]
