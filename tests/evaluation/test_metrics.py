"""Metrics equal scikit-learn's and scipy's, work with no network, and refuse what cannot be scored."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sklearn_metrics

from hf_distill import run
from hf_distill.errors import LabelError, ModelError, RecipeError
from hf_distill.evaluation.bootstrap import model_metrics
from hf_distill.evaluation.metrics import MEASURED, PRIMARY, make_scorers, primary_metric, scorer_names
from hf_distill.evaluation.predict import decision_scores
from hf_distill.evaluation.scores import DecisionScores
from hf_distill.recipe import EvaluateConfig
from tests.helpers import tiny

NAMES = ("ant", "bee", "cat", "dog")


def single_label(rows: int = 200, seed: int = 0, never: int | None = None) -> DecisionScores:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, rows)
    logits = generator.normal(size=(rows, 4)).astype(np.float32)
    logits[np.arange(rows), labels] += 1
    if never is not None:
        logits[:, never] = -10
    return decision_scores(logits, labels, "single_label_classification", NAMES)


def multi_label(rows: int = 200, seed: int = 0) -> DecisionScores:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (rows, 4))
    logits = (generator.normal(size=(rows, 4)) + labels).astype(np.float32)
    return decision_scores(logits, labels, "multi_label_classification", NAMES)


def regression(rows: int = 200, seed: int = 0) -> DecisionScores:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 11, rows) / 2
    logits = (labels + generator.normal(size=rows)).astype(np.float32)[:, None]
    return decision_scores(logits, labels, "regression", ("score",))


@pytest.mark.parametrize("never", [None, 2])
def test_single_label_metrics_equal_those_of_scikit_learn(never: int | None) -> None:
    predictions = single_label(never=never)
    scores = predictions.metrics()
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
    scores = decision_scores(predictions.logits, labels.astype(dtype), "multi_label_classification", NAMES).metrics()
    assert scores == {
        "accuracy": pytest.approx(sklearn_metrics.accuracy_score(labels, decisions)),
        "f1_micro": pytest.approx(sklearn_metrics.f1_score(labels, decisions, average="micro")),
        "f1_macro": pytest.approx(sklearn_metrics.f1_score(labels, decisions, average="macro")),
    }


def test_regression_metrics_equal_those_of_scipy() -> None:
    predictions = regression()
    outputs, labels = predictions.logits[:, 0].astype(np.float64), predictions.labels
    assert predictions.metrics() == {
        "pearson": pytest.approx(scipy.stats.pearsonr(outputs, labels).statistic),
        "spearman": pytest.approx(scipy.stats.spearmanr(outputs, labels).statistic),
        "mse": pytest.approx(((outputs - labels) ** 2).mean()),
    }


def test_a_perfect_model_scores_one_everywhere() -> None:
    labels = np.array([0, 1, 1, 3])
    scores = decision_scores(np.eye(4)[labels], labels, "single_label_classification", NAMES).metrics()
    assert set(scores.values()) == {1.0}


def test_a_constant_regressor_correlates_with_nothing_and_warns_of_nothing() -> None:
    predictions = decision_scores(np.ones((3, 1)), np.array([0.0, 1.0, 2.0]), "regression", ("score",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = predictions.metrics()
    assert (scores["pearson"], scores["spearman"]) == (0.0, 0.0)


def test_scores_of_each_class_are_named_and_equal_those_of_scikit_learn() -> None:
    predictions = single_label(never=2)
    report = sklearn_metrics.classification_report(
        predictions.labels, predictions.decisions, target_names=NAMES, output_dict=True, zero_division=0
    )
    scores = predictions.by_class
    assert tuple(scores) == NAMES
    assert scores["cat"]["precision"] == 0
    for name in NAMES:
        expected = {"f1" if key == "f1-score" else key: value for key, value in report[name].items()}
        assert scores[name] == pytest.approx(expected)


def test_a_class_absent_from_labels_and_decisions_is_listed_with_no_rows_and_not_averaged() -> None:
    labels = np.array([0, 1, 1])
    predictions = decision_scores(np.eye(4)[labels], labels, "single_label_classification", NAMES)
    assert predictions.by_class["dog"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert predictions.metrics()["f1_macro"] == 1


def test_scores_of_each_label_of_a_multi_label_task_equal_those_of_scikit_learn() -> None:
    predictions = multi_label()
    expected = sklearn_metrics.f1_score(predictions.labels, predictions.logits > 0, average=None)
    assert [score["f1"] for score in predictions.by_class.values()] == pytest.approx(expected)


SCRIPT = """
import datasets
import evaluate

class HalfRight(evaluate.Metric):
    def _info(self):
        value = datasets.Value("{kind}")
        features = datasets.Features({{"predictions": value, "references": value}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        right = sum(first == second for first, second in zip(predictions, references))
        return {{"half_right": right / len(references) / 2{more}}}
"""


@pytest.fixture
def half_right(tmp_path: Path) -> Callable[..., str]:
    """Makes the folder of a metric as `evaluate` loads it, and gives its name in a recipe."""

    def made(kind: str = "int64", more: str = "") -> str:
        folder = tmp_path / kind / "half_right"
        folder.mkdir(parents=True)
        (folder / "half_right.py").write_text(SCRIPT.format(kind=kind, more=more))
        return f"evaluate:{folder}"

    return made


def test_a_metric_of_evaluate_scores_decisions_beside_the_built_in_ones(half_right: Callable[..., str]) -> None:
    scorers = make_scorers([half_right()])
    predictions = dataclasses.replace(single_label(40), scorers=scorers)
    interval = model_metrics({"student": predictions}, 100, 0)["student"]
    assert interval["half_right"] == pytest.approx({name: each / 2 for name, each in interval["accuracy"].items()})
    assert list(interval)[:7] == list(MEASURED["single_label_classification"])


def test_a_metric_of_evaluate_scores_texts_whole_or_row_by_row(half_right: Callable[..., str]) -> None:
    (scorer,) = make_scorers([half_right("string", ', "other": 1')])
    texts, references = ["a", "b", "c"], ["a", "b", "d"]
    found = scorer.judge(texts, references)(np.array([[1.0, 1, 1], [0, 0, 3]]))
    assert found["half_right"].tolist() == pytest.approx([1 / 3, 0])
    assert scorer.statistics(texts, references).tolist() == [[0.5], [0.5], [0]]


def test_a_metric_of_evaluate_may_decide(half_right: Callable[..., str]) -> None:
    task = SimpleNamespace(problem_type="single_label_classification", scorers=(), out_of_scope=None)
    assert primary_metric(task, EvaluateConfig(metric="half_right", scorers=(half_right(),))) == "half_right"


def test_a_metric_of_evaluate_judges_decisions_without_anything_written(half_right: Callable[..., str]) -> None:
    task = SimpleNamespace(row_labels=object(), scorers=())
    assert scorer_names(task, (half_right(),)) == ()
    assert scorer_names(task, ("bleu",)) == ("bleu",)


def test_a_metric_of_the_hub_is_called_by_the_end_of_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = SimpleNamespace(compute=lambda **_: {"other": 0.25})
    monkeypatch.setattr(evaluate, "load", lambda name, **options: loaded)
    (scorer,) = make_scorers(["evaluate:user/other"])
    assert scorer.judge(["a"], ["a"])(np.ones((1, 1))) == {"other": [0.25]}


def test_a_metric_of_evaluate_that_does_not_fit_is_refused(half_right: Callable[..., str]) -> None:
    (scorer,) = make_scorers([half_right()])
    with pytest.raises(RecipeError, match="cannot score what this task gives"):
        scorer.judge(["a", "b"], ["a", "c"])(np.ones((1, 2)))


def test_a_folder_without_a_metric_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user" / "other").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="there is no user/other/other"):
        make_scorers(["evaluate:user/other"])


def test_a_metric_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"{tmp_path.name}.py").write_text("import nothing_of_that_name")
    with pytest.raises(RecipeError, match="could not be loaded"):
        make_scorers([f"evaluate:{tmp_path}"])


def test_the_primary_metric_of_every_problem_type_is_one_that_is_computed() -> None:
    assert PRIMARY.keys() == MEASURED.keys()
    for problem_type, metrics in MEASURED.items():
        task = SimpleNamespace(problem_type=problem_type, scorers=("bleu", "rouge", "wer"), out_of_scope=None)
        assert primary_metric(task, EvaluateConfig()) == PRIMARY[problem_type]
        assert PRIMARY[problem_type] in {*metrics, "bleu", "rougeL", "wer"}


def test_a_primary_metric_of_another_problem_type_is_refused_with_the_choices() -> None:
    task = SimpleNamespace(problem_type="single_label_classification", scorers=(), out_of_scope=None)
    assert primary_metric(task, EvaluateConfig(metric="f1_macro")) == "f1_macro"
    with pytest.raises(RecipeError, match=r"'pearson' is not measured.*f1_macro"):
        primary_metric(task, EvaluateConfig(metric="pearson"))


def test_calibration_error_is_the_distance_between_how_sure_and_how_right() -> None:
    logits = np.tile(np.log([[0.8, 0.2]]), (10, 1))
    names = ("no", "yes")
    right_for_eight = np.array([0] * 8 + [1] * 2)
    calibrated = decision_scores(logits, right_for_eight, "single_label_classification", names)
    over_confident = decision_scores(logits, 1 - right_for_eight, "single_label_classification", names)
    assert calibrated.calibration_error == pytest.approx(0, abs=1e-9)
    assert over_confident.calibration_error == pytest.approx(0.6)


def test_calibration_error_does_not_let_bins_cancel() -> None:
    sure, unsure = np.log([0.9, 0.1]), np.log([0.6, 0.4])
    logits = np.array([sure] * 10 + [unsure] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 9 + [1])
    predictions = decision_scores(logits, labels, "single_label_classification", ("no", "yes"))
    assert predictions.calibration_error == pytest.approx(0.3)


def test_calibration_error_of_multi_label_counts_every_label() -> None:
    logits = np.log(np.array([[3.0, 1 / 3], [3.0, 1 / 3]]))
    labels = np.array([[1, 0], [0, 0]])
    predictions = decision_scores(logits, labels, "multi_label_classification", ("a", "b"))
    assert predictions.calibration_error == pytest.approx(0, abs=1e-9)


def test_agreement_is_the_share_of_equal_decisions_right_or_wrong() -> None:
    labels = np.array([0, 1, 2, 3])
    first = decision_scores(np.eye(4)[[0, 1, 1, 1]], labels, "single_label_classification", NAMES)
    second = decision_scores(np.eye(4)[[0, 2, 1, 3]], labels, "single_label_classification", NAMES)
    assert first.agreement(second) == 0.5
    assert multi_label().agreement(multi_label()) == 1


def test_agreement_of_regressors_is_their_correlation() -> None:
    first, second = regression(seed=1), regression(seed=2)
    expected = scipy.stats.pearsonr(first.logits[:, 0].astype(float), second.logits[:, 0].astype(float)).statistic
    assert first.agreement(second) == pytest.approx(expected)


def test_real_values_tell_no_probabilities() -> None:
    assert regression().calibration_error is None


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
        decision_scores(logits, labels, "single_label_classification", NAMES)


def test_a_model_that_gives_nan_is_refused_with_what_to_do() -> None:
    logits = np.zeros((3, 4))
    logits[1, 2] = np.nan
    with pytest.raises(ModelError, match=r"NaN for 1 of 3 rows.*learning_rate"):
        decision_scores(logits, np.array([0, 1, 2]), "single_label_classification", NAMES)


@pytest.mark.slow
def test_a_recipe_lets_a_metric_of_evaluate_decide(half_right: Callable[..., str], tmp_path: Path) -> None:
    asked = {"resamples": 100, "scorers": [half_right()], "metric": "half_right"}
    result = run(tiny.recipe(evaluate=asked), runs=tmp_path / "runs", report=lambda line: None, allow_code=True)
    assert result.comparison["primary_metric"] == "half_right"
    for model in result.results["models"].values():
        assert model["metrics"]["half_right"]["value"] == pytest.approx(model["metrics"]["accuracy"]["value"] / 2)
