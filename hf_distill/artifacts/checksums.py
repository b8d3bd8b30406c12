"""Size and SHA-256 of every file of a folder: written last, they tell later whether the folder is still whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Checksums = Mapping[str, Mapping[str, Any]]
"""``{"model.safetensors": {"size": 123, "sha256": "..."}}``, by the path below the folder."""

THREADS = 4
"""Files that are read at once; hashing lets other threads run."""

T = TypeVar("T")


def checksums(folder: Path, only: Iterable[str] = (".",)) -> dict[str, dict[str, Any]]:
    """The checksums of all files below a folder, or of some of its files and folders; all are seen onto the disk."""
    paths = [path for name in only for path in (folder / name, *sorted((folder / name).rglob("*"))) if path.is_file()]
    found = _each(_seen_onto_disk, {path.relative_to(folder).as_posix(): path for path in paths})
    return {name: {"size": size, "sha256": sha256} for name, (size, sha256) in found.items()}


def damage(folder: Path, expected: Checksums) -> str | None:
    """The first file of a folder that is not as its checksum says, and how; None where all are. Others may be there."""
    if not isinstance(expected, Mapping) or not expected:
        return "the list of its files is damaged"
    for name, each in expected.items():
        if not isinstance(each, Mapping) or not {"size", "sha256"} <= each.keys():
            return f"the checksum of {name} is damaged"
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != each["size"]:
            return f"{name} has {size:,} bytes instead of {each['size']:,}"
    found = _each(_sha256, {name: folder / name for name in expected})
    changed = [name for name, sha256 in found.items() if sha256 != expected[name]["sha256"]]
    return f"{changed[0]} has changed since it was written" if changed else None


def _each(read: Callable[[Path], T], paths: Mapping[str, Path]) -> dict[str, T]:
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(paths, pool.map(read, paths.values()), strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seen_onto_disk(path: Path) -> tuple[int, str]:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
