"""What tasks share whose models give logits over a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from hf_distill.errors import DataError, ObjectiveError
from hf_distill.models.sanity_checks import check_head
from hf_distill.tasks.encoding import check_one_a_token, mask_of, pad_token, padded
from hf_distill.tasks.rollout_batches import WRITTEN
from hf_distill.tasks.task import TEACHER_PREFIX, Task
from hf_distill.tokenizers.cross_reader import NOWHERE
from hf_distill.types import IGNORED, Batch, Collate, LogitSource, Masks, Tokenizer, View

PLACES = TEACHER_PREFIX + "places"
"""The column of where, among the teacher's tokens, each of the student's is met."""

COUNTED = ("completion_mask", "assistant_masks")
"""Columns that say which tokens count, as Transformers and TRL call them."""

PACKED_TOGETHER = 10_000
"""Texts whose tokens are laid end to end; the last block of each such group may be short."""


class LanguageTask(Task, abstract=True):
    """Every position is a choice among the tokens of a vocabulary, whose logits are never held all at once."""

    scored_as = "tokens"
    keeps_logits = False
    cache_schemes = ("sampled", "top_k", "naive_top_k")
    counted = "tokens"
    _shows_special: ClassVar[bool] = True

    @override
    def check_model(self, model: PreTrainedModel) -> None:
        ids = torch.arange(2, 10, device=model.device)[None] % model.config.get_text_config().vocab_size
        check_head(model, {"input_ids": ids})

    @override
    def check_unlabelled(self) -> None:
        raise DataError(
            f"data: rows of {self.name} without what should be written teach nothing unless the teacher writes it; "
            "add label: {} to the recipe, or remove the unlabelled rows"
        )

    @override
    def check_tokenizers(self, by_bytes: bool) -> None:
        crossing = (
            ", set cross_tokenizer: true for logits (and for nothing else that asks the teacher), which compares them "
            "where both have read the same bytes"
        ) * (self.metric_across_tokenizers is not None)
        raise ObjectiveError(
            "what is compared are probabilities of tokens, but teacher and student have different tokens; take a "
            f"student with the teacher's tokenizer (of its family, its layers, or student.config){crossing}, or let it "
            "learn from labels and text that the teacher wrote"
        )

    @override
    def scored_texts(self, rows: Dataset, tokenizer: Tokenizer) -> list[str]:
        ids = list(self.encode(rows, tokenizer)["input_ids"])
        return list(tokenizer.batch_decode(ids, skip_special_tokens=not self._shows_special))

    def _view_of_tokens(
        self, logits: Tensor | LogitSource, hidden_states: Any, batch: Batch, labels: Tensor | None
    ) -> View:
        """A View with one position a token: of ``[B, T, V]`` logits, or the hidden states they are made of."""
        flat = logits.flatten(0, 1) if isinstance(logits, Tensor) else logits.map(lambda values: values.flatten(0, 1))
        return self._view(flat, hidden_states, batch, None if labels is None else labels.flatten())


class CausalTask(LanguageTask, abstract=True):
    """Each token predicts the next; a teacher with other tokens is compared where both have read the same bytes."""

    metric_across_tokenizers = "bits_per_byte"
    by_token = (*LanguageTask.by_token, "labels", PLACES, *COUNTED)

    @property
    @override
    def extra_columns(self) -> tuple[str, ...]:
        return (*super().extra_columns, PLACES, *COUNTED)

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        pad = pad_token(tokenizer)

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            masked = [{**row, "attention_mask": mask_of(row)} for row in rows]
            fillers = {"input_ids": pad, "labels": IGNORED, PLACES: NOWHERE}
            fillers |= dict.fromkeys(("attention_mask", "position_ids", "token_type_ids", *COUNTED), 0)
            batch = {
                name: torch.tensor(padded([list(row[name]) for row in masked], filler, left=False))
                for name, filler in fillers.items()
                if name in masked[0]
            }
            if PLACES not in batch:
                return batch
            own = [row[TEACHER_PREFIX + "input_ids"] for row in rows]
            real = padded([[1] * len(ids) for ids in own], 0, left=False)
            read = {"input_ids": torch.tensor(padded(own, 0, left=False)), "attention_mask": torch.tensor(real)}
            return {**batch, **{TEACHER_PREFIX + name: value for name, value in read.items()}}

        return collate

    @override
    def student_inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = super().student_inputs(batch)
        if "position_ids" in inputs:
            inputs.pop("attention_mask")  # With it, Transformers would take the row for a single text.
        return inputs

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        """Further: labels, of the tokens where there are none, and only where :data:`COUNTED` masks let them count."""
        found = super().completed(batch, tokenizer)
        counted = [found.pop(name) for name in COUNTED if name in found]
        if "labels" not in found and "input_ids" in found:
            found["labels"] = found["input_ids"].masked_fill(found["attention_mask"] == 0, IGNORED)
        for mask in counted:
            found["labels"] = found["labels"].masked_fill(mask == 0, IGNORED)
        check_one_a_token(found, "labels")
        return found

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens = batch["attention_mask"].bool()
        if WRITTEN in batch:
            predicts = tokens & batch[WRITTEN].roll(-1, dims=1)
        elif "labels" not in batch:
            predicts = tokens & tokens.roll(-1, dims=1)
        else:
            predicts = tokens & (batch["labels"] != IGNORED).roll(-1, dims=1)
        predicts[:, -1] = False
        positions = predicts[:, :-1].flatten()
        labels = positions if "labels" in batch and WRITTEN not in batch else torch.zeros_like(positions)
        if PLACES in batch:
            positions = positions & (batch[PLACES][:, 1:] != NOWHERE).flatten()
        return {"labels": labels, "positions": positions, "tokens": predicts}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        labels = batch.get("labels")
        shifted = logits[:, :-1] if isinstance(logits, Tensor) else logits.map(lambda values: values[:, :-1])
        return self._view_of_tokens(shifted, hidden_states, batch, None if labels is None else labels[:, 1:])

    @override
    def teacher_logits(
        self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch
    ) -> Tensor | LogitSource:
        if PLACES not in batch:
            return super().teacher_logits(logits, hidden_states, batch)
        assert isinstance(logits, LogitSource)
        before = (batch[PLACES][:, 1:] - 1).clamp(min=0)

        def moved(values: Tensor) -> Tensor:
            return values.gather(1, before[..., None].expand(-1, -1, values.shape[-1])).flatten(0, 1)

        return logits.map(moved)
