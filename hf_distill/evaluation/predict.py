"""Teacher, student and control on the same rows: predictions, sizes, speeds and the results that come of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.evaluation.classification import ClassScores, LabelSetScores
from hf_distill.evaluation.language_modeling import score_tokens
from hf_distill.evaluation.question_answering import score_answers
from hf_distill.evaluation.regression import RealScores, SimilarityScores
from hf_distill.evaluation.retrieval import score_vectors
from hf_distill.evaluation.scores import DecisionScores, Evaluation, Scoreable, Scores, by_row
from hf_distill.evaluation.text_metrics import make_scorers, scorer_names
from hf_distill.evaluation.token_classification import score_tags
from hf_distill.evaluation.written import write_and_score
from hf_distill.models.forward import accepted_inputs, run_model
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

    def score(self, evaluation: Evaluation) -> Scores:
        """Its scores on labelled rows."""
        return predict(self, evaluation)


def predict(candidate: Scoreable, evaluation: Evaluation) -> Scores:
    """Score what runs here on labelled rows, in the order of the rows and of the data's labels."""
    return SCORE_FUNCTIONS[evaluation.task.scored_as](candidate, evaluation)


def _token_scores(candidate: Scoreable, evaluation: Evaluation) -> Scores:
    task, rows, config, tokenizer = evaluation.task, evaluation.rows, evaluation.config, candidate.tokenizer
    reference = evaluation.reference
    alike = reference is not None and reference.models and same_tokenizer(tokenizer, reference.tokenizer)
    encoded, sizes = task.encode(rows, tokenizer), [len(text.encode()) for text in task.texts(rows)]
    few = max(1, evaluation.batch_size // 8)
    scores = score_tokens(candidate, task, encoded, reference if alike else None, few, sizes)
    names = scorer_names(task, config.scorers)
    if not names:
        return scores
    assert tokenizer is not None
    (model,) = candidate.models
    written = write_and_score(model, task, tokenizer, rows, names, config.generation, config.batch_size)
    return dataclasses.replace(scores, written=written)


def _decisions(candidate: Scoreable, evaluation: Evaluation) -> DecisionScores:
    def answer(batch: ModelBatch) -> Any:
        return candidate.run(evaluation.task.student_inputs(batch), False)

    return predict_decisions(candidate, evaluation, answer)


def predict_decisions(
    candidate: Scoreable, evaluation: Evaluation, answer: Callable[[ModelBatch], Tensor]
) -> DecisionScores:
    """Score decisions about whole rows.

    Args:
        candidate: What is scored.
        evaluation: On what.
        answer: Gives the logits ``[B, C]`` of a batch, in the order of the data's labels.
    """
    task, tokenizer = evaluation.task, candidate.tokenizer
    assert tokenizer is not None

    def read(batch: ModelBatch) -> Sequence[np.ndarray]:
        return list(answer(batch).float().cpu().numpy())

    def logits(encoded: Any) -> np.ndarray:
        return np.stack(by_row(candidate.models, task, tokenizer, encoded, evaluation.batch_size, read))

    encoded, outside, labels = task.encode(evaluation.rows, tokenizer), evaluation.outside, task.row_labels
    return decision_scores(
        logits(encoded),
        np.asarray(encoded["labels"]),
        labels.problem_type,
        labels.names,
        logits(task.encode(outside, tokenizer)) if outside else None,
        make_scorers(evaluation.config.scorers),
    )


def decision_scores(logits: np.ndarray, labels: np.ndarray, problem_type: str, *more: Any) -> DecisionScores:
    """Scores of one decision a row, of the kind that the labels are."""
    return DECISIONS[problem_type](logits, labels, problem_type, *more)


SCORE_FUNCTIONS: dict[str, Callable[[Scoreable, Evaluation], Scores]] = {
    "decisions": _decisions,
    "tags": score_tags,
    "answers": score_answers,
    "vectors": score_vectors,
    "tokens": _token_scores,
}
"""What scores a model that runs here, by a task's ``scored_as``."""
