"""The sentences of the error analysis: each names what is weak, by how much, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hf_distill.evaluation.language_modeling import BITS_PER_BYTE

Buckets = list[tuple[dict[str, int], np.ndarray]]
"""Rows by length: the span ``{"from", "to"}`` in tokens, and the numbers of its rows."""

NAMED = 3
"""How many classes or pairs are named."""

CERTAIN = 2.0
"""Standard errors beyond which a bucket of lengths or an end of the scale counts as worse."""

TRUSTWORTHY = 0.05
"""Calibration error up to which probabilities are called good."""

REPETITIVE = 0.5
"""Share of the references' different texts below which a model is told to repeat itself."""


def classification_summary(
    *,
    hits: Mapping[str, np.ndarray],
    classes: Sequence[Mapping[str, Any]],
    confusions: Sequence[Mapping[str, Any]],
    buckets: Buckets,
    calibration_error: float,
    confidence: float,
    hit_rate: float,
    training_rows: Mapping[str, int],
    detection: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """Say where a student that classifies loses against its teacher.

    Args:
        hits: By model ``[N]``, 1.0 where the row is decided right.
        classes: Of the analysis, worst loss first.
        confusions: Of the analysis, most frequent first.
        buckets: Rows by length.
        calibration_error: Of the student.
        confidence: The student's mean confidence.
        hit_rate: The share of its decisions that are right.
        training_rows: By label name; empty where unknown.
        detection: By model, its metrics; empty where no row is out of scope.
    """
    return [
        _overall(hits),
        *_against_control(hits["student"].mean(), hits["control"].mean() if "control" in hits else None),
        *_classes(classes, training_rows),
        *_confusions(confusions),
        _lengths(hits["teacher"] - hits["student"], buckets, "{:.1%} of the rows".format),
        _calibration(calibration_error, confidence, hit_rate),
        *_detection(detection),
    ]


def regression_summary(
    *, errors: Mapping[str, np.ndarray], outputs: np.ndarray, labels: np.ndarray, buckets: Buckets
) -> list[str]:
    """Say where a student that predicts real values is off.

    Args:
        errors: By model ``[N]``, absolute errors.
        outputs: Of the student, ``[N]``.
        labels: ``[N]``.
        buckets: Rows by length.
    """
    student, teacher = errors["student"], errors["teacher"]
    control = f", the control by {errors['control'].mean():.3f}" if "control" in errors else ""
    return [
        f"Over {len(student)} rows the student is off by {student.mean():.3f} on average, "
        f"the teacher by {teacher.mean():.3f}{control}.",
        *_against_control(-student.mean(), -errors["control"].mean() if "control" in errors else None),
        *_ends_of_the_scale(outputs - labels, labels),
        _lengths(student - teacher, buckets, "{:.3f} of mean absolute error".format),
    ]


def similarity_summary(*, errors: Mapping[str, np.ndarray], buckets: Buckets) -> list[str]:
    """Say where a student orders pairs otherwise than their scores do.

    Args:
        errors: By model ``[N]``: how far each pair's place in its order is from its place by the scores, 0 to 1.
        buckets: Rows by length.
    """
    student, teacher = errors["student"], errors["teacher"]
    control = f", the control {errors['control'].mean():.1%}" if "control" in errors else ""
    return [
        f"It puts a pair {student.mean():.1%} of the way from lowest to highest away from where its score belongs, on "
        f"average over {len(student)} pairs; the teacher {teacher.mean():.1%}{control}.",
        *_against_control(-student.mean(), -errors["control"].mean() if "control" in errors else None),
        _lengths(student - teacher, buckets, "{:.1%} of the way".format),
    ]


def search_summary(metrics: Mapping[str, Mapping[str, float]], lost: int, gained: int) -> list[str]:
    """Say how a student finds texts against its teacher.

    Args:
        metrics: By model.
        lost: Queries whose text the teacher finds first and the student does not.
        gained: The other way round.
    """
    student, teacher, control = metrics["student"], metrics["teacher"], metrics.get("control")
    without = f", the control {control['recall@1']:.1%}" if control else ""
    return [
        f"It finds a text that belongs first for {student['recall@1']:.1%} of the queries (recall), the teacher for "
        f"{teacher['recall@1']:.1%}{without}.",
        *_against_control(student["ndcg@10"], control["ndcg@10"] if control else None),
        f"{lost} queries are lost against the teacher, {gained} are won.",
    ]


def token_summary(metrics: Mapping[str, Mapping[str, float]], confidence: float, rise: np.ndarray) -> list[str]:
    """Say where a student that predicts tokens loses against its teacher.

    Args:
        metrics: By model, see ``TokenScores.metrics``.
        confidence: The student's mean confidence.
        rise: ``[N]``, by how much the student's loss is above the teacher's on each row, in nats a token; in bits a
            byte where their tokens are different ones.
    """
    student, teacher, control = metrics["student"], metrics["teacher"], metrics.get("control")
    worst = float(np.quantile(rise, 0.9))
    if "kl_to_teacher" not in student:
        return _across_tokenizers(student, teacher, control, confidence, worst)
    without = f", the control {control['loss']:.3f}" if control else ""
    return [
        f"The student's loss is {student['loss']:.3f} nats a token (perplexity {student['perplexity']:.2f}), the "
        f"teacher's {teacher['loss']:.3f}{without}.",
        *_against_control(-student["loss"], -control["loss"] if control else None),
        *_nearness(student),
        f"On the worst tenth of the rows the loss is at least {worst:.3f} nats a token above the teacher's: look at "
        "these first, and add text of their kind.",
        _calibration(student["calibration_error"], confidence, student["accuracy"]),
    ]


def _across_tokenizers(
    student: Mapping[str, float],
    teacher: Mapping[str, float],
    control: Mapping[str, float] | None,
    confidence: float,
    worst: float,
) -> list[str]:
    without = f", the control {control[BITS_PER_BYTE]:.3f}" if control else ""
    return [
        f"The student needs {student[BITS_PER_BYTE]:.3f} bits for a byte of text, the teacher "
        f"{teacher[BITS_PER_BYTE]:.3f}{without}. Their tokens are different ones, so that losses a token, agreement "
        "and a divergence of the two do not compare.",
        *_against_control(-student[BITS_PER_BYTE], -control[BITS_PER_BYTE] if control else None),
        f"On the worst tenth of the rows it needs at least {worst:.3f} bits a byte more than the teacher: look at "
        "these first, and add text of their kind.",
        _calibration(student["calibration_error"], confidence, student["accuracy"]),
    ]


def _nearness(student: Mapping[str, float]) -> Iterator[str]:
    """How near a student's distribution is to its teacher's; nothing where that is served and known in part."""
    if "agreement" in student:
        yield (
            f"On {student['agreement']:.1%} of the tokens both find the same one likeliest; the divergence from the "
            f"teacher is {student['kl_to_teacher']:.3f} nats a token."
        )


def written_summary(texts: Mapping[str, Sequence[str]], references: Sequence[str]) -> Iterator[str]:
    """Warn of models that write the same about everything: their scores tell little, whichever is higher.

    Args:
        texts: By model, one a row.
        references: What should have been written.
    """
    usual = len(set(references))
    for name, written in texts.items():
        different = len(set(written))
        if different < REPETITIVE * usual:
            yield (
                f"The {name} wrote {different:,} different texts on {len(written):,} rows, of which the references "
                f"have {usual:,}: it writes nearly the same about everything, and its scores tell little; train it "
                "longer, or on more rows."
            )


def tag_summary(
    *,
    metrics: Mapping[str, Mapping[str, float]],
    what: str,
    classes: Sequence[Mapping[str, Any]],
    confusions: Sequence[Mapping[str, Any]],
    hits: Mapping[str, np.ndarray],
    buckets: Buckets,
    calibration_error: float,
    confidence: float,
    hit_rate: float,
) -> list[str]:
    """Say where a student that labels words loses against its teacher.

    Args:
        metrics: By model, see ``TagScores.metrics``.
        what: What is found, in words.
        classes: Of the analysis, worst loss first.
        confusions: Of the analysis, most frequent first.
        hits: By model ``[N]``, the share of each row's words that is labelled rightly.
        buckets: Rows by length.
        calibration_error: Of the student.
        confidence: The student's mean confidence.
        hit_rate: The share of its words that are labelled rightly.
    """
    student, control = metrics["student"], metrics.get("control")
    without = f", the control's {control['f1']:.3f}" if control else ""
    return [
        f"Of {sum(entry['support'] for entry in classes)} {what} the student finds {student['recall']:.1%}, and "
        f"{student['precision']:.1%} of those it names are right: F1 {student['f1']:.3f}, the teacher's "
        f"{metrics['teacher']['f1']:.3f}{without}.",
        *_against_control(student["f1"], control["f1"] if control else None),
        *_classes(classes, {}, what),
        *_confusions(confusions),
        _lengths(hits["teacher"] - hits["student"], buckets, "{:.1%} of the words".format, "words"),
        _calibration(calibration_error, confidence, hit_rate),
    ]


def answer_summary(
    *,
    metrics: Mapping[str, Mapping[str, float]],
    classes: Sequence[Mapping[str, Any]],
    f1: Mapping[str, np.ndarray],
    buckets: Buckets,
    calibration_error: float,
    confidence: float,
) -> list[str]:
    """Say where a student that answers questions loses against its teacher.

    Args:
        metrics: By model, see ``AnswerScores.metrics``.
        classes: Of the analysis, worst loss first.
        f1: By model ``[N]``, of each answer.
        buckets: Rows by the length of their context.
        calibration_error: Of the student.
        confidence: The student's mean confidence.
    """
    student, control = metrics["student"], metrics.get("control")
    without = f", the control's {control['f1']:.3f}" if control else ""
    return [
        f"Of {len(f1['student'])} questions the student answers {student['exact_match']:.1%} right to the word: F1 "
        f"{student['f1']:.3f}, the teacher's {metrics['teacher']['f1']:.3f}{without}.",
        *_against_control(student["f1"], control["f1"] if control else None),
        *_classes(classes, {}, "questions"),
        _lengths(f1["teacher"] - f1["student"], buckets, "{:.3f} of F1".format, "words"),
        _calibration(calibration_error, confidence, student["exact_match"]),
    ]


def _overall(hits: Mapping[str, np.ndarray]) -> str:
    student, teacher = hits["student"], hits["teacher"]
    control = f", the control {hits['control'].mean():.1%}" if "control" in hits else ""
    lost, won = int((teacher > student).sum()), int((student > teacher).sum())
    return (
        f"Of {len(student)} rows the student decides {student.mean():.1%} right, the teacher "
        f"{teacher.mean():.1%}{control}; rows that only the teacher has right: {lost}, only the student: {won}."
    )


def _against_control(student: float, control: float | None) -> Iterator[str]:
    if control is not None and student <= control:
        yield (
            "The teacher did not help: the student is no better than its control. Let it learn more from the teacher "
            "(hidden states as well as logits), add unlabelled rows, or train longer."
        )


def _classes(
    classes: Sequence[Mapping[str, Any]], training_rows: Mapping[str, int], what: str = "rows"
) -> Iterator[str]:
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


def _confusions(confusions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in confusions[:NAMED]:
        count, teacher_count = entry["count"], entry["teacher_count"]
        if teacher_count > count / 2:
            advice = "from whom it learned much of that: check these labels, or take a better teacher"
        else:
            advice = "which tells them apart better: give the student more rows of both, labelled or not"
        pair = f"{entry['label']} is taken for {entry['predicted']}"
        yield f"{pair} {count} times, {teacher_count} times by the teacher, {advice}."


def _lengths(losses: np.ndarray, buckets: Buckets, show: Callable[[float], str], unit: str = "tokens") -> str:
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
    if span["to"] == buckets[-1][0]["to"]:
        advice = "see that the greatest length in the recipe does not cut them, and train on more long rows"
    else:
        advice = "train on more rows of that length"
    return (
        f"On the {count} rows of {span['from']} to {span['to']} {unit} the student loses {show(here_mean)} against the "
        f"teacher, on all others {show(others_mean)}: {advice}."
    )


def _detection(metrics: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    if not metrics:
        return
    student, teacher = metrics["student"], metrics["teacher"]
    yield (
        "A threshold of confidence that 95% of the rows in scope pass lets "
        f"{student['fpr95_out_of_scope']:.1%} of those out of scope pass, the teacher's "
        f"{teacher['fpr95_out_of_scope']:.1%} (AUROC {student['auroc_out_of_scope']:.3f}, the teacher's "
        f"{teacher['auroc_out_of_scope']:.3f}): choose the threshold on validation rows."
    )


def _ends_of_the_scale(differences: np.ndarray, labels: np.ndarray) -> Iterator[str]:
    """Name the lowest and highest quarter of the labels where outputs are off in one direction, beyond chance."""
    low, high = np.quantile(labels, [0.25, 0.75])
    for name, chosen in ((f"{low:.2f} or less", labels <= low), (f"{high:.2f} or more", labels >= high)):
        off = differences[chosen]
        if len(off) < 2 or abs(off.mean()) <= CERTAIN * off.std(ddof=1) / np.sqrt(len(off)):
            continue
        direction = "high" if off.mean() > 0 else "low"
        yield (
            f"Rows labelled {name} are predicted {abs(off.mean()):.3f} too {direction} on average: "
            "add training rows at that end of the scale, or train longer."
        )


def _calibration(error: float, confidence: float, hit_rate: float) -> str:
    figures = f"calibration error {error:.3f}; on average {confidence:.1%} sure and {hit_rate:.1%} right"
    if error <= TRUSTWORTHY:
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
