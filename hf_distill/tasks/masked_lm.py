"""Masked language modelling: some tokens of a text are hidden, and told from all others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, dropwhile
from operator import not_
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM
from typing_extensions import override

from hf_distill.errors import DataError
from hf_distill.recipe.parse import check_option, checked_length
from hf_distill.tasks.encoding import (
    carried,
    check_apart,
    check_one_a_token,
    columns_of,
    padded,
    padded_inputs,
    pads_left,
)
from hf_distill.tasks.language import PACKED_TOGETHER, LanguageTask
from hf_distill.types import IGNORED, Batch, Collate, LogitSource, Masks, Rows, Tokenizer, View


class MaskedLanguageModeling(LanguageTask):
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
    """

    name = "masked-lm"
    pipeline_tag = "fill-mask"
    example = 'f"your {model.tokenizer.mask_token} text"'
    auto_model = AutoModelForMaskedLM
    required = ("text",)
    text_columns = ("text",)
    counted = "masked tokens"
    by_token = (*LanguageTask.by_token, "labels")
    encoded_by = ("max_length", "packing", "mask_probability")

    def __init__(self, *, max_length: int = 128, packing: bool = False, mask_probability: float = 0.15) -> None:
        check_option("packing", packing, isinstance(packing, bool), "true or false")
        is_share = isinstance(mask_probability, float) and 0 < mask_probability < 1
        check_option("mask_probability", mask_probability, is_share, "a number between 0 and 1")
        self.max_length = checked_length(max_length)
        self.packing = packing
        self.mask_probability = mask_probability

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        before, after = _frame(tokenizer)
        room = min(self.max_length, tokenizer.model_max_length) - len(before) - len(after)

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            texts = tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]
            if self.packing:
                between = [] if tokenizer.sep_token_id is None else [tokenizer.sep_token_id]
                joined = chain.from_iterable((*between, *ids) for ids in dropwhile(not_, texts))
                texts = [list(joined)[len(between) :]]
            pieces = [ids[start : start + room] for ids in texts for start in range(0, len(ids), room)]
            framed = [[*before, *piece, *after] for piece in pieces]
            lengths = [len(ids) for ids in framed]
            return {"input_ids": framed, "length": lengths, **carried(batch, [-(-len(ids) // room) for ids in texts])}

        columns = columns_of(rows)
        check_apart(columns, self.packing)
        size = PACKED_TOGETHER if self.packing else 1000
        return rows.map(encode_batch, batched=True, batch_size=size, remove_columns=columns)

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        return self.training_collator(tokenizer, teacher_tokenizer, tuple)

    @override
    def training_collator(
        self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None, epoch: Callable[[], Sequence[int]]
    ) -> Collate:
        hide = Masking(tokenizer, self.mask_probability)
        left = pads_left(tokenizer)

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            hidden = [
                (row["input_ids"], row["labels"])  # Hidden by whoever made the row.
                if "labels" in row
                else hide(row["input_ids"], () if "row_id" in row else epoch())
                for row in rows
            ]
            shown = [{**row, "input_ids": ids} for row, (ids, _) in zip(rows, hidden, strict=True)]
            batch = padded_inputs(shown, tokenizer)
            return {**batch, "labels": torch.tensor(padded([list(labels) for _, labels in hidden], IGNORED, left))}

        return collate

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        found = super().completed(batch, tokenizer)
        check_one_a_token(found, "labels")
        return found

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens = batch["attention_mask"].bool()
        told = tokens & (batch["labels"] != IGNORED) if "labels" in batch else torch.zeros_like(tokens)
        return {"labels": told.flatten(), "positions": told.flatten(), "tokens": tokens}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        return self._view_of_tokens(logits, hidden_states, batch, batch.get("labels"))


def _frame(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


SHOWN_MASK, SHOWN_OTHER = 0.8, 0.1
"""Shares of the tokens to be told that the mask, or any token, stands for (Devlin et al. 2019, section 3.1)."""


class Masking:
    """Hides tokens of rows; what it hides of a row follows from the row's tokens and a number alone.

    So the same row is hidden alike in whatever batch, process or order it comes, and nothing is drawn from a generator
    whose state a run that was broken off would have to restore.
    """

    def __init__(self, tokenizer: Tokenizer, probability: float) -> None:
        if tokenizer.mask_token_id is None:
            raise DataError(
                f"the tokenizer of {tokenizer.name_or_path or 'the student'} has no mask token, so nothing can be "
                "hidden; take a model that was trained with masks (BERT, RoBERTa, ...)"
            )
        self.mask: int = tokenizer.mask_token_id
        self.special = np.array(tokenizer.all_special_ids)
        self.tokens = len(tokenizer)
        self.probability = probability

    def __call__(self, ids: Sequence[int], draw: Sequence[int] = ()) -> tuple[list[int], list[int]]:
        """What is shown of a row of tokens, and its labels; another ``draw`` hides other tokens."""
        tokens = np.asarray(ids, dtype=np.int64)
        digest = hashlib.blake2b(tokens.tobytes() + repr(tuple(draw)).encode(), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "little"))
        chance, fate = generator.random((2, len(tokens)))
        told = (chance < self.probability) & ~np.isin(tokens, self.special)
        other = told & (fate >= 1 - SHOWN_OTHER)
        shown = np.where(told & (fate < SHOWN_MASK), self.mask, tokens)
        shown[other] = generator.integers(self.tokens, size=int(other.sum()))
        return shown.tolist(), np.where(told, tokens, IGNORED).tolist()
