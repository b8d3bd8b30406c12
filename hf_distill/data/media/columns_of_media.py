"""Columns of media as undecoded cells, whatever the source gives: paths, bytes, arrays, images, Audio and Image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pyarrow.compute as pc
from datasets import Audio, Dataset, Features, Image, IterableDataset
from datasets.utils.file_utils import xopen

from hf_distill.data.media.cells import CELL, Kind, is_media
from hf_distill.data.media.origins import Origin
from hf_distill.data.media.read_audio import as_wav
from hf_distill.data.media.read_image import as_png
from hf_distill.errors import DataError
from hf_distill.names import one_line
from hf_distill.secrets import speakable


def as_cells(rows: Any, media: Mapping[str, Kind], origin: Origin, split: str) -> Any:
    """Rows whose columns of media hold cells, ``{"bytes", "path"}``, with paths that are checked and whole.

    Args:
        rows: A Dataset, or a stream, whose rows change as they come.
        media: The columns that hold media, as the data name them; Audio and Image of `datasets` always do.
        origin: What paths mean, and which are allowed.
        split: What the rows are, for messages.

    Raises:
        DataError: A cell cannot be one of media, or names a file that it may not.
    """
    kinds = {**_by_feature(rows.features), **{name: kind for name, kind in media.items() if _has(rows, name)}}
    if not kinds:
        return rows
    if isinstance(rows, IterableDataset):
        return _streamed(rows, kinds, origin, split)
    features = Features({**rows.features, **dict.fromkeys(kinds, CELL)})
    # Audio and Image are stored as cells are: another name for the column's type, and no copy of what it holds.
    stored = [name for name in kinds if is_media(rows.features[name])]
    for name in stored:
        if isinstance(rows.features[name], Mapping) and rows.features[name] != CELL:
            rows = rows.cast_column(name, CELL)  # Where no cell has a path, or none has bytes.
    if any(rows.features[name] != CELL for name in stored):
        kept = Features({**rows.features, **dict.fromkeys(stored, CELL)})
        table = rows.data.replace_schema_metadata(None)
        rows = Dataset(table, info=_info(rows, kept), split=rows.split, indices_table=rows._indices)
    others = {name: kind for name, kind in kinds.items() if name not in stored}
    if others or ((origin.folder or origin.hub_id) and _has_paths(rows, stored)):
        rows = rows.map(_Cells(kinds, origin, split), with_indices=True, features=features)
    return rows


@contextmanager
def audio_as_given() -> Iterator[None]:
    """Let `datasets` load repositories of audio files: Audio wants torchcodec, even to write a path down as it is."""
    encode = Audio.encode_example

    def written_down(self: Audio, value: Any) -> Any:
        return {"bytes": None, "path": value} if isinstance(value, str) else encode(self, value)

    Audio.encode_example = written_down
    try:
        yield
    finally:
        Audio.encode_example = encode


@dataclass(frozen=True)
class _Cells:
    """Makes the cells of a row."""

    kinds: Mapping[str, Kind]
    origin: Origin
    split: str

    def __call__(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        made = {}
        for name, kind in self.kinds.items():
            if name not in row:  # A stream that does not know its columns.
                continue
            try:
                made[name] = cell_of(row[name], kind, self.origin)
            except DataError as error:
                raise DataError(f"split {self.split!r}: row {number}, column {name!r}: {error}") from error
        return made


def cell_of(value: Any, kind: Kind, origin: Origin) -> dict[str, Any] | None:
    """What a source gives for media as a cell; None where there is nothing. DataError where it cannot be one."""
    if value is None:
        return None
    if isinstance(value, (str, PurePath)):
        return _file(origin.found(str(value)))
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, Mapping) and "array" in value and kind == "audio":
        return {"bytes": as_wav(value["array"], value.get("sampling_rate")), "path": value.get("path")}
    if isinstance(value, Mapping) and {"bytes", "path"} & set(value):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path is not None:
            return _file(origin.found(path))
        return {"bytes": content, "path": path}  # Beside bytes, a path is a name and is never opened.
    if kind == "image" and not isinstance(value, Mapping):
        return {"bytes": as_png(value), "path": None}
    raise DataError(
        f"expected {kind} as a path, bytes, {'{array, sampling_rate}' if kind == 'audio' else 'an image, an array'} or "
        f"{{bytes, path}}, got {type(value).__name__}: {one_line(repr(value))[:60]}"
    )


def _file(path: str) -> dict[str, Any]:
    """The cell of a file; what a stream of the Hub's names by its address is read at once."""
    if "://" not in path:
        return {"bytes": None, "path": path}
    try:
        with xopen(path, "rb") as file:
            return {"bytes": file.read(), "path": path}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from speakable(error)


def _by_feature(features: Features | None) -> dict[str, Kind]:
    kinds: dict[type, Kind] = {Audio: "audio", Image: "image"}
    return {name: kinds[type(feature)] for name, feature in (features or {}).items() if type(feature) in kinds}


def _has(rows: Any, name: str) -> bool:
    # A stream that does not know its columns may have it.
    return name in rows.column_names if rows.column_names else isinstance(rows, IterableDataset)


def _info(rows: Dataset, features: Features) -> Any:
    info = rows.info.copy()
    info.features = features
    return info


def _has_paths(rows: Dataset, names: list[str]) -> bool:
    """Whether a cell has a path alone, which has to be looked at; the bytes of others are not touched."""
    for name in names:
        for batch in rows.select_columns([name]).with_format("arrow").iter(1000):
            content, path = (pc.struct_field(batch[name], part) for part in ("bytes", "path"))
            alone = pc.and_(pc.is_null(content), pc.is_valid(path))
            if pc.any(alone).as_py():
                return True
    return False


def _streamed(rows: IterableDataset, kinds: Mapping[str, Kind], origin: Origin, split: str) -> IterableDataset:
    known = rows.features
    features = Features({**known, **{name: CELL for name in kinds if name in known}}) if known else None
    if known and any(name in _by_feature(known) for name in kinds):
        # Features that are unknown are neither decoded nor encoded, for which `datasets` needs torchcodec.
        rows = rows.decode(False).cast(None)
    return rows.map(_Cells(kinds, origin, split), with_indices=True, features=features)
