"""The experiments for model cards run, at sizes that prove nothing, and write what they say they write."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import common
from benchmarks.experiments import defaults, free_generation, paired, sequence_level, write_texts
from hf_distill import run
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from tests.helpers import tiny
from tests.helpers.seams import accept_any_teacher

pytestmark = pytest.mark.slow


def test_ways_to_train_a_student_are_compared_once_on_the_validation_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    dump_recipe(load_recipe(tiny.recipe(), {"training.max_steps": 2, "evaluate.resamples": 100}), tmp_path / "a.yaml")
    chosen = ["labels", "labels + logits + hidden x10", "labels + logits + hidden x10, the teacher's layers"]
    words = [str(tmp_path / "a.yaml"), "--runs", str(tmp_path / "runs"), "--only", *chosen]
    monkeypatch.setattr(sys, "argv", ["defaults.py", *words])
    defaults.main()
    found = json.loads((tmp_path / "results" / "defaults.json").read_text())
    assert [row["name"] for row in found["rows"]] == chosen
    assert all(row["steps"] == 2 and 0 <= row["student"]["value"] <= 1 for row in found["rows"])
    assert all({"cpu", "cores"} <= set(row["machine"]) for row in found["rows"])
    capsys.readouterr()
    defaults.main()
    assert capsys.readouterr().out == ""


def test_what_students_write_is_judged_by_their_teacher_and_what_they_learned_from_is_told(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    teacher, data, out = tmp_path / "teacher", tmp_path / "rows.jsonl", tmp_path / "out.json"
    tiny.decoder(2, seed=2, initializer_range=0.5).save_pretrained(teacher)
    tiny.chat_tokenizer().save_pretrained(teacher)
    rows = [write_texts.row_of(f"{text} good good good", 2) for text in tiny.rows(24)["text"]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reverse = [{"kind": "logits", "divergence": "reverse_kl"}]
    recipe = {
        "version": 1,
        "name": "staged",
        "task": {"name": "causal-lm", "max_length": 6},
        "data": {"files": {name: str(data) for name in ("train", "validation", "test")}},
        "teacher": {"model": str(teacher)},
        "student": {"layers": 1},
        "stages": [
            {"name": "off", "objectives": [{"kind": "logits"}]},
            {"name": "on", "objectives": reverse, "rollout": {"share": 1.0, "max_new_tokens": 4}},
        ],
        "training": {"max_steps": 2, "per_device_train_batch_size": 8, "use_cpu": True, "logging_steps": 1},
        "evaluate": {"resamples": 100},
    }
    folder = run(recipe, runs=tmp_path / "runs", report=lambda line: None).folder
    words = ["--runs", str(folder), "--prompts", str(data), "--tokens", "4", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["free_generation.py", *words])
    free_generation.main()
    mark, student, control = json.loads(out.read_text())
    assert [row["model"] for row in (mark, student, control)] == ["teacher", "student", "control"]
    assert student["learned_from"] == [
        {"steps": 2, "divergence": "forward_kl", "share": 0.0},
        {"steps": 2, "divergence": "reverse_kl", "share": 1.0},
    ]
    assert [each["divergence"] for each in control["learned_from"]] == [None, None]
    # A row is cut at six tokens, three of which are [CLS] and its prompt.
    assert control["tokens"] == 4 * 8 * 3
    likely = [row["written"]["teacher_log_likelihood"] for row in (mark, student, control)]
    assert all(each["low"] < each["value"] < each["high"] < 0 for each in likely)
    assert likely[0]["value"] > max(each["value"] for each in likely[1:])
    assert all(0 < row["written"]["tokens"] <= 4 and row["written"]["texts"] == 24 for row in (mark, student, control))


def test_students_of_texts_and_of_data_are_compared_by_what_they_write(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    teacher, data, out = tmp_path / "teacher", tmp_path / "rows.jsonl", tmp_path / "sequence.json"
    tiny.encoder_decoder("t5", 2, 2, seed=2, vocab_size=len(tiny.CHAT_WORDS)).save_pretrained(teacher)
    tiny.chat_tokenizer().save_pretrained(teacher)
    texts = tiny.rows(24)["text"]
    data.write_text("".join(json.dumps({"source": text, "target": text}) + "\n" for text in texts))
    of_data = {
        "version": 1,
        "name": "plain",
        "task": {"name": "translation", "max_length": 12, "max_target_length": 12},
        "data": {"files": {name: str(data) for name in ("train", "validation", "test")}},
        "teacher": {"model": str(teacher)},
        "student": {"layers": {"decoder": [0]}},
        "objectives": [{"kind": "logits"}],
        "training": {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True},
        "evaluate": {"resamples": 100, "control": False, "generation": {"max_new_tokens": 4}},
    }
    written = {"generation": {"num_beams": 2, "min_new_tokens": 2, "suppress_tokens": [0, 1, 2, 4]}}
    of_texts = {
        **of_data,
        "name": "texts",
        "label": {**written, "filters": {"length_ratio": [0.0, 50.0]}},
        "evaluate": {**of_data["evaluate"], "control": True},
    }
    runs = [str(run(each, runs=tmp_path / "runs", report=lambda line: None).folder) for each in (of_texts, of_data)]
    words = ["--runs", *runs, "--teacher", str(teacher), "--beams", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["sequence_level.py", *words])

    sequence_level.main()

    mark, control, first, second = json.loads(out.read_text())
    assert [row["model"] for row in (mark, control, first, second)] == ["teacher", "control", "student", "student"]
    assert [row["texts"] for row in (control, first, second)] == ["data", "teacher", "data"]
    assert [row["filters"] for row in (control, first, second)] == [{}, {"length_ratio": [0.0, 50.0]}, {}]
    assert [row["rows"] for row in (control, first, second)] == [24, 24, 24]
    assert control["objectives"] == ["labels"]
    assert "minus_control" not in control["greedy"]
    for how in ("greedy", "beams"):
        score, difference = first[how]["chrf"], first[how]["minus_control"]["chrf"]
        assert difference["value"] == pytest.approx(score["value"] - control[how]["chrf"]["value"])
        assert difference["low"] <= difference["value"] <= difference["high"]


def test_students_of_several_runs_are_compared_on_the_same_rows(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    data, out = tmp_path / "rows.csv", tmp_path / "paired.json"
    tiny.rows(48).to_csv(data)
    recipe = {
        **tiny.recipe(),
        "data": {"files": {"train": str(data), "test": str(data)}, "validation_size": 8},
        "evaluate": {"resamples": 100, "control": False},
    }
    named = [{**recipe, "name": name, "seed": seed} for name, seed in (("first", 1), ("second", 2))]
    runs = [run(each, runs=tmp_path / "runs", report=lambda line: None) for each in named]
    words = ["--runs", *(str(each.folder) for each in runs), "--metric", "accuracy", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["paired.py", *words])

    paired.main()

    first, second = json.loads(out.read_text())
    assert [row["student"]["value"] for row in (first, second)] == [each.metrics["accuracy"] for each in runs]
    assert first["first_minus_this"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    gap = first["student"]["value"] - second["student"]["value"]
    assert second["first_minus_this"]["value"] == pytest.approx(gap)
