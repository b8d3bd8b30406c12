"""What a teacher wrote, on disk: a manifest that says what it was made of, and shards that are written side by side.

    <folder>/
      manifest.json        teacher, tokenizer, rows, settings: of anything else there is another folder
      shard-00000.jsonl    a fixed part of the rows, from the shortest prompt to the longest, and all texts for each

A shard is written whole or not at all, always from the same batches with the same random numbers, so that a call that
was broken off ends with the same bytes as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from hf_distill.artifacts import Shards, claim, set_aside, write_whole
from hf_distill.errors import WritingError
from hf_distill.generation.writer import Hypothesis, Writer
from hf_distill.tasks.rollout_batches import Prompts

logger = logging.getLogger(__name__)

SHARD_ROWS = 512
"""Rows of a shard: what is done again, at most, by each process when a call was broken off."""


@dataclass(frozen=True, kw_only=True)
class WrittenRow:
    """What a teacher wrote for one row."""

    row_id: int
    source_tokens: int  # Of the prompt, without special ones.
    hypotheses: list[Hypothesis]


def write_all(folder: Path, identity: Mapping[str, Any], writer: Writer, prompts: Prompts, seed: int) -> None:
    """Write every shard that is not there yet; several processes share them."""
    if claim(folder, identity, WritingError):
        raise WritingError(
            f"{folder} holds texts that were made of something else (see its manifest.json), though its name says "
            "otherwise; delete the folder"
        )
    order = np.argsort([len(ids) for ids in prompts.input_ids], kind="stable").tolist()
    shards = Shards(folder=folder, suffix=".jsonl", rows=len(order), size=SHARD_ROWS)
    _set_damaged_aside(shards, [[prompts.row_ids[order[i]] for i in shards.places(n)] for n in range(len(shards))])
    missing = shards.missing_for_all()
    if not missing:
        logger.info(f"labels: what the teacher wrote is in {folder}")
        return
    for number in shards.own(missing):
        lines = "".join(_lines(writer, prompts, [order[place] for place in shards.places(number)], seed))
        # Texts to learn from stay as they were written, whatever they look like.
        write_whole(shards.path(number), methodcaller("write_text", lines, encoding="utf-8"))
        logger.info(f"labels: shard {number + 1} of {len(shards)}")
    PartialState().wait_for_everyone()


def read_all(folder: Path) -> Iterator[WrittenRow]:
    """What was written, in the order of the shards."""
    for path in sorted(folder.glob("shard-*.jsonl")):
        yield from _read(path)


def _set_damaged_aside(shards: Shards, row_ids: Sequence[Sequence[int]]) -> None:
    """Rename shards that are not of these rows, or not whole, so that they are written again."""
    for number in shards.own(range(len(shards))):
        path = shards.path(number)
        if path.is_file():
            try:
                found = [row.row_id for row in _read(path)]
                reason = "" if found == row_ids[number] else f"{len(found)} rows in place of {len(row_ids[number])}"
            except WritingError as error:
                reason = str(error.__cause__)
            if reason:
                aside = set_aside(path)
                logger.info(
                    f"warning: labels: {path} is damaged ({reason}): renamed to {aside.name}, and the teacher writes "
                    "its rows again"
                )
    PartialState().wait_for_everyone()


def _read(path: Path) -> list[WrittenRow]:
    """A shard; an error where it is damaged."""
    try:
        return [_row(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise WritingError(
            f"{path} is not what was written ({error}); delete this file, and the same command writes it again"
        ) from error


def _row(entry: Any) -> WrittenRow:
    row = WrittenRow(**{**entry, "hypotheses": [Hypothesis(**each) for each in entry["hypotheses"]]})
    whole = (row.row_id, row.source_tokens, *(each.tokens for each in row.hypotheses))
    real = [each.repetition for each in row.hypotheses]
    real += [each.mean_log_probability for each in row.hypotheses if each.mean_log_probability is not None]
    texts = all(isinstance(each.text, str) and isinstance(each.ended, bool) for each in row.hypotheses)
    numbers = all(type(each) is int for each in whole) and all(type(each) in (int, float) for each in real)
    if not (row.hypotheses and texts and numbers and all(map(math.isfinite, real))):
        raise ValueError("a row has values of another kind")
    return row


def _lines(writer: Writer, prompts: Prompts, places: list[int], seed: int) -> Iterator[str]:
    size = writer.at_once or len(places)
    for batch in (places[start : start + size] for start in range(0, len(places), size)):
        for place, hypotheses in zip(batch, writer.write(prompts, batch, seed), strict=True):
            tokens = len(writer.content(prompts.input_ids[place]))
            row = WrittenRow(row_id=prompts.row_ids[place], source_tokens=tokens, hypotheses=hypotheses)
            yield json.dumps(asdict(row)) + "\n"  # As ASCII: no character within a text may end a line.
