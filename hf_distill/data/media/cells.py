"""What a cell of sound or of an image is, whatever its source: its bytes, or the path of its file."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from datasets import Audio, Features, Image, Value

from hf_distill.errors import DataError

Kind = Literal["audio", "image"]

Fault = Literal["broken", "empty", "missing", "silent", "too short", "too long", "too large"]

KINDS: tuple[Kind, ...] = ("audio", "image")
"""Columns that hold media, under the task's names."""

CELL: dict[str, Any] = {"bytes": Value("binary"), "path": Value("string")}
"""The feature of such a column: what Audio and Image of `datasets` store, which is then neither decoded nor encoded."""

_BYTES = ("binary", "large_binary", "null")
_PATH = ("string", "large_string", "null")

EXTRAS: dict[Kind, str] = {"audio": "speech", "image": "vision"}
"""The extra of this package that brings what reads each kind."""

READ = {
    "audio": (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"),
}
"""How the names of files end that are read."""


class MediaError(DataError):
    """Sound or an image that cannot be used.

    Attributes:
        fault: What it is, in a word or two.
    """

    def __init__(self, message: str, fault: Fault = "broken") -> None:
        super().__init__(message)
        self.fault = fault


def is_media(feature: Any) -> bool:
    """Whether a column of this feature holds media: as cells, or as Audio and Image of `datasets`."""
    if isinstance(feature, (Audio, Image)):
        return True
    kinds = {name: getattr(part, "dtype", "") for name, part in feature.items()} if isinstance(feature, Mapping) else {}
    return kinds.keys() == CELL.keys() and kinds["bytes"] in _BYTES and kinds["path"] in _PATH


def media_columns(features: Features | None) -> list[str]:
    """The columns that hold media."""
    return [name for name, feature in (features or {}).items() if is_media(feature)]


@contextmanager
def needed_for(kind: Kind) -> Iterator[None]:
    """Where what reads a kind is imported: DataError says what to install where that fails."""
    try:
        yield
    except (ImportError, OSError) as error:  # OSError: soundfile finds no libsndfile.
        raise DataError(
            f"{kind} cannot be read, as a library is missing ({error}): pip install 'hf-distill[{EXTRAS[kind]}]'"
        ) from error


def name_of(cell: Any, kind: str) -> str:
    """What a cell is called in messages: its file's name, where it has one."""
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    return Path(path).name if isinstance(path, (str, os.PathLike)) and str(path) else f"{kind} without a name"


def opened(cell: Any, kind: str) -> io.BytesIO | io.BufferedReader:
    """The bytes of a cell, of raw bytes or of the file of a path, to be read and closed.

    Raises:
        MediaError: There is nothing in it, or no such file.
    """
    path = cell
    if isinstance(cell, Mapping):
        path = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
    name = name_of(cell, kind)
    if isinstance(path, (bytes, bytearray, memoryview)):
        if not len(path):
            raise MediaError(f"{name} is empty: it has 0 bytes", "empty")
        return io.BytesIO(path)
    if path is None or path == "":
        raise MediaError(f"the row has no {kind}: neither bytes nor a path", "missing")
    if not isinstance(path, (str, os.PathLike)):
        raise MediaError(f"expected {kind} as bytes, a path or {{bytes, path}}, got {type(path).__name__}")
    try:
        if not os.stat(path).st_size:
            raise MediaError(f"{name} is empty: it has 0 bytes", "empty")
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a null in the path.
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise MediaError(f"{name}: its file {path} cannot be read ({why})", "missing") from error
