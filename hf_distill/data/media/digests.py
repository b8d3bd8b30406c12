"""What rows hold, as numbers, and not where it stands: whether two rows, or two data sets, are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset

from hf_distill.data.media.cells import media_columns, opened
from hf_distill.data.media.threads import over_cells

EDGE = 1 << 16
"""Bytes at the beginning and the end of a file that are read of it: 64 KiB each."""


def fingerprint(parts: Sequence[Dataset], more: str = "") -> str:
    """SHA-256 over column names and every cell of every part, in order: of the content, not of files or caches.

    Of sound and images the bytes count, or of a file that stands for itself its size and its first and last 64 KiB,
    and never a path, see :func:`digests`.
    """
    digest = hashlib.sha256(more.encode())
    for part in parts:
        media = media_columns(part.features)
        digest.update(repr((part.column_names, len(part))).encode())
        for name in sorted(part.column_names):
            if name in media:
                for each in digests(part, name):
                    digest.update(f"{each} ".encode())
                continue
            for batch in part.select_columns([name]).with_format("arrow").iter(10_000):
                digest.update(repr(batch[name].to_pylist()).encode())
    return digest.hexdigest()


def contents(rows: Dataset, texts: Sequence[str]) -> Iterator[int]:
    """A number for what a model reads of each row: its sound or image where there is one, else its texts."""
    if media := media_columns(rows.features):
        return map(hash, zip(*(digests(rows, name) for name in media), strict=True))
    columns = [rows[name] for name in texts if name in rows.column_names]
    return (hash(repr(row)) for row in zip(*columns, strict=True))


def digests(rows: Dataset, column: str) -> Iterator[str]:
    """SHA-256 of each cell of a column of media, in order; empty for a cell that holds nothing.

    A cell's bytes count whole. Of a file that it names alone its size and its first and last 64 KiB do: files that
    differ in their middle only are taken for the same, so that terabytes need not be read before a run.
    """
    return over_cells(rows, column, _digest)


def _digest(cell: Mapping[str, Any] | None) -> str:
    if cell is None or (cell["bytes"] is None and not cell["path"]):
        return ""
    if cell["bytes"] is not None:
        return hashlib.sha256(cell["bytes"]).hexdigest()
    with opened(cell, "file") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{size} ".encode() + file.read(EDGE))
        file.seek(max(size - EDGE, 0))
        digest.update(file.read(EDGE))
    return digest.hexdigest()
