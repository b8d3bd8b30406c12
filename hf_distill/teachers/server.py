"""A teacher behind an endpoint: it is asked what it finds likely at each position, and gives the k likeliest tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hf_distill.teachers.cache_schemes import with_rest
from hf_distill.teachers.endpoint import Client, Position, prompt_likelihoods
from hf_distill.types import Batch, Need, SparseLogits, Targets

if TYPE_CHECKING:
    from hf_distill.tasks.base import Task


class Document(NamedTuple):
    """A text of a batch, by itself, as far as a model must read it.

    Attributes:
        ids: Its tokens.
        places: For each token but the first, which of the batch's positions tells of it.
    """

    ids: list[int]
    places: list[int]


class ServerTeacher:
    """Targets from a server: the ``k`` likeliest tokens at each position and the mass of all others.

    Each text of a batch is asked for by itself, also where several are packed into a row, so that none sees another,
    as it is with a live teacher.

    Args:
        client: Of the server.
        vocabulary: How many tokens teacher and student share.

    Attributes:
        provides: What it can give.
        tokenizer: None: it reads the student's tokens.
    """

    model = None
    config = None
    tokenizer = None
    label_order = None
    dtype = torch.float32
    reads_new_texts = True
    provides: frozenset[Need] = frozenset({"logits"})

    def __init__(self, client: Client, vocabulary: int) -> None:
        self.client, self.outputs = client, vocabulary
        self.k = min(client.config.asked, vocabulary)

    @property
    def name(self) -> str:
        """The teacher's name on the server."""
        return self.client.config.model

    @property
    def device(self) -> torch.device:
        """Where its targets are made."""
        return torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """There is nothing to place."""

    def targets(
        self,
        task: Task,
        batch: Batch,
        needs: frozenset[Need],
        states: Mapping[Need, Collection[int]] | None = None,
    ) -> Targets:
        """What the objectives need of a batch, on its device.

        Args:
            task: Tells which positions of the batch count.
            batch: As the student gets it.
            needs: What to give: logits, or nothing.
            states: Of no use here: a server shows no hidden states.

        Raises:
            ServerError: Where the server cannot be asked, or its answers cannot be used.
        """
        if "logits" not in needs:
            return Targets()
        mask = task.masks(batch)["positions"]
        documents = list(documents_of(batch, mask))
        found = self.client.map(lambda each: prompt_likelihoods(self.client, each.ids, self.k), documents)
        kept = self._sparse(documents, found, len(mask))
        return Targets(logits=kept.to(batch["input_ids"].device))

    def _sparse(self, documents: list[Document], found: list[list[Position]], count: int) -> SparseLogits:
        ids = torch.zeros(count, self.k, dtype=torch.long)
        logs = torch.full((count, self.k), -torch.inf)
        for document, positions in zip(documents, found, strict=True):
            for place, position in zip(document.places, positions, strict=True):
                given = len(position.ids)
                ids[place, :given] = torch.tensor(position.ids)
                logs[place, :given] = torch.tensor(position.log_probabilities)
        # Rows that only fill up a vocabulary are none of the student's tokens; what lies on them is part of the rest.
        beyond = ids >= self.outputs
        probabilities, ids = logs.masked_fill(beyond, -torch.inf).exp(), ids.masked_fill(beyond, 0)
        return with_rest(ids, probabilities, 1.0, self.outputs)


def documents_of(batch: Batch, mask: Tensor) -> Iterator[Document]:
    """The texts of a batch of which something counts, each up to the last token that does.

    Args:
        batch: With ``input_ids``, ``attention_mask`` and, where rows are packed, ``position_ids``, ``[B, T]`` each.
        mask: ``[B * (T - 1)]``, the positions that count, each of which tells of the token behind it.
    """
    ids, real = batch["input_ids"].tolist(), batch["attention_mask"].tolist()
    rows, length = len(ids), len(ids[0])
    counts = mask.view(rows, length - 1).tolist()
    packed = batch["position_ids"].tolist() if "position_ids" in batch else None
    for row in range(rows):
        places = [t for t in range(length) if real[row][t]]
        starts = [n for n, t in enumerate(places) if n == 0 or (packed is not None and packed[row][t] == 0)]
        for first, last in zip(starts, [*starts[1:], len(places)], strict=True):
            text = places[first:last]
            told = [n for n, t in enumerate(text[:-1]) if counts[row][t]]
            if not told:
                continue
            text = text[: told[-1] + 2]
            yield Document([ids[row][t] for t in text], [row * (length - 1) + t for t in text[:-1]])
