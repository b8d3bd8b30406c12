"""How well a model decides what class a row is of, or which labels it has; and whether it knows a row of no class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import expit, softmax
from typing_extensions import override

from hf_distill.errors import LabelError
from hf_distill.evaluation.analysis import Decided, Evaluated, beside_control, short
from hf_distill.evaluation.metrics import OUT_OF_SCOPE
from hf_distill.evaluation.scores import LABEL_ORDER, Chance, DecisionScores, ratio

SURE, SMALL_GAIN = 4.0, 0.05
"""By how many standard errors and how much accuracy another order of the classes is better, to be told."""


class ClassScores(DecisionScores):
    """One class of many a row.

    Macro averages run over the classes that occur in labels or decisions; what is undefined counts 0.
    """

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        classes = self.logits.shape[1]
        if len(self.label_names) != classes:
            raise LabelError(f"the model has {classes} outputs but {len(self.label_names)} label names were given")
        lowest, highest = self.labels.min(), self.labels.max()
        if self.labels.ndim == 1 and not 0 <= lowest <= highest < classes:
            raise LabelError(f"labels must lie in 0..{classes - 1}, got {lowest}..{highest}; check the label column")

    @property
    @override
    def decisions(self) -> np.ndarray:
        return self.logits.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """``[N]`` booleans: the whole row is decided right."""
        return self._same(self.decisions, self.labels)

    @property
    @override
    def confidences(self) -> tuple[np.ndarray, np.ndarray]:
        return surest(self.logits), self.correct

    @property
    def by_class(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support (rows) of every class by name, in the order of the logits."""
        hits, decided, support = (each.sum(axis=0, dtype=np.float64) for each in self._matrices)
        figures = {**_shares(hits, decided, support), "support": support.astype(int)}
        return {
            name: {key: values[i].item() for key, values in figures.items()} for i, name in enumerate(self.label_names)
        }

    @override
    def chance(self, metric: str) -> Chance | None:
        if metric == OUT_OF_SCOPE[0]:
            return Chance(metric, 0.5, "chance", LABEL_ORDER)
        if metric != "accuracy":
            return None
        # Of a model that names each class as often as this one does, but of any row: an accuracy of 0.99 means nothing
        # where 99 rows of 100 are of one class, and much where the others are found (Cohen's kappa compares alike).
        named, there = (np.bincount(each, minlength=len(self.label_names)) for each in (self.decisions, self.labels))
        share = float(named @ there) / len(self.labels) ** 2
        # Beyond two standard errors, but never more than halfway to all rows: of few rare ones, all may be right.
        beyond = min(2 * float(np.sqrt(share * (1 - share) / len(self.labels))), (1 - share) / 2)
        return Chance(metric, share + beyond, "chance", LABEL_ORDER)

    @override
    def better_order(self) -> dict[str, str] | None:
        if self.many:  # No label of a row stands in another's place.
            return None
        decided, labels, count = self.decisions, self.labels, len(self.label_names)
        table = np.bincount(decided * count + labels, minlength=count * count).reshape(count, count)
        order = linear_sum_assignment(table, maximize=True)[1]
        moved = [i for i in range(count) if order[i] != i and table[i].any()]
        # Of the rows on which both orders differ, how many more are right, in standard errors.
        lost, won = (int(sum(table[i, to[i]] for i in moved)) for to in (np.arange(count), order))
        if won - lost <= max(SURE * np.sqrt(won + lost), len(labels) * SMALL_GAIN):
            return None
        return {self.label_names[i]: self.label_names[order[i]] for i in moved}

    @override
    def agreement(self, teacher: ClassScores) -> float:
        return float(self._same(self.decisions, teacher.decisions).mean())

    @override
    def _score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        weights = counts.astype(np.float32)
        accuracy = (weights @ self.correct.astype(np.float32)).astype(np.float64) / len(self.labels)
        return {
            "accuracy": accuracy,
            **self._averages(*((weights @ each).astype(np.float64) for each in self._matrices)),
        }

    @override
    def _detect(self, inside: np.ndarray, outside: np.ndarray) -> dict[str, np.ndarray]:
        return self._detector(inside, outside)

    @cached_property
    def _detector(self) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        assert self.outside is not None
        return detector(surest(self.logits), surest(self.outside))

    @cached_property
    def _matrices(self) -> list[np.ndarray]:
        # float32 lets the products run in BLAS, and holds whole numbers up to 16 million exactly
        decided, labels = self._members(self.decisions), self._members(self.labels)
        return [each.astype(np.float32) for each in (decided * labels, decided, labels)]

    def _same(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.asarray(first == second)

    def _members(self, values: np.ndarray) -> np.ndarray:
        """``[N, C]``: whether each row is of each class."""
        return np.asarray(values[:, None] == np.arange(len(self.label_names)))

    def _averages(self, hits: np.ndarray, decided: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics over classes, ``[R]``, of ``[R, C]`` counts."""
        shares = _shares(hits, decided, support)
        occurs = (decided + support > 0).sum(axis=1)
        macro = {f"{name}_macro": each.sum(axis=1) / occurs for name, each in shares.items()}
        rows = support.sum(axis=1)
        return macro | {f"{name}_weighted": (each * support).sum(axis=1) / rows for name, each in shares.items()}

    def _name_of(self, decision: Any) -> str:
        return self.label_names[int(decision)]

    def most_confused(self, teacher: ClassScores, texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
        """Which classes this model takes for which most often, and how often its teacher does."""
        confidence, _ = self.confidences
        pairs, teacher_pairs = (
            Counter(zip(each.labels[~each.correct].tolist(), each.decisions[~each.correct].tolist(), strict=True))
            for each in (self, teacher)
        )
        entries = []
        for (label, predicted), count in pairs.most_common(10):
            rows = np.flatnonzero((self.labels == label) & (self.decisions == predicted))
            surest_first = rows[np.argsort(-confidence[rows], kind="stable")]
            entries.append(
                {
                    "label": self.label_names[label],
                    "predicted": self.label_names[predicted],
                    "count": count,
                    "teacher_count": teacher_pairs[label, predicted],
                    "examples": [short(texts[row]) for row in surest_first[:examples]],
                }
            )
        return entries

    @override
    def analysis(self, models: Mapping[str, ClassScores], evaluated: Evaluated, examples: int = 5) -> dict[str, Any]:
        texts = evaluated.texts
        hits = {name: each.correct.astype(np.float64) for name, each in models.items()}
        means = {name: each.mean() for name, each in hits.items()}
        sure, right = self.confidences
        lost, won = hits["teacher"] > hits["student"], hits["student"] > hits["teacher"]
        decided = Decided(
            by_class={name: each.by_class for name, each in models.items()},
            means=means,
            by_row=hits,
            lengths=evaluated.lengths,
            loss="{:.1%} of the rows",
            sure=(float(sure.mean()), float(right.mean())),
            confusions=self.most_confused(models["teacher"], texts, examples),
            training_rows=evaluated.task.training_rows(evaluated.train),
            units=("rows", evaluated.task.length_unit),
        )
        first = (
            f"Of {len(texts)} rows the student decides {means['student']:.1%} right, the teacher "
            f"{means['teacher']:.1%}{beside_control(means, ' {:.1%}')}; rows that only the teacher "
            f"has right: {lost.sum()}, only the student: {won.sum()}."
        )
        found = decided.analysis(models, first, "accuracy", self._lost_rows(models["teacher"], texts, examples))
        found["summary"] += _compare_detection(models)
        return found

    def _lost_rows(self, teacher: ClassScores, texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
        """Rows that the teacher decides right and this student wrong, where the student is surest."""
        lost = np.flatnonzero(teacher.correct & ~self.correct)
        # Several labels a row: a row is as sure as its least sure label.
        sure = self.confidences[0].reshape(len(self.labels), -1).min(axis=1)
        return [
            {
                "text": short(texts[row]),
                "label": self._name_of(self.labels[row]),
                "student": self._name_of(self.decisions[row]),
                "teacher": self._name_of(teacher.decisions[row]),
                "confidence": round(float(sure[row]), 4),
            }
            for row in lost[np.argsort(-sure[lost], kind="stable")][:examples]
        ]


class LabelSetScores(ClassScores):
    """Several labels a row, each of which is one decision."""

    many = True

    @property
    @override
    def decisions(self) -> np.ndarray:
        return (self.logits > 0).astype(np.int64)

    @property
    @override
    def confidences(self) -> tuple[np.ndarray, np.ndarray]:
        sure = expit(np.abs(self.logits.astype(np.float64)))
        return sure.ravel(), (self.decisions == self.labels).ravel()

    @override
    def chance(self, metric: str) -> Chance | None:
        share = self.labels.mean()  # F1 of answering yes to everything.
        return Chance(metric, 2 * share / (1 + share), "chance", LABEL_ORDER) if metric.startswith("f1") else None

    @override
    def _same(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.asarray((first == second).all(axis=1))

    @override
    def _members(self, values: np.ndarray) -> np.ndarray:
        return values

    @override
    def _averages(self, hits: np.ndarray, decided: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
        total = decided + support
        return {
            "f1_micro": ratio(2 * hits.sum(axis=1), total.sum(axis=1)),
            "f1_macro": ratio(2 * hits, total).mean(axis=1),
        }

    @override
    def _name_of(self, decision: Any) -> str:
        names = [name for name, given in zip(self.label_names, decision, strict=True) if given]
        return ", ".join(names) or "none"

    @override
    def most_confused(self, teacher: ClassScores, texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
        return []


def surest(logits: np.ndarray) -> np.ndarray:
    """The probability of each row's likeliest class."""
    shares: np.ndarray = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return shares


def detector(inside: np.ndarray, outside: np.ndarray) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """What scores confidences in rows of a class ``[N]`` and of none ``[M]`` on resampled rows.

    It gives ``[R]`` of each metric from how often each row was drawn, ``[R, N]`` and ``[R, M]``.
    """
    values, place = np.unique(np.concatenate([inside, outside]), return_inverse=True)

    def score(drawn_inside: np.ndarray, drawn_outside: np.ndarray) -> dict[str, np.ndarray]:
        ours = _by_value(drawn_inside, place[: len(inside)], len(values))
        others = _by_value(drawn_outside, place[len(inside) :], len(values))
        all_ours, all_others = ours.sum(axis=1), others.sum(axis=1)
        less_sure = others.cumsum(axis=1) - others / 2
        passing = ours[:, ::-1].cumsum(axis=1) >= 0.95 * all_ours[:, None] - 1e-9
        wrongly = np.take_along_axis(others[:, ::-1].cumsum(axis=1), passing.argmax(axis=1)[:, None], axis=1)
        return {
            OUT_OF_SCOPE[0]: (ours * less_sure).sum(axis=1) / (all_ours * all_others),
            OUT_OF_SCOPE[1]: wrongly[:, 0] / all_others,
        }

    return score


def _by_value(counts: np.ndarray, place: np.ndarray, values: int) -> np.ndarray:
    """``[R, values]``: how many of the drawn rows have each confidence."""
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    table = np.zeros((len(counts), values))
    table[:, place[order][starts]] = np.add.reduceat(counts[:, order], starts, axis=1)
    return table


def _shares(hits: np.ndarray, decided: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    return {"precision": ratio(hits, decided), "recall": ratio(hits, support), "f1": ratio(2 * hits, decided + support)}


def _compare_detection(models: Mapping[str, ClassScores]) -> list[str]:
    if models["student"].outside is None:
        return []
    (auroc, passed), student, teacher = OUT_OF_SCOPE, models["student"].metrics(), models["teacher"].metrics()
    return [
        f"A threshold of confidence that 95% of the rows in scope pass lets {student[passed]:.1%} of those out of "
        f"scope pass, the teacher's {teacher[passed]:.1%} (AUROC {student[auroc]:.3f}, the teacher's "
        f"{teacher[auroc]:.3f}): choose the threshold on validation rows."
    ]
