"""What a teacher wrote, on disk: a manifest that says what it was made of, and shards that are written side by side.

    <folder>/
      manifest.json        teacher, tokenizer, rows, settings: of anything else there is another folder
      shard-00000.jsonl    a fixed part of the rows, from the shortest prompt to the longest, and all texts for each

A shard is written whole or not at all, always from the same batches with the same random numbers, so that a call that
was broken off ends with the same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from hf_distill.errors import WritingError
from hf_distill.generation.hypotheses import Hypothesis, Writer
from hf_distill.generation.served import ServedWriter
from hf_distill.run_folder import write_json
from hf_distill.tasks.rollout_batches import Prompts

logger = logging.getLogger(__name__)


SHARD_ROWS = 512
"""Rows of a shard: what is done again, at most, by each process when a call was broken off."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a teacher wrote for one row.

    Attributes:
        row_id: Of the row.
        source_tokens: Of what it was written after, without special ones.
        hypotheses: The texts.
    """

    row_id: int
    source_tokens: int
    hypotheses: list[Hypothesis]


def digest(identity: Mapping[str, Any]) -> str:
    """What tells a folder of something from one of something else."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]


def write_all(
    folder: Path,
    identity: Mapping[str, Any],
    writer: Callable[[], Writer | ServedWriter],
    prompts: Prompts,
    batch_size: int,
    seed: int,
) -> None:
    """Write every shard that is not there yet; several processes share them.

    Args:
        folder: Where to; named by :func:`digest`.
        identity: What the texts depend on.
        writer: Gives the teacher, where something is left to write.
        prompts: What it writes after.
        batch_size: Prompts of a batch.
        seed: Of what is drawn.
    """
    state = PartialState()
    if state.is_main_process:
        _claim(folder, identity)
    # All look before one writes: a process that came late and found nothing left to do would not wait for the others.
    state.wait_for_everyone()
    order = np.argsort([len(ids) for ids in prompts.input_ids], kind="stable").tolist()
    numbers = range(-(-len(order) // SHARD_ROWS))
    missing = [number for number in numbers if not _path(folder, number).is_file()]
    state.wait_for_everyone()
    if not missing:
        logger.info(f"labels: what the teacher wrote is in {folder}")
        return
    teacher = writer()
    for number in numbers[state.process_index :: state.num_processes]:
        if number not in missing:
            continue
        places = order[number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
        lines = list(_lines(teacher, prompts, places, batch_size, seed))
        partial = _path(folder, number).with_suffix(".partial")
        partial.write_text("".join(lines), encoding="utf-8")
        os.replace(partial, _path(folder, number))
        logger.info(f"labels: shard {number + 1} of {len(numbers)}")
    state.wait_for_everyone()


def read_all(folder: Path) -> Iterator[Written]:
    """What was written, in the order of the shards.

    Raises:
        WritingError: For a shard that is broken.
    """
    for path in sorted(folder.glob("shard-*.jsonl")):
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                yield Written(**{**entry, "hypotheses": [Hypothesis(**each) for each in entry["hypotheses"]]})
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise WritingError(
                f"{path} is not what was written ({error}); delete this file, and the same command writes it again"
            ) from error


def _lines(
    writer: Writer | ServedWriter, prompts: Prompts, places: list[int], batch_size: int, seed: int
) -> Iterator[str]:
    for start in range(0, len(places), batch_size):
        batch = places[start : start + batch_size]
        ids = [prompts.row_ids[place] for place in batch]
        found = writer.write_at(prompts, batch, seed)
        for place, row_id, hypotheses in zip(batch, ids, found, strict=True):
            entry = {
                "row_id": row_id,
                "source_tokens": len(writer.content(prompts.input_ids[place])),
                "hypotheses": [each.to_dict() for each in hypotheses],
            }
            # As ASCII: no character within a text may end a line.
            yield json.dumps(entry) + "\n"


def _claim(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / "manifest.json"
    asked = json.loads(json.dumps(identity, default=str))
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, asked)
    elif json.loads(path.read_text(encoding="utf-8")) != asked:
        raise WritingError(
            f"{folder} holds texts that were made of something else (see its manifest.json), though its name says "
            "otherwise; delete the folder"
        )


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.jsonl"
