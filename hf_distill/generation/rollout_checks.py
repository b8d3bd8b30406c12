"""What must hold before a student writes: somebody judges it, it knows where to stop, and its prompts leave room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import DataError, ModelError, ObjectiveError
from hf_distill.objectives import Objective
from hf_distill.recipe import RolloutConfig
from hf_distill.tasks.rollout_batches import Writing
from hf_distill.types import OF_THE_DATA


def check_judged(config: RolloutConfig, objectives: Mapping[str, Objective]) -> None:
    """Refuse objectives of which nothing is learned where the student writes.

    Raises:
        ObjectiveError: With the way out.
    """
    if not any(objective.needs - OF_THE_DATA for objective in objectives.values()):
        raise ObjectiveError(
            "rollout: what a student writes has no labels, so only an objective that asks a teacher learns of it; add "
            "logits, or remove rollout"
        )
    for name, objective in objectives.items():
        if objective.cross_tokenizer:
            raise ObjectiveError(
                f"objective {name}: cross_tokenizer compares texts of the data, and a teacher with other tokens does "
                "not read what a student has just written; remove rollout, or take a teacher with the student's "
                "tokenizer"
            )
        if config.share == 1.0 and objective.needs & OF_THE_DATA:
            raise ObjectiveError(
                f"objective {name} does nothing with rollout.share 1.0: what a student writes has no labels; remove "
                "it, or lower the share"
            )


def ends_of(student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, ...]:
    """The tokens that end a text, as the student's generation config and its tokenizer tell.

    Raises:
        ModelError: Where none does.
    """
    told: Any = getattr(student.generation_config, "eos_token_id", None)
    ends = [] if told is None else [told] if isinstance(told, int) else list(told)
    end = tokenizer.eos_token_id if tokenizer is not None else None
    ends = list(dict.fromkeys([*ends, *([end] if isinstance(end, int) else [])]))
    if not ends:
        raise ModelError(
            "rollout: neither the student's generation config nor its tokenizer names an end token, so it would never "
            "stop writing; set eos_token_id"
        )
    return tuple(map(int, ends))


def shared_context(*configs: PretrainedConfig | None) -> int | None:
    """How many positions all of these models know; None where none counts them. A served one has no config here."""
    rooms = (_context(config) for config in configs if config is not None)
    return min((room for room in rooms if room is not None), default=None)


def _context(config: PretrainedConfig) -> int | None:
    """How many positions a decoder knows; None where it does not count them."""
    stack = config.get_text_config(decoder=True)
    for name in ("max_decoder_position_embeddings", "max_position_embeddings"):
        if isinstance(room := getattr(stack, name, None), int):
            return room
    return None


def with_room(
    rows: Dataset | IterableDataset, writing: Writing, new: int, context: int | None
) -> Dataset | IterableDataset:
    """The rows behind whose prompts so many new tokens fit."""
    columns = rows.column_names or list(next(iter(rows)))
    names = [name for name in ("input_ids", "labels") if name in columns]

    def fits(ids: list[int], labels: list[int], number: int) -> bool:
        taken = writing.taken(ids, labels)
        if taken < 1:
            raise DataError(
                f"rollout: training row {number} has an empty prompt, so there is nothing to write after; remove such "
                "rows, or take a tokenizer with a start token"
            )
        return context is None or taken + new <= context

    if "labels" in names:
        kept = rows.filter(fits, with_indices=True, input_columns=names)
    else:
        kept = rows.filter(lambda ids, number: fits(ids, ids, number), with_indices=True, input_columns=names)
    if isinstance(kept, Dataset) and not len(kept):
        raise DataError(
            f"rollout: none of {len(rows)} rows is left: every prompt and {new} tokens are more than the context of "
            f"{context} that student and teacher have; lower rollout.max_new_tokens, or task.max_length"
        )
    return kept
