"""Shards of a teacher cache: arrays by name in one safetensors file, read through a memory map.

A shard holds whole rows. What is kept of a row are arrays of three lengths: one entry a position, one entry a token of
the row, or so many entries as the scheme keeps in all. ``bounds`` tells where each row's part of each length starts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from hf_distill.errors import CacheError

ROW_LENGTHS = ("positions", "tokens", "entries")
"""The lengths that arrays of a row may have."""

Rows = Sequence[Mapping[str, Mapping[str, np.ndarray]]]
"""By row, by length, by name: the arrays of a shard."""


def write_shard(path: Path, rows: Rows) -> None:
    """Write rows as one file, whole or not at all; its name's ``.sha256`` beside it, last.

    Args:
        path: Where to.
        rows: In order; each with the same lengths and names.
    """
    arrays: dict[str, np.ndarray] = {}
    for length in ROW_LENGTHS:
        parts = [row.get(length, {}) for row in rows]
        sizes = [len(next(iter(part.values()))) if part else 0 for part in parts]
        arrays[f"bounds.{length}"] = np.cumsum([0, *sizes], dtype=np.int64)
        for name in parts[0]:
            arrays[f"{length}.{name}"] = np.ascontiguousarray(np.concatenate([part[name] for part in parts]))
    partial = path.with_suffix(".partial")
    save_file(arrays, partial)
    digest = _sha256(partial)
    os.replace(partial, path)
    mark = _mark(path)
    partial.write_text(digest)
    os.replace(partial, mark)


def is_written(path: Path) -> bool:
    """Whether a shard was written to its end."""
    return path.is_file() and _mark(path).is_file()


class Shard:
    """A shard, open for reading.

    Args:
        path: The file.

    Raises:
        CacheError: Where it is missing, cut off, or not what was written.
    """

    def __init__(self, path: Path) -> None:
        if not is_written(path):
            raise CacheError(
                f"the cache lacks {path.name}; finish it with the command that made it, or delete {path.parent} to "
                "make it anew"
            )
        if _sha256(path) != _mark(path).read_text():
            raise CacheError(
                f"{path} is not what was written (its checksum differs); delete this file, and the command that made "
                "the cache writes it again"
            )
        self._arrays = _mapped(path)

    def row(self, number: int) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of a row, by length and name; views of the file."""
        found: dict[str, dict[str, np.ndarray]] = {length: {} for length in ROW_LENGTHS}
        for key, array in self._arrays.items():
            length, _, name = key.partition(".")
            if length != "bounds":
                first, last = self._arrays[f"bounds.{length}"][number : number + 2]
                found[length][name] = array[first:last]
        return found


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file without reading them: its header tells where each lies."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = (8 + size + offset for offset in entry["data_offsets"])
        arrays[name] = whole[first:last].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays


_DTYPES = {
    "U8": np.uint8,
    "U16": np.uint16,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
}


def _mark(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
