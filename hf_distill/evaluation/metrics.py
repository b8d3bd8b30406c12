"""What a model decided on a split, and how good that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import evaluate
import numpy as np
import scipy.stats
from scipy.special import expit, softmax
from sklearn import metrics as sklearn_metrics

from hf_distill.errors import LabelError, ModelError, RecipeError
from hf_distill.evaluation import language_modeling, out_of_scope
from hf_distill.evaluation.metric_classes import (
    F1,
    MULTI_LABEL,
    Accuracy,
    MeanSquaredError,
    Pearson,
    Precision,
    Recall,
    Spearman,
    correlation,
)
from hf_distill.evaluation.scores import RowScores, calibration_error
from hf_distill.evaluation.written import metric_names, scorer_names
from hf_distill.names import nearest
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import Task

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression", "similarity"]

REAL = ("regression", "similarity")
"""Those whose outputs are real values."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model gave for every row of a split.

    Args:
        logits: ``[N, C]``, raw scores; ``[N, 1]`` for regression.
        labels: ``[N]`` class numbers, ``[N, C]`` of 0/1 (multi-label), or ``[N]`` real values (regression).
        problem_type: How the logits are read.
        label_names: One name a class, in the order of the logits.
        outside: ``[M, C]``, raw scores for rows that are of no class; None where there are none.

    Raises:
        ModelError: A logit is not a number.
        LabelError: Logits, labels and names do not fit each other.
    """

    logits: np.ndarray
    labels: np.ndarray
    problem_type: ProblemType
    label_names: tuple[str, ...]
    outside: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        rows, classes = self.logits.shape
        expected = self.logits.shape if self.problem_type == "multi_label_classification" else (rows,)
        if rows == 0 or self.labels.shape != expected:
            raise LabelError(
                f"expected labels of shape {expected} and at least one row for {self.problem_type}, "
                f"got {self.labels.shape}; check the label column of the evaluation split"
            )
        if self.problem_type not in REAL and len(self.label_names) != classes:
            raise LabelError(f"the model has {classes} outputs but {len(self.label_names)} label names were given")
        lowest, highest = self.labels.min(), self.labels.max()
        if self.problem_type == "single_label_classification" and not 0 <= lowest <= highest < classes:
            raise LabelError(f"labels must lie in 0..{classes - 1}, got {lowest}..{highest}; check the label column")
        scored = self.logits if self.outside is None else np.concatenate([self.logits, self.outside])
        broken = int(np.isnan(scored).any(axis=1).sum())
        if broken:
            raise ModelError(
                f"the model gave NaN for {broken} of {len(scored)} rows, so it cannot be scored; training diverged or "
                "the precision is too low: lower training.learning_rate, or use float32"
            )

    @property
    def decisions(self) -> np.ndarray:
        """``[N]`` class numbers, ``[N, C]`` of 0/1 (probability above 0.5), or ``[N]`` real values."""
        if self.problem_type == "single_label_classification":
            return self.logits.argmax(axis=1)
        if self.problem_type == "multi_label_classification":
            return (self.logits > 0).astype(np.int64)
        return self.logits[:, 0].astype(np.float64)

    @property
    def correct(self) -> np.ndarray:
        """``[N]`` booleans: the whole row is decided right (multi-label: every label of it)."""
        return _equal_rows(self.decisions, self.labels)


Scored = Predictions | RowScores
"""What one model gave for a split: one decision a row, or sums over what each row holds."""

METRICS: dict[str, type[evaluate.Metric]] = {
    "accuracy": Accuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "pearson": Pearson,
    "spearman": Spearman,
    "mse": MeanSquaredError,
}

TOKEN_TASKS = ("causal-lm", "masked-lm", "translation", "summarization")
"""Problem types that are scored token by token."""

COMPUTED: dict[str, dict[str, tuple[str, dict[str, str]]]] = {
    "single_label_classification": {
        "accuracy": ("accuracy", {}),
        "precision_macro": ("precision", {"average": "macro"}),
        "recall_macro": ("recall", {"average": "macro"}),
        "f1_macro": ("f1", {"average": "macro"}),
        "precision_weighted": ("precision", {"average": "weighted"}),
        "recall_weighted": ("recall", {"average": "weighted"}),
        "f1_weighted": ("f1", {"average": "weighted"}),
    },
    "multi_label_classification": {
        "accuracy": ("accuracy", {}),
        "f1_micro": ("f1", {"average": "micro"}),
        "f1_macro": ("f1", {"average": "macro"}),
    },
    "regression": {"pearson": ("pearson", {}), "spearman": ("spearman", {}), "mse": ("mse", {})},
    "similarity": {"spearman": ("spearman", {}), "pearson": ("pearson", {})},
    "retrieval": {name: (name, {}) for name in ("ndcg@10", "ndcg@1", "recall@1", "recall@10", "mrr@10")},
    **{name: {metric: (metric, {}) for metric in language_modeling.METRICS} for name in TOKEN_TASKS},
    "causal-lm": {metric: (metric, {}) for metric in (*language_modeling.METRICS, language_modeling.BITS_PER_BYTE)},
    "token-classification": {name: (name, {}) for name in ("f1", "precision", "recall", "accuracy")},
    "question-answering": {name: (name, {}) for name in ("f1", "exact_match")},
}
"""What :func:`compute_metrics` gives for each problem type: result key -> (name in METRICS, its options).

What is written is judged by scorers, whose metrics come on top.
"""

PRIMARY: Mapping[str, str] = {
    "single_label_classification": "accuracy",
    "multi_label_classification": "f1_micro",
    "regression": "pearson",
    "similarity": "spearman",
    "retrieval": "ndcg@10",
    "token-classification": "f1",
    "question-answering": "f1",
    "causal-lm": "loss",
    "masked-lm": "loss",
    "translation": "bleu",
    "summarization": "rougeL",
}
"""The metric by which models are compared when the recipe names none."""

LOWER_IS_BETTER = frozenset(
    {
        "mse",
        "loss",
        "perplexity",
        language_modeling.BITS_PER_BYTE,
        "calibration_error",
        "kl_to_teacher",
        "fpr95_out_of_scope",
    }
)


def load_metric(name: str, **options: Any) -> evaluate.EvaluationModule:
    """Give a metric by name: one of METRICS, which needs no network, else whatever ``evaluate.load`` finds.

    Args:
        name: A key of METRICS, or an id or path that ``evaluate.load`` takes.
        **options: Go to the metric's constructor (``keep_in_memory``, ``config_name``, ...) or to ``evaluate.load``.

    Raises:
        RecipeError: Neither knows the name, or the Hub cannot be reached.
    """
    if name in METRICS:
        return METRICS[name](**options)
    try:
        return evaluate.load(name, **options)
    except (OSError, ImportError, ValueError) as error:
        raise RecipeError(
            f"metric {name!r} is not one of {', '.join(METRICS)} and evaluate.load could not give it "
            f"({type(error).__name__}){nearest(name, METRICS)}; name one of these, or check the id and the network"
        ) from error


def primary_metric(task: Task, config: EvaluateConfig) -> str:
    """Give the metric to compare by: the one that the recipe asks for, or the task's own.

    Raises:
        RecipeError: The metric asked for is not computed for this task.
    """
    written = metric_names(scorer_names(task, config.scorers))
    detected = out_of_scope.METRICS if task.out_of_scope is not None else ()
    known = [*COMPUTED[task.problem_type], *detected, *written]
    if config.metric is None:
        own = PRIMARY[task.problem_type]
        return own if own in known else written[0]
    if config.metric not in known:
        raise RecipeError(
            f"recipe.evaluate.metric: {config.metric!r} is not measured for {task.problem_type}; "
            f"choose one of {', '.join(known)}"
        )
    return config.metric


def compute_metrics(predictions: Scored) -> dict[str, float]:
    """Score predictions by every metric of their problem type.

    Macro averages of single-label classification run over the classes that occur in labels or decisions; an undefined
    precision, recall or F1 counts 0.

    Returns:
        The keys of ``COMPUTED[problem_type]``, and of ``out_of_scope.METRICS`` where rows are out of scope; shares lie
        in 0..1.
    """
    if isinstance(predictions, RowScores):
        return predictions.metrics()
    config_name = MULTI_LABEL if predictions.problem_type == "multi_label_classification" else None
    decisions = predictions.decisions
    labels = predictions.labels.astype(decisions.dtype)
    scores = {}
    for key, (name, options) in COMPUTED[predictions.problem_type].items():
        metric = load_metric(name, config_name=config_name, keep_in_memory=True)
        scores[key] = metric.compute(predictions=decisions, references=labels, **options)[name]
    if predictions.outside is not None:
        drawn = (np.ones((1, len(each))) for each in (predictions.logits, predictions.outside))
        scores |= {name: float(value[0]) for name, value in detector_of(predictions)(*drawn).items()}
    return scores


def detector_of(predictions: Predictions) -> out_of_scope.Detector:
    """What scores the confidence of each decision as a detector of rows that are of no class."""
    assert predictions.outside is not None
    return out_of_scope.detector(_surest(predictions.logits), _surest(predictions.outside))


def per_class(predictions: Predictions) -> dict[str, dict[str, float]]:
    """Give precision, recall, F1 and support (rows) of every class by name, in the order of the logits.

    Raises:
        ModelError: Regression has no classes.
    """
    _need_classes(predictions, "scores by class")
    numbers = range(len(predictions.label_names))
    scores = sklearn_metrics.precision_recall_fscore_support(
        predictions.labels, predictions.decisions, labels=numbers, average=None, zero_division=0
    )
    keys = ("precision", "recall", "f1")
    return {
        name: {**{key: float(value) for key, value in zip(keys, row[:3], strict=True)}, "support": int(row[3])}
        for name, row in zip(predictions.label_names, zip(*scores, strict=True), strict=True)
    }


def confidences(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Give how sure each decision was (``[M]``, a probability) and whether it was right (``[M]``, boolean).

    M is N for single-label classification and N x C for multi-label, where each label is one decision.

    Raises:
        ModelError: Regression gives no probabilities.
    """
    _need_classes(predictions, "calibration")
    if predictions.problem_type == "single_label_classification":
        return _surest(predictions.logits), predictions.correct
    logits = predictions.logits.astype(np.float64)
    return expit(np.abs(logits)).ravel(), (predictions.decisions == predictions.labels).ravel()


def expected_calibration_error(predictions: Scored, bins: int = 15) -> float:
    """Mean distance, over decisions, between how sure and how right the model is in equally wide bins of confidence.

    Raises:
        ModelError: Regression gives no probabilities.
    """
    if isinstance(predictions, RowScores):
        return predictions.calibration_error
    return calibration_error(*confidences(predictions), bins)


def agreement(first: Scored, second: Scored) -> float | None:
    """Share of rows on which two models decide the same (multi-label: the same set); Pearson's r for regression.

    Within rows, the share of words or tokens on which the first model decides as the second, its teacher; None where
    these are others.
    """
    if isinstance(first, RowScores) or isinstance(second, RowScores):
        assert isinstance(first, RowScores)
        return first.agreement(second)
    if first.problem_type in REAL:
        return correlation(scipy.stats.pearsonr, first.decisions, second.decisions)
    return float(_equal_rows(first.decisions, second.decisions).mean())


def _surest(logits: np.ndarray) -> np.ndarray:
    """The probability of each row's likeliest class."""
    shares: np.ndarray = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return shares


def by_place(predictions: Predictions) -> Predictions:
    """The same with outputs and labels as places in their order, 0 (lowest) to 1: what a rank correlation sees."""

    def places(values: np.ndarray) -> np.ndarray:
        ranks: np.ndarray = (scipy.stats.rankdata(values) - 0.5) / len(values)
        return ranks

    return dataclasses.replace(
        predictions, logits=places(predictions.decisions)[:, None], labels=places(predictions.labels)
    )


def _equal_rows(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    equal = first == second
    return equal.all(axis=1) if equal.ndim == 2 else equal


def _need_classes(predictions: Predictions, what: str) -> None:
    if predictions.problem_type in REAL:
        raise ModelError(f"{what} exists for classification only, these are regression outputs; use compute_metrics")
