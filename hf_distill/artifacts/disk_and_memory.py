"""A full disk, and memory that is used up: whatever the libraries raise then becomes one line that says what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_distill.errors import ResourceError

DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the disk is read-only",
    errno.EFBIG: "a file is larger than is allowed",
    errno.EIO: "the disk reports an error",
}
"""What is told of errors of the operating system."""

DISK_SAID = {
    **{f"(os error {number})": reason for number, reason in DISK.items()},
    **{f"[errno {number}]": reason for number, reason in DISK.items()},
    "no space left on device": DISK[errno.ENOSPC],
    "disk quota exceeded": DISK[errno.EDQUOT],
    "pytorchstreamwriter failed": "a file could not be written to its end",
    "file write failed": "a file could not be written to its end",
    "unexpected pos": "a file could not be written to its end",
    "iostream error": "a file could not be written to its end",
}
"""What libraries that are not written in Python say in their messages of the same errors."""

MEMORY_SAID = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",
    "could not create a memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
    "can't start new thread",
)
"""What is said where memory is used up, by allocators, by libraries that calculate, and by threads."""


@contextmanager
def faults_told(folder: Path) -> Iterator[None]:
    """Report a disk that is full and memory that is used up as errors that the user can mend.

    Args:
        folder: Where results are written.
    """
    try:
        yield
    except Exception as error:
        told = _told(error, folder)
        if told is None:
            raise
        raise ResourceError(told) from error


def _told(error: BaseException | None, folder: Path) -> str | None:
    """What to say of an error, or of the one that it was raised from."""
    if error is None or isinstance(error, ResourceError):
        return None
    said = str(error).casefold()
    number = error.errno if isinstance(error, OSError) else None
    reason = DISK.get(number or 0) or next((told for part, told in DISK_SAID.items() if part in said), None)
    if reason is not None:
        return _disk(reason, error, folder)
    speaks_of_it = isinstance(error, RuntimeError | OSError) and any(part in said for part in MEMORY_SAID)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or speaks_of_it:
        first = next(iter(str(error).strip().splitlines()), "")[:200]
        return (
            f"memory is used up ({first or type(error).__name__}); set training.per_device_train_batch_size lower and "
            "training.gradient_accumulation_steps as much higher, which trains the same student, evaluate.batch_size "
            "or task.max_length lower, or end other programs; what is whole is kept, and the same command goes on"
        )
    return _told(error.__cause__, folder)


def _disk(reason: str, error: BaseException, folder: Path) -> str:
    named = error.filename if isinstance(error, OSError) else None
    place = Path(named) if isinstance(named, str) else folder
    while not place.is_dir() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    return (
        f"{place}: {reason} ({free / 1e6:,.1f} MB are free there); make room, or choose another --runs folder; what is "
        "whole is kept, and the same command goes on"
    )
