"""What becomes of rows with a tokenizer, told before anything is trained; errors that name a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datasets import Dataset

from hf_distill.data.forms.chat_rows import numbers_of
from hf_distill.data.lost_rows import LOOKED_AT, of_rows, told_lost
from hf_distill.errors import DataError
from hf_distill.tasks.encoding import Example
from hf_distill.tokenizers.chat import Chat, ChatError


@contextmanager
def at_row(number: int) -> Iterator[None]:
    """Errors of a chat that name its row."""
    try:
        yield
    except ChatError as error:
        raise DataError(f"row {number}: {error}") from error


def lines_of(
    rows: Dataset,
    read: Callable[[Mapping[str, Any]], tuple[list[Chat], list[Example]]],
    fits: Callable[[Example], list[slice]],
    limit: int,
) -> Iterator[str]:
    """Lines that tell what becomes of rows that are read and fitted so, none of more than ``limit`` tokens."""
    looked_at, number_of = rows.select(range(min(LOOKED_AT, len(rows)))), numbers_of(rows)
    counts, left_out = Counter[str](), Counter[str]()
    for number, row in enumerate(looked_at):
        with at_row(number_of(number)):
            chats, examples = read(row)
        fitted = any(map(fits, examples))
        counts.update(dropped=not fitted, cut=fitted and any(len(ids) > limit for ids, *_ in examples))
        counts.update(examples=len(examples), apart=len(chats) > 1, mute=any(chat.is_mute for chat in chats))
        left_out.update({name for chat in chats for name in chat.left_out})
    if len(rows) == counts["dropped"] > 0:
        raise none_left(len(rows), limit)
    yield from _told(counts, left_out, len(looked_at), len(rows), f"task.max_length ({limit} tokens)")


def none_left(rows: int, limit: int) -> DataError:
    """Of a split that loses all rows."""
    return DataError(
        f"none of {rows:,} rows is left: every prompt fills the {limit} tokens of task.max_length; raise it, or set "
        "task.too_long to truncate"
    )


def _told(counts: Counter[str], left_out: Counter[str], rows: int, given: int, limit: str) -> Iterator[str]:
    """Lines that tell what becomes of rows; refused where a template leaves nothing of what the assistant says."""
    of = of_rows(rows, given)
    yield from told_lost(counts["dropped"], counts["cut"], of, limit, "will be")
    if counts["apart"]:
        yield (
            f"the chat template renders earlier turns otherwise than the last in {counts['apart']:,} {of}: each turn "
            f"is an example of its own, {counts['examples']:,} in all"
        )
    if counts["mute"] == rows:
        raise DataError(
            f"the chat template leaves out all that the assistant says ({', '.join(sorted(left_out))}) in {rows:,} {of}"
            ", so that nothing would be learned of it; set task.chat_template to one that writes it"
        )
    if left_out:
        told = ", ".join(f"{name} in {count:,}" for name, count in sorted(left_out.items()))
        yield f"warning: the chat template leaves out part of what rows say: {told} {of}; see task.chat_template"
