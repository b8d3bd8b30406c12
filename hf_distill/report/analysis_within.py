"""Where the student is weak, where rows hold more than one class: words with labels, answers within a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_distill.evaluation.metrics import Scored
from hf_distill.evaluation.question_answering import AnswerScores
from hf_distill.evaluation.retrieval import RetrievalScores
from hf_distill.evaluation.token_classification import Span, TagScores, are_entities
from hf_distill.report.analysis import f1_by_class, length_buckets, length_entries, most_confused, short
from hf_distill.report.sentences import answer_summary, search_summary, tag_summary


def tag_analysis(
    predictions: Mapping[str, Scored], words: Sequence[Sequence[str]], examples: int = 5
) -> dict[str, Any]:
    """Tell where a student that labels words loses against its teacher, and what to improve next.

    Args:
        predictions: Of ``teacher``, ``student`` and perhaps ``control``, on the same rows.
        words: Of each row.
        examples: How many texts to show, for each confused pair and of rows that only the student decides wrong.

    Returns:
        Ready for JSON, as :func:`~hf_distill.report.analysis.error_analysis` gives it;
        ``classes`` are types of entities, ``confusions`` of words.
    """
    scores = {name: each for name, each in predictions.items() if isinstance(each, TagScores)}
    student = scores["student"]
    texts = [" ".join(row) for row in words]
    classes = f1_by_class({name: each.types for name, each in scores.items()})
    confusions = most_confused(
        {n: s.words for n, s in scores.items()}, [texts[row] for row in student.row_of], examples
    )
    hits = {name: each.right / each.count for name, each in scores.items()}
    buckets = length_buckets(student.count)
    calibration = {name: round(each.calibration_error, 4) for name, each in scores.items()}
    sure, right = student.confidences
    return {
        "summary": tag_summary(
            metrics={name: each.metrics() for name, each in scores.items()},
            what="entities" if are_entities(student.words.label_names) else "labelled words",
            classes=classes,
            confusions=confusions,
            hits=hits,
            buckets=buckets,
            calibration_error=calibration["student"],
            confidence=float(sure.mean()),
            hit_rate=float(right.mean()),
        ),
        "measure": {"classes": "f1", "lengths": "accuracy"},
        "classes": classes,
        "lengths": length_entries(hits, buckets),
        "confusions": confusions,
        "calibration": calibration,
        "examples": [
            {
                "text": short(texts[row]),
                "label": _shown(words[row], student.found[row][0]),
                **{name: _shown(words[row], scores[name].found[row][1]) for name in ("student", "teacher")},
            }
            for row in _lost_entities(student, scores["teacher"])[:examples]
        ],
    }


def answer_analysis(
    predictions: Mapping[str, Scored], questions: Sequence[str], contexts: Sequence[str], examples: int = 5
) -> dict[str, Any]:
    """Tell where a student that answers questions loses against its teacher, and what to improve next.

    Args:
        predictions: Of ``teacher``, ``student`` and perhaps ``control``, on the same rows.
        questions: One a row.
        contexts: One a row.
        examples: How many questions to show.

    Returns:
        Ready for JSON, as :func:`~hf_distill.report.analysis.error_analysis` gives it;
        ``classes`` are kinds of questions, ``lengths`` of contexts.
    """
    scores = {name: each for name, each in predictions.items() if isinstance(each, AnswerScores)}
    student = scores["student"]
    classes = f1_by_class({name: each.by_kind(questions) for name, each in scores.items()})
    f1 = {name: each.f1 for name, each in scores.items()}
    buckets = length_buckets(np.array([len(context.split()) for context in contexts]))
    calibration = {name: round(each.calibration_error, 4) for name, each in scores.items()}
    lost = f1["teacher"] - f1["student"]
    worst = [row for row in np.argsort(-lost, kind="stable")[:examples] if lost[row] > 0]
    return {
        "summary": answer_summary(
            metrics={name: each.metrics() for name, each in scores.items()},
            classes=classes,
            f1=f1,
            buckets=buckets,
            calibration_error=calibration["student"],
            confidence=float(student.sure.mean()),
        ),
        "measure": {"classes": "f1", "lengths": "f1"},
        "classes": classes,
        "lengths": length_entries(f1, buckets),
        "confusions": [],
        "calibration": calibration,
        "examples": [
            {
                "text": short(questions[row]),
                "label": short(" / ".join(dict.fromkeys(student.references[row])) or "nothing"),
                **{name: short(scores[name].texts[row] or "nothing") for name in ("student", "teacher")},
            }
            for row in worst
        ],
    }


def search_analysis(predictions: Mapping[str, Scored], passages: Sequence[str], examples: int = 5) -> dict[str, Any]:
    """Tell where a student that finds texts loses against its teacher.

    Args:
        predictions: Of ``teacher``, ``student`` and perhaps ``control``, on the same rows.
        passages: What is searched, in the order in which it was scored.
        examples: How many queries to show.

    Returns:
        Ready for JSON: ``summary``, ``measure`` and ``examples``.
    """
    scores = {name: each for name, each in predictions.items() if isinstance(each, RetrievalScores)}
    student, teacher = scores["student"], scores["teacher"]
    first = {name: np.array([ranks[0] == 0 for ranks in each.ranks]) for name, each in scores.items()}
    lost, won = first["teacher"] & ~first["student"], first["student"] & ~first["teacher"]
    return {
        "summary": search_summary(
            {name: each.metrics() for name, each in scores.items()}, int(lost.sum()), int(won.sum())
        ),
        "measure": {},
        "examples": [
            {
                "text": short(str(student.queries[row])),
                "label": short(passages[teacher.nearest[row]]),
                "student": short(passages[student.nearest[row]]),
                "teacher": short(passages[teacher.nearest[row]]),
            }
            for row in np.flatnonzero(lost)[:examples]
        ],
    }


def _lost_entities(student: TagScores, teacher: TagScores) -> list[int]:
    """Rows of which the teacher names all entities rightly and the student does not, most errors first."""
    wrong = {
        row: len(set(gold) ^ set(own))
        for row, (gold, own) in enumerate(student.found)
        if set(gold) != set(own) and set(teacher.found[row][1]) == set(gold)
    }
    return sorted(wrong, key=lambda row: -wrong[row])


def _shown(words: Sequence[str], entities: Sequence[Span]) -> str:
    named = [f"{' '.join(words[first : last + 1])} ({kind})" for kind, first, last in entities]
    return short(", ".join(named) or "none")
