"""How much a model may write: no more than its positions leave behind each prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from hf_distill.models.sizes import position_limit

logger = logging.getLogger(__name__)


def position_room(model: PreTrainedModel) -> int | None:
    """How many tokens a model can write and read again, its prompt among them; None: any number."""
    return position_limit(model, "decoder")


def parts_with_room(
    model: PreTrainedModel, rows: Sequence[list[int]], settings: Mapping[str, Any], begins: bool = False
) -> Iterator[tuple[list[int], list[list[int]], dict[str, Any]]]:
    """Prompts in parts that leave the same room: their numbers, the prompts, and the settings they are written with.

    So what is written behind a prompt does not depend on the others of its batch. A prompt that leaves no room is cut
    at its start to half of the positions, as a training row is that is truncated.

    ``begins``: whether prompts are what the decoder of an encoder-decoder begins with; those of a part are then of one
    length, since nothing may stand before or behind them.
    """
    room = position_room(model)
    given = next((name for name in ("max_new_tokens", "max_length") if settings.get(name) is not None), None)
    own = [len(row) if begins else 0 for row in rows]
    if room is None or given is None:
        for length in sorted(set(own)):
            numbers = [number for number, each in enumerate(own) if each == length]
            yield numbers, [rows[number] for number in numbers], dict(settings)
        return
    takes = begins or not model.config.is_encoder_decoder  # Whether a prompt takes positions of what is written.
    cut = [row[-(room // 2) :] if takes and len(row) >= room else row for row in rows]
    behind = [room - len(row) if takes and given == "max_new_tokens" else room for row in cut]
    most = [(min(settings[given], each), length) for each, length in zip(behind, own, strict=True)]
    for part in sorted(set(most), reverse=True):
        length = part[0]
        numbers = [number for number, each in enumerate(most) if each == part]
        # A text that must be longer than may be written would be refused.
        least = {n: min(settings[n], length) for n in ("min_new_tokens", "min_length") if settings.get(n)}
        yield numbers, [cut[number] for number in numbers], {**settings, **least, given: length}


def report_room(
    model: PreTrainedModel, rows: Sequence[list[int]], settings: Mapping[str, Any], begins: bool = False
) -> None:
    """Report how many texts may be shorter than asked, or are written after a part of their prompt, if any."""
    short = sum(
        own != settings or part[at] != rows[number]
        for numbers, part, own in parts_with_room(model, rows, settings, begins)
        for at, number in enumerate(numbers)
    )
    if short:
        asked = settings.get("max_new_tokens") or settings.get("max_length")
        logger.info(
            f"writing: {short:,} of {len(rows):,} prompts leave no room for {asked:,} tokens among the "
            f"{position_room(model):,} positions of {type(model).__name__}; fewer are written there"
        )
