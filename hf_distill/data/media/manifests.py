"""Local sources of media: tables that name files relative to themselves, and folders of files."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from datasets import Dataset, IterableDataset

from hf_distill.data.local_files import named_files, read_files, united
from hf_distill.data.media.cells import READ, Kind
from hf_distill.data.media.columns_of_media import as_cells
from hf_distill.data.media.media_folders import folder_splits
from hf_distill.data.media.origins import Origin
from hf_distill.errors import DataError

if TYPE_CHECKING:
    from hf_distill.recipe import DataConfig


def rows_of_files(
    files: str | list[str], split: str, config: DataConfig, used: Collection[str], media: Mapping[str, Kind]
) -> Any:
    """The rows of a split's local files; ``media`` are columns that hold paths, or are made of folders.

    As :func:`~hf_distill.data.local_files.read_files`, which reads all tables. Paths are relative to the folder of the
    table that names them.
    """
    if not media:
        return read_files(files, split, config, used)
    where, names = f"data.files.{split}", [files] if isinstance(files, str) else files
    folders = [name for name in names if os.path.isdir(name)]
    if folders and len(folders) < len(names):
        raise DataError(f"{where}: expected folders, or files with rows, got both; name one kind")
    if folders:
        made = {Path(folder): _of_folder(folder, split, config, media) for folder in folders}
        return _streamed_as_asked(united(made, where, used), config)
    by_folder: dict[str, list[str]] = {}
    for path in chain.from_iterable(map(named_files, names)):
        by_folder.setdefault(os.path.dirname(os.path.abspath(path)), []).append(path)
    parts: dict[Path, Any] = {}
    for folder, inside in by_folder.items():
        rows = read_files(inside, split, config, used)
        parts[Path(folder)] = as_cells(rows, media, Origin(folder=folder), split)
    if any(isinstance(rows, IterableDataset) for rows in parts.values()):
        return datasets.concatenate_datasets(list(parts.values()))
    return united(parts, where, used)


def splits_of_folder(folder: str, config: DataConfig, media: Mapping[str, Kind]) -> dict[str, Any] | None:
    """The splits of a local folder of media files, as streams where the recipe says so; None of another folder."""
    splits = folder_splits(Path(folder), media, config) if media and os.path.isdir(folder) else None
    return splits and {name: _streamed_as_asked(rows, config) for name, rows in splits.items()}


def _of_folder(folder: str, split: str, config: DataConfig, media: Mapping[str, Kind]) -> Dataset:
    splits = folder_splits(Path(folder), media, config)
    if splits is None:
        kind = next(iter(media.values()))
        raise DataError(f"data.files.{split}: {folder} holds no {kind} file that can be read ({', '.join(READ[kind])})")
    if len(splits) > 1:
        raise DataError(
            f"data.files.{split}: {folder} has sub-folders for several splits ({', '.join(splits)}); name it in "
            "data.path"
        )
    return next(iter(splits.values()))


def _streamed_as_asked(rows: Dataset, config: DataConfig) -> Dataset | IterableDataset:
    return rows.to_iterable_dataset() if config.streaming else rows
