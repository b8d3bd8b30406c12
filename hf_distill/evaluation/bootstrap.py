"""Is the student really better than its control? Intervals and paired differences by bootstrap.

Every model is scored on the same resampled rows, so that what makes a row hard cancels in a difference. A resample is
a vector of counts (how often each row was drawn); all classification metrics follow from products of those counts with
0/1 matrices, which turns a thousand resamples into three matrix products a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from hf_distill.errors import DataError
from hf_distill.evaluation.metrics import (
    LOWER_IS_BETTER,
    REAL,
    Predictions,
    Scored,
    agreement,
    compute_metrics,
    detector_of,
)
from hf_distill.evaluation.scores import RowScores, ratio

Scorer = Callable[[np.ndarray], dict[str, np.ndarray]]

BLOCK_CELLS = 2_000_000
"""Counts (resamples x rows) held in memory at a time."""


def resample_counts(rows: int, resamples: int, seed: int, outside: int = 0) -> Iterator[np.ndarray]:
    """Draw `rows` rows with replacement, `resamples` times; yield blocks ``[R, rows]`` of how often each was drawn.

    Where there are rows out of scope, as many are drawn of them: ``[R, rows + outside]``.
    """
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK_CELLS // (rows + outside))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield np.concatenate([_drawn(generator, size, count) for count in (rows, outside) if count], axis=1)


def _drawn(generator: np.random.Generator, size: int, rows: int) -> np.ndarray:
    drawn = generator.integers(0, rows, size=(size, rows)) + np.arange(size)[:, None] * rows
    return np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)


def bootstrap(predictions: Mapping[str, Scored], resamples: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Score every model on the same resampled rows.

    Args:
        predictions: By model; all over the same rows, in the same order.
        resamples: How many times the rows are drawn.
        seed: Of the draws.

    Returns:
        ``{model: {metric: [resamples]}}`` with the metrics of :func:`~hf_distill.evaluation.metrics.compute_metrics`.

    Raises:
        DataError: The models were not scored on the same rows.
    """
    first_name, first = next(iter(predictions.items()))
    for name, other in predictions.items():
        if not np.array_equal(_rows(other), _rows(first)) or _outside(other) != _outside(first):
            raise DataError(f"the rows of {name} differ from those of {first_name}; score all models on one split")
    scorers = {name: _scorer(each) for name, each in predictions.items()}
    blocks: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in predictions}
    for counts in resample_counts(len(_rows(first)), resamples, seed, _outside(first)):
        for name, scorer in scorers.items():
            blocks[name].append(scorer(counts))
    return {
        name: {metric: np.concatenate([block[metric] for block in parts]) for metric in parts[0]}
        for name, parts in blocks.items()
    }


def model_metrics(
    predictions: Mapping[str, Scored], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Give ``{model: {metric: {value, low, high}}}``: the score and its 95% percentile interval."""
    draws = bootstrap(predictions, resamples, seed)
    return {
        name: {metric: _interval(value, draws[name][metric]) for metric, value in compute_metrics(each).items()}
        for name, each in predictions.items()
    }


def compare(
    predictions: Mapping[str, Scored],
    facts: Mapping[str, Mapping[str, Any]],
    primary_metric: str,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Compare the student with its teacher and, where there is one, its control.

    Args:
        predictions: Of ``teacher``, ``student`` and perhaps ``control``, on the same rows.
        facts: By model that is here: ``parameters`` and ``samples_per_second``.
        primary_metric: The metric that decides.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        ``retention`` (student / teacher, or teacher / student where lower is better; None where that divides by 0),
        ``gap_closed`` (the share of the way from control to teacher; None without a control or where the teacher is no
        better than it), the paired differences ``student_minus_control`` (or None) and ``student_minus_teacher`` with
        95% intervals, never turned round where lower is better, ``agreement`` with the teacher, and ``size_ratio`` and
        ``speedup`` (student / teacher); these three None where the teacher is served.
    """
    draws = {name: scores[primary_metric] for name, scores in bootstrap(predictions, resamples, seed).items()}
    values = {name: compute_metrics(each)[primary_metric] for name, each in predictions.items()}
    lower_is_better = primary_metric in LOWER_IS_BETTER

    def difference(other: str) -> dict[str, float]:
        return _interval(values["student"] - values[other], draws["student"] - draws[other])

    better, worse = ("teacher", "student") if lower_is_better else ("student", "teacher")
    return {
        "primary_metric": primary_metric,
        "lower_is_better": lower_is_better,
        "retention": _ratio_or_none(values[better], values[worse]),
        "gap_closed": _gap_closed(values, lower_is_better),
        "student_minus_control": difference("control") if "control" in predictions else None,
        "student_minus_teacher": difference("teacher"),
        **_against_local(predictions, facts),
    }


def _against_local(
    predictions: Mapping[str, Scored], facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | None]:
    """What is known of a teacher that is here; None of a served one, which was seen only by what it says."""
    if "teacher" not in facts:
        return {"agreement": None, "size_ratio": None, "speedup": None}
    student, teacher = facts["student"], facts["teacher"]
    return {
        "agreement": agreement(predictions["student"], predictions["teacher"]),
        "size_ratio": student["parameters"] / teacher["parameters"],
        "speedup": student["samples_per_second"] / teacher["samples_per_second"],
    }


def _gap_closed(values: Mapping[str, float], lower_is_better: bool) -> float | None:
    if "control" not in values:
        return None
    gap = values["teacher"] - values["control"]
    if (gap >= 0) if lower_is_better else (gap <= 0):
        return None
    return (values["student"] - values["control"]) / gap


def _ratio_or_none(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _interval(value: float, draws: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _rows(predictions: Scored) -> np.ndarray:
    """What must be the same for two models that were scored on the same rows."""
    return predictions.rows if isinstance(predictions, RowScores) else predictions.labels


def _outside(predictions: Scored) -> int:
    """How many rows are out of scope."""
    outside = predictions.outside if isinstance(predictions, Predictions) else None
    return 0 if outside is None else len(outside)


def _scorer(predictions: Scored) -> Scorer:
    """Prepare what does not change between resamples; the scorer turns counts ``[R, N]`` into metrics ``[R]``."""
    if isinstance(predictions, RowScores):
        return predictions.score
    if predictions.problem_type in REAL:
        return _regression_scorer(predictions.decisions, predictions.labels.astype(np.float64))
    if predictions.problem_type == "multi_label_classification":
        return _classification_scorer(predictions.decisions, predictions.labels, _multi_label_scores)
    classes = np.arange(len(predictions.label_names))
    decided, labels = (each[:, None] == classes for each in (predictions.decisions, predictions.labels))
    scorer = _classification_scorer(decided, labels, _single_label_scores)
    return scorer if predictions.outside is None else _with_detection(scorer, predictions)


def _with_detection(scorer: Scorer, predictions: Predictions) -> Scorer:
    """The scores of rows in scope, and how well they are told from those out of scope."""
    rows, detect = len(predictions.labels), detector_of(predictions)
    return lambda counts: {**scorer(counts[:, :rows]), **detect(counts[:, :rows], counts[:, rows:])}


def _classification_scorer(decided: np.ndarray, labels: np.ndarray, scores: Callable[..., Any]) -> Scorer:
    # float32 lets the products run in BLAS, and holds whole numbers up to 16 million exactly
    matrices = [each.astype(np.float32) for each in (decided * labels, decided, labels)]
    exact = (decided == labels).all(axis=1).astype(np.float32)

    def score(counts: np.ndarray) -> dict[str, np.ndarray]:
        weights = counts.astype(np.float32)
        accuracy = (weights @ exact).astype(np.float64) / len(exact)
        return {"accuracy": accuracy, **scores(*((weights @ each).astype(np.float64) for each in matrices))}

    return score


def _single_label_scores(hits: np.ndarray, decided: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    by_class = {
        "precision": ratio(hits, decided),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, decided + support),
    }
    occurs = decided + support > 0
    scores = {f"{name}_macro": each.sum(axis=1) / occurs.sum(axis=1) for name, each in by_class.items()}
    rows = support.sum(axis=1)
    return scores | {f"{name}_weighted": (each * support).sum(axis=1) / rows for name, each in by_class.items()}


def _multi_label_scores(hits: np.ndarray, decided: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    total = decided + support
    return {
        "f1_micro": ratio(2 * hits.sum(axis=1), total.sum(axis=1)),
        "f1_macro": ratio(2 * hits, total).mean(axis=1),
    }


def _regression_scorer(outputs: np.ndarray, labels: np.ndarray) -> Scorer:
    squared_errors = (outputs - labels) ** 2
    # measured from the first row, a constant becomes exactly 0 and is known as one
    outputs, labels = outputs - outputs[0], labels - labels[0]
    rank_outputs, rank_labels = _ranker(outputs), _ranker(labels)

    def score(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "pearson": _weighted_correlation(counts, outputs, labels),
            "spearman": _weighted_correlation(counts, rank_outputs(counts), rank_labels(counts)),
            "mse": counts @ squared_errors / len(labels),
        }

    return score


def _ranker(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Give the function from counts ``[R, N]`` to the rank of each row's value in each resample, ties averaged."""
    _, tie_numbers = np.unique(values, return_inverse=True)
    order = np.argsort(tie_numbers, kind="stable")
    starts = np.searchsorted(tie_numbers[order], np.arange(tie_numbers.max() + 1))

    def rank(counts: np.ndarray) -> np.ndarray:
        tied = np.add.reduceat(counts[:, order], starts, axis=1)
        ranks: np.ndarray = tied.cumsum(axis=1) - (tied - 1) / 2
        return ranks[:, tie_numbers]

    return rank


def _weighted_correlation(counts: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r in each resample; values are ``[N]`` or ``[R, N]``; 0 where one side is constant."""
    rows = counts.shape[1]

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (counts * values).sum(axis=1, keepdims=True) / rows

    def constant(values: np.ndarray, spread: np.ndarray) -> np.ndarray:
        return spread <= 1e-20 * (counts * values**2).sum(axis=1)

    first_centred, second_centred = centred(first), centred(second)
    first_spread = (counts * first_centred**2).sum(axis=1)
    second_spread = (counts * second_centred**2).sum(axis=1)
    defined = ~(constant(first, first_spread) | constant(second, second_spread))
    covariance = (counts * first_centred * second_centred).sum(axis=1)
    return np.divide(covariance, np.sqrt(first_spread * second_spread), out=np.zeros_like(covariance), where=defined)
