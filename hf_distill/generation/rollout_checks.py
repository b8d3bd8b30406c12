"""What must hold before a student writes: somebody judges it, it knows where to stop, and its prompts leave room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets import Dataset, IterableDataset
from transformers import PretrainedConfig

from hf_distill.errors import DataError, ModelError, ObjectiveError
from hf_distill.objectives import Objective
from hf_distill.recipe import RolloutConfig
from hf_distill.tasks.rollout_batches import Writing
from hf_distill.types import OF_THE_DATA


def check_judged(config: RolloutConfig, objectives: Mapping[str, Objective]) -> None:
    """Refuse objectives of which nothing is learned where the student writes."""
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
        if config.share == 1.0 and objective.needs & {"labels", "pairs"}:
            raise ObjectiveError(
                f"objective {name} does nothing with rollout.share 1.0: what a student writes has no labels; remove "
                "it, or lower the share"
            )


def check_ends(ends: Sequence[int]) -> None:
    """Refuse a student that would never stop."""
    if not ends:
        raise ModelError(
            "rollout: neither the student's generation config nor its tokenizer names an end token, so it would never "
            "stop writing; set eos_token_id"
        )


def shared_context(*configs: PretrainedConfig | None) -> int | None:
    """How many positions the decoders of all these models know; None where none counts them, or has a config here."""
    contexts = []
    for config in configs:
        stack = None if config is None else config.get_text_config(decoder=True)
        known = (getattr(stack, f"max_{kind}position_embeddings", None) for kind in ("decoder_", ""))
        contexts += [number for number in known if isinstance(number, int) and number > 0][:1]
    return min(contexts, default=None)


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

    test = fits if "labels" in names else lambda ids, number: fits(ids, ids, number)
    kept = rows.filter(test, with_indices=True, input_columns=names)
    if isinstance(kept, Dataset) and not len(kept):
        raise DataError(
            f"rollout: none of {len(rows)} rows is left: every prompt and {new} tokens are more than the context of "
            f"{context} that student and teacher have; lower rollout.max_new_tokens, or task.max_length"
        )
    return kept
