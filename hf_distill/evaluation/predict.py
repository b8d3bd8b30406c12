"""Teacher, student and control on the same rows: predictions, sizes, speeds and the results that come of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.evaluation.classification import ClassScores, LabelSetScores
from hf_distill.evaluation.language_modeling import score_tokens
from hf_distill.evaluation.question_answering import score_answers
from hf_distill.evaluation.regression import RealScores, SimilarityScores
from hf_distill.evaluation.retrieval import score_vectors
from hf_distill.evaluation.scores import DecisionScores, Scoreable, Scores, by_row
from hf_distill.evaluation.text_metrics import make_scorers, scorer_names
from hf_distill.evaluation.token_classification import score_tags
from hf_distill.evaluation.written import write_and_score
from hf_distill.models.forward import accepted_inputs, run_model
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import Task
from hf_distill.tokenizers.compare import same_tokenizer
from hf_distill.types import Batch as ModelBatch
from hf_distill.types import LogitSource

DECISIONS: Mapping[str, type[DecisionScores]] = {
    "single_label_classification": ClassScores,
    "multi_label_classification": LabelSetScores,
    "regression": RealScores,
    "similarity": SimilarityScores,
}
"""What scores one decision a row, by problem type."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trained model that is evaluated; see :class:`Scoreable`.

    Attributes:
        model: With the task's head.
        tokenizer: Its own.
        folder: Where its weights lie.
        facts: What the card says of it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path = Path()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[PreTrainedModel, ...]:
        """The model alone."""
        return (self.model,)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Its folder alone."""
        return (self.folder,)

    def run(self, inputs: ModelBatch, has_vocabulary: bool) -> Tensor | LogitSource:
        """A forward pass."""
        return run_model(self.model, self.model, accepted_inputs(self.model, inputs), has_vocabulary, False)[1]

    def score(
        self,
        task: Task,
        rows: Dataset,
        config: EvaluateConfig,
        reference: Scoreable | None = None,
        outside: Dataset | None = None,
    ) -> Scores:
        """Its scores on labelled rows."""
        return predict(self, task, rows, reference, config, outside=outside)


def predict(
    candidate: Scoreable,
    task: Task,
    rows: Dataset,
    reference: Scoreable | None = None,
    config: EvaluateConfig | None = None,
    batch_size: int = 64,
    outside: Dataset | None = None,
) -> Scores:
    """Score what runs here on labelled rows, in the order of the rows and of the data's labels."""
    config = config or EvaluateConfig(batch_size=max(1, batch_size // 8))
    return SCORE_FUNCTIONS[task.scored_as](Asked(candidate, task, rows, reference, config, batch_size, outside))


class Asked(NamedTuple):
    """The arguments of :func:`predict`."""

    candidate: Scoreable
    task: Any
    rows: Dataset
    reference: Scoreable | None = None
    config: EvaluateConfig = EvaluateConfig()
    batch_size: int = 64
    outside: Dataset | None = None


def _token_scores(asked: Asked) -> Scores:
    candidate, task, rows, reference, config, batch_size, _ = asked
    tokenizer = candidate.tokenizer
    alike = reference is not None and reference.models and same_tokenizer(tokenizer, reference.tokenizer)
    encoded, sizes = task.encode(rows, tokenizer), [len(text.encode()) for text in task.texts(rows)]
    scores = score_tokens(candidate, task, encoded, reference if alike else None, max(1, batch_size // 8), sizes)
    names = scorer_names(task, config.scorers)
    if not names:
        return scores
    assert tokenizer is not None
    (model,) = candidate.models
    written = write_and_score(model, task, tokenizer, rows, names, config.generation, config.batch_size)
    return dataclasses.replace(scores, written=written)


def _decisions(asked: Asked) -> DecisionScores:
    candidate, task = asked.candidate, asked.task

    def answer(batch: ModelBatch) -> Tensor:
        logits = candidate.run(task.student_inputs(batch), False)
        assert isinstance(logits, Tensor)
        return logits

    assert candidate.tokenizer is not None
    return predict_decisions(answer, candidate.tokenizer, asked, candidate.models)


def decision_scores(logits: np.ndarray, labels: np.ndarray, problem_type: str, *more: Any) -> DecisionScores:
    """Scores of one decision a row, of the kind that the labels are."""
    return DECISIONS[problem_type](logits, labels, problem_type, *more)


SCORE_FUNCTIONS: dict[str, Callable[[Asked], Scores]] = {
    "decisions": _decisions,
    "tags": lambda asked: score_tags(asked.candidate, asked.task, asked.rows, asked.batch_size),
    "answers": lambda asked: score_answers(asked.candidate, asked.task, asked.rows, asked.batch_size),
    "vectors": lambda asked: score_vectors(asked.candidate, asked.task, asked.rows, asked.batch_size),
    "tokens": _token_scores,
}
"""What scores a model, by a task's ``scored_as``."""


def predict_decisions(
    answer: Callable[[ModelBatch], Tensor],
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
    models: Sequence[PreTrainedModel] = (),
) -> DecisionScores:
    """Score decisions about whole rows.

    Args:
        answer: Gives the logits ``[B, C]`` of a batch, in the order of the data's labels.
        tokenizer: What cuts the rows.
        asked: What is scored.
        models: What runs here when it is asked.
    """
    task, labels = asked.task, asked.task.row_labels

    def logits(encoded: Any) -> np.ndarray:
        def read(batch: ModelBatch) -> list[np.ndarray]:
            return list(answer(batch).float().cpu().numpy())

        return np.stack(by_row(models, task, tokenizer, encoded, asked.batch_size, read))

    encoded = task.encode(asked.rows, tokenizer)
    return decision_scores(
        logits(encoded),
        np.asarray(encoded["labels"]),
        labels.problem_type,
        labels.names,
        logits(task.encode(asked.outside, tokenizer)) if asked.outside else None,
        make_scorers(asked.config.scorers),
    )
