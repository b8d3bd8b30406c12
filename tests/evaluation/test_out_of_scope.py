"""Rows that are of no class: left out where models learn, told from all others by confidence where they are scored."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import roc_auc_score

from hf_distill import ModelTeacher, evaluate, run
from hf_distill.data.rows import load_data
from hf_distill.errors import DataError, RecipeError, TeacherError
from hf_distill.evaluation.bootstrap import bootstrap, model_metrics, resample_counts
from hf_distill.evaluation.classification import detector
from hf_distill.evaluation.metrics import OUT_OF_SCOPE as METRICS
from hf_distill.evaluation.metrics import primary_metric
from hf_distill.evaluation.predict import decision_scores, predict
from hf_distill.evaluation.scores import DecisionScores, Evaluation
from hf_distill.pipeline.preflight import check
from hf_distill.recipe import DataConfig, EvaluateConfig
from hf_distill.tasks import TextClassification
from tests.helpers import data as shared_data
from tests.helpers import tiny

NAMES = ("bad", "good")


def recipe(**changes):
    data = {"path": "tests.helpers.data:out_of_scope"}
    task = {"name": "text-classification", "max_length": 32, "out_of_scope": "none"}
    return tiny.recipe(**{"task": task, "data": data, **changes})


def read(source: str = "out_of_scope", name: str = "none", **config):
    task = TextClassification(out_of_scope=name)
    given = DataConfig(path=f"tests.helpers.data:{source}", **config)
    data = task.set_aside(load_data(given, task.required, task.optional, task.text_columns, 0))
    task.read_labels(data.train)
    return task, data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    lines: list[str] = []
    return run(recipe(), runs=tmp_path_factory.mktemp("runs"), report=lines.append), lines


@pytest.mark.parametrize("source", ["out_of_scope", "out_of_scope_in_words"])
def test_rows_of_no_class_are_left_out_of_training_and_kept_aside_elsewhere(source):
    task, data = read(source)
    assert task.label_set.names == NAMES
    rows = {"train": data.train, "validation": data.validation, "test": data.test}
    encoded = {name: task.encode(part, tiny.tokenizer()) for name, part in rows.items()}
    assert all(set(part["labels"]) == {0, 1} for part in encoded.values())
    loaded = {"train": data.loaded.train, "test": data.loaded.test, "validation": data.loaded.validation}
    assert len(data.train) == 4 * len(loaded["train"]) // 5
    for split, outside in data.outside.items():
        assert len(outside) + len(rows[split]) == len(loaded[split])
        assert not {*tiny.GOOD, *tiny.BAD} & set(" ".join(outside["text"]).split())


def test_classes_keep_their_rows_when_their_numbers_move():
    _, data = read()
    words = {"bad": tiny.BAD, "good": tiny.GOOD}
    for row in data.test:
        assert set(row["text"].split()) & set(words[data.test.features["label"].int2str(row["label"])])


@pytest.mark.parametrize("source", ["out_of_scope", "out_of_scope_in_words"])
def test_a_stream_is_read_without_them(source):
    task, data = read(source, streaming=True)
    assert task.label_set.names == NAMES
    labels = [row["labels"] for row in task.encode(data.train, tiny.tokenizer())]
    whole = getattr(shared_data, source)()
    assert len(labels) == 4 * len(whole["train"]) // 5
    assert set(labels) == {0, 1}


@pytest.mark.slow
def test_how_many_are_left_out_is_told(made):
    told = "out of scope: 48 of 240 training rows, labelled 'none', are left out: they are of no class"
    assert told in made[1]


def test_a_teacher_that_is_made_first_leaves_them_out_too(made):
    _, lines = made
    assert sum("are left out" in line for line in lines) == 2
    result, _ = made
    (teacher,) = (result.folder.parent / "teachers").glob("*/results.json")
    assert json.loads(teacher.read_text())["data"]["labels"] == list(NAMES)


def test_all_models_are_scored_on_both_kinds_of_rows(made):
    result, _ = made
    models = result.results["models"]
    assert result.results["data"]["labels"] == list(NAMES)
    assert result.results["data"]["rows"] == {"train": 192, "validation": 64, "test": 64}
    assert result.results["data"]["out_of_scope"] == {"label": "none", "rows": 16}
    for name in ("teacher", "student", "control"):
        for metric in METRICS:
            found = models[name]["metrics"][metric]
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    config = json.loads((result.student / "config.json").read_text())
    assert sorted(config["id2label"].values()) == list(NAMES)
    assert models["teacher"]["metrics"]["auroc_out_of_scope"]["value"] > 0.6


def test_the_card_and_the_analysis_tell_it(made):
    result, _ = made
    card = (result.student / "README.md").read_text()
    assert "16 rows labelled none are of no class" in card
    assert "| auroc\\_out\\_of\\_scope |" in card or "| auroc_out_of_scope |" in card
    assert "lets" in json.loads((result.folder / "analysis.json").read_text())["summary"][-1]


def test_a_model_gives_the_same_for_rows_of_no_class_as_alone():
    task, data = read()
    model = tiny.bert()
    candidate = ModelTeacher(model, tiny.tokenizer(), [1, 0])
    found = predict(candidate, Evaluation(task=task, rows=data.test, batch_size=4, outside=data.outside["test"]))
    alone = predict(candidate, Evaluation(task=task, rows=data.outside["test"].add_column("label", [0] * 16)))
    assert np.allclose(found.outside, alone.logits, atol=1e-6)
    assert predict(candidate, Evaluation(task=task, rows=data.test, batch_size=4)).outside is None


def confidences(seed: int = 0):
    generator = np.random.default_rng(seed)
    return generator.normal(0.5, 1, 60).round(1), generator.normal(0, 1, 25).round(1)  # Rounded: some are the same.


def test_every_resample_is_scored_as_scikit_learn_scores_the_rows_it_drew():
    inside, outside = confidences()
    (counts,) = resample_counts(60, 50, 3, outside=25)
    drawn = counts[:, :60], counts[:, 60:]
    assert (drawn[0].sum(axis=1) == 60).all()
    assert (drawn[1].sum(axis=1) == 25).all()
    found = detector(inside, outside)(*drawn)
    truth, values = np.repeat([1, 0], [60, 25]), np.concatenate([inside, outside])
    for i, weights in enumerate(counts):
        assert found["auroc_out_of_scope"][i] == pytest.approx(roc_auc_score(truth, values, sample_weight=weights))
        passing = np.sort(np.repeat(inside, weights[:60]))[3]  # 57 of 60 are at least as sure.
        share = (np.repeat(outside, weights[60:]) >= passing).mean()
        assert found["fpr95_out_of_scope"][i] == pytest.approx(share)


def predictions(seed: int, outside: int = 25) -> DecisionScores:
    generator = np.random.default_rng(seed)
    labels = np.random.default_rng(9).integers(0, 2, 60)
    logits = np.eye(2)[labels] * 3 + generator.normal(size=(60, 2))
    more = generator.normal(size=(outside, 2))
    return decision_scores(logits, labels, "single_label_classification", NAMES, more if outside else None)


def test_confidence_is_the_largest_probability():
    found = predictions(0)
    ours, others = (np.exp(each - each.max(1, keepdims=True)) for each in (found.logits, found.outside))
    sure = np.concatenate([1 / ours.sum(1), 1 / others.sum(1)])
    expected = roc_auc_score(np.repeat([1, 0], [60, 25]), sure)
    assert found.metrics()["auroc_out_of_scope"] == pytest.approx(expected)
    assert found.metrics() | predictions(0, 0).metrics() == found.metrics()


def test_two_equal_models_are_drawn_alike_and_a_better_one_stays_better():
    draws = bootstrap({"first": predictions(0), "second": predictions(0)}, 200, 1)
    assert all(np.array_equal(draws["first"][name], draws["second"][name]) for name in METRICS)
    interval = model_metrics({"first": predictions(0)}, 200, 1)["first"]["auroc_out_of_scope"]
    assert interval["low"] < interval["value"] < interval["high"]


def test_models_that_were_scored_on_other_rows_of_no_class_are_not_compared():
    with pytest.raises(DataError, match="differ"):
        bootstrap({"first": predictions(0), "second": predictions(0, 20)}, 100, 1)


def test_it_may_be_the_metric_that_decides_only_where_there_are_such_rows():
    task, _ = read()
    for metric in METRICS:
        assert primary_metric(task, EvaluateConfig(metric=metric)) == metric
    other = TextClassification()
    other.read_labels(tiny.rows(8))
    with pytest.raises(RecipeError, match="not measured"):
        primary_metric(other, EvaluateConfig(metric=METRICS[0]))


def test_a_teacher_whose_confidence_tells_nothing_is_refused_where_that_decides():
    found = predictions(0)
    found.check_above_chance("auroc_out_of_scope")
    with pytest.raises(TeacherError, match=r"0\.500, no better than chance"):
        dataclasses.replace(found, outside=found.logits).check_above_chance("auroc_out_of_scope")


def test_it_decides_between_the_models_of_a_run(made, tmp_path):
    shutil.copytree(made[0].folder.parent, tmp_path / "runs")
    again = evaluate(
        tmp_path / "runs" / made[0].folder.name, ["evaluate.metric=fpr95_out_of_scope"], report=lambda line: None
    )
    assert again.comparison["primary_metric"] == "fpr95_out_of_scope"
    assert again.comparison["lower_is_better"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "nine"}, "no row is labelled 'nine'; did you mean none"),
        ({"scopeless": "test"}, "no test row is labelled 'none'.*set evaluate.split to validation"),
        ({"name": 3}, "expected the name of a label, got 3"),
    ],
)
def test_what_would_measure_nothing_is_refused(changes, message):
    name = changes.pop("name", "none")
    task = {"name": "text-classification", "out_of_scope": name}
    data = {"path": "tests.helpers.data:out_of_scope", "arguments": changes}
    with pytest.raises(RecipeError, match=message):
        check(recipe(task=task, data=data), report=lambda line: None)


@pytest.mark.parametrize(("labels", "kind"), [([0.5, 1.5], "regression"), ([["none"], ["a", "b"]], "multi_label")])
def test_labels_that_are_not_one_class_of_many_are_refused(labels, kind, tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b"] * 10, "label": labels * 10})
    for split in ("train", "validation", "test"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "validation", "test")}
    with pytest.raises(RecipeError, match=f"one class of many, and this is {kind}"):
        check(recipe(data={"files": files}), report=lambda line: None)


def test_the_settings_of_the_task_hold_it():
    assert read()[0].settings["out_of_scope"] == "none"
