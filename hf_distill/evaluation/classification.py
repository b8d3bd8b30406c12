"""How well a model decides what class a row is of, or which labels it has; and whether it knows a row of no class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from typing_extensions import override

from hf_distill.errors import LabelError
from hf_distill.evaluation.analysis import (
    Evaluated,
    beside_control,
    compare_classes,
    compare_confusions,
    compare_control,
    compare_lengths,
    f1_by_class,
    judge_calibration,
    length_buckets,
    length_entries,
    rounded,
    short,
)
from hf_distill.evaluation.metrics import OUT_OF_SCOPE, detector
from hf_distill.evaluation.scores import Chance, DecisionScores, calibration_error, ratio

PAIRS = 10
"""How many pairs of confused classes an analysis shows."""

LABEL_ORDER = "its labels are in the order you think (teacher.labels), that it was trained for this task"


class ClassScores(DecisionScores):
    """One class of many a row.

    Macro averages run over the classes that occur in labels or decisions; what is undefined counts 0.
    """

    @override
    def _check_labels(self) -> None:
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
    def confidences(self) -> tuple[np.ndarray, np.ndarray]:
        """How sure each decision was (a probability), and whether it was right."""
        return surest(self.logits), self.correct

    @property
    def by_class(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support (rows) of every class by name, in the order of the logits."""
        hits, decided, support = (each.sum(axis=0, dtype=np.float64) for each in self._matrices)
        figures = {**_shares(hits, decided, support), "support": support.astype(int)}
        return {
            name: {key: values[i].item() for key, values in figures.items()} for i, name in enumerate(self.label_names)
        }

    @property
    @override
    def calibration_error(self) -> float:
        return calibration_error(*self.confidences)

    @override
    def chance(self, metric: str) -> Chance | None:
        if metric == OUT_OF_SCOPE[0]:
            return Chance(metric, 0.5, "chance", LABEL_ORDER)
        if metric != "accuracy":
            return None
        share = np.bincount(self.labels).max() / len(self.labels)
        # Beyond two standard errors above always naming the most frequent class.
        return Chance(metric, share + 2 * float(np.sqrt(share * (1 - share) / len(self.labels))), "chance", LABEL_ORDER)

    @override
    def agreement(self, teacher: ClassScores) -> float:
        return float(self._same(self.decisions, teacher.decisions).mean())

    @override
    def _score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        weights = counts.astype(np.float32)
        accuracy = (weights @ self.correct.astype(np.float32)).astype(np.float64) / len(self.labels)
        sums = ((weights @ each).astype(np.float64) for each in self._matrices)
        return {"accuracy": accuracy, **self._averages(*sums)}

    @override
    def _detect(self, inside: np.ndarray, outside: np.ndarray) -> dict[str, np.ndarray]:
        return {} if self._detector is None else self._detector(inside, outside)

    @cached_property
    def _detector(self) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]] | None:
        return None if self.outside is None else detector(surest(self.logits), surest(self.outside))

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

    def name_of(self, decision: Any) -> str:
        """What a row is called that is labelled so."""
        return self.label_names[int(decision)]

    def most_confused(self, teacher: ClassScores, texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
        """Which classes this model takes for which most often, and how often its teacher does."""
        confidence, _ = self.confidences
        pairs, teacher_pairs = (
            Counter(zip(each.labels[~each.correct].tolist(), each.decisions[~each.correct].tolist(), strict=True))
            for each in (self, teacher)
        )
        entries = []
        for (label, predicted), count in pairs.most_common(PAIRS):
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
        texts, buckets = evaluated.texts, length_buckets(evaluated.lengths)
        hits = {name: each.correct.astype(np.float64) for name, each in models.items()}
        means = {name: each.mean() for name, each in hits.items()}
        classes = f1_by_class({name: each.by_class for name, each in models.items()})
        confusions = self.most_confused(models["teacher"], texts, examples)
        calibration = rounded({name: each.calibration_error for name, each in models.items()})
        sure, right = self.confidences
        lost, won = hits["teacher"] > hits["student"], hits["student"] > hits["teacher"]
        return {
            "summary": [
                f"Of {len(texts)} rows the student decides {means['student']:.1%} right, the teacher "
                f"{means['teacher']:.1%}{beside_control(means, ' {:.1%}')}; rows that only the teacher "
                f"has right: {lost.sum()}, only the student: {won.sum()}.",
                *compare_control(means),
                *compare_classes(classes, evaluated.training_rows),
                *compare_confusions(confusions),
                compare_lengths(hits["teacher"] - hits["student"], buckets, "{:.1%} of the rows".format),
                judge_calibration(calibration["student"], float(sure.mean()), float(right.mean())),
                *_compare_detection(models),
            ],
            "measure": {"classes": "f1", "lengths": "accuracy"},
            "classes": classes,
            "lengths": length_entries(hits, buckets),
            "confusions": confusions,
            "calibration": calibration,
            "examples": self._lost_rows(models["teacher"], texts, examples),
        }

    def _lost_rows(self, teacher: ClassScores, texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
        """Rows that the teacher decides right and this student wrong, where the student is surest."""
        lost = np.flatnonzero(teacher.correct & ~self.correct)
        # Several labels a row: a row is as sure as its least sure label.
        sure = self.confidences[0].reshape(len(self.labels), -1).min(axis=1)
        return [
            {
                "text": short(texts[row]),
                "label": self.name_of(self.labels[row]),
                "student": self.name_of(self.decisions[row]),
                "teacher": self.name_of(teacher.decisions[row]),
                "confidence": round(float(sure[row]), 4),
            }
            for row in lost[np.argsort(-sure[lost], kind="stable")][:examples]
        ]


class LabelSetScores(ClassScores):
    """Several labels a row, each of which is one decision."""

    @property
    @override
    def _label_shape(self) -> tuple[int, ...]:
        return self.logits.shape

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
    def name_of(self, decision: Any) -> str:
        names = [name for name, given in zip(self.label_names, decision, strict=True) if given]
        return ", ".join(names) or "none"

    @override
    def most_confused(self, teacher: ClassScores, texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
        return []


def surest(logits: np.ndarray) -> np.ndarray:
    """The probability of each row's likeliest class."""
    shares: np.ndarray = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return shares


def _shares(hits: np.ndarray, decided: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "precision": ratio(hits, decided),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, decided + support),
    }


def _compare_detection(models: Mapping[str, ClassScores]) -> list[str]:
    if models["student"].outside is None:
        return []
    (auroc, passed), student, teacher = OUT_OF_SCOPE, models["student"].metrics(), models["teacher"].metrics()
    return [
        f"A threshold of confidence that 95% of the rows in scope pass lets {student[passed]:.1%} of those out of "
        f"scope pass, the teacher's {teacher[passed]:.1%} (AUROC {student[auroc]:.3f}, the teacher's "
        f"{teacher[auroc]:.3f}): choose the threshold on validation rows."
    ]
