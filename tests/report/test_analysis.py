"""The error analysis finds weaknesses that were put there, and says what to do about them."""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hf_distill.evaluation.predict import decision_scores
from hf_distill.evaluation.scores import DecisionScores

NAMES = ("ant", "bee", "cat")
KEYS = {"summary", "measure", "classes", "lengths", "confusions", "calibration", "examples"}


def classifier(decisions: np.ndarray, labels: np.ndarray, confidence: Any = 0.9) -> DecisionScores:
    """Decisions made with a given confidence; the rest is shared by the other two classes."""
    sure = np.broadcast_to(np.asarray(confidence), labels.shape)[:, None]
    probabilities = np.where(np.eye(3)[decisions] == 1, sure, (1 - sure) / 2)
    return decision_scores(np.log(probabilities), labels, "single_label_classification", NAMES)


def case() -> dict[str, Any]:
    """40 rows a class; the student takes 15 ants for bees (the teacher 2), all of them long, and 3 cats for ants."""
    labels = np.repeat(np.arange(3), 40)
    teacher, student, control = labels.copy(), labels.copy(), labels.copy()
    teacher[:2], student[:15], student[80:83], control[:20] = 1, 1, 0, 1
    confidence = np.full(120, 0.8)
    confidence[10] = 0.99
    lengths = np.tile([5, 8, 12, 16], 30)
    lengths[:15] = 30
    return {
        "predictions": {
            "teacher": classifier(teacher, labels),
            "student": classifier(student, labels, confidence),
            "control": classifier(control, labels),
        },
        "texts": [f"text {row} " + "long " * 60 for row in range(120)],
        "lengths": lengths.tolist(),
    }


def error_analysis(
    predictions: dict[str, Any], texts: list[str], lengths: list[int], examples: int = 5, training_rows: Any = None
) -> dict[str, Any]:
    task = SimpleNamespace(training_rows=lambda _: training_rows or {}, length_unit="tokens")
    evaluated = SimpleNamespace(texts=texts, lengths=lengths, task=task, train=None)
    found: dict[str, Any] = predictions["student"].analysis(predictions, evaluated, examples)
    return found


def summary(**arguments: Any) -> str:
    return "\n".join(error_analysis(**arguments)["summary"])


def test_the_analysis_is_ready_for_json_and_says_what_it_measures() -> None:
    analysis = error_analysis(**case())
    assert set(analysis) == KEYS
    assert analysis["measure"] == {"classes": "f1", "lengths": "accuracy"}
    assert json.loads(json.dumps(analysis, allow_nan=False)) == analysis


def test_classes_come_worst_loss_first_with_every_model_in_them() -> None:
    arguments = case()
    classes = error_analysis(**arguments)["classes"]
    assert [entry["label"] for entry in classes] == ["ant", "bee", "cat"]
    ant = classes[0]
    scores = {name: each.by_class["ant"]["f1"] for name, each in arguments["predictions"].items()}
    assert {name: ant[name] for name in scores} == pytest.approx(scores, abs=1e-4)
    assert ant["difference"] == pytest.approx(scores["student"] - scores["teacher"], abs=1e-4)
    assert ant["support"] == 40


def test_a_class_without_test_rows_is_left_out() -> None:
    labels = np.array([0, 0, 1, 1])
    both = {name: classifier(labels, labels) for name in ("teacher", "student")}
    classes = error_analysis(both, ["text"] * 4, [1, 2, 3, 4])["classes"]
    assert [entry["label"] for entry in classes] == ["ant", "bee"]


def test_confusions_are_counted_against_the_teacher_with_the_surest_texts_first() -> None:
    confusions = error_analysis(**case(), examples=2)["confusions"]
    assert [(each["label"], each["predicted"]) for each in confusions] == [("ant", "bee"), ("cat", "ant")]
    assert [(each["count"], each["teacher_count"]) for each in confusions] == [(15, 2), (3, 0)]
    assert len(confusions[0]["examples"]) == 2
    assert confusions[0]["examples"][0].startswith("text 10 ")


def test_examples_are_rows_that_only_the_student_has_wrong_surest_first_and_short() -> None:
    examples = error_analysis(**case(), examples=4)["examples"]
    assert len(examples) == 4
    assert examples[0]["text"].startswith("text 10 ")
    assert len(examples[0]["text"]) == 200
    assert examples[0]["confidence"] == pytest.approx(0.99)
    assert all((each["label"], each["student"], each["teacher"]) == ("ant", "bee", "ant") for each in examples)
    assert not any(each["text"].startswith(("text 0 ", "text 1 ")) for each in examples)


def test_lengths_are_split_at_the_quartiles_and_hold_every_row_once() -> None:
    lengths = error_analysis(**case())["lengths"]
    assert sum(entry["support"] for entry in lengths) == 120
    assert all(before["to"] < after["from"] for before, after in pairwise(lengths))
    assert lengths[-1]["to"] == 30
    assert lengths[-1]["student"] < lengths[0]["student"]
    assert {"teacher", "student", "control"} < set(lengths[0])


def test_rows_of_one_length_make_one_bucket() -> None:
    arguments = case() | {"lengths": [7] * 120}
    (entry,) = error_analysis(**arguments)["lengths"]
    assert (entry["from"], entry["to"], entry["support"]) == (7, 7, 120)


def test_calibration_is_the_expected_calibration_error_of_every_model() -> None:
    arguments = case()
    calibration = error_analysis(**arguments)["calibration"]
    expected = {name: each.calibration_error for name, each in arguments["predictions"].items()}
    assert calibration == pytest.approx(expected, abs=1e-4)


def test_the_summary_names_classes_figures_and_what_to_do() -> None:
    text = summary(**case())
    assert "Of 120 rows the student decides 85.0% right, the teacher 98.3%, the control 83.3%" in text
    assert "only the teacher has right: 16, only the student: 0" in text
    assert "most of all ant (F1 0.74, teacher 0.97, 40 rows)" in text
    assert "ant is taken for bee 15 times, 2 times by the teacher" in text
    assert "did not help" not in text


def test_the_summary_points_at_long_rows_only_where_these_lose_more() -> None:
    assert "to 30 tokens the student loses" in summary(**case())
    arguments = case()
    arguments["lengths"] = np.random.default_rng(0).permutation(np.tile([5, 8, 12, 30], 30)).tolist()
    assert "Length makes no clear difference" in summary(**arguments)


def test_the_summary_tells_a_rare_class_from_a_hard_one() -> None:
    assert "ant has few training rows, 12 where 100 are usual" in summary(
        **case(), training_rows={"ant": 12, "bee": 100, "cat": 120}
    )
    assert "few training rows" not in summary(**case(), training_rows={"ant": 100, "bee": 100, "cat": 120})


def test_the_summary_sends_to_the_labels_where_the_teacher_confuses_them_as_often() -> None:
    arguments = case()
    arguments["predictions"]["teacher"] = arguments["predictions"]["control"]
    assert "ant is taken for bee 15 times, 20 times by the teacher, from whom it learned" in summary(**arguments)


@pytest.mark.parametrize(
    ("confidence", "said"), [(0.99, "over-confident"), (0.6, "less sure than it could be"), (0.85, "can be trusted")]
)
def test_the_summary_tells_whether_the_student_is_too_sure(confidence: float, said: str) -> None:
    arguments = case()
    student = arguments["predictions"]["student"]
    arguments["predictions"]["student"] = classifier(student.decisions, student.labels, confidence)
    assert said in summary(**arguments)


def test_the_summary_says_so_when_the_control_is_as_good() -> None:
    arguments = case()
    arguments["predictions"]["control"] = arguments["predictions"]["teacher"]
    assert "The teacher did not help: the student is no better than its control" in summary(**arguments)


def test_a_student_as_good_as_its_teacher_loses_nothing() -> None:
    labels = np.repeat(np.arange(3), 10)
    both = {name: classifier(labels, labels) for name in ("teacher", "student")}
    analysis = error_analysis(both, ["text"] * 30, list(range(30)))
    assert analysis["confusions"] == analysis["examples"] == []
    assert "No class has a lower F1 than with the teacher." in analysis["summary"]


def test_multi_label_is_analysed_by_label_and_shows_sets_of_labels() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]] * 5)
    right = np.where(labels, 2.0, -2.0)
    missed = right.copy()
    missed[0, 1], missed[1, 0] = -3.0, -1.0
    predictions = {
        name: decision_scores(logits, labels, "multi_label_classification", NAMES)
        for name, logits in {"teacher": right, "student": missed}.items()
    }
    analysis = error_analysis(predictions, [f"text {row}" for row in range(20)], list(range(20)))
    assert set(analysis) == KEYS
    assert [entry["label"] for entry in analysis["classes"]] == ["bee", "ant", "cat"]
    assert analysis["confusions"] == []
    assert [(each["label"], each["student"], each["teacher"]) for each in analysis["examples"]] == [
        ("ant, bee", "ant", "ant, bee"),
        ("ant", "none", "ant"),
    ]
    json.dumps(analysis, allow_nan=False)


def test_regression_is_analysed_by_the_size_of_its_errors() -> None:
    labels = np.linspace(0, 5, 100)
    wiggle = np.where(np.arange(100) % 2, 0.05, -0.05)
    student = labels + wiggle
    student[80:] -= 1
    student[90] = 0
    outputs = {"teacher": labels + wiggle, "student": student, "control": labels + 2 * wiggle - 1}
    predictions = {
        name: decision_scores(each[:, None].astype(np.float32), labels, "regression", ("score",))
        for name, each in outputs.items()
    }
    analysis = error_analysis(predictions, [f"text {row}" for row in range(100)], list(range(100)), examples=3)
    assert set(analysis) == KEYS
    assert analysis["measure"] == {"lengths": "mean_absolute_error"}
    assert analysis["classes"] == analysis["confusions"] == []
    assert analysis["calibration"] == {}
    assert analysis["examples"][0]["text"] == "text 90"
    assert analysis["examples"][0]["student"] == 0
    assert analysis["lengths"][0]["student"] == pytest.approx(0.05, abs=1e-3)
    assert analysis["lengths"][-1]["student"] > 0.8
    text = "\n".join(analysis["summary"])
    assert "Over 100 rows the student is off by" in text
    assert "too low on average" in text
    assert "tokens the student loses" in text
    json.dumps(analysis, allow_nan=False)
