"""Folders of sound or images: classes as sub-folders, or a table beside the files that says what they are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features, Value

from hf_distill.data.local_files import read_files, united
from hf_distill.data.media.cells import CELL, READ, Kind
from hf_distill.errors import DataError
from hf_distill.names import nearest, shortened

if TYPE_CHECKING:
    from hf_distill.recipe import DataConfig

logger = logging.getLogger(__name__)

ROLES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What sub-folders are called that hold a split."""

TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
"""Files that say what the others of their folder are: a row for each, with its path in ``file_name``."""

FILE_NAME = "file_name"


def folder_splits(folder: Path, media: Mapping[str, Kind], config: DataConfig) -> dict[str, Dataset] | None:
    """The splits of a folder of media files, whose paths are whole; or None where it holds none of the kind.

    Sub-folders called as splits are those, else all files are training rows. A file's class, in the column ``label``,
    is the name of its folder within the split; where there is a table (``metadata.csv``), its columns count instead.

    Args:
        folder: Where the files are, at any depth.
        media: The column of media that is made, and its kind.
        config: What a folder without splits is called, and how tables are read.
    """
    column, kind = next(iter(media.items()))
    folder = Path(os.path.abspath(folder))
    files = _files_within(folder)
    found = [path for path in files if path.suffix.lower() in READ[kind]]
    if not found:
        return None
    named = [path for path in files if path.name.lower() in TABLES]
    _tell_unread(folder, sorted({*files} - {*found, *named}), kind)
    splits = _splits_of_folders(folder, found) or {config.train_split: [folder]}
    tables = {path: _table(path, config) for path in named}
    made = {}
    for name, parts in splits.items():
        inside = [path for path in found if _is_within(path, parts)]
        listed = {path: about for path, rows in tables.items() if len(about := _about(rows, path, parts))}
        made[name] = _of_tables(listed, inside, column, name) if listed else _of_classes(inside, parts, column)
        logger.info(f"data: {folder.name}: {len(made[name]):,} {kind} files are split {name!r}")
    _tell_strays(tables, [part for parts in splits.values() for part in parts])
    return made


def _files_within(folder: Path) -> list[Path]:
    """All files in order, without hidden ones and what macOS packs beside them."""
    files: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        if os.path.realpath(root) in seen:  # A link leads back.
            folders[:] = []
            continue
        seen.add(os.path.realpath(root))
        files += [Path(root) / name for name in sorted(names) if not name.startswith(".")]
    return files


def _tell_unread(folder: Path, others: Sequence[Path], kind: Kind) -> None:
    if others:
        names = shortened([path.name for path in others], 3)
        logger.info(
            f"data: {folder.name}: {len(others):,} files are not read ({names}): they are neither {kind} that can be "
            f"read ({', '.join(READ[kind])}) nor called {' or '.join(TABLES)}"
        )


def _splits_of_folders(folder: Path, found: Sequence[Path]) -> dict[str, list[Path]]:
    """The sub-folders of each split; nothing where they are classes, one of which may be called train, say."""
    tops = sorted({path.relative_to(folder).parts[0] for path in found if path.parent != folder})
    role_of = {name: role for name in tops for role, names in ROLES.items() if name.lower() in names}
    roles = set(role_of.values())
    are_splits = bool(role_of) and (len(role_of) == len(tops) or ("train" in roles and len(roles) > 1))
    if not are_splits:
        return {}
    if loose := [path for path in found if path.parent == folder]:
        raise DataError(
            f"data.path: {folder} has sub-folders for splits ({', '.join(tops)}) and {len(loose):,} files beside them "
            f"({shortened([path.name for path in loose], 3)}), which are of no split; move them into one"
        )
    splits: dict[str, list[Path]] = {}
    for name in tops:  # Other folders beside those of splits are splits, too: of rows without labels, say.
        splits.setdefault(role_of.get(name, name), []).append(folder / name)
    return splits


def _of_classes(files: Sequence[Path], parts: Sequence[Path], column: str) -> Dataset:
    classes = [None if path.parent in parts else path.parent.name for path in files]
    cells = [{"bytes": None, "path": str(path)} for path in files]
    features: dict[str, Any] = {column: CELL}
    if not any(classes):
        return Dataset.from_dict({column: cells}, features=Features(features))
    return Dataset.from_dict(
        {column: cells, "label": classes}, features=Features({**features, "label": Value("string")})
    )


def _table(path: Path, config: DataConfig) -> Dataset:
    """The rows of a table, with the whole path of each in ``file_name``."""
    plain = type(config)(files=str(path))
    rows: Any = read_files(str(path), path.parent.name, plain)
    if FILE_NAME not in rows.column_names:
        raise DataError(
            f"{path} has no column {FILE_NAME!r}, the path of each row's file beside it; it has "
            f"{', '.join(rows.column_names)}{nearest(FILE_NAME, rows.column_names)}; rename the one that holds it"
        )
    paths = [os.path.normpath(path.parent / str(name)) for name in rows[FILE_NAME]]
    return rows.remove_columns(FILE_NAME).add_column(FILE_NAME, paths, feature=Value("string"))


def _about(rows: Dataset, table: Path, parts: Sequence[Path]) -> Dataset:
    """The rows of a table about a split: all of one within it, of one above it those whose files are within it."""
    if _is_within(table, parts):
        return rows
    return rows.select([i for i, path in enumerate(rows[FILE_NAME]) if _is_within(Path(path), parts)])


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    return any(folder in path.parents for folder in folders)


def _tell_strays(tables: Mapping[Path, Dataset], parts: Sequence[Path]) -> None:
    for table, rows in tables.items():
        strays = [path for path in rows[FILE_NAME] if not _is_within(Path(path), parts)]
        if strays and not _is_within(table, parts):
            logger.info(
                f"warning: data: {table.name}: {len(strays):,} rows name files that are in no split's folder and are "
                f"not read ({shortened([Path(path).name for path in strays], 3)})"
            )


def _of_tables(listed: Mapping[Path, Dataset], files: Sequence[Path], column: str, split: str) -> Dataset:
    rows: Any = united(listed, f"data.path, split {split!r}", ())
    paths = rows[FILE_NAME]
    if unlisted := sorted({str(path) for path in files} - set(paths)):
        names = shortened([Path(path).name for path in unlisted], 3)
        logger.info(f"data: split {split!r}: {len(unlisted):,} files stand in no table and are not read ({names})")
    if column in rows.column_names:
        raise DataError(
            f"split {split!r}: the table beside the files has a column {column!r}, which is made of {FILE_NAME!r}; "
            "rename it"
        )
    cells = [{"bytes": None, "path": path} for path in paths]
    return rows.remove_columns(FILE_NAME).add_column(column, cells, feature=CELL)
