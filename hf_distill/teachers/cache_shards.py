"""Shards of a teacher cache: arrays by name in one safetensors file, read through a memory map.

A shard holds whole rows. What is kept of a row are arrays of three lengths: one entry a position, one entry a token of
the row, or so many entries as the scheme keeps in all. ``bounds`` tells where each row's part of each length starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hf_distill.artifacts import files_digest, write_text, write_whole
from hf_distill.errors import CacheError

ROW_LENGTHS = ("positions", "tokens", "entries")
"""The lengths that arrays of a row may have."""

DTYPES = ("U8", "U16", "I64", "F16", "F32", "F64")
"""What arrays may be of, as safetensors calls it; bfloat16 is kept as the bits it is."""

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


class DamagedShard(CacheError):
    """A shard that does not hold what a shard of its cache must hold; it can be written again."""

    def __init__(self, path: Path, why: str) -> None:
        self.path, self.why = path, why
        told = "delete this file, and the command that made the cache writes it again"
        super().__init__(f"{path} is damaged: {why}; {told}")


class Shard:
    """A shard, open for reading; refused where it is missing, cut off, or not what was written.

    Args:
        path: Of its file; the checksum lies beside it.
        rows: How many it must have, where that is known.

    Attributes:
        bounds: By length, where each row's part starts.
        arrays: By length and name, as safetensors shows them; see ``get_shape`` and ``get_dtype``.
    """

    def __init__(self, path: Path, rows: int | None = None) -> None:
        if not is_written(path):
            raise CacheError(
                f"the cache lacks {path.name}; finish it with the command that made it, or delete {path.parent} to "
                "make it anew"
            )
        self.path = path
        try:
            if files_digest([path]).encode() != _checksum(path).read_bytes():
                raise DamagedShard(path, "it is not what was written (its checksum differs)")
            file = safe_open(path, "np")
            names = list(file.keys())
            self.arrays = {name: file.get_slice(name) for name in names if not name.startswith("bounds.")}
            self.bounds: dict[str, np.ndarray] = {}
            for length in ROW_LENGTHS:
                self.bounds[length] = self._bounds(file, length, names, rows)
                rows = len(self.bounds[length]) - 1
        except (SafetensorError, OSError) as error:
            raise DamagedShard(path, f"it cannot be read ({error})") from error
        for name, array in self.arrays.items():
            length, shape = name.partition(".")[0], array.get_shape()
            if length not in ROW_LENGTHS or array.get_dtype() not in DTYPES:
                raise DamagedShard(path, f"it holds {name!r} of {array.get_dtype()}, which no cache holds")
            if shape[:1] != [int(self.bounds[length][-1])]:
                raise DamagedShard(path, f"{name!r} has shape {shape}, its rows add up to {self.bounds[length][-1]}")

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.bounds["positions"]) - 1

    def row(self, number: int) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of a row, by length and name."""
        return self.part(number, number + 1)

    def part(self, start: int, stop: int) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of some rows, end to end, by length and name."""
        found: dict[str, dict[str, np.ndarray]] = {length: {} for length in ROW_LENGTHS}
        for name, array in self.arrays.items():
            length, _, short = name.partition(".")
            found[length][short] = array[int(self.bounds[length][start]) : int(self.bounds[length][stop])]
        return found

    def _bounds(self, file: Any, length: str, names: Sequence[str], rows: int | None) -> np.ndarray:
        name = f"bounds.{length}"
        if name not in names:
            raise DamagedShard(self.path, f"it lacks {name!r}")
        array = file.get_slice(name)
        dtype, shape = array.get_dtype(), array.get_shape()
        if dtype != "I64" or len(shape) != 1 or shape[0] < 2 or rows not in (None, shape[0] - 1):
            raise DamagedShard(self.path, f"{name!r} is {dtype} of shape {shape}, which does not fit its rows")
        bounds = file.get_tensor(name)
        if bounds[0] != 0 or (bounds[1:] < bounds[:-1]).any():
            raise DamagedShard(self.path, f"{name!r} does not say where each row starts")
        return np.asarray(bounds)


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")
