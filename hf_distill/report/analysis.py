"""Where the student is weak, by class, by length and by example, and what to do about it next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_distill.evaluation.language_modeling import BITS_PER_BYTE, TokenScores
from hf_distill.evaluation.metrics import (
    REAL,
    Predictions,
    Scored,
    compute_metrics,
    confidences,
    expected_calibration_error,
    per_class,
)
from hf_distill.report.sentences import (
    Buckets,
    classification_summary,
    regression_summary,
    similarity_summary,
    token_summary,
    written_summary,
)

TEXT_LENGTH = 200
PAIRS = 10


def error_analysis(
    predictions: Mapping[str, Predictions],
    texts: Sequence[str],
    lengths: Sequence[int],
    examples: int = 5,
    training_rows: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Tell where the student loses against its teacher, and what to improve next.

    Args:
        predictions: Of ``teacher``, ``student`` and perhaps ``control``, on the same rows.
        texts: One a row; shortened to 200 characters in the result.
        lengths: Tokens of each row.
        examples: How many texts to show, for each confused pair and of rows that only the student decides wrong.
        training_rows: Rows by label name in the training split, so that advice can tell a rare class from a hard one.

    Returns:
        Ready for JSON, a model's figures under its name: ``summary`` (sentences), ``measure`` (what ``classes`` and
        ``lengths`` hold), ``classes`` (worst loss against the teacher first), ``lengths`` (quartiles), ``confusions``
        (the student's most frequent), ``calibration`` (expected calibration error) and ``examples``. Regression has no
        classes, confusions and calibration, multi-label no confusions: these are empty.
    """
    buckets = length_buckets(np.asarray(lengths))
    if predictions["student"].problem_type in REAL:
        return _regression_analysis(predictions, texts, buckets, examples)
    classes = _classes(predictions)
    confusions = most_confused(predictions, texts, examples)
    calibration = {name: round(expected_calibration_error(each), 4) for name, each in predictions.items()}
    hits = {name: each.correct.astype(np.float64) for name, each in predictions.items()}
    sure, right = confidences(predictions["student"])
    return {
        "summary": classification_summary(
            hits=hits,
            classes=classes,
            confusions=confusions,
            buckets=buckets,
            calibration_error=calibration["student"],
            confidence=float(sure.mean()),
            hit_rate=float(right.mean()),
            training_rows=training_rows or {},
            detection={n: compute_metrics(each) for n, each in predictions.items() if each.outside is not None},
        ),
        "measure": {"classes": "f1", "lengths": "accuracy"},
        "classes": classes,
        "lengths": length_entries(hits, buckets),
        "confusions": confusions,
        "calibration": calibration,
        "examples": _lost_rows(predictions, texts, examples),
    }


def token_analysis(predictions: Mapping[str, Scored], texts: Sequence[str], examples: int = 5) -> dict[str, Any]:
    """Tell where a student that predicts tokens loses against its teacher, and what to improve next.

    Args:
        predictions: Of ``teacher``, ``student`` and perhaps ``control``, on the same rows.
        texts: One a row; shortened in the result.
        examples: How many rows to show.

    Returns:
        Ready for JSON: ``summary``, ``measure``, ``calibration`` and ``rows``, those whose loss rose most; where texts
        were written, ``written``: what each model wrote on these rows, beside what it should have written.
    """
    scores = {name: each for name, each in predictions.items() if isinstance(each, TokenScores)}
    metrics = {name: each.metrics() for name, each in scores.items()}
    alike = "kl_to_teacher" in metrics["student"]
    by_row = {name: each.loss_by_row(by_byte=not alike) for name, each in scores.items()}
    rise = by_row["student"] - by_row["teacher"]
    worst = np.argsort(-rise, kind="stable")[:examples]
    written = {name: each.written for name, each in scores.items() if each.written is not None}
    repeated = written_summary(
        {name: each.texts for name, each in written.items()}, written["student"].references if written else ()
    )
    return {
        "summary": [
            *token_summary(metrics, scores["student"].mean_confidence, rise),
            *repeated,
        ],
        "measure": {"rows": "loss" if alike else BITS_PER_BYTE},
        "calibration": {name: round(each["calibration_error"], 4) for name, each in metrics.items()},
        "rows": [
            {"text": short(texts[row]), **{name: round(float(losses[row]), 4) for name, losses in by_row.items()}}
            for row in worst
        ],
        "written": [
            {
                "text": short(texts[row]),
                "reference": short(written["student"].references[row]),
                **{name: short(each.texts[row]) for name, each in written.items()},
            }
            for row in (worst if written else ())
        ],
    }


def _regression_analysis(
    predictions: Mapping[str, Predictions], texts: Sequence[str], buckets: Buckets, examples: int
) -> dict[str, Any]:
    errors = {name: np.abs(each.decisions - each.labels) for name, each in predictions.items()}
    student = predictions["student"]
    worst = np.argsort(-errors["student"], kind="stable")[:examples]
    return {
        "summary": similarity_summary(errors=errors, buckets=buckets)
        if student.problem_type == "similarity"
        else regression_summary(errors=errors, outputs=student.decisions, labels=student.labels, buckets=buckets),
        "measure": {"lengths": "mean_absolute_error"},
        "classes": [],
        "lengths": length_entries(errors, buckets),
        "confusions": [],
        "calibration": {},
        "examples": [
            {
                "text": short(texts[row]),
                "label": round(float(student.labels[row]), 4),
                **{name: round(float(predictions[name].decisions[row]), 4) for name in ("student", "teacher")},
            }
            for row in worst
        ],
    }


def _classes(predictions: Mapping[str, Predictions]) -> list[dict[str, Any]]:
    return f1_by_class({name: per_class(each) for name, each in predictions.items()})


def f1_by_class(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """F1 of every class by model, the worst loss against the teacher first."""
    entries = [
        {
            "label": label,
            "support": score["support"],
            **{name: round(by_class[label]["f1"], 4) for name, by_class in scores.items()},
            "difference": round(score["f1"] - scores["teacher"][label]["f1"], 4),
        }
        for label, score in scores["student"].items()
        if score["support"]
    ]
    return sorted(entries, key=lambda entry: entry["difference"])


def length_buckets(lengths: np.ndarray) -> Buckets:
    """Split the rows at the quartiles; equal lengths stay together, so there may be fewer than four."""
    cuts = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75]))
    numbers = np.searchsorted(cuts, lengths, side="left")
    groups = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    return [({"from": int(lengths[rows].min()), "to": int(lengths[rows].max())}, rows) for rows in groups]


def length_entries(scores: Mapping[str, np.ndarray], buckets: Buckets) -> list[dict[str, Any]]:
    """The mean score of each model in each bucket of lengths."""
    return [
        {**span, "support": len(rows), **{name: round(float(each[rows].mean()), 4) for name, each in scores.items()}}
        for span, rows in buckets
    ]


def most_confused(predictions: Mapping[str, Predictions], texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
    """Which classes the student takes for which most often, and how often its teacher does."""
    student = predictions["student"]
    if student.problem_type == "multi_label_classification":
        return []
    confidence, _ = confidences(student)
    pairs, teacher_pairs = _mistakes(student), _mistakes(predictions["teacher"])
    entries = []
    for (label, predicted), count in pairs.most_common(PAIRS):
        rows = np.flatnonzero((student.labels == label) & (student.decisions == predicted))
        surest = rows[np.argsort(-confidence[rows], kind="stable")][:examples]
        entries.append(
            {
                "label": student.label_names[label],
                "predicted": student.label_names[predicted],
                "count": count,
                "teacher_count": teacher_pairs[label, predicted],
                "examples": [short(texts[row]) for row in surest],
            }
        )
    return entries


def _mistakes(predictions: Predictions) -> Counter[tuple[int, int]]:
    wrong = ~predictions.correct
    return Counter(zip(predictions.labels[wrong].tolist(), predictions.decisions[wrong].tolist(), strict=True))


def _lost_rows(predictions: Mapping[str, Predictions], texts: Sequence[str], examples: int) -> list[dict[str, Any]]:
    """Rows that the teacher decides right and the student wrong, where the student is surest."""
    student, teacher = predictions["student"], predictions["teacher"]
    lost = np.flatnonzero(teacher.correct & ~student.correct)
    certainty, _ = confidences(student)
    # several labels a row: a row is as sure as its least sure label
    sure = certainty.reshape(len(student.labels), -1).min(axis=1)
    return [
        {
            "text": short(texts[row]),
            "label": _named(student, student.labels[row]),
            "student": _named(student, student.decisions[row]),
            "teacher": _named(teacher, teacher.decisions[row]),
            "confidence": round(float(sure[row]), 4),
        }
        for row in lost[np.argsort(-sure[lost], kind="stable")][:examples]
    ]


def _named(predictions: Predictions, decision: Any) -> str:
    if predictions.problem_type == "single_label_classification":
        return predictions.label_names[int(decision)]
    names = [name for name, given in zip(predictions.label_names, decision, strict=True) if given]
    return ", ".join(names) or "none"


def short(text: str) -> str:
    """The first 200 characters of a text."""
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"
