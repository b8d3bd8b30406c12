"""The metrics as ``evaluate.Metric`` classes around scikit-learn and scipy: ``evaluate.load`` needs the Hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
import scipy.stats
from sklearn import metrics as sklearn_metrics

MULTI_LABEL = "multilabel"
"""``config_name`` under which the classification metrics take rows of 0/1 labels, as the Hub's metrics do."""


class ClassificationMetric(evaluate.Metric):
    """Base of the classification metrics: class numbers, or with ``config_name="multilabel"`` rows of 0/1."""

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int64")
        return _info(self, datasets.Sequence(value) if self.config_name == MULTI_LABEL else value)


class RegressionMetric(evaluate.Metric):
    """Base of the regression metrics: one real value a row."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self, datasets.Value("float64"))


def _info(metric: evaluate.Metric, feature: Any) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=type(metric).__doc__ or "",
        citation="",
        inputs_description="predictions, references: one entry a row.",
        features=datasets.Features({"predictions": feature, "references": feature}),
        # evaluate hands over arrays for plain values only, and lists of lists for rows of labels
        format="numpy" if isinstance(feature, datasets.Value) else None,
    )


class Accuracy(ClassificationMetric):
    """Share of rows decided right; with several labels a row, every one of them."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"accuracy": float(sklearn_metrics.accuracy_score(np.asarray(references), np.asarray(predictions)))}


class Precision(ClassificationMetric):
    """Share of right ones among the rows given a label. ``average``: macro, weighted, micro, or None for each class."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray, **options: Any) -> dict[str, Any]:
        return {"precision": _averaged(sklearn_metrics.precision_score, predictions, references, **options)}


class Recall(ClassificationMetric):
    """Share of the rows with a label that were given it. ``average``: as for precision."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray, **options: Any) -> dict[str, Any]:
        return {"recall": _averaged(sklearn_metrics.recall_score, predictions, references, **options)}


class F1(ClassificationMetric):
    """Harmonic mean of precision and recall. ``average``: as for precision."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray, **options: Any) -> dict[str, Any]:
        return {"f1": _averaged(sklearn_metrics.f1_score, predictions, references, **options)}


def _averaged(
    function: Callable[..., Any],
    predictions: np.ndarray,
    references: np.ndarray,
    average: str | None = "macro",
    labels: Any = None,
) -> Any:
    references, predictions = np.asarray(references), np.asarray(predictions)
    score = function(references, predictions, average=average, labels=labels, zero_division=0)
    return score if average is None else float(score)


class Pearson(RegressionMetric):
    """Linear correlation; 0 where one side is constant and correlation is undefined."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"pearson": correlation(scipy.stats.pearsonr, predictions, references)}


class Spearman(RegressionMetric):
    """Correlation of ranks; 0 where one side is constant and correlation is undefined."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"spearman": correlation(scipy.stats.spearmanr, predictions, references)}


def correlation(function: Callable[..., Any], first: np.ndarray, second: np.ndarray) -> float:
    """Apply a scipy correlation to two ``[N]`` vectors; 0 where one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(function(first, second).statistic)


class MeanSquaredError(RegressionMetric):
    """Mean of the squared differences; lower is better."""

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {"mse": float(sklearn_metrics.mean_squared_error(references, predictions))}
