"""How a process ends. At SIGTERM with exit code 143, at once, or after the checkpoint that a training saves first."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_CODE = 128 + int(signal.SIGTERM)


class Stopped(SystemExit):
    """The process was asked to end; nothing may catch this as a failure."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class _Asked:
    """What this process knows of its end."""

    heard = False  # Whether SIGTERM is handled here.
    saves_first = False  # Whether what runs now looks at :func:`is_stopping` and ends by itself.
    to_stop = False


@contextmanager
def stops_on_sigterm() -> Iterator[None]:
    """End with :class:`Stopped` where SIGTERM comes inside; does nothing outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # A worker that inherited this.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif _Asked.saves_first and not _Asked.to_stop:
            _Asked.to_stop = True
            if os.environ.get("RANK", "0") == "0":  # No print: it might be within one.
                os.write(2, b"hf-distill: asked to stop; a checkpoint is saved at the end of this step\n")
        else:
            raise Stopped

    before = signal.signal(signal.SIGTERM, handle)
    _Asked.heard, _Asked.to_stop = True, False
    try:
        yield
    finally:
        _Asked.heard = False
        signal.signal(signal.SIGTERM, before)


@contextmanager
def saving_first() -> Iterator[None]:
    """Let what runs inside end by itself where SIGTERM comes, or be finished; a second SIGTERM ends it at once."""
    _Asked.saves_first = _Asked.heard
    try:
        yield
    finally:
        _Asked.saves_first = False
    if _Asked.to_stop:
        raise Stopped


def is_heard() -> bool:
    """Whether this process waits for SIGTERM."""
    return _Asked.heard


def is_stopping() -> bool:
    """Whether SIGTERM came, so that what runs must save and end."""
    return _Asked.to_stop


def leave_together() -> None:
    """End the process group, if there is one, and its threads: one that drops a tensor while Python ends aborts."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()
    leave()


def leave() -> None:
    """As :func:`leave_together`, without waiting for the others."""
    if "accelerate" not in sys.modules:
        return
    from accelerate import PartialState

    if PartialState._shared_state:
        PartialState().destroy_process_group()
    # What was trained still holds the group, in cycles; its threads end when nothing does.
    gc.collect()
