"""What is kept on disk: folders that are claimed, files that are whole or absent, and digests of plain data."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_distill.errors import HfDistillError, OutputError
from hf_distill.names import shortened
from hf_distill.secrets import hidden, hidden_in

logger = logging.getLogger(__name__)


def digest(content: Any) -> str:
    """SHA-256 of plain data, as hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the content of files, one after the other, as hexadecimal."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()


def seed_of(*parts: int) -> int:
    """A seed that follows from several numbers."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big") >> 1


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file or folder under another name and rename it, so that it is never there in part."""
    partial = path.with_name(path.name + ".partial")
    remove(partial)
    write(partial)
    if path.is_dir():
        remove(path)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, without the secrets that may have come into it."""
    write_whole(path, lambda partial: partial.write_text(hidden(text), encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people: indented, in the order given, floats as they are, texts without secrets."""
    text = json.dumps(hidden_in(value), indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(
    path: Path,
    error: type[HfDistillError],
    what: str,
    keys: Iterable[str] = (),
    remedy: str = "delete it, and the same command makes it anew",
) -> dict[str, Any]:
    """Read a JSON object that was written earlier; one that is missing, cut or without its keys is an error.

    Args:
        path: The file.
        error: What is raised where it cannot be used.
        what: What the file is, for the message, such as ``"the manifest of the cache"``.
        keys: Keys that it must have.
        remedy: What to do about it, for the message.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reason = "it is missing"
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
    except (ValueError, RecursionError):  # ValueError: also bytes that are no UTF-8.
        reason = "it is empty, cut or no JSON"
    else:
        missing = [key for key in keys if key not in content] if isinstance(content, dict) else ["its keys"]
        if not missing:
            return content
        reason = f"it lacks {shortened(missing, 3)}"
    raise error(f"{path}: expected {what}, but {reason}; {remedy}")


def copy_files(paths: Sequence[Path], folder: Path) -> None:
    """Copy files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, folder / path.name)


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_owner(folder: Path, name: str) -> None:
    """Refuse a folder that holds files but not the one that says whose they are."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / name).is_file():
        raise OutputError(f"{folder} holds files but no {name}; choose another name (name=...) or empty the folder")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Report a result folder that cannot be written as an error that the user can mend."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); choose another --runs folder") from error


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is written again and can still be looked at; the new name."""
    aside = path.with_name(path.name + ".damaged")
    with writing_to(path.parent):
        os.replace(path, aside)
    return aside


def claim(
    folder: Path, identity: Mapping[str, Any], error: type[HfDistillError] = OutputError
) -> dict[str, tuple[Any, Any]]:
    """Make a folder, with a manifest of what it is made of, unless it is there; what differs, as there and asked.

    A damaged manifest is an error, unless the folder's name says what stood in it.
    """
    path = folder / "manifest.json"
    expected = hidden_in(json.loads(json.dumps(identity, default=str)))
    remedy = f"delete {folder}, and the same command makes it anew"

    def read() -> dict[str, Any]:
        keys = [key for key in expected if key == "format"]
        return read_json(path, error, "the manifest of what this folder was made of", keys, remedy)

    if PartialState().is_main_process:
        if path.is_file() and folder.name.endswith(digest(identity)[:12]):
            try:
                read()
            except error:
                logger.info(f"warning: {path} is damaged; written again, as the folder's name says what stood in it")
                set_aside(path)
        if not path.is_file():
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
                write_json(path, expected)
    PartialState().wait_for_everyone()
    there = read()
    pairs = {name: (there.get(name), expected.get(name)) for name in sorted({*there, *expected})}
    return {name: (kept, asked) for name, (kept, asked) in pairs.items() if kept != asked}


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Files of a fixed number of rows each, which several processes write side by side.

    After a kill, each process does again at most the ``size`` rows of one file.
    """

    folder: Path
    suffix: str
    rows: int
    size: int
    is_whole: Callable[[Path], bool] = Path.is_file  # Whether a shard was written to its end.

    def __len__(self) -> int:
        return -(-self.rows // self.size)

    def path(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{number:05d}{self.suffix}"

    def places(self, number: int) -> range:
        """Which rows a shard holds."""
        return range(number * self.size, min((number + 1) * self.size, self.rows))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not written yet."""
        return [number for number in range(len(self)) if not self.is_whole(self.path(number))]

    def missing_for_all(self) -> list[int]:
        """As :meth:`missing`, the same in every process: all look before one writes, or a late one went on alone."""
        found = self.missing()
        PartialState().wait_for_everyone()
        return found

    def own(self, numbers: Sequence[int]) -> list[int]:
        """Those of some shards that this process is to write."""
        state = PartialState()
        return [number for number in numbers if number % state.num_processes == state.process_index]
