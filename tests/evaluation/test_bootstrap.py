"""The paired bootstrap equals scikit-learn on the rows it drew, its intervals cover, and the comparison reads right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_distill.errors import DataError
from hf_distill.evaluation.bootstrap import bootstrap, compare, model_metrics, resample_counts
from hf_distill.evaluation.predict import decision_scores
from hf_distill.evaluation.scores import DecisionScores

NAMES = ("ant", "bee", "cat", "dog")
FACTS = {
    "teacher": {"parameters": 1000, "samples_per_second": 50.0},
    "student": {"parameters": 250, "samples_per_second": 150.0},
    "control": {"parameters": 250, "samples_per_second": 150.0},
}


def classifier(decisions: Any, labels: Any) -> DecisionScores:
    return decision_scores(
        np.eye(4, dtype=np.float32)[decisions], np.asarray(labels), "single_label_classification", NAMES
    )


def regressor(outputs: Any, labels: Any) -> DecisionScores:
    return decision_scores(np.asarray(outputs, dtype=np.float32)[:, None], np.asarray(labels), "regression", ("score",))


def noisy(labels: np.ndarray, accuracy: float, seed: int) -> DecisionScores:
    generator = np.random.default_rng(seed)
    guesses = generator.integers(0, 4, len(labels))
    return classifier(np.where(generator.random(len(labels)) < accuracy, labels, guesses), labels)


def every_problem_type() -> list[DecisionScores]:
    generator = np.random.default_rng(3)
    rows = 40
    # a class that is rare enough to be missing from some resamples, and one that is never decided
    labels = generator.choice(4, rows, p=[0.6, 0.3, 0.05, 0.05])
    decisions = np.where(labels == 3, 0, np.where(generator.random(rows) < 0.7, labels, 1))
    many = generator.random((rows, 4)) < [0.5, 0.3, 0.05, 0.5]
    many_logits = (generator.normal(size=(rows, 4)) + many).astype(np.float32)
    scores = generator.integers(0, 6, rows).astype(float)
    outputs = np.round(scores + generator.normal(size=rows), 1)
    return [
        classifier(decisions, labels),
        decision_scores(many_logits, many.astype(int), "multi_label_classification", NAMES),
        regressor(outputs, scores),
    ]


@pytest.mark.parametrize("predictions", every_problem_type(), ids=lambda each: each.problem_type)
def test_every_resample_scores_as_scikit_learn_scores_the_rows_it_drew(predictions: DecisionScores) -> None:
    rows, resamples, seed = len(predictions.labels), 30, 7
    draws = bootstrap({"model": predictions}, resamples, seed)["model"]
    (counts,) = resample_counts(rows, resamples, seed)
    for number in range(resamples):
        drawn = np.repeat(np.arange(rows), counts[number])
        resampled = decision_scores(
            predictions.logits[drawn], predictions.labels[drawn], predictions.problem_type, predictions.label_names
        )
        expected = resampled.metrics()
        assert {metric: values[number] for metric, values in draws.items()} == pytest.approx(expected, abs=1e-6)


def test_a_resample_draws_as_many_rows_as_there_are_and_every_row_equally_often() -> None:
    counts = np.concatenate(list(resample_counts(10, 5000, 0)))
    assert counts.shape == (5000, 10)
    assert (counts.sum(axis=1) == 10).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(10), abs=0.06)


def test_resamples_come_in_blocks_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_distill.evaluation.bootstrap.BLOCK_CELLS", 45)
    blocks = list(resample_counts(10, 11, 0))
    assert [len(block) for block in blocks] == [4, 4, 3]
    assert all((block.sum(axis=1) == 10).all() for block in blocks)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    predictions = {"student": noisy(np.arange(100) % 4, 0.5, 0)}
    first, again, other = (model_metrics(predictions, 100, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_all_models_are_scored_on_the_same_draws() -> None:
    labels = np.arange(80) % 4
    same = noisy(labels, 0.6, 0)
    draws = bootstrap({"teacher": same, "student": classifier(same.decisions, labels)}, 50, 0)
    assert (draws["teacher"]["accuracy"] == draws["student"]["accuracy"]).all()


def test_models_scored_on_other_rows_are_refused() -> None:
    labels = np.arange(8) % 4
    with pytest.raises(DataError, match="rows of student differ from those of teacher"):
        bootstrap({"teacher": classifier(labels, labels), "student": classifier(labels, labels[::-1])}, 10, 0)


def test_ninety_five_percent_intervals_cover_the_truth_about_that_often() -> None:
    covered = 0
    for seed in range(40):
        hits = np.random.default_rng(seed).random(150) < 0.8
        labels = np.zeros(150, dtype=int)
        accuracy = model_metrics({"student": classifier(np.where(hits, 0, 1), labels)}, 200, seed)["student"][
            "accuracy"
        ]
        covered += accuracy["low"] <= 0.8 <= accuracy["high"]
    assert 0.88 <= covered / 40 <= 0.99


def test_intervals_hold_the_value_and_narrow_with_more_rows() -> None:
    def width(rows: int) -> float:
        accuracy = model_metrics({"student": noisy(np.arange(rows) % 4, 0.5, 0)}, 300, 0)["student"]["accuracy"]
        assert accuracy["low"] < accuracy["value"] < accuracy["high"]
        return accuracy["high"] - accuracy["low"]

    assert width(3600) == pytest.approx(width(100) / 6, rel=0.3)


def test_a_perfect_model_has_an_interval_of_no_width() -> None:
    labels = np.arange(20) % 4
    scores = model_metrics({"student": classifier(labels, labels)}, 100, 0)["student"]
    assert all(each == {"value": 1.0, "low": 1.0, "high": 1.0} for each in scores.values())


def test_a_constant_regressor_has_correlation_zero_in_every_resample() -> None:
    scores = model_metrics({"student": regressor(np.full(30, 0.1), np.linspace(0, 1, 30))}, 100, 0)["student"]
    assert scores["pearson"] == scores["spearman"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert scores["mse"]["low"] < scores["mse"]["value"] < scores["mse"]["high"]


def test_a_paired_difference_is_surer_than_the_two_intervals() -> None:
    labels = np.zeros(400, dtype=int)
    control_hits = np.arange(400) < 300
    student_hits = np.arange(400) < 312
    predictions = {
        "teacher": classifier(labels, labels),
        "student": classifier(np.where(student_hits, 0, 1), labels),
        "control": classifier(np.where(control_hits, 0, 1), labels),
    }
    intervals = model_metrics(predictions, 500, 0)
    difference = compare(predictions, FACTS, "accuracy", 500, 0)["student_minus_control"]
    assert intervals["student"]["accuracy"]["low"] < intervals["control"]["accuracy"]["high"]
    assert difference["value"] == pytest.approx(0.03)
    assert 0 < difference["low"] < 0.03 < difference["high"]


def test_the_comparison_tells_retention_gap_size_speed_and_agreement() -> None:
    labels = np.zeros(100, dtype=int)
    models = {"teacher": 90, "student": 81, "control": 72}
    predictions = {name: classifier(np.where(np.arange(100) < right, 0, 1), labels) for name, right in models.items()}
    result = compare(predictions, FACTS, "accuracy", 200, 0)
    assert result["primary_metric"] == "accuracy"
    assert result["lower_is_better"] is False
    assert result["retention"] == pytest.approx(0.9)
    assert result["gap_closed"] == pytest.approx(0.5)
    assert result["student_minus_teacher"]["value"] == pytest.approx(-0.09)
    assert result["student_minus_teacher"]["high"] < 0
    assert result["agreement"] == pytest.approx(0.91)
    assert result["size_ratio"] == 0.25
    assert result["speedup"] == 3.0


def test_where_lower_is_better_retention_turns_round_and_differences_do_not() -> None:
    labels = np.linspace(0, 5, 50)
    errors = {"teacher": 1.0, "student": 2.0, "control": 3.0}
    predictions = {name: regressor(labels + error, labels) for name, error in errors.items()}
    result = compare(predictions, FACTS, "mse", 100, 0)
    assert result["lower_is_better"] is True
    assert result["retention"] == pytest.approx(1 / 4)
    assert result["gap_closed"] == pytest.approx((9 - 4) / (9 - 1))
    assert result["student_minus_control"]["value"] == pytest.approx(-5)
    assert result["student_minus_control"]["high"] < 0


def test_without_a_control_there_is_nothing_to_compare_with_it() -> None:
    labels = np.arange(20) % 4
    predictions = {"teacher": classifier(labels, labels), "student": noisy(labels, 0.5, 0)}
    result = compare(predictions, FACTS, "accuracy", 100, 0)
    assert result["gap_closed"] is None
    assert result["student_minus_control"] is None


@pytest.mark.parametrize(("metric", "teacher_error"), [("accuracy", 3), ("mse", 3.0)])
def test_a_teacher_no_better_than_the_control_leaves_no_gap_to_close(metric: str, teacher_error: float) -> None:
    if metric == "mse":
        labels = np.linspace(0, 5, 20)
        predictions = {
            name: regressor(labels + error, labels)
            for name, error in {"teacher": teacher_error, "student": 1, "control": 2}.items()
        }
    else:
        labels = np.zeros(20, dtype=int)
        predictions = {
            name: classifier(np.where(np.arange(20) < wrong, 1, 0), labels)
            for name, wrong in {"teacher": teacher_error, "student": 1, "control": 3}.items()
        }
    assert compare(predictions, FACTS, metric, 100, 0)["gap_closed"] is None


def test_retention_of_a_worthless_teacher_is_left_out() -> None:
    labels = np.zeros(10, dtype=int)
    predictions = {"teacher": classifier(labels + 1, labels), "student": classifier(labels, labels)}
    assert compare(predictions, FACTS, "accuracy", 100, 0)["retention"] is None
