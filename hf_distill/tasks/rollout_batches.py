"""What models write after, and how a student writes batches itself: the batch that its text makes.

Such a batch has positions where the teacher's distributions are compared, but no labels: nobody says that what the
student wrote is right.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.tasks.encoding import last_turn, padded
from hf_distill.types import IGNORED, Batch, Tokenizer

WRITTEN = "written"
"""In a batch that a student wrote: which of its tokens the student wrote, the end token among them; boolean."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What models are asked to write after, unpadded, and what should be written, one a row that counts.

    Where an encoder hears or sees a row, ``sources`` gives what it reads of the rows at some places, and ``input_ids``
    are what its decoder is given to begin with.
    """

    input_ids: list[list[int]]
    references: list[str]
    row_ids: list[int]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``generate`` that the rows ask for."""
    chats: list[dict[str, Any]] | None = None
    """The turns that ``input_ids`` are made of, which a server is sent in their place, where rows are chats: as
    ``messages``, and ``tools`` where there are some."""
    sources: Callable[[Sequence[int]], Batch] | None = None

    def read(self, places: Sequence[int]) -> Batch | None:
        """What an encoder reads of the rows at some places, where that is no text."""
        return None if self.sources is None else self.sources(places)

    def sent(self, place: int) -> list[int] | dict[str, Any]:
        """What a server is sent of one of them: a chat, or tokens."""
        return self.input_ids[place] if self.chats is None else self.chats[place]


class Prompted:
    """The part of a task that gives models something to write after; refused where it has nothing (RecipeError)."""

    name: ClassVar[str]
    written_after_texts: ClassVar[bool] = True  # Whether prompts are texts, whose lengths say what is long.
    max_length: int

    @property
    def longest_text(self) -> int:
        """How many tokens are written at most, unless the recipe says otherwise."""
        return self.max_length

    def turn_ends(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens that end a text in the rows, beside the tokenizer's own end token."""
        return []

    def prompts(self, rows: Dataset, tokenizer: Tokenizer) -> Prompts:
        """What models are asked to write after, and what they should write, for every row that is encoded."""
        raise RecipeError(f"recipe.evaluate.scorers: nothing is written in {self.name}; remove them")

    def begun(self, batch: Mapping[str, Any]) -> Batch:
        """What a decoder is given of a batch to begin with, ``[B, T]``; nothing where it begins by itself."""
        return {}

    def writing(self, tokenizer: Tokenizer | None, prompt_tokens: int | None = None) -> Writing:
        """How a student writes batches itself; ``prompt_tokens``: how much of a plain text is the prompt."""
        raise RecipeError(
            f"recipe.rollout: nothing is written in {self.name}; remove it, or take causal-lm, translation or "
            "summarization"
        )

    def with_answers(self, rows: Dataset, texts: Sequence[str] | None) -> Dataset:
        """The rows with other texts, one a row, in place of what should be written, which may be missing.

        ``texts``: None where they are not known yet and the rows are only to be written after.
        """
        raise RecipeError(f"recipe.label: nothing is written in {self.name}; remove it")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a student writes after, ``[B, T]``, and how many tokens the data have to each row."""

    input_ids: Tensor
    attention_mask: Tensor
    answers: list[int]

    def at(self, rows: slice) -> Asked:
        """Some rows alone."""
        return Asked(**{name: values[rows] for name, values in vars(self).items()})


class Writing(ABC):
    """How a student writes the batches of a task."""

    skipped: ClassVar[int] = 0  # Tokens that stand before what a writer wrote.
    options: Mapping[str, Any]  # What the task asks of ``generate``.

    @abstractmethod
    def taken(self, ids: Sequence[int], labels: Sequence[int]) -> int:
        """How many positions of the context a row takes before anything is written; 0 where there is no prompt."""

    @abstractmethod
    def asked(self, batches: Sequence[Batch], pad: int) -> Asked:
        """What all rows of some batches ask for, with what pads it."""

    @abstractmethod
    def answered(self, batch: Batch, asked: Asked, written: Tensor, kept: Tensor) -> Batch:
        """The batch of what was written, ``[B, skipped + N]``, in place of the data's.

        ``kept``: ``[B, N]`` boolean, False behind the end token.
        """


class AfterPrompts(Writing):
    """A prompt, by default all before the last run of tokens that count, and what follows are one row of tokens."""

    def __init__(self, prompt_tokens: int | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.options = {}

    @override
    def taken(self, ids: Sequence[int], labels: Sequence[int]) -> int:
        return last_turn(labels) if self.prompt_tokens is None else min(self.prompt_tokens, len(ids) - 1)

    @override
    def asked(self, batches: Sequence[Batch], pad: int) -> Asked:
        prompts, answers = [], []
        for ids, labels in (row for batch in batches for row in _rows(batch)):
            start = self.taken(ids, labels)
            prompts.append(ids[:start])
            answers.append(sum(label != IGNORED for label in labels[start:]))
        device = batches[0]["input_ids"].device
        return Asked(
            input_ids=torch.tensor(padded(prompts, pad, True), device=device),
            attention_mask=torch.tensor(padded([[1] * len(ids) for ids in prompts], 0, True), device=device),
            answers=answers,
        )

    @override
    def answered(self, batch: Batch, asked: Asked, written: Tensor, kept: Tensor) -> Batch:
        ids = torch.cat((asked.input_ids, written), 1)
        mask = torch.cat((asked.attention_mask, kept.to(asked.attention_mask.dtype)), 1)
        own = torch.cat((torch.zeros_like(asked.attention_mask, dtype=torch.bool), kept), 1)
        padding = (1 - asked.attention_mask).sum(1, keepdim=True)
        places = (torch.arange(ids.shape[1], device=ids.device) + padding) % ids.shape[1]
        places = places[:, : int(mask.sum(1).max())]
        ids, mask, own = (each.gather(1, places) for each in (ids, mask, own))
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.full_like(ids, IGNORED), WRITTEN: own}


class AfterSources(Writing):
    """An encoder reads the source, a decoder writes."""

    skipped = 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    @override
    def taken(self, ids: Sequence[int], labels: Sequence[int]) -> int:
        return min(len(ids), 1)

    @override
    def asked(self, batches: Sequence[Batch], pad: int) -> Asked:
        return Asked(
            input_ids=joined([batch["input_ids"] for batch in batches], pad),
            attention_mask=joined([batch["attention_mask"] for batch in batches], 0),
            answers=[count for batch in batches for count in (batch["labels"] != IGNORED).sum(1).tolist()],
        )

    @override
    def answered(self, batch: Batch, asked: Asked, written: Tensor, kept: Tensor) -> Batch:
        longest = int(kept.sum(1).max())
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "decoder_input_ids": written[:, :longest],
            "labels": torch.full_like(written[:, :longest], IGNORED),
            WRITTEN: kept[:, :longest],
        }


def joined(tensors: Sequence[Tensor], filler: int) -> Tensor:
    """``[B, T]`` of several, padded to the widest."""
    width = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([functional.pad(tensor, (0, width - tensor.shape[1]), value=filler) for tensor in tensors])


def _rows(batch: Batch) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens and labels of each row, without padding."""
    labelled = batch["labels"] if "labels" in batch else batch["input_ids"]
    columns = (batch["input_ids"], labelled, batch["attention_mask"])
    for row in zip(*(column.tolist() for column in columns), strict=True):
        real = [(token, label) for token, label, mask in zip(*row, strict=True) if mask]
        yield [token for token, _ in real], [label for _, label in real]


def check_prompt_tokens(given: int | None, form: str | None) -> None:
    """Refuse a length of prompts where rows tell it themselves, and its absence where they do not."""
    where = "recipe.rollout.prompt_tokens"
    if form == "text" and given is None:
        raise RecipeError(f"{where}: plain text has no prompt to write after; say how many tokens of a row are one")
    if form not in ("text", None) and given is not None:
        raise RecipeError(f"{where}: does nothing for rows that have a prompt of their own; remove it")
