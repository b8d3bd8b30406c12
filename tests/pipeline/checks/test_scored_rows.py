"""Rows on which nothing can be told are refused before a teacher is made; what passes check does not die in run."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import get_args

import pytest
from datasets import Dataset

import hf_distill
from hf_distill.errors import DataError, RecipeError
from hf_distill.evaluation.metrics import PRIMARY
from hf_distill.pipeline.checks.scored_rows import PERFECT, check_scored_rows
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import make_task
from hf_distill.tasks.task import ScoredAs
from tests.helpers import tiny
from tests.helpers.command_line import call
from tests.helpers.seams import accept_any_teacher


def experiment(name, columns, options=None, metric=None, teacher=True):
    task, rows = make_task(name, options or {}), Dataset.from_dict(columns)
    task.read_labels(rows)
    recipe = SimpleNamespace(evaluate=EvaluateConfig(), teacher=object() if teacher else None)
    return SimpleNamespace(task=task, rows=rows, recipe=recipe, metric=metric or PRIMARY[task.problem_type])


ASKED = {"question": ["a"] * 2, "context": ["good card"] * 2}
PLACE = {"text": ["card"], "answer_start": [5]}
NOTHING = {"text": [], "answer_start": []}
TELLING = {
    "classes": ("text-classification", {"text": ["a"] * 9, "label": ["x", "y", "y"] * 3}),
    "a single row of a rare class": ("text-classification", {"text": ["a"] * 40, "label": ["x"] * 39 + ["y"]}),
    "several labels": ("text-classification", {"text": ["a"] * 6, "label": [["x"], ["x", "y"], []] * 2}),
    "several labels, multi-hot": ("text-classification", {"text": ["a"] * 6, "label": [[0, 1], [1, 1], [0, 0]] * 2}),
    "scores": ("text-classification", {"text": ["a"] * 8, "label": [i / 7 for i in range(8)]}),
    "tags": ("token-classification", {"tokens": [["a", "b"]] * 3, "labels": [["O", "B-X"], ["B-Y", "O"], ["O", "O"]]}),
    "tags, some missing": ("token-classification", {"tokens": [["a", "b"]] * 2, "labels": [["O", None], ["B-Y", "O"]]}),
    "answers": (
        "question-answering",
        {"question": ["a"] * 2, "context": ["good card"] * 2, "answers": [PLACE, NOTHING]},
    ),
    "similarity": ("embeddings", {"text": ["a"] * 8, "text_pair": ["b"] * 8, "score": [i / 7 for i in range(8)]}),
}
BLIND = {
    "one class": ("text-classification", {"text": ["a"] * 8, "label": ["x"] * 8}),
    "no label in any row": ("text-classification", {"text": ["a"] * 6, "label": [[0, 0]] * 6}),
    "one score": ("text-classification", {"text": ["a"] * 8, "label": [0.5] * 8}),
    "three scores": ("text-classification", {"text": ["a"] * 3, "label": [0.1, 0.2, 0.35]}),
    "no entity": ("token-classification", {"tokens": [["a"]] * 3, "labels": [["O"]] * 3}),
    "no answer": ("question-answering", {"question": ["a"], "context": ["good card"], "answers": [NOTHING]}),
    "one similarity": ("embeddings", {"text": ["a"] * 8, "text_pair": ["b"] * 8, "score": [0.5] * 8}),
}


@pytest.mark.parametrize("case", TELLING)
def test_rows_that_tell_good_teachers_from_bad_ones_pass(case):
    check_scored_rows(experiment(*TELLING[case]))


@pytest.mark.parametrize("case", BLIND)
def test_rows_that_do_not_are_refused_unless_there_is_no_teacher(case):
    name, columns = BLIND[case]
    options = {"one class": {"labels": ["x", "y"]}, "no entity": {"labels": ["O", "B-X"]}}.get(case, {})
    with pytest.raises(DataError, match=r"split 'test': on its .* rows.* always right scores no better"):
        check_scored_rows(experiment(name, columns, options))
    check_scored_rows(experiment(name, columns, options, teacher=False))


@pytest.mark.parametrize(("passages", "told"), [(11, True), (10, False)])
def test_retrieval_needs_more_texts_than_are_looked_at(passages, told):
    texts = [f"text {i}" for i in range(passages)]
    made = experiment("embeddings", {"text": texts, "text_pair": texts}, {"evaluation": "retrieval"})
    if told:
        check_scored_rows(made)
    else:
        with pytest.raises(DataError, match="always right"):
            check_scored_rows(made)


def test_a_metric_that_chance_is_not_known_of_refuses_nothing():
    check_scored_rows(experiment(*BLIND["one class"], {"labels": ["x", "y"]}, metric="f1_macro"))


def test_every_way_of_scoring_has_its_perfect_model():
    assert {*PERFECT} == {*get_args(ScoredAs)} - {"tokens"}  # Of which any may be right by chance alone.


def written(folder, recipe, **files):
    for name, content in files.items():
        (folder / f"{name}.csv").write_text(content)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return str(path)


ROWS = "text,label\n" + "good card,good\nbad card,bad\n" * 8


def classes(**changes):
    shape = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "version": 1,
        "name": "odd",
        "task": "text-classification",
        "data": {"files": {"train": "train.csv", "test": "test.csv"}},
        "student": {"config": {**shape, "intermediate_size": 16}, "tokenizer": "words"},
        "objectives": [{"kind": "labels"}],
        "training": {"max_steps": 2, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no"},
        "evaluate": {"resamples": 100},
        **changes,
    }


PAIRS = ROWS.replace("label", "text_pair,label").replace("card,", "card,x,")
SCORES = "text,label\n" + "".join(f"card {i},{i / 7:.3f}\n" for i in range(20))
ODD = {
    "a pair in the training rows alone": {"train": PAIRS},
    "a pair in the test rows alone": {"test": PAIRS},
    "numbers for the classes in the test rows": {"test": "text,label\n" + "good card,1\nbad card,0\n" * 8},
    "a further column of another type": {"train": ROWS.replace("label", "label,id").replace("d\n", "d,7\n")},
    "one test row of one class": {"test": "text,label\ngood card,good\n"},
    "a text of hundreds of words": {"train": ROWS + "card " * 400 + ",good\n"},
    "unknown words alone": {"train": ROWS.replace("card", "zzz")},
    "three scores to test on": {"train": SCORES, "test": "text,label\na,0.1\nb,0.2\nc,0.4\n"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ODD)
def test_odd_rows_that_pass_check_run(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer().save_pretrained("words")
    path = written(tmp_path, classes(), **{"train": ROWS, "test": ROWS, **ODD[case]})
    assert call("check", path) == 0, capsys.readouterr().err
    assert call("run", path) == 0, capsys.readouterr().err


STREAMED = {"files": {"train": "train.csv", "test": "test.csv"}, "streaming": True, "validation_size": 4}
FAR = ROWS + "good card,good\n" * 1100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (FAR + ",bad\n", r"row 111\d of the stream has no text in column 'text'"),
        (FAR + "bad card,\n", r"row 111\d has no label"),
    ],
)
def test_a_bad_row_of_a_stream_is_refused_where_it_comes(rows, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.tokenizer().save_pretrained("words")
    training = {**classes()["training"], "max_steps": 200, "train_sampling_strategy": "random"}
    data = {**STREAMED, "missing_labels": "refuse"}
    path = written(tmp_path, classes(data=data, training=training), train=rows, test=ROWS)
    with pytest.raises(DataError, match=told):
        hf_distill.run(path, report=lambda line: None)


def test_a_metric_for_the_best_model_is_one_that_student_and_control_log(monkeypatch):
    accept_any_teacher(monkeypatch)
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}

    def check(metric, **changes):
        recipe = tiny.recipe(training={**best, "metric_for_best_model": metric}, **changes)
        hf_distill.check(recipe, report=lambda line: None)

    alone = {"evaluate": {"control": False, "resamples": 100}}
    for metric in ("loss", "eval_loss", "loss_labels", "accuracy", "eval_f1_macro"):
        check(metric)
    for metric in ("loss_logits", "eval_loss_hidden"):
        check(metric, **alone)
        with pytest.raises(RecipeError, match="is not logged where the control is evaluated"):
            check(metric)
    with pytest.raises(RecipeError, match=r"'accurracy' is not logged where the student.*did you mean accuracy"):
        check("accurracy")
