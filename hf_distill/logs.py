"""How lines for a person reach the terminal: through :mod:`logging`, below the logger ``hf_distill``.

Every module logs to ``logging.getLogger(__name__)``; a public verb hands the lines to its ``report``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from typing_extensions import override

from hf_distill.secrets import told

Report = Callable[[str], None]
"""Gets a line for the person at the terminal."""

_prefix: ContextVar[str] = ContextVar("prefix", default="")


class _Lines(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.INFO)
        self.report = report

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.report(told(_prefix.get() + record.getMessage()))


@contextmanager
def reported(report: Report) -> Iterator[None]:
    """Hand all lines that are logged inside to ``report``; the innermost one gets them."""
    logger = logging.getLogger("hf_distill")
    handlers, level = logger.handlers, logger.level
    logger.handlers = [_Lines(report), *(handler for handler in handlers if not isinstance(handler, _Lines))]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)


@contextmanager
def prefixed(prefix: str) -> Iterator[None]:
    """Put a prefix before all lines that are reported inside."""
    token = _prefix.set(_prefix.get() + prefix)
    try:
        yield
    finally:
        _prefix.reset(token)


def silenced(line: str) -> None:
    """A report that discards its lines."""
