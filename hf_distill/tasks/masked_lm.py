"""Masked language modelling: some tokens of a text are hidden, and told from all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.models.sanity_checks import check_head
from hf_distill.tasks.base import Task
from hf_distill.tasks.classification import checked_length
from hf_distill.tasks.encoding import IGNORED, padded, padded_inputs, view_of_tokens
from hf_distill.tasks.masking import Masking
from hf_distill.tasks.routed import carried, check_apart
from hf_distill.types import Batch, LogitSource, Masks, View

PACKED_TOGETHER = 10_000
"""Texts whose tokens are laid end to end; the last block of each such group may be short."""


class MaskedLanguageModeling(Task):
    """Rows of ``text``; a share of the tokens is hidden as for BERT, and all objectives on logits look at these alone.

    A text longer than ``max_length`` becomes several rows, none of it is lost, each with the tokenizer's special tokens
    around it. Special tokens, and words that the tokenizer does not know, are never hidden.

    Student and teacher read the same masks. Where models are scored, and where the teacher is cached, the masks of a
    row follow from its tokens, in every run and epoch the same. Beside a live teacher, and without one, they follow
    from the seed and the epoch, too: each epoch hides other tokens (Liu et al. 2019, section 4.1), and a run that goes
    on where it was broken off hides those that it would have hidden.

    Args:
        max_length: Tokens of one row, special ones included.
        packing: Whether texts are laid end to end, a separator between them, and cut into blocks of ``max_length``
            tokens without padding; the texts of a block then see each other, as in RoBERTa's pre-training.
        mask_probability: The share of tokens that is to be told: 80% of them are hidden by the mask, 10% by any token,
            and 10% stand there as they are.

    Raises:
        RecipeError: For values out of bounds.
    """

    name = "masked-lm"
    pipeline_tag = "fill-mask"
    auto_model = AutoModelForMaskedLM
    required = ("text",)
    text_columns = ("text",)
    has_vocabulary = True
    by_token = True
    counted = "masked tokens"

    def __init__(self, *, max_length: int = 128, packing: bool = False, mask_probability: float = 0.15) -> None:
        if not isinstance(packing, bool):
            raise RecipeError(f"task.packing: expected true or false, got {packing!r}")
        if not isinstance(mask_probability, float) or not 0 < mask_probability < 1:
            raise RecipeError(f"task.mask_probability: expected a number between 0 and 1, got {mask_probability!r}")
        self.max_length = checked_length(max_length)
        self.packing = packing
        self.mask_probability = mask_probability

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("max_length", "packing", "mask_probability")}

    def read_labels(self, train: Dataset | IterableDataset) -> None:
        """See :meth:`Task.read_labels`: the labels are the tokens."""

    @override
    def check_model(self, model: PreTrainedModel) -> None:
        ids = torch.arange(2, 10, device=model.device)[None] % model.config.get_text_config().vocab_size
        check_head(model, {"input_ids": ids})

    @override
    def encode(
        self,
        rows: Dataset | IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Dataset | IterableDataset:
        before, after = _frame(tokenizer)
        room = min(self.max_length, tokenizer.model_max_length) - len(before) - len(after)

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            texts = tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]
            texts = [_joined(texts, tokenizer.sep_token_id)] if self.packing else texts
            pieces = [ids[start : start + room] for ids in texts for start in range(0, len(ids), room)]
            framed = [[*before, *piece, *after] for piece in pieces]
            lengths = [len(ids) for ids in framed]
            return {"input_ids": framed, "length": lengths, **carried(batch, [-(-len(ids) // room) for ids in texts])}

        columns = rows.column_names or list(next(iter(rows)))
        check_apart(columns, self.packing)
        encoded: Dataset | IterableDataset = rows.map(
            encode_batch, batched=True, batch_size=PACKED_TOGETHER if self.packing else 1000, remove_columns=columns
        )
        return encoded

    @override
    def collator(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Callable[[list[Mapping[str, Any]]], Batch]:
        return self.training_collator(tokenizer, teacher_tokenizer, tuple)

    @override
    def training_collator(
        self,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        epoch: Callable[[], Sequence[int]],
    ) -> Callable[[list[Mapping[str, Any]]], Batch]:
        hide = Masking(tokenizer, self.mask_probability)
        left = tokenizer.padding_side == "left"

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            hidden = [hide(row["input_ids"], () if "row_id" in row else epoch()) for row in rows]
            batch = padded_inputs([{"input_ids": shown} for shown, _ in hidden], tokenizer)
            return {**batch, "labels": torch.tensor(padded([labels for _, labels in hidden], IGNORED, left))}

        return collate

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens = batch["attention_mask"].bool()
        told = (tokens & (batch["labels"] != IGNORED)).flatten()
        return {"labels": told, "positions": told, "tokens": tokens}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        return view_of_tokens(logits, hidden_states, batch["labels"], self.masks(batch))

    @override
    def texts(self, rows: Dataset | IterableDataset) -> Iterator[str]:
        for row in rows:
            yield row["text"]


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def _joined(texts: Sequence[Sequence[int]], separator: int | None) -> list[int]:
    """The tokens of texts, end to end."""
    joined: list[int] = []
    for ids in texts:
        joined += [*([separator] if joined and separator is not None else []), *ids]
    return joined
