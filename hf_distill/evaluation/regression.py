"""How well a model predicts real values, or puts pairs of texts in the order of their scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.stats
from sklearn.metrics import mean_squared_error
from typing_extensions import override

from hf_distill.evaluation.analysis import (
    CERTAIN,
    Buckets,
    Evaluated,
    beside_control,
    compare_control,
    compare_lengths,
    length_buckets,
    length_entries,
    rounded,
    short,
)
from hf_distill.evaluation.scores import LABEL_ORDER, Chance, DecisionScores


class RealScores(DecisionScores):
    """One real value a row."""

    names: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mse")

    @property
    @override
    def decisions(self) -> np.ndarray:
        return self.logits[:, 0].astype(np.float64)

    @override
    def chance(self, metric: str) -> Chance | None:
        if metric not in ("pearson", "spearman"):
            return None
        # Two standard errors of a correlation above 0.
        return Chance(metric, 2 / float(np.sqrt(len(self.labels))), "chance", LABEL_ORDER)

    @override
    def agreement(self, teacher: RealScores) -> float:
        return _correlation(scipy.stats.pearsonr, self.decisions, teacher.decisions)

    @override
    def _score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        scores = self._scorer(counts)
        return {name: scores[name] for name in self.names}

    @cached_property
    def _scorer(self) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        outputs, labels = self.decisions, self.labels.astype(np.float64)
        squared_errors = (outputs - labels) ** 2
        # measured from the first row, a constant becomes exactly 0 and is known as one
        outputs, labels = outputs - outputs[0], labels - labels[0]
        rank_outputs, rank_labels = _ranker(outputs), _ranker(labels)
        return lambda counts: {
            "pearson": _weighted_correlation(counts, outputs, labels),
            "spearman": _weighted_correlation(counts, rank_outputs(counts), rank_labels(counts)),
            "mse": counts @ squared_errors / len(labels),
        }

    @override
    def metrics(self) -> dict[str, float]:
        # Published figures were made of values rounded to float32; in float64 they differ from the seventh digit on.
        outputs, labels = (each.astype(np.float32) for each in (self.decisions, self.labels))
        exact = {
            "pearson": _correlation(scipy.stats.pearsonr, outputs, labels),
            "spearman": _correlation(scipy.stats.spearmanr, outputs, labels),
            "mse": float(mean_squared_error(labels, outputs)),
        }
        return super().metrics() | {name: exact[name] for name in self.names}

    @override
    def analysis(self, models: Mapping[str, RealScores], evaluated: Evaluated, examples: int = 5) -> dict[str, Any]:
        return self._analysis(models, evaluated.texts, evaluated.lengths, examples)

    def _analysis(
        self, models: Mapping[str, RealScores], texts: Sequence[str], lengths: Sequence[int], examples: int
    ) -> dict[str, Any]:
        buckets = length_buckets(lengths)
        errors = {name: np.abs(each.decisions - each.labels) for name, each in models.items()}
        shown = [
            {
                "text": short(texts[row]),
                "label": round(float(self.labels[row]), 4),
                **rounded({name: models[name].decisions[row] for name in ("student", "teacher")}),
            }
            for row in np.argsort(-errors["student"], kind="stable")[:examples]
        ]
        found = {"classes": [], "lengths": length_entries(errors, buckets), "confusions": [], "calibration": {}}
        measure = {"lengths": "mean_absolute_error"}
        return {"summary": self._summary(errors, buckets), "measure": measure, **found, "examples": shown}

    def _summary(self, errors: Mapping[str, np.ndarray], buckets: Buckets) -> list[str]:
        means = {name: each.mean() for name, each in errors.items()}
        return [
            f"Over {len(self.labels)} rows the student is off by {means['student']:.3f} on average, the teacher by "
            f"{means['teacher']:.3f}{beside_control(means, ' by {:.3f}')}.",
            *compare_control({name: -value for name, value in means.items()}),
            *self._ends_of_the_scale(),
            compare_lengths(errors["student"] - errors["teacher"], buckets, "{:.3f} of mean absolute error".format),
        ]

    def _ends_of_the_scale(self) -> Iterator[str]:
        """Name the lowest and highest quarter of the labels where outputs are off in one direction, beyond chance."""
        low, high = np.quantile(self.labels, [0.25, 0.75])
        for name, chosen in ((f"{low:.2f} or less", self.labels <= low), (f"{high:.2f} or more", self.labels >= high)):
            off = (self.decisions - self.labels)[chosen]
            if len(off) < 2 or abs(off.mean()) <= CERTAIN * off.std(ddof=1) / np.sqrt(len(off)):
                continue
            direction = "high" if off.mean() > 0 else "low"
            yield (
                f"Rows labelled {name} are predicted {abs(off.mean()):.3f} too {direction} on average: "
                "add training rows at that end of the scale, or train longer."
            )


class SimilarityScores(RealScores):
    """The cosine of each pair of texts, of which the order counts."""

    names = ("spearman", "pearson")

    @override
    def analysis(self, models: Mapping[str, Any], evaluated: Evaluated, examples: int = 5) -> dict[str, Any]:
        texts = [f"{row['text']} | {row['text_pair']}" for row in evaluated.rows]
        placed = {name: each._by_place() for name, each in models.items()}
        return placed["student"]._analysis(placed, texts, [len(text.split()) for text in texts], examples)

    def _by_place(self) -> SimilarityScores:
        """The same with outputs and labels as places in their order, 0 (lowest) to 1: what a rank correlation sees."""
        outputs, labels = ((scipy.stats.rankdata(each) - 0.5) / len(each) for each in (self.decisions, self.labels))
        return dataclasses.replace(self, logits=outputs[:, None], labels=labels)

    @override
    def _summary(self, errors: Mapping[str, np.ndarray], buckets: Buckets) -> list[str]:
        means = {name: each.mean() for name, each in errors.items()}
        return [
            f"It puts a pair {means['student']:.1%} of the way from lowest to highest away from where its score "
            f"belongs, on average over {len(self.labels)} pairs; the teacher {means['teacher']:.1%}"
            f"{beside_control(means, ' {:.1%}')}.",
            *compare_control({name: -value for name, value in means.items()}),
            compare_lengths(errors["student"] - errors["teacher"], buckets, "{:.1%} of the way".format),
        ]


def _correlation(function: Callable[..., Any], first: np.ndarray, second: np.ndarray) -> float:
    """Apply a scipy correlation to two ``[N]`` vectors; 0 where one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(function(first, second).statistic)


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
