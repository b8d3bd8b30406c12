"""Rows and batches as all models of a run can read them, whoever made them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from datasets import Dataset
from PIL.Image import Image
from torch import Tensor

from hf_distill.models.sizes import Side
from hf_distill.tasks.encoding import pads_left
from hf_distill.tokenizers.readers import Reader, shortest
from hf_distill.types import Batch, Tokenizer


class Completing:
    """The part of a task that takes rows and batches which others made."""

    by_token: ClassVar[tuple[str, ...]] = (  # Columns that have something for each token.
        "input_ids",
        "inputs_embeds",
        "attention_mask",
        "token_type_ids",
        "position_ids",
        "special_tokens_mask",
    )
    max_length: int
    seconds: tuple[float, float] = (0.0, math.inf)  # Of a row's sound, at least and at most; else it is no row.

    def fit_lengths(self, readers: Sequence[Reader]) -> Iterator[str]:
        """Cut rows where the first of all models, or of their tokenizers, ends; gives a line where that is earlier."""
        yield from self._fit_length("max_length", readers)

    def _fit_length(self, name: str, readers: Sequence[Reader], side: Side | None = None) -> Iterator[str]:
        given, found = getattr(self, name), shortest(readers, side)
        if found is not None and found[0] < given:
            setattr(self, name, found[0])
            yield f"task.{name}: rows are cut at {found[0]:,} tokens and not at {given:,}: {found[1]}"

    def turned(self, batch: Batch, tokenizer: Tokenizer | None) -> Batch:
        """A batch whose rows begin with padding, with the padding behind them; any other as it is.

        What a model reads then stands where it stands in a row alone: GPT-2, BART and others count padding as
        positions, wherever nothing else is said.
        """
        mask = batch.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.ndim != 2 or (tokenizer is not None and pads_left(tokenizer)):
            return batch
        return {**batch, **on_the_right(batch, mask, self.by_token)}

    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        """The batch with what this task reads, made of what is there: labels under their own name, a mask of ones."""
        found = {name: value for name, value in batch.items() if value is not None}
        for name in ("label", "label_ids"):
            if name in found and "labels" not in found:
                found["labels"] = found.pop(name)
        read = found.get("input_ids", found.get("inputs_embeds"))
        if read is not None and "attention_mask" not in found:
            shape = read.shape if "input_ids" in found else read.shape[:2]
            found["attention_mask"] = torch.ones(shape, dtype=torch.long, device=read.device)
        return found

    def check_layers(self, names: Sequence[str]) -> None:
        """Refuse objectives of these names, which look into layers, where those of models cannot be compared."""

    def row_sizes(self, lengths: Sequence[int]) -> tuple[int, str]:
        """How many positions the longest row is for a model's layers, and a line that tells how long rows are.

        ``lengths``: of encoded rows, ascending.
        """
        median, longest = lengths[len(lengths) // 2], lengths[-1]
        line = f"tokens a row: median {median}, longest {longest} in {len(lengths)} rows (cut at {self.max_length})"
        return longest, line

    def picture(self, row: Mapping[str, Any]) -> Image | None:
        """What a row shows; None where it shows nothing."""
        return None

    def seconds_of(self, rows: Dataset) -> float:
        """How many seconds of sound rows hold; 0 where they hold none."""
        return 0.0

    def scored_lengths(self, rows: Dataset, texts: Sequence[str]) -> list[int]:
        """How long each row that is scored is: the words of its text, or what :attr:`length_unit` says."""
        return [len(text.split()) for text in texts]

    def label_ids(self, batch: Batch) -> Any:
        """What ``predict`` and ``compute_metrics`` are given as the labels of a batch."""
        return batch.get("labels")


def on_the_right(batch: Mapping[str, Any], mask: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Columns ``[B, T, ...]`` of a batch, turned so that rows that begin with padding end with it.

    Args:
        batch: May lack some of the columns.
        mask: ``[B, T]``; what stands before a row's first nonzero is padding.
        names: Of the columns that have something for each token of the mask.

    Returns:
        Those columns alone; nothing where no row begins with padding.
    """
    before = (mask != 0).long().cumsum(1).eq(0).sum(1, keepdim=True) % mask.shape[1]
    if not before.any():
        return {}
    places = (torch.arange(mask.shape[1], device=mask.device) + before) % mask.shape[1]
    there = {name: value for name in names if isinstance(value := batch.get(name), Tensor) and value.ndim > 1}
    return {
        name: column.gather(1, places.view(*places.shape, *[1] * (column.ndim - 2)).expand_as(column))
        for name, column in there.items()
        if column.shape[:2] == mask.shape
    }
