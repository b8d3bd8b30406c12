"""Rows of local files: tables, JSON, plain texts and words with tags, compressed or not, in any encoding."""

from __future__ import annotations

import csv
import glob
import importlib.util
import io
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from datasets import Dataset, Features, IterableDataset, Value

from hf_distill.data.parsed_files import bytes_of, encoding_of, has_lines_of_words, parsed_json, sentences
from hf_distill.errors import DataError
from hf_distill.secrets import speakable

if TYPE_CHECKING:
    from hf_distill.recipe import DataConfig

logger = logging.getLogger(__name__)

READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
"""How a local file is read, by its ending."""

OF_WORDS = (".conll", ".conllu", ".bio", ".iob", ".iob2")
"""Endings of files with a word and its tags in each line, and a blank line between sentences."""

PACKED = (".gz", ".bz2", ".xz", ".zst")
DELIMITERS = (",", ";", "\t", "|")


def read_files(
    files: str | list[str], split: str, config: DataConfig, used: Collection[str] = ()
) -> Dataset | IterableDataset:
    """The rows of local files of one kind.

    Args:
        files: Their paths.
        split: What they are, for messages.
        config: How they are read.
        used: Columns that are needed; of others it does not matter what files disagree about.
    """
    where = f"data.files.{split}"
    named = [each for name in ([files] if isinstance(files, str) else files) for each in named_files(name)]
    paths = [_found(name, where) for name in named]
    if twice := next((path for path in paths if paths.count(path) > 1), None):
        raise DataError(f"{where}: {twice} is named twice, so that its rows would count double; remove one")
    endings = {_ending(path, where) for path in paths}
    if len(endings) != 1 or not endings <= {*READERS, *OF_WORDS}:
        got = ", ".join(sorted(endings)) or "none"
        known = ", ".join([*READERS, *OF_WORDS])
        raise DataError(f"{where}: expected files of one kind ({known}, also packed as {', '.join(PACKED)}), got {got}")
    ending = min(endings)
    if ending in OF_WORDS or ("tokens" in used and has_lines_of_words(paths[0], ending, config, used)):
        rows: Any = Dataset.from_list([row for path in paths for row in sentences(path, ending, config)])
        return rows.to_iterable_dataset() if config.streaming else rows
    parsed = [parsed_json(path, ending, config) for path in paths] if READERS[ending] == "json" else []
    if parsed and all(rows is not None for rows in parsed):
        rows = united(dict(zip(paths, map(_from_list, parsed), strict=True)), where, used)
        return rows.to_iterable_dataset() if config.streaming else rows
    return _loaded(paths, ending, where, config, used)


def named_files(name: str) -> list[str]:
    """The files that a path names; several where it is a pattern (``*``, ``?``, ``[...]``, ``**``), in order."""
    found = [] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))
    return found or [name]


def _found(name: str, where: str) -> Path:
    path, shown = Path(name), name if len(name) <= 200 else f"{name[:200]}..."
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except OSError:  # A name that is too long.
        is_folder = False
    if "://" in name:
        raise DataError(
            f"{where}: expected a file of this machine, got the address {shown}; download it, or name a data set of "
            "the Hub in data.path"
        )
    if is_folder:
        raise DataError(f"{where}: {shown} is a folder; name the files in it")
    raise DataError(f"{where}: there is no file {shown}; paths are relative to where you run it")


def _loaded(
    paths: Sequence[Path], ending: str, where: str, config: DataConfig, used: Collection[str]
) -> Dataset | IterableDataset:
    reader, options = READERS[ending], _options(paths[0], ending, config)

    def load(chosen: Sequence[Path]) -> Any:
        names = {"train": [glob.escape(str(path)) for path in chosen]}  # A name may hold brackets.
        with _quiet():
            rows = datasets.load_dataset(reader, data_files=names, split="train", streaming=config.streaming, **options)
            first: Any = next(iter(rows), {})  # A stream that cannot be read is refused here.
            if reader == "csv":
                _check_cells(first, where, options["delimiter"])
        return rows

    def refused(path: Path, error: BaseException) -> DataError:
        cause = error.__cause__ or error
        if "no data" in str(error) or isinstance(cause, StopIteration):
            return DataError(f"{where}: {path} has no rows; name a file that holds some")
        way = "; say what it is written in (data.encoding)" if isinstance(cause, UnicodeError) else ""
        return DataError(f"{where}: {path} cannot be read as {reader}: {reason(error)}{way}")

    errors = (datasets.exceptions.DatasetGenerationError, ValueError, OSError, StopIteration)
    try:
        return load(paths)
    except errors as error:
        if len(paths) == 1 or config.streaming:
            raise refused(paths[0], error) from speakable(error)
    parts = {}  # Several files may be right one by one: where a column is empty in one of them, say.
    for path in paths:
        try:
            parts[path] = load([path])
        except errors as error:
            raise refused(path, error) from speakable(error)
    return united(parts, where, used)


def united(parts: Mapping[Path, Dataset], where: str, used: Collection[str]) -> Dataset:
    """Rows of several files as one; a column that one lacks, or holds nothing in, is None there."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    kinds: dict[str, tuple[Path, Any]] = {}
    left_out: set[str] = set()
    for path, rows in parts.items():
        for name, kind in rows.features.items():
            first, known = kinds.setdefault(name, (path, kind))
            if _is_empty(known):
                kinds[name] = (path, kind)
            elif kind != known and not _is_empty(kind):
                if not used or name in used:
                    raise DataError(
                        f"{where}: column {name!r} holds {_shown(known)} in {first} and {_shown(kind)} in {path}; "
                        "rows of one split are alike: correct one of them"
                    )
                left_out.add(name)
    features = Features({name: kind for name, (_, kind) in kinds.items() if name not in left_out})
    if left_out:
        logger.info(
            f"data: columns {', '.join(sorted(left_out))} are left out: files disagree, and the task needs none"
        )

    def like(rows: Dataset) -> Dataset:
        rows = rows.remove_columns([name for name in rows.column_names if name in left_out])
        for name in features.keys() - set(rows.column_names):
            rows = rows.add_column(name, [None] * len(rows), feature=features[name])
        return rows.select_columns(list(features)).cast(features)

    return datasets.concatenate_datasets([like(rows) for rows in parts.values()])


def _is_empty(kind: Any) -> bool:
    return isinstance(kind, Value) and kind.dtype == "null"


def _shown(kind: Any) -> str:
    return kind.dtype if isinstance(kind, Value) else str(kind)


def _options(path: Path, ending: str, config: DataConfig) -> dict[str, Any]:
    """What the reader of `datasets` is told."""
    if READERS[ending] in ("parquet", "json"):
        return {}
    encoding = encoding_of(path, config)
    named: dict[str, Any] = {} if encoding == "utf-8" else {"encoding": encoding}
    if READERS[ending] == "text":
        return named
    delimiter = _delimiter(path, ending, encoding, config)
    if delimiter == "\t" and _has_open_quotes(path, encoding):
        logger.info(
            f"data: {path.name}: quotation marks are read as they stand, since in some lines they are not closed"
        )
        named["quoting"] = csv.QUOTE_NONE
    # An empty cell is none; NA, None, null and nan are texts and classes like others.
    return {**named, "delimiter": delimiter, "keep_default_na": False, "na_values": [""]}


def _ending(path: Path, where: str) -> str:
    endings = [each.lower() for each in path.suffixes]
    if endings and endings[-1] in PACKED:
        if endings[-1] == ".zst" and importlib.util.find_spec("zstandard") is None:
            raise DataError(f"{where}: {path} is packed as .zst; unpack it, or pip install zstandard")
        endings = endings[:-1]
    return endings[-1] if endings else ""


def _delimiter(path: Path, ending: str, encoding: str, config: DataConfig) -> str:
    """What stands between the columns of a table: named, or what cuts its header into columns."""
    usual = "\t" if ending == ".tsv" else ","
    with bytes_of(path) as file:
        header = file.read(1 << 16).decode(encoding, errors="ignore").removeprefix("\ufeff").splitlines()[:1]
    known = (usual, *DELIMITERS) if config.delimiter is None else (config.delimiter,)
    names = {each: next(csv.reader(header, delimiter=each), []) for each in known if len(each) == 1}
    found = next((each for each in names if len(names[each]) > 1), known[0])
    if found not in (usual, config.delimiter):
        logger.info(f"data: {path.name}: its columns are separated by {found!r}; name another in data.delimiter")
    for name, count in Counter(names.get(found, ())).items():
        if count > 1:
            logger.info(f"warning: data: {path.name}: {count} columns are called {name!r}; the first of them is read")
    return found


def _has_open_quotes(path: Path, encoding: str) -> bool:
    """Whether each line of a table is a row of its own although quotation marks stay open in some."""
    with bytes_of(path) as file, io.TextIOWrapper(file, encoding=encoding, errors="ignore") as lines:
        is_open, width = False, None
        for line in lines:
            width = width or line.count("\t")
            if line.strip() and line.count("\t") != width:
                return False
            is_open = is_open or line.count('"') % 2 == 1
    return is_open


def _check_cells(row: Mapping[str, Any], where: str, delimiter: str) -> None:
    """Refuse a table whose rows have more cells than its header has names, unless the first cells number the rows."""
    unnamed = [value for name, value in row.items() if name.startswith("__index_level_")]
    if len(unnamed) > 1 or any(not isinstance(value, int) for value in unnamed):
        raise DataError(
            f"{where}: its rows have more cells than its header has names (the first row starts with {unnamed[0]!r}); "
            f"name all columns, and put texts that hold {delimiter!r} into quotes"
        )


def _from_list(rows: list[dict[str, Any]] | None) -> Dataset:
    names = dict.fromkeys(name for row in rows or () for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows or ()] for name in names})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from printing what is then told in one line."""
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)


def reason(error: BaseException) -> str:
    """What was wrong, in one line."""
    cause = error.__cause__ or error
    text = " ".join((str(cause) or type(cause).__name__).split())
    return text if len(text) <= 300 else text[:299] + "…"
