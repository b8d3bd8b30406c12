"""A teacher behind an endpoint: it is asked what it finds likely at each position, and gives the k likeliest tokens.

It is scored by what it says of the tokens that stand there and by what it writes. What needs its whole distribution
(divergence) or the model itself (parameters, bytes, speed) is not known of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from typing_extensions import override

from hf_distill.evaluation.language_modeling import BINS, TokenScores, Written, judged, tabled_scores
from hf_distill.evaluation.metrics import scorer_names
from hf_distill.evaluation.scores import Evaluation, by_row
from hf_distill.generation.generate import with_length
from hf_distill.recipe import EvaluateConfig, LabelConfig, Recipe, ServerConfig
from hf_distill.tasks import Task
from hf_distill.teachers.base import Layers, Loading, States, Teacher
from hf_distill.teachers.cache_schemes import with_rest
from hf_distill.teachers.endpoint import Client, Position, prompt_likelihoods, write
from hf_distill.teachers.endpoint.completions import sampling
from hf_distill.teachers.endpoint.served_writer import ServedWriter
from hf_distill.teachers.endpoint.verify import check_server
from hf_distill.tokenizers.processors import load_tokenizer
from hf_distill.types import Batch, Need, SparseLogits, Targets, Tokenizer


class Document(NamedTuple):
    """A text of a batch, by itself, as far as a model must read it."""

    ids: list[int]
    places: list[int]  # For each token but the first, which of the batch's positions tells of it.


class ServedTeacher(Teacher):
    """Targets from a server: the ``k`` likeliest tokens at each position and the mass of all others.

    Each text of a batch is asked for by itself, also where several are packed into a row, so that none sees another,
    as it is with a live teacher. It reads the student's tokens, which must be its own.

    Args:
        client: Of the server.
        vocabulary: How many tokens teacher and student share.
        tokenizer: Its own, for what it is asked without a student.
    """

    provides: frozenset[Need] = frozenset({"logits"})

    def __init__(self, client: Client, vocabulary: int, tokenizer: Tokenizer | None = None) -> None:
        self.client, self.vocabulary, self.tokenizer = client, vocabulary, tokenizer
        self.likeliest: int = min(client.config.asked, vocabulary)
        name = client.config.model
        unknown = {"hub_id": None, "revision": None, "license": None}
        self.facts = {"model": name, **unknown, "origin": f"served as {name}", "served": True}

    @classmethod
    @override
    def load(cls, config: Any, loading: Loading) -> ServedTeacher:
        return cls.of(config.endpoint)

    @classmethod
    @override
    def check(cls, config: Any, recipe: Recipe, task: Task) -> None:
        cls.of(config.endpoint).verify(recipe, task)

    @classmethod
    def of(cls, config: ServerConfig) -> ServedTeacher:
        """The teacher that a recipe names, which is not asked anything yet."""
        tokenizer = load_tokenizer(config.tokenizer_source)
        return cls(Client(config), len(tokenizer), tokenizer)

    @property
    @override
    def name(self) -> str:
        return self.client.config.model

    @property
    @override
    def outputs(self) -> int:
        return self.vocabulary

    @override
    def beside(self, tokenizer: Tokenizer) -> Self:
        teacher = copy.copy(self)
        teacher.tokenizer = None
        return teacher

    @override
    def rows_at_once(self, rows: int) -> int:
        return 2 * self.client.config.concurrency  # Where one batch ends, few requests are under way.

    @override
    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "weights": f"served as {self.name}"}

    @override
    def verify(self, recipe: Recipe, task: Task, *, writes_only: bool = False) -> None:
        check_server(self.client, self._own_tokenizer, recipe, task, likeliest=None if writes_only else self.likeliest)

    @override
    def targets(
        self, task: Task, batch: Batch, needs: frozenset[Need], layers: Layers = (), states: States | None = None
    ) -> Targets:
        if "logits" not in needs:
            return Targets()
        mask = task.masks(batch)["positions"]
        documents = list(documents_of(batch, mask))
        found = self.client.map(lambda each: prompt_likelihoods(self.client, each.ids, self.likeliest), documents)
        kept, device = self._sparse(documents, found, len(mask)), batch["input_ids"].device
        return Targets(logits=kept.map(lambda values: values.to(device)))

    @override
    def score(self, evaluation: Evaluation) -> TokenScores:
        task, rows = evaluation.task, evaluation.rows
        encoded = task.encode(rows, self._own_tokenizer)
        assert isinstance(encoded, Dataset)
        wave = self.rows_at_once(1)
        table = by_row((), task, self._own_tokenizer, encoded, wave, lambda batch: self._row_sums(task, batch))
        sizes = [len(text.encode()) for text in task.texts(rows)]
        scores = tabled_scores(np.array(table), encoded, self.vocabulary, sizes, compared=False)
        names = scorer_names(task, evaluation.config.scorers)
        return replace(scores, written=self._written(task, rows, names, evaluation.config)) if names else scores

    @override
    def writer(self, config: LabelConfig, task: Task, options: Mapping[str, Any]) -> ServedWriter:
        settings = with_length({**options, **config.generation}, task.longest_text)
        return ServedWriter(self.client, self._own_tokenizer, config, settings)

    @property
    def _own_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise self._cannot("be asked without a student: it has no tokenizer of its own; give it one (tokenizer)")
        return self.tokenizer

    def _row_sums(self, task: Task, batch: Batch) -> list[np.ndarray]:
        """``[5 + BINS]`` of each row, as :func:`tabled_scores` takes them; what compares with a teacher is 0."""
        mask, rows = task.masks(batch)["labels"], len(batch["labels"])
        documents = list(documents_of(batch, mask))
        counts, table = mask.tolist(), np.zeros((rows, 5 + BINS))
        found = self.client.map(lambda each: prompt_likelihoods(self.client, each.ids, 1), documents)
        for document, positions in zip(documents, found, strict=True):
            for place, token, position in zip(document.places, document.ids[1:], positions, strict=True):
                if not counts[place]:
                    continue
                sure, correct = float(np.exp(position.log_probabilities[0])), float(position.ids[0] == token)
                row = table[place * rows // len(counts)]
                row[:3] += (1.0, -position.actual, correct)
                row[5 + min(BINS - 1, max(0, int(np.ceil(sure * BINS)) - 1))] += sure - correct
        return list(table)

    def _written(self, task: Task, rows: Dataset, names: tuple[str, ...], config: EvaluateConfig) -> Written:
        prompts = task.prompts(rows, self._own_tokenizer)
        asked = sampling(with_length(config.generation, task.longest_text))
        with PartialState().split_between_processes(list(range(len(prompts.row_ids)))) as own:
            found = self.client.map(lambda place: write(self.client, prompts.sent(place), asked, 1, place)[0].text, own)
        texts = gather_object(found) if PartialState().num_processes > 1 else found
        return judged(texts, prompts, names)

    def _sparse(self, documents: list[Document], found: list[list[Position]], count: int) -> SparseLogits:
        ids = torch.zeros(count, self.likeliest, dtype=torch.long)
        logs = torch.full((count, self.likeliest), -torch.inf)
        places = [place for document in documents for place in document.places]
        for place, position in zip(places, chain.from_iterable(found), strict=True):
            ids[place, : len(position.ids)] = torch.tensor(position.ids)
            logs[place, : len(position.ids)] = torch.tensor(position.log_probabilities)
        # Rows that only fill up a vocabulary are none of the student's tokens; what lies on them is part of the rest.
        beyond = ids >= self.vocabulary
        probabilities, ids = logs.masked_fill(beyond, -torch.inf).exp(), ids.masked_fill(beyond, 0)
        return with_rest(ids, probabilities, 1.0, self.vocabulary)


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
            if told:
                text = text[: told[-1] + 2]
                yield Document([ids[row][t] for t in text], [row * (length - 1) + t for t in text[:-1]])
