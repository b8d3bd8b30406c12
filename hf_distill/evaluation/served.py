"""A teacher behind an endpoint, scored by what it says of the tokens that stand there and by what it writes.

What needs its whole distribution (divergence) or the model itself (parameters, bytes, speed) is not known of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_distill.evaluation.language_modeling import BINS, TokenScores, tabled_scores
from hf_distill.evaluation.scores import by_row
from hf_distill.evaluation.text_metrics import Written, judged, scorer_names
from hf_distill.generation.generate import with_length
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import Task
from hf_distill.teachers import ServerTeacher
from hf_distill.teachers.endpoint import Client, prompt_likelihoods, write
from hf_distill.teachers.endpoint.completions import sampling
from hf_distill.teachers.server import documents_of


@dataclass(frozen=True, kw_only=True)
class Served:
    """A teacher that is not here; stands where a ``Candidate`` does.

    Attributes:
        teacher: What gives its targets.
        tokenizer: Its own.
        facts: As of a ``Candidate``.
    """

    teacher: ServerTeacher
    tokenizer: PreTrainedTokenizerBase
    facts: Mapping[str, Any]
    model: ClassVar[None] = None
    folders: ClassVar[tuple[()]] = ()
    members: ClassVar[tuple[()]] = ()
    label_order: ClassVar[None] = None

    @property
    def client(self) -> Client:
        """Of the server."""
        return self.teacher.client


def score_served(served: Served, task: Task, rows: Dataset, config: EvaluateConfig) -> TokenScores:
    """A served teacher's figures on labelled rows, in their order.

    Args:
        served: The teacher.
        task: Bound to the data.
        rows: With the task's columns.
        config: How and by what texts are written and judged, where the recipe asks for some.

    Raises:
        ServerError: Where the server cannot be asked, or gives no log-probabilities of prompts.
    """
    encoded = task.encode(rows, served.tokenizer)
    assert isinstance(encoded, Dataset)
    wave = 2 * served.client.config.concurrency
    table = np.array(
        by_row(None, task, served.tokenizer, encoded, wave, lambda batch: _row_sums(served.client, task, batch))
    )
    sizes = [len(text.encode()) for text in task.texts(rows)]
    scores = tabled_scores(table, encoded, served.teacher.outputs, sizes, compared=False)
    names = scorer_names(task, config.scorers)
    return replace(scores, written=_written(served, task, rows, names, config)) if names else scores


def _row_sums(client: Client, task: Task, batch: dict[str, Any]) -> list[np.ndarray]:
    """``[5 + BINS]`` of each row, as :func:`tabled_scores` takes them; what compares with a teacher is 0."""
    mask = task.masks(batch)["labels"]
    rows = len(batch["labels"])
    documents = list(documents_of(batch, mask))
    counts, table = mask.tolist(), np.zeros((rows, 5 + BINS))
    found = client.map(lambda each: prompt_likelihoods(client, each.ids, 1), documents)
    for document, positions in zip(documents, found, strict=True):
        for place, token, position in zip(document.places, document.ids[1:], positions, strict=True):
            if not counts[place]:
                continue
            sure, correct = float(np.exp(position.log_probabilities[0])), float(position.ids[0] == token)
            row = table[place * rows // len(counts)]
            row[:3] += (1.0, -position.actual, correct)
            row[5 + min(BINS - 1, max(0, int(np.ceil(sure * BINS)) - 1))] += sure - correct
    return list(table)


def _written(served: Served, task: Task, rows: Dataset, names: tuple[str, ...], config: EvaluateConfig) -> Written:
    prompts = task.prompts(rows, served.tokenizer)
    asked = sampling(with_length(config.generation, task.longest_text))
    with PartialState().split_between_processes(list(range(len(prompts.row_ids)))) as own:
        found = served.client.map(lambda place: write(served.client, prompts.sent(place), asked, 1, place)[0].text, own)
    texts = gather_object(found) if PartialState().num_processes > 1 else found
    return judged(texts, prompts, names)
