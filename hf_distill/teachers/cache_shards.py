"""Shards of a teacher cache: arrays by name in one safetensors file, read through a memory map.

A shard holds whole rows. What is kept of a row are arrays of three lengths: one entry a position, one entry a token of
the row, or so many entries as the scheme keeps in all. ``bounds`` tells where each row's part of each length starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_distill.artifacts import files_digest, write_text, write_whole
from hf_distill.errors import CacheError

ROW_LENGTHS = ("positions", "tokens", "entries")
"""The lengths that arrays of a row may have."""

Rows = Sequence[Mapping[str, Mapping[str, np.ndarray]]]
"""By row, by length, by name: the arrays of a shard."""


def write_shard(path: Path, rows: Rows) -> None:
    """Write rows, each with the same lengths and names, as one whole file, and last its checksum beside it."""
    arrays: dict[str, np.ndarray] = {}
    for length in ROW_LENGTHS:
        parts = [row.get(length, {}) for row in rows]
        sizes = [len(next(iter(part.values()))) if part else 0 for part in parts]
        arrays[f"bounds.{length}"] = np.cumsum([0, *sizes], dtype=np.int64)
        for name in parts[0]:
            arrays[f"{length}.{name}"] = np.ascontiguousarray(np.concatenate([part[name] for part in parts]))
    write_whole(path, lambda partial: save_file(arrays, partial))
    write_text(_checksum(path), files_digest([path]))


def is_written(path: Path) -> bool:
    """Whether a shard was written to its end."""
    return path.is_file() and _checksum(path).is_file()


class Shard:
    """A shard, open for reading; refused where it is missing, cut off, or not what was written."""

    def __init__(self, path: Path) -> None:
        if not is_written(path):
            raise CacheError(
                f"the cache lacks {path.name}; finish it with the command that made it, or delete {path.parent} to "
                "make it anew"
            )
        if files_digest([path]) != _checksum(path).read_text():
            raise CacheError(
                f"{path} is not what was written (its checksum differs); delete this file, and the command that made "
                "the cache writes it again"
            )
        file = safe_open(path, "np")
        self._bounds = {length: file.get_tensor(f"bounds.{length}").tolist() for length in ROW_LENGTHS}
        names = [name.split(".", 1) for name in file.keys() if not name.startswith("bounds.")]  # noqa: SIM118
        self._arrays = [(length, name, file.get_slice(f"{length}.{name}")) for length, name in names]

    def row(self, number: int) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of a row, by length and name."""
        found: dict[str, dict[str, np.ndarray]] = {length: {} for length in ROW_LENGTHS}
        for length, name, array in self._arrays:
            first, last = self._bounds[length][number : number + 2]
            found[length][name] = array[first:last]
        return found


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")
