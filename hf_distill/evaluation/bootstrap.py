"""Is the student really better than its control? Intervals and paired differences by bootstrap.

Every model is scored on the same resampled rows, so that what makes a row hard cancels in a difference. A resample is
a vector of counts (how often each row was drawn), from which scores make every metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hf_distill.errors import DataError
from hf_distill.evaluation.metrics import LOWER_IS_BETTER
from hf_distill.evaluation.scores import Scores

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
        counts = []
        for count in filter(None, (rows, outside)):
            drawn = generator.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
            counts.append(np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count))
        yield np.concatenate(counts, axis=1)


def bootstrap(predictions: Mapping[str, Scores], resamples: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Score every model on the same resampled rows: ``{model: {metric: [resamples]}}``."""
    first_name, first = next(iter(predictions.items()))
    for name, other in predictions.items():
        if not np.array_equal(other.rows, first.rows) or other.outside_rows != first.outside_rows:
            raise DataError(f"the rows of {name} differ from those of {first_name}; score all models on one split")
    blocks = [
        {name: each.score(counts) for name, each in predictions.items()}
        for counts in resample_counts(len(first.rows), resamples, seed, first.outside_rows)
    ]
    return {
        name: {metric: np.concatenate([block[name][metric] for block in blocks]) for metric in metrics}
        for name, metrics in blocks[0].items()
    }


def model_metrics(
    predictions: Mapping[str, Scores], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Give ``{model: {metric: {value, low, high}}}``: the score and its 95% percentile interval."""
    draws = bootstrap(predictions, resamples, seed)
    return {
        name: {metric: _interval(value, draws[name][metric]) for metric, value in each.metrics().items()}
        for name, each in predictions.items()
    }


def compare(
    predictions: Mapping[str, Scores], facts: Mapping[str, Any], primary_metric: str, resamples: int, seed: int
) -> dict[str, Any]:
    """Compare the student with its teacher and, where there is one, its control."""
    draws = {name: scores[primary_metric] for name, scores in bootstrap(predictions, resamples, seed).items()}
    values = {name: each.metrics()[primary_metric] for name, each in predictions.items()}
    lower_is_better = primary_metric in LOWER_IS_BETTER

    def difference(other: str) -> dict[str, float]:
        return _interval(values["student"] - values[other], draws["student"] - draws[other])

    better, worse = ("teacher", "student") if lower_is_better else ("student", "teacher")
    gap = values["teacher"] - values["control"] if "control" in values else 0.0
    is_open = gap < 0 if lower_is_better else gap > 0
    # A served teacher was seen only by what it says.
    student, teacher = facts["student"], facts.get("teacher")
    return {
        "primary_metric": primary_metric,
        "lower_is_better": lower_is_better,
        "retention": values[better] / values[worse] if values[worse] else None,
        "gap_closed": (values["student"] - values["control"]) / gap if is_open else None,
        "student_minus_control": difference("control") if "control" in predictions else None,
        "student_minus_teacher": difference("teacher"),
        "agreement": predictions["student"].agreement(predictions["teacher"]) if teacher else None,
        "size_ratio": student["parameters"] / teacher["parameters"] if teacher else None,
        "speedup": student["samples_per_second"] / teacher["samples_per_second"] if teacher else None,
    }


def _interval(value: float, draws: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    # A point may lie a rounding error outside the interval of equal draws.
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}
