"""Looks at many files at once, and holds few of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from datasets import Dataset

T = TypeVar("T")

HELD = 64
"""Cells, whose bytes may be many, that are in memory at a time."""


def over_cells(rows: Dataset, column: str, look: Callable[[Any], T]) -> Iterator[T]:
    """What a function finds in each cell of a column, in order; reading and decoding leave Python to other threads."""
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        for batch in rows.select_columns([column]).with_format(None).iter(HELD):
            yield from pool.map(look, batch[column])
