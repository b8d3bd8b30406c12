"""Rows that are dropped or cut because they are too long: counted, and told before a run and in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from datasets import Dataset

LOOKED_AT = 20_000
"""Rows of a split, at most, that are read whole before anything is trained."""


def of_rows(looked_at: int, given: int) -> str:
    """The rows that are counted among, in words: all of them, or the first."""
    return f"of {given:,} rows" if looked_at == given else f"of the first {looked_at:,} rows"


def told_lost(dropped: int, cut: int, of: str, limit: str, verb: str) -> Iterator[str]:
    """Lines on rows that are lost, or shorter than they were; ``verb``: are, or will be."""
    if dropped:
        yield f"{dropped:,} {of} {verb} dropped: their prompts are longer than {limit}"
    if cut:
        yield f"{cut:,} {of} {verb} cut: they are longer than {limit}"


def lost_rows(encoded: Dataset, given: int, limit: str) -> Iterator[str]:
    """Lines on so many given rows that were dropped or cut when they were encoded."""
    sources = encoded["source"] if "source" in encoded.column_names else range(len(encoded))
    parts = groupby(zip(sources, encoded["cut"], strict=True), key=itemgetter(0))  # A row may have become several.
    kept = [any(is_cut for _, is_cut in row) for _, row in parts]
    yield from told_lost(max(given - len(kept), 0), sum(kept), of_rows(given, given), limit, "are")


def cut_rows(task: Any, rows: Dataset, tokenizer: Any) -> Iterator[str]:
    """A line that tells how many rows a task will cut, where it marks those; nothing of rows still to be written."""
    if not {*task.required} & {*task.text_columns} <= {*rows.column_names}:
        return
    looked_at = rows.select(range(min(LOOKED_AT, len(rows))))
    encoded = task.encode(looked_at, tokenizer)
    if "cut" in (encoded.column_names or ()):
        of = of_rows(len(looked_at), len(rows))
        yield from told_lost(0, sum(encoded["cut"]), of, task.length_limit, "will be")
