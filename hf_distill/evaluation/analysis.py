"""What the error analyses of all kinds of scores share: buckets, tables and sentences that say what to do next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from hf_distill.tasks import Task

Buckets = list[tuple[dict[str, int], np.ndarray]]
"""Rows by length: the span ``{"from", "to"}`` in words, and the numbers of its rows."""

NAMED = 3
"""How many classes or pairs are named."""

CERTAIN = 2.0
"""Standard errors beyond which a bucket of lengths or an end of the scale counts as worse."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The rows that models were scored on, and those that the student, whose tokenizer this is, learned from."""

    task: Task
    rows: Dataset
    train: Dataset | IterableDataset
    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def texts(self) -> list[str]:
        """One text a scored row."""
        return self.task.scored_texts(self.rows, self.tokenizer)

    @cached_property
    def lengths(self) -> list[int]:
        """How long each row is, in the task's ``length_unit``."""
        return self.task.scored_lengths(self.rows, self.texts)


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What models got right, where that can be told by class and by length.

    Attributes:
        by_class: F1 and support of every class, by model.
        by_row: ``[N]``, how right each row is, by model; higher is better, as in ``means``.
        loss: The format of what is lost.
        sure: How sure the student is on average, and how often right.
        units: What a class and a length are counted in; no unit of lengths where all rows are equally long.
    """

    by_class: Mapping[str, Mapping[str, Mapping[str, float]]]
    means: Mapping[str, float]
    by_row: Mapping[str, np.ndarray]
    lengths: Sequence[int] | np.ndarray
    loss: str
    sure: tuple[float, float]
    confusions: Sequence[Mapping[str, Any]] = field(default_factory=list)
    training_rows: Mapping[str, int] = field(default_factory=dict)
    units: tuple[str, str] = ("rows", "tokens")

    @property
    def classes(self) -> list[dict[str, Any]]:
        """F1 of every class that occurs, by model, the worst loss against the teacher first."""
        entries = [
            {
                "label": label,
                "support": score["support"],
                **rounded({name: by_class[label]["f1"] for name, by_class in self.by_class.items()}),
                "difference": round(score["f1"] - self.by_class["teacher"][label]["f1"], 4),
            }
            for label, score in self.by_class["student"].items()
            if score["support"]
        ]
        return sorted(entries, key=lambda entry: entry["difference"])

    def analysis(self, models: Mapping[str, Any], first: str, by_length: str, examples: Any) -> dict[str, Any]:
        """The analysis that begins with this sentence."""
        buckets, (of_classes, of_lengths) = length_buckets(self.lengths), self.units
        classes, calibration = self.classes, rounded({name: each.calibration_error for name, each in models.items()})
        lost = self.by_row["teacher"] - self.by_row["student"]
        return {
            "summary": [
                first,
                *compare_control(self.means),
                *compare_classes(classes, self.training_rows, of_classes),
                *compare_confusions(self.confusions),
                *([compare_lengths(lost, buckets, self.loss.format, of_lengths)] if of_lengths else []),
                judge_calibration(calibration["student"], *self.sure),
            ],
            "measure": {"classes": "f1", "lengths": by_length},
            "classes": classes,
            "lengths": length_entries(self.by_row, buckets) if of_lengths else [],
            "confusions": self.confusions,
            "calibration": calibration,
            "examples": examples,
        }


def short(text: str) -> str:
    """The first 200 characters of a text."""
    return text if len(text) <= 200 else text[:199] + "…"


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Figures by model, with four digits."""
    return {name: round(float(value), 4) for name, value in values.items()}


def length_buckets(lengths: Sequence[int] | np.ndarray) -> Buckets:
    """Split the rows at the quartiles; equal lengths stay together, so there may be fewer than four."""
    lengths = np.asarray(lengths)
    cuts = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75]))
    numbers = np.searchsorted(cuts, lengths, side="left")
    groups = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    return [({"from": int(lengths[rows].min()), "to": int(lengths[rows].max())}, rows) for rows in groups]


def length_entries(scores: Mapping[str, np.ndarray], buckets: Buckets) -> list[dict[str, Any]]:
    """The mean score of each model in each bucket of lengths."""
    return [
        {**span, "support": len(rows), **rounded({name: each[rows].mean() for name, each in scores.items()})}
        for span, rows in buckets
    ]


# Each sentence names what is weak, by how much, and what to do about it.


def beside_control(values: Mapping[str, Any], show: str) -> str:
    """The part of a sentence that compares with the control; empty where there is none."""
    return ", the control" + show.format(values["control"]) if "control" in values else ""


def compare_control(values: Mapping[str, float]) -> Iterator[str]:
    """Warn where the student is no better than its control; higher is better."""
    if "control" in values and values["student"] <= values["control"]:
        yield (
            "The teacher did not help: the student is no better than its control. Let it learn more from the teacher "
            "(hidden states as well as logits), add unlabelled rows, or train longer."
        )


def compare_classes(classes: Sequence[Mapping[str, Any]], training_rows: Mapping[str, int], what: str) -> Iterator[str]:
    """Name the classes that lose most against the teacher, and those of them that have few training rows."""
    lost = [entry for entry in classes if entry["difference"] < 0]
    if not lost:
        yield "No class has a lower F1 than with the teacher."
        return
    named = "; ".join(
        f"{entry['label']} (F1 {entry['student']:.2f}, teacher {entry['teacher']:.2f}, {entry['support']} {what})"
        for entry in lost[:NAMED]
    )
    yield f"{len(lost)} of {len(classes)} classes lose against the teacher, most of all {named}: look at these first."
    usual = float(np.median(list(training_rows.values()))) if training_rows else 0.0
    for entry in lost[:NAMED]:
        rows = training_rows.get(entry["label"], usual)
        if rows < usual / 2:
            yield (
                f"{entry['label']} has few training rows, {rows} where {usual:.0f} are usual: "
                "add labelled rows, or unlabelled text of that class for the teacher to label."
            )


def compare_confusions(confusions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Name the classes that are mixed up most, and say whether the teacher taught it."""
    for entry in confusions[:NAMED]:
        count, teacher_count = entry["count"], entry["teacher_count"]
        advice = "which tells them apart better: give the student more rows of both, labelled or not"
        if teacher_count > count / 2:
            advice = "from whom it learned much of that: check these labels, or take a better teacher"
        pair = f"{entry['label']} is taken for {entry['predicted']}"
        yield f"{pair} {count} times, {teacher_count} times by the teacher, {advice}."


def compare_lengths(losses: np.ndarray, buckets: Buckets, show: Callable[[float], str], unit: str = "tokens") -> str:
    """Name the bucket of lengths that loses most, if it is beyond chance worse than all other rows."""
    worse = []
    for span, rows in buckets:
        here, others = losses[rows], np.delete(losses, rows)
        if min(len(here), len(others)) < 2:
            continue
        error = np.sqrt(here.var(ddof=1) / len(here) + others.var(ddof=1) / len(others))
        if here.mean() - others.mean() > CERTAIN * error:
            worse.append((here.mean(), others.mean(), len(here), span))
    if not worse:
        return "Length makes no clear difference to what the student loses against the teacher."
    here_mean, others_mean, count, span = max(worse, key=lambda each: each[0])
    advice = "train on more rows of that length"
    if span["to"] == buckets[-1][0]["to"]:
        advice = "see that the greatest length in the recipe does not cut them, and train on more long rows"
    return (
        f"On the {count} rows of {span['from']} to {span['to']} {unit} the student loses {show(here_mean)} against the "
        f"teacher, on all others {show(others_mean)}: {advice}."
    )


def judge_calibration(error: float, confidence: float, hit_rate: float) -> str:
    """Say whether the student's probabilities can be trusted, and how to mend them."""
    figures = f"calibration error {error:.3f}; on average {confidence:.1%} sure and {hit_rate:.1%} right"
    if error <= 0.05:
        return f"The student's probabilities can be trusted ({figures})."
    if confidence > hit_rate:
        return (
            f"The student is over-confident ({figures}): give the teacher's logits more weight, train for fewer "
            "epochs, or divide its logits by a temperature above 1 that is fitted on the validation split."
        )
    return (
        f"The student is less sure than it could be ({figures}): "
        "divide its logits by a temperature below 1 that is fitted on the validation split."
    )
