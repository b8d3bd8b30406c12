"""A sweep: one pass of the teacher serves every student of a grid, and the validation rows choose among them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

import hf_distill
from hf_distill.errors import OutputError, RecipeError, TeacherError
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from hf_distill.search import sweep as sweeping
from hf_distill.search.sweep_grid import read_grid
from tests.helpers import tiny
from tests.helpers.command_line import call, refused
from tests.helpers.recipes import language_recipe
from tests.helpers.seams import accept_any_teacher

DEPTH = 3
"""Layers of the teacher; no student has as many."""

FOUR_BY_FOUR = ["objectives.0.temperature=1,2,4,8", "objectives.1.layers={0: 0},{0: 1},{0: 2},auto"]
TWO = ["objectives.0.temperature=1,4"]


def silent(line: str) -> None:
    """Report to nobody."""


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """Teachers with random weights teach as well as any here."""
    accept_any_teacher(monkeypatch)


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """A live teacher, a student of one of its layers, one step."""
    if not (folder / "teacher").is_dir():
        tiny.bert(DEPTH, seed=5).save_pretrained(folder / "teacher")
        tiny.tokenizer().save_pretrained(folder / "teacher")
    training = {"max_steps": 1, "per_device_train_batch_size": 8, "eval_strategy": "no", "save_strategy": "no"}
    return {
        "version": 1,
        "name": "tiny",
        "task": {"name": "text-classification", "max_length": 32},
        "data": {"path": "tests.helpers.tiny:splits", "arguments": {"train": 48, "test": 24}},
        "teacher": {"model": str(folder / "teacher")},
        "student": {"layers": 1},
        "objectives": [{"kind": "logits"}, {"kind": "hidden", "layers": {0: 0}}],
        "training": {**training, "learning_rate": 1e-3, "use_cpu": True},
        "evaluate": {"resamples": 100, "control": False},
        **changes,
    }


@pytest.fixture
def read_by_teacher(monkeypatch) -> Counter:
    """How often the teacher's forward got each row, by its tokens."""
    rows: Counter = Counter()
    forward = BertForSequenceClassification.forward

    def counted(self, input_ids=None, attention_mask=None, **inputs):
        if self.config.num_hidden_layers == DEPTH and input_ids.device.type != "meta":
            rows.update(tuple(ids[mask.bool()].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True))
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, **inputs)

    # accepted_inputs looks at the names of a forward's arguments.
    counted.__wrapped__ = forward
    monkeypatch.setattr(BertForSequenceClassification, "forward", counted)
    return rows


def tokens_of_rows(train: int = 48, test: int = 24) -> Counter:
    splits, tokenizer = tiny.splits(train, test), tiny.tokenizer()
    texts = [*splits["train"]["text"], *splits["validation"]["text"]]
    return Counter(tuple(ids) for ids in tokenizer(texts, truncation=True, max_length=32)["input_ids"])


@pytest.mark.slow
def test_the_teacher_reads_each_row_exactly_once_for_a_grid_of_four_by_four(tmp_path, read_by_teacher):
    result = hf_distill.sweep(recipe_of(tmp_path), FOUR_BY_FOUR, runs=tmp_path / "runs", report=silent)
    assert len(result.results["combinations"]) == 16
    assert read_by_teacher == tokens_of_rows()
    assert result.results["teacher"]["rows_read"] == result.results["teacher"]["rows_kept"] == 48 + 24
    assert [path.is_dir() for path in (tmp_path / "runs" / "caches").glob("[!.]*")] == [True]
    assert len({json.dumps(each["metrics"]) for each in result.results["combinations"]}) > 1


@pytest.mark.slow
def test_what_is_best_on_the_validation_rows_is_chosen_and_told(tmp_path, capsys):
    dump_recipe(load_recipe(recipe_of(tmp_path)), tmp_path / "recipe.yaml")
    runs = tmp_path / "runs"
    assert call("sweep", tmp_path / "recipe.yaml", *TWO, "training.learning_rate=1e-4,1e-2", "--runs", runs) == 0
    told, folder = capsys.readouterr().out, runs / "tiny-sweep"
    results = json.loads((folder / "sweep.json").read_text())
    values = [each["value"] for each in results["combinations"]]
    assert results["metric"] == "accuracy"
    assert results["rows"] == 24
    assert results["best"]["value"] == max(values)
    assert all(each["seconds"] >= 0 for each in results["combinations"])
    assert results["command"].startswith("hf-distill sweep")
    assert (folder / "scores.png").stat().st_size > 0
    for part in ("teacher", "objectives.0.temperature", "set to cached", "72 rows", f"hf-distill run {folder}"):
        assert part in told, part
    best = load_recipe(folder / "best.yaml")
    assert best.objectives[0].options["temperature"] == results["best"]["values"]["objectives.0.temperature"]
    assert best.training["learning_rate"] == results["best"]["values"]["training.learning_rate"]
    assert (best.name, best.teacher.kind, best.evaluate.split) == ("tiny-best", "cached", "test")


@pytest.mark.slow
def test_the_best_recipe_runs_from_the_same_pass_to_the_same_student(tmp_path, read_by_teacher):
    runs = tmp_path / "runs"
    result = hf_distill.sweep(
        recipe_of(tmp_path),
        {"objectives.1.weight": [0.5, 1.0], "objectives.1.layers": [{0: 0}, {0: 2}]},
        runs=runs,
        report=silent,
    )
    read_by_teacher.clear()
    lines: list[str] = []
    rerun = hf_distill.run(result.recipe, runs=runs, report=lines.append)
    assert any("fits and is complete" in line for line in lines)
    # The test rows are scored, the validation rows prove the order of the labels, and the first row the cache.
    again_read = read_by_teacher.keys() & (tokens_of_rows().keys() - scored_tokens())
    assert again_read == {tuple(tiny.tokenizer()(tiny.splits(48, 24)["train"]["text"][0])["input_ids"])}
    kept = load_file(result.folder / result.results["best"]["folder"] / "student" / "model.safetensors")
    found = load_file(rerun.student / "model.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in kept.items())


def scored_tokens() -> set[tuple[int, ...]]:
    splits = tiny.splits(48, 24)
    texts = [*splits["validation"]["text"], *splits["test"]["text"]]
    return {tuple(ids) for ids in tiny.tokenizer()(texts)["input_ids"]}


@pytest.mark.slow
def test_a_sweep_that_was_broken_off_goes_on_where_it_stopped(tmp_path, monkeypatch, read_by_teacher):
    recipe, runs, trained = recipe_of(tmp_path), tmp_path / "runs", []
    train = sweeping.train_model

    def train_or_stop(experiment, *arguments, **named):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(experiment.folder.path)
        return train(experiment, *arguments, **named)

    grid = [*TWO, "training.learning_rate=1e-4,1e-3"]
    monkeypatch.setattr(sweeping, "train_model", train_or_stop)
    with pytest.raises(KeyboardInterrupt):
        hf_distill.sweep(recipe, grid, runs=runs, report=silent)
    monkeypatch.setattr(sweeping, "train_model", train)
    before = {path: (path / "student" / "model.safetensors").stat().st_mtime_ns for path in trained}
    read = read_by_teacher.total()
    lines: list[str] = []
    result = hf_distill.sweep(recipe, grid, runs=runs, report=lines.append)
    # One row is read again: its hidden states say which kind of numbers the cache has to hold.
    assert read_by_teacher.total() == read + 1 == result.results["teacher"]["rows_read"]
    assert {path: (path / "student" / "model.safetensors").stat().st_mtime_ns for path in trained} == before
    assert sum("trained already" in line for line in lines) == 2
    assert len(result.results["combinations"]) == 4
    # A larger grid keeps them, too.
    larger = hf_distill.sweep(recipe, [grid[0], "training.learning_rate=1e-4,1e-3,1e-2"], runs=runs, report=silent)
    assert {each["folder"] for each in result.results["combinations"]} < {
        each["folder"] for each in larger.results["combinations"]
    }
    assert not list(larger.folder.rglob("checkpoint-*"))


def test_a_student_that_diverges_is_told_and_never_the_best(tmp_path):
    lines: list[str] = []
    result = hf_distill.sweep(
        recipe_of(tmp_path), ["training.learning_rate=1e30,1e-3"], runs=tmp_path / "runs", report=lines.append
    )
    failed, scored = result.results["combinations"]
    assert "NaN" in failed["error"]
    assert result.best == scored["values"]
    assert any("NaN" in line for line in lines)


def test_the_depth_of_students_may_be_swept(tmp_path, read_by_teacher):
    recipe = recipe_of(tmp_path, objectives=[{"kind": "logits"}, {"kind": "hidden"}])
    hf_distill.sweep(recipe, ["student.layers=1,2"], runs=tmp_path / "runs", report=silent)
    assert read_by_teacher == tokens_of_rows()


def test_a_teacher_that_is_not_kept_whole_is_scored_by_one_more_reading(tmp_path, read_by_teacher):
    recipe = recipe_of(tmp_path, objectives=[{"kind": "labels"}, {"kind": "hidden"}])
    result = hf_distill.sweep(recipe, ["objectives.1.weight=0.1,1"], runs=tmp_path / "runs", report=silent)
    assert "once more" in result.results["teacher"]["scored_from"]
    assert result.results["teacher"]["rows_read"] == 72
    assert read_by_teacher.total() == 72 + 24


REFUSED = {
    "data": (["data.train_limit=8,16"], "recipe.data.train_limit: cannot change within a sweep: .*another pass"),
    "task": (["task.max_length=8,16"], "another pass"),
    "teacher": (["teacher.dtype=float32,bfloat16"], "another pass"),
    "seed": (["seed=1,2"], "decides splits"),
    "evaluate": (["evaluate.batch_size=1,2"], "changes nothing that is trained"),
    "name": (["name=a,b"], "names the folder"),
    "no axis": (["seed=1"], "nothing changes from student to student"),
    "a value that is missing": (["training.learning_rate=1e-3,,1e-4"], "between any two commas"),
    "a value that is there twice": (["training.learning_rate=1e-3,0.001"], "is there twice"),
    "a key that is there twice": (["student.layers=1,2", "student.layers=1"], "is given twice"),
    "an unknown key": (["training.learning_rat=1,2"], "did you mean learning_rate"),
    "no key": (["=1,2"], "expected key=value"),
    "tokenizers": (
        [
            "objectives=[{kind: logits}]",
            "student={config: {num_hidden_layers: 1}, tokenizer: {vocab_size: 60}}",
            "student.tokenizer.vocab_size=60,80",
        ],
        "cut texts in 2 ways",
    ),
    "what students write": (["rollout={share: 0.5}", *TWO], "never about what students write"),
    "what no cache keeps": (["objectives.1={kind: attention}", *TWO], "which a cache does not keep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_grids_that_one_pass_cannot_serve_are_told_in_one_line(name, tmp_path, capsys):
    pairs, part = REFUSED[name]
    path = tmp_path / "recipe.yaml"
    dump_recipe(load_recipe(recipe_of(tmp_path)), path)
    line = refused(capsys, tmp_path, "sweep", path, *pairs, "--runs", tmp_path / "runs")
    assert re.search(part, line), line


def test_temperatures_over_a_vocabulary_would_take_one_pass_each_and_are_refused(tmp_path):
    recipe = {**language_recipe(tmp_path), "objectives": [{"kind": "logits"}]}
    with pytest.raises(TeacherError, match=r"1, 2, 4: the teacher would read all rows 3 times"):
        hf_distill.sweep(recipe, ["objectives.0.temperature=1,2,4"], runs=tmp_path / "runs", report=silent)
    with pytest.raises(RecipeError, match="asks the live teacher about every student"):
        hf_distill.sweep(recipe, ["objectives.0.weight=1,2", "evaluate.metric=kl_to_teacher"], runs=tmp_path)


def test_where_less_is_better_the_least_is_the_best(tmp_path):
    recipe = {**language_recipe(tmp_path), "objectives": [{"kind": "labels"}, {"kind": "logits"}]}
    recipe["data"] = {"path": "tests.helpers.tiny:splits", "arguments": {"train": 48, "test": 24}}
    result = hf_distill.sweep(recipe, ["objectives.1.weight=0.1,1"], runs=tmp_path / "runs", report=silent)
    assert result.results["best"]["value"] == min(each["value"] for each in result.results["combinations"])
    assert "once more" in result.results["teacher"]["scored_from"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "runs" / "tiny-sweep").mkdir(parents=True)
    (tmp_path / "runs" / "tiny-sweep" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"no sweep\.json"):
        hf_distill.sweep(recipe_of(tmp_path), TWO, runs=tmp_path / "runs", report=silent)


def test_commas_within_brackets_and_quotes_make_no_axis():
    grid = read_grid(["a=[1, 2],{b: 3, c: 4}", "d=[5, 6]", "e='x,y',z"])
    assert grid.axes == {"a": ([1, 2], {"b": 3, "c": 4}), "e": ("x,y", "z")}
    assert grid.overrides == {"d": [5, 6]}
    assert list(read_grid({"a": [1, 2], "b": [3, 4]}).combinations())[1] == {"a": 1, "b": 4}
    with pytest.raises(RecipeError, match="expected a list"):
        read_grid({"a": 1})
