"""Files that are whole or absent, JSON that is read back or refused, and digests of plain data."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_distill.errors import HfDistillError
from hf_distill.names import shortened
from hf_distill.secrets import hidden, hidden_in


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
    try:
        write(partial)
        if path.is_dir():
            remove(path)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # What fails is told, and what it wrote would only fill the disk.
            remove(partial)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, without the secrets that may have come into it."""
    _write_onto_disk(path, hidden(text))


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people: indented, in the order given, floats as they are, texts without secrets."""
    _write_onto_disk(path, json.dumps(hidden_in(value), indent=2, ensure_ascii=False) + "\n")


def _write_onto_disk(path: Path, text: str) -> None:
    """See it onto the disk, too: other files are believed because of what such a one says."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    write_whole(path, write)


def load_json(path: Path, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON object that was written earlier.

    Raises:
        ValueError: What is wrong with it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):  # ValueError: also bytes that are no UTF-8.
        raise ValueError(f"{path.name} is empty, cut or no JSON") from None
    missing = [key for key in keys if key not in content] if isinstance(content, dict) else ["its keys"]
    if missing:
        raise ValueError(f"{path.name} lacks {shortened(missing, 3)}")
    return dict(content)


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
        what: What the file is, for the message, such as ``"the manifest of a cache"``.
        keys: Keys that it must have.
        remedy: What to do about it, for the message.
    """
    try:
        return load_json(path, keys)
    except ValueError as reason:
        raise error(f"{path}: expected {what}, but {reason}; {remedy}") from None


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


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
