"""Where a text ends: the same tokens for whoever writes, teacher or student, scored, on-policy or labelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from hf_distill.tasks import Task
from hf_distill.types import Tokenizer


def end_tokens(generation: GenerationConfig | None) -> list[int]:
    """The tokens that end a text, as a generation config names them."""
    ends = getattr(generation, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def ends_of(
    model: PreTrainedModel, tokenizer: Tokenizer | None, task: Task, own: GenerationConfig | None = None
) -> list[int]:
    """The tokens that end a text: the generation config's, the tokenizer's, and what ends a turn in the task's rows.

    ``own`` stands in place of the model's generation config.
    """
    ends = end_tokens(model.generation_config if own is None else own)
    if tokenizer is not None:
        ends += [tokenizer.eos_token_id] * isinstance(tokenizer.eos_token_id, int)
        ends += task.turn_ends(tokenizer)
    return list(dict.fromkeys(ends))


def with_ends(
    settings: Mapping[str, Any],
    model: PreTrainedModel,
    tokenizer: Tokenizer | None,
    task: Task,
    own: GenerationConfig | None = None,
) -> dict[str, Any]:
    """Settings of ``generate`` with :func:`ends_of` where the generation config lacks some, unless they name others."""
    ends = ends_of(model, tokenizer, task, own)
    known = end_tokens(model.generation_config if own is None else own)
    return {**({} if set(ends) <= set(known) else {"eos_token_id": ends}), **settings}


def keep_ends(student: PreTrainedModel, tokenizer: Tokenizer | None, task: Task) -> list[str]:
    """Add what ends a turn in the task's rows to the student's generation config; gives a line where it lacked it."""
    generation: Any = student.generation_config if student.can_generate() else None
    if tokenizer is None or generation is None:
        return []
    known = end_tokens(generation)
    more = [token for token in task.turn_ends(tokenizer) if token not in known]
    if not more:
        return []
    generation.eos_token_id = [*known, *more]
    told = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(more)))
    return [
        f"ends: the assistant's turns end with {told}, which the model's generation_config does not name: it is added "
        "to the student's eos_token_id, and every model stops there"
    ]
