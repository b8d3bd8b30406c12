"""Rows whose files are broken, empty, silent, too short or too long: told by row and name, and dropped or refused."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from datasets import Dataset, IterableDataset

from hf_distill.data.forms.chat_rows import Invalid, numbers_of
from hf_distill.data.media.cells import Kind, MediaError, name_of
from hf_distill.data.media.read_audio import audio_facts, soundfile_library
from hf_distill.data.media.read_image import check_image, pillow
from hf_distill.data.media.threads import over_cells
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

Seconds = tuple[float, float]

ANY_LENGTH: Seconds = (0.0, math.inf)

NAMED = 5
"""Rows that a message names."""

MANY = 10_000
"""More rows than these take a while, which is told before."""

LIBRARIES: dict[Kind, Callable[[], Any]] = {"audio": soundfile_library, "image": pillow}


def check_media(
    rows: Any, split: str, invalid: Invalid, kinds: Collection[Kind], *, seconds: Seconds = ANY_LENGTH
) -> tuple[Dataset | IterableDataset, list[str]]:
    """The rows whose sound and images can be used, and lines that tell of others.

    Of each file the header is read, its end, and of sound as much as is silent; images are decoded
    but for JPEG and PNG, which show in other ways that they are cut. Few files are in memory at a time.

    Args:
        rows: Rows with cells in the columns ``kinds``; a stream's are looked at as they come.
        split: What they are, for messages.
        invalid: Whether rows that cannot be used are dropped, or all are refused because of them.
        kinds: ``audio``, ``image``, or both.
        seconds: How long sound is at least and at most.

    Raises:
        DataError: Rows cannot be used, and ``invalid`` is ``refuse``, or none is left; or a library is missing.
    """
    lines: list[str] = []
    for kind in kinds:
        LIBRARIES[kind]()  # Where it is missing, no row is at fault.
        look = partial(_fault, kind=kind, seconds=seconds)
        if isinstance(rows, IterableDataset):
            rows = _checked_stream(rows, split, kind, invalid, look)
            continue
        if len(rows) > MANY:
            logger.info(f"data: split {split!r}: looking at {len(rows):,} {kind} files")
        found = enumerate(over_cells(rows, kind, look))
        rows, told = _without(rows, split, kind, {i: fault for i, fault in found if fault}, invalid)
        lines += told
    return rows, lines


def _fault(cell: Any, kind: Kind, seconds: Seconds) -> MediaError | None:
    """What is wrong with a cell."""
    try:
        if kind == "image":
            check_image(cell)
            return None
        facts = audio_facts(cell)
    except MediaError as error:
        return error
    name, (least, most) = name_of(cell, kind), seconds
    if facts.is_silent:
        return MediaError(f"{name} is silent", "silent")
    if facts.seconds < least:
        return MediaError(f"{name} is {facts.seconds:.2f} s long, shorter than {least:g} s", "too short")
    if facts.seconds > most:
        return MediaError(f"{name} is {facts.seconds:.2f} s long, longer than {most:g} s", "too long")
    return None


def _without(
    rows: Dataset, split: str, kind: Kind, faults: Mapping[int, MediaError], invalid: Invalid
) -> tuple[Dataset, list[str]]:
    if not faults:
        return rows, []
    number = numbers_of(rows)
    first = ", ".join(f"row {number(i)} ({fault})" for i, fault in list(faults.items())[:NAMED])
    more = f" and {len(faults) - NAMED:,} more" if len(faults) > NAMED else ""
    counts = ", ".join(f"{count:,} {fault}" for fault, count in Counter(each.fault for each in faults.values()).items())
    told = f"{kind} that cannot be used ({counts}): {first}{more}"
    where = f"split {split!r}: {len(faults):,} of {len(rows):,} rows"
    if invalid == "refuse" or len(faults) == len(rows):
        way = ", or set data.invalid_rows: drop" if len(faults) < len(rows) else "; no row would be left without them"
        raise DataError(f"{where} hold {told}; correct or remove them{way}")
    kept = rows.select([i for i in range(len(rows)) if i not in faults])
    return kept, [f"data: {where} are dropped, as they hold {told}"]


def _checked_stream(
    rows: IterableDataset, split: str, kind: Kind, invalid: Invalid, look: Callable[[Any], MediaError | None]
) -> IterableDataset:
    if invalid == "drop":
        return rows.filter(_Sieve(split, kind, look))

    def refuse(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        if fault := look(row[kind]):
            told = f"split {split!r}: row {number} of the stream holds {kind} that cannot be used: {fault}"
            raise DataError(f"{told}; correct it, or set data.invalid_rows: drop")
        return row

    return rows.map(refuse, with_indices=True, features=rows.features)


class _Sieve:
    """Keeps the rows of a stream that can be used, and tells of others: of the first, the tenth, the hundredth, ..."""

    def __init__(self, split: str, kind: Kind, look: Callable[[Any], MediaError | None]) -> None:
        self.split, self.kind, self.look = split, kind, look
        self.dropped = 0

    def __call__(self, row: Mapping[str, Any]) -> bool:
        fault = self.look(row[self.kind])
        if fault:
            self.dropped += 1
            if math.log10(self.dropped).is_integer():
                told = f"{self.dropped:,} rows of the stream are dropped so far, the last as {fault}"
                logger.info(f"warning: data: split {self.split!r}: {told}")
        return not fault
