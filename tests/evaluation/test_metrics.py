"""Metrics equal scikit-learn's and scipy's, work with no network, and refuse what cannot be scored."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from hf_distill.errors import LabelError, ModelError, RecipeError
from hf_distill.evaluation.metrics import (
    COMPUTED,
    METRICS,
    PRIMARY,
    Predictions,
    agreement,
    compute_metrics,
    expected_calibration_error,
    load_metric,
    per_class,
    primary_metric,
)
from hf_distill.recipe import EvaluateConfig

NAMES = ("ant", "bee", "cat", "dog")


def single_label(rows: int = 200, seed: int = 0, never: int | None = None) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    logits = generator.normal(size=(rows, 4)).astype(np.float32)
    logits[np.arange(rows), labels] += 1
    if never is not None:
        logits[:, never] = -10
    return Predictions(logits, labels, "single_label_classification", NAMES)


def multi_label(rows: int = 200, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (rows, 4))
    logits = (generator.normal(size=(rows, 4)) + labels).astype(np.float32)
    return Predictions(logits, labels, "multi_label_classification", NAMES)


def regression(rows: int = 200, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 11, rows) / 2
    logits = (labels + generator.normal(size=rows)).astype(np.float32)[:, None]
    return Predictions(logits, labels, "regression", ("score",))


@pytest.mark.parametrize("never", [None, 2])
def test_single_label_metrics_equal_those_of_scikit_learn(never: int | None) -> None:
    predictions = single_label(never=never)
    scores = compute_metrics(predictions)
    labels, decisions = predictions.labels, predictions.logits.argmax(axis=1)
    assert scores["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, decisions))
    for average in ("macro", "weighted"):
        expected = sklearn_metrics.precision_recall_fscore_support(labels, decisions, average=average, zero_division=0)
        actual = [scores[f"{name}_{average}"] for name in ("precision", "recall", "f1")]
        assert actual == pytest.approx(list(expected[:3]))
    assert len(scores) == 7


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_multi_label_metrics_equal_those_of_scikit_learn(dtype: type) -> None:
    predictions = multi_label()
    labels, decisions = predictions.labels, predictions.logits > 0
    scores = compute_metrics(Predictions(predictions.logits, labels.astype(dtype), "multi_label_classification", NAMES))
    assert scores == {
        "accuracy": pytest.approx(sklearn_metrics.accuracy_score(labels, decisions)),
        "f1_micro": pytest.approx(sklearn_metrics.f1_score(labels, decisions, average="micro")),
        "f1_macro": pytest.approx(sklearn_metrics.f1_score(labels, decisions, average="macro")),
    }


def test_regression_metrics_equal_those_of_scipy() -> None:
    predictions = regression()
    outputs, labels = predictions.logits[:, 0].astype(np.float64), predictions.labels
    assert compute_metrics(predictions) == {
        "pearson": pytest.approx(scipy.stats.pearsonr(outputs, labels).statistic),
        "spearman": pytest.approx(scipy.stats.spearmanr(outputs, labels).statistic),
        "mse": pytest.approx(((outputs - labels) ** 2).mean()),
    }


def test_a_perfect_model_scores_one_everywhere() -> None:
    labels = np.array([0, 1, 1, 3])
    scores = compute_metrics(Predictions(np.eye(4)[labels], labels, "single_label_classification", NAMES))
    assert set(scores.values()) == {1.0}


def test_a_constant_regressor_correlates_with_nothing_and_warns_of_nothing() -> None:
    predictions = Predictions(np.ones((3, 1)), np.array([0.0, 1.0, 2.0]), "regression", ("score",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute_metrics(predictions)
    assert (scores["pearson"], scores["spearman"]) == (0.0, 0.0)


def test_scores_of_each_class_are_named_and_equal_those_of_scikit_learn() -> None:
    predictions = single_label(never=2)
    report = sklearn_metrics.classification_report(
        predictions.labels, predictions.decisions, target_names=NAMES, output_dict=True, zero_division=0
    )
    scores = per_class(predictions)
    assert tuple(scores) == NAMES
    assert scores["cat"]["precision"] == 0
    for name in NAMES:
        expected = {"f1" if key == "f1-score" else key: value for key, value in report[name].items()}
        assert scores[name] == pytest.approx(expected)


def test_a_class_absent_from_labels_and_decisions_is_listed_with_no_rows_and_not_averaged() -> None:
    labels = np.array([0, 1, 1])
    predictions = Predictions(np.eye(4)[labels], labels, "single_label_classification", NAMES)
    assert per_class(predictions)["dog"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert compute_metrics(predictions)["f1_macro"] == 1


def test_scores_of_each_label_of_a_multi_label_task_equal_those_of_scikit_learn() -> None:
    predictions = multi_label()
    expected = sklearn_metrics.f1_score(predictions.labels, predictions.logits > 0, average=None)
    assert [score["f1"] for score in per_class(predictions).values()] == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_an_evaluate_metric_that_loads_by_name_and_takes_batches(name: str) -> None:
    metric = load_metric(name, keep_in_memory=True)
    assert isinstance(metric, evaluate.Metric)
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[1], references=[0])
    parts = metric.compute()
    whole = load_metric(name, keep_in_memory=True).compute(predictions=[0, 1, 1], references=[0, 1, 0])
    assert parts == whole
    assert set(whole) == {name}


def test_an_average_of_none_gives_one_score_a_class() -> None:
    scores = load_metric("f1", keep_in_memory=True).compute(predictions=[0, 1, 1], references=[0, 1, 2], average=None)
    assert scores["f1"].tolist() == pytest.approx([1, 2 / 3, 0])


def test_an_unknown_metric_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **options: object) -> None:
        raise FileNotFoundError(name)

    monkeypatch.setattr(evaluate, "load", offline)
    with pytest.raises(RecipeError, match="did you mean accuracy"):
        load_metric("acuracy")


def test_other_metrics_are_left_to_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "load", lambda name, **options: (name, options))
    assert load_metric("rouge", keep_in_memory=True) == ("rouge", {"keep_in_memory": True})


def test_the_primary_metric_of_every_problem_type_is_one_that_is_computed() -> None:
    assert PRIMARY.keys() == COMPUTED.keys()
    for problem_type, metrics in COMPUTED.items():
        task = SimpleNamespace(problem_type=problem_type, scorers=("bleu", "rouge"), out_of_scope=None)
        assert primary_metric(task, EvaluateConfig()) == PRIMARY[problem_type]
        assert PRIMARY[problem_type] in {*metrics, "bleu", "rougeL"}


def test_a_primary_metric_of_another_problem_type_is_refused_with_the_choices() -> None:
    task = SimpleNamespace(problem_type="single_label_classification", scorers=(), out_of_scope=None)
    assert primary_metric(task, EvaluateConfig(metric="f1_macro")) == "f1_macro"
    with pytest.raises(RecipeError, match=r"'pearson' is not measured.*f1_macro"):
        primary_metric(task, EvaluateConfig(metric="pearson"))


def test_calibration_error_is_the_distance_between_how_sure_and_how_right() -> None:
    logits = np.tile(np.log([[0.8, 0.2]]), (10, 1))
    names = ("no", "yes")
    right_for_eight = np.array([0] * 8 + [1] * 2)
    calibrated = Predictions(logits, right_for_eight, "single_label_classification", names)
    over_confident = Predictions(logits, 1 - right_for_eight, "single_label_classification", names)
    assert expected_calibration_error(calibrated) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error(over_confident) == pytest.approx(0.6)


def test_calibration_error_does_not_let_bins_cancel() -> None:
    sure, unsure = np.log([0.9, 0.1]), np.log([0.6, 0.4])
    logits = np.array([sure] * 10 + [unsure] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 9 + [1])
    predictions = Predictions(logits, labels, "single_label_classification", ("no", "yes"))
    assert expected_calibration_error(predictions) == pytest.approx(0.3)


def test_calibration_error_of_multi_label_counts_every_label() -> None:
    logits = np.log(np.array([[3.0, 1 / 3], [3.0, 1 / 3]]))
    labels = np.array([[1, 0], [0, 0]])
    predictions = Predictions(logits, labels, "multi_label_classification", ("a", "b"))
    assert expected_calibration_error(predictions) == pytest.approx(0, abs=1e-9)


def test_agreement_is_the_share_of_equal_decisions_right_or_wrong() -> None:
    labels = np.array([0, 1, 2, 3])
    first = Predictions(np.eye(4)[[0, 1, 1, 1]], labels, "single_label_classification", NAMES)
    second = Predictions(np.eye(4)[[0, 2, 1, 3]], labels, "single_label_classification", NAMES)
    assert agreement(first, second) == 0.5
    assert agreement(multi_label(), multi_label()) == 1


def test_agreement_of_regressors_is_their_correlation() -> None:
    first, second = regression(seed=1), regression(seed=2)
    expected = scipy.stats.pearsonr(first.logits[:, 0].astype(float), second.logits[:, 0].astype(float)).statistic
    assert agreement(first, second) == pytest.approx(expected)


def test_what_exists_for_classes_only_is_refused_for_regression() -> None:
    for function in (per_class, expected_calibration_error):
        with pytest.raises(ModelError, match="classification only"):
            function(regression())


@pytest.mark.parametrize(
    ("logits", "labels", "error"),
    [
        (np.zeros((2, 4)), np.array([0, 4]), "0..3, got 0..4"),
        (np.zeros((2, 4)), np.array([0, -100]), "got -100..0"),
        (np.zeros((2, 3)), np.array([0, 1]), "3 outputs but 4 label names"),
        (np.zeros((2, 4)), np.array([0]), "expected labels of shape"),
        (np.zeros((0, 4)), np.array([], dtype=int), "at least one row"),
    ],
)
def test_labels_that_do_not_fit_the_logits_are_refused(logits: np.ndarray, labels: np.ndarray, error: str) -> None:
    with pytest.raises(LabelError, match=error):
        Predictions(logits, labels, "single_label_classification", NAMES)


def test_a_model_that_gives_nan_is_refused_with_what_to_do() -> None:
    logits = np.zeros((3, 4))
    logits[1, 2] = np.nan
    with pytest.raises(ModelError, match=r"NaN for 1 of 3 rows.*learning_rate"):
        Predictions(logits, np.array([0, 1, 2]), "single_label_classification", NAMES)
