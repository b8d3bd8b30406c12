"""Rows that tell by which of several teachers they are taught, and still tell it when they are tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, IterableDataset

from hf_distill.errors import RecipeError
from hf_distill.types import TAUGHT_BY


def replaced(rows: Dataset | IterableDataset) -> list[str]:
    """The columns that tokens take the place of: all but :data:`TAUGHT_BY`."""
    return [name for name in rows.column_names or next(iter(rows)) if name != TAUGHT_BY]


def carried(batch: Mapping[str, list[Any]], pieces: Sequence[int]) -> dict[str, list[Any]]:
    """:data:`TAUGHT_BY` of rows that became so many rows each; nothing where nobody asks for it.

    Args:
        batch: The rows.
        pieces: How many each became; 0 where it was dropped.
    """
    if TAUGHT_BY not in batch:
        return {}
    return {TAUGHT_BY: [member for member, n in zip(batch[TAUGHT_BY], pieces, strict=True) for _ in range(n)]}


def check_apart(columns: Sequence[str], packed: bool) -> None:
    """Refuse to lay texts end to end that several teachers teach.

    Raises:
        RecipeError: With the way out.
    """
    if packed and TAUGHT_BY in columns:
        raise RecipeError(
            "task.packing: texts that are laid end to end share a row, and each row is taught by one teacher; set it "
            "to false, or remove teacher.route"
        )
