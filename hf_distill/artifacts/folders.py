"""Folders that belong to one run: whose a folder is, who works in it now, and what the main process finds there."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from hf_distill.artifacts.files import load_json
from hf_distill.errors import OutputError

logger = logging.getLogger(__name__)

LOCK = ".lock"
"""The file in a folder whose lock the operating system holds for a process, and lets go however the process ends."""

HOLDER = ".lock.json"
"""The file beside it that says which process that is."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
"""What file systems without locks answer."""

T = TypeVar("T")


def by_main(find: Callable[[], T]) -> T:
    """What the main process finds, in every process: all must go the same way."""
    found: list[Any] = [find() if PartialState().is_main_process else None]
    return broadcast_object_list(found)[0]


def check_owner(folder: Path, name: str) -> None:
    """Refuse a folder that holds files but not the one that says whose they are.

    Locks, and what was being written when a process was killed, are nobody's.
    """
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    files = [file for file in there if not file.startswith(LOCK) and not file.endswith(".partial")]
    if files and name not in files:
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


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder, which is made where it is not there.

    Of several processes of one run, the main one holds the lock.

    Args:
        folder: The folder.
        wait: Wait for a process that works in it, instead of refusing.

    Raises:
        OutputError: Where another process works in it, or it cannot be written.
    """
    lock = _acquired(folder, wait) if PartialState().is_main_process else None
    PartialState().wait_for_everyone()
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                (folder / HOLDER).unlink(missing_ok=True)
            lock.release()


def _acquired(folder: Path, wait: bool) -> FileLock | None:
    lock = FileLock(folder / LOCK)
    with writing_to(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of file systems without locks, which are told below.
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _acquire(lock, folder, wait)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        except NotImplementedError:
            pass
        if type(lock) is not FileLock or not lock.is_locked:  # Another class: a file that would outlive a kill.
            lock.release()
            logger.warning(f"{folder}: this file system has no locks, so that nothing keeps a second run out of it")
            return None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
        (folder / HOLDER).write_text(json.dumps(holder), encoding="utf-8")
    return lock


def _acquire(lock: FileLock, folder: Path, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = _holder(folder)
        if not wait:
            raise OutputError(
                f"{folder} is in use by {who}, and two runs in one folder would spoil each other; wait until that one "
                "ends, or give this run another name (name=...)"
            ) from None
        logger.info(f"waiting for {who}, which works in {folder}")
        lock.acquire()


def _holder(folder: Path) -> str:
    try:
        holder = load_json(folder / HOLDER, ("process", "host", "since"))
    except ValueError:
        return "another process"
    return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
