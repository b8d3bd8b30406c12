"""The benchmarks run, at sizes that prove nothing, and write what they say they write."""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import BertForSequenceClassification, BertModel

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import cache
import common
import defaults
import encoders
import free_generation
import fused_loss
import gradient_angles
import label
import language
import lm_step
import on_policy
import paired
import sequence_level
import write_texts
from losses import Cell, ours, plain, products

from hf_distill import run
from hf_distill.recipe import CacheConfig
from hf_distill.recipe.load import dump_recipe, load_recipe
from hf_distill.tasks import CausalLanguageModeling
from hf_distill.teachers import ModelTeacher
from tests.helpers import tiny

VOCABULARY = 60


@pytest.fixture
def setting(tmp_path) -> lm_step.Setting:
    return lm_step.Setting(
        folder=str(tmp_path), vocabulary=VOCABULARY, teacher=(2, 16), student=(1, 16), batch=2, tokens=8, steps=1
    )


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(autouse=True)
def without_peers(monkeypatch) -> None:
    """Peers are measured where they are installed, not tested."""
    monkeypatch.setattr(lm_step, "compared", lambda: ["ours, live", "ours, cached", "supervised"])
    monkeypatch.setattr(on_policy, "compared", lambda: ["ours", "ours, of the data"])
    monkeypatch.setattr(fused_loss, "losses", lambda: ({"ours": ours, "plain": plain, "products": products}, {}))


def test_the_first_round_is_a_warm_up_unless_time_leaves_no_other():
    values = iter(range(100))
    assert common.in_turn({"a": lambda: next(values), "b": lambda: next(values)}, 2) == {"a": [2, 4], "b": [3, 5]}
    assert common.in_turn({"a": lambda: 7.0}, 2, budget=0.0) == {"a": [7.0]}


def test_peak_memory_is_what_the_work_takes():
    size = 64 * 2**20
    assert size * 0.9 < common.peak_memory(lambda: bytearray(size).count(1), "cpu") < size * 1.5


def test_whole_steps_of_all_trainers_are_timed_and_told(setting):
    rows, goals = lm_step.measure(setting, 1, lm_step.two_steps)
    assert [row["name"] for row in rows] == lm_step.compared()
    assert all(row["tokens_a_second"] > 0 for row in rows)
    losses = {row["name"]: row["loss"] for row in rows}
    assert losses["ours, cached"] == pytest.approx(losses["ours, live"], rel=0.2)
    assert [each["value"] == "not measured" for each in goals] == [True, True, True, True, False]


def test_steps_in_which_the_student_writes_are_timed_beside_those_in_which_it_does_not(setting):
    given = on_policy.Setting(**dataclasses.asdict(setting), prompt=3)
    rows, goals = on_policy.measure(given, 1, on_policy.two_steps)
    assert [row["name"] for row in rows] == ["ours", "ours, of the data"]
    assert rows[0]["written_tokens_a_second"] > 0 == rows[1]["written_tokens_a_second"]
    assert all(row["loss"] > 0 for row in rows)
    assert [each["value"] for each in goals] == ["not measured"] * 4


def test_what_a_cache_costs_is_measured_on_both_kinds_of_teacher(setting):
    subject = cache.stand_in(setting, 4)
    subjects = [subject, cache.dataclasses.replace(subject, name="a real one")]
    rows, goals = cache.measure(subjects, setting, (CacheConfig(scheme="sampled"), CacheConfig(scheme="top_k", k=4)))
    assert [row["tokens"] for row in rows[:-1]] == [4 * 7] * 4
    assert rows[1]["distinct"] == 4
    assert 0 < rows[-1]["reading"] < 1
    assert [each["name"] for each in goals] == [
        "a real one: bytes a token at 50 draws",
        "reading / whole training step",
    ]


def test_a_cache_that_keeps_all_tokens_pulls_where_the_live_teacher_does_and_one_draw_does_not(tmp_path):
    pair = gradient_angles.Pair(
        teacher=ModelTeacher(language.llama(2, 16, VOCABULARY, peaked=True)),
        student=language.llama(1, 16, VOCABULARY),
        tokenizer=language.stand_in_tokenizer(),
        task=CausalLanguageModeling(max_length=8, packing=False),
        rows=language.random_rows(4, 8, VOCABULARY),
        sizes=[7, 28],
        temperature=1.0,
        folder=tmp_path,
        device="cpu",
    )
    configs = [CacheConfig(scheme="sampled", draws=1), CacheConfig(scheme="top_k", k=VOCABULARY)]
    rows, goals = gradient_angles.measure(pair, configs, 2, [0, 1])
    assert [row["tokens"] for row in rows] == [7, 28] * 4
    few, whole = ([row["degrees"] for row in rows if row["scheme"] == name] for name in ("sampled", "top_k"))
    assert max(whole) < 0.1 < 5 < min(few)
    assert all(row["degrees_of_mean"] < row["degrees"] for row in rows if row["scheme"] == "sampled")
    assert [each["value"] for each in goals] == ["not measured"]


def test_what_a_teacher_writes_for_rows_is_timed_beside_plain_generate():
    setting = label.Setting(count=6, batch=2, beams=2, longest=10, vocabulary=VOCABULARY, layers=1, width=16)
    rows, goals = label.measure(setting, 1)
    assert [row["name"] for row in rows] == ["ours", "generate, sorted", "generate, as the data come"]
    assert all(row["texts_a_second"] > 0 for row in rows)
    assert [each["value"] == "not measured" for each in goals] == [False, False]


def test_the_texts_of_that_teacher_are_as_long_as_their_sources():
    setting = label.Setting(count=6, batch=6, beams=2, longest=10, vocabulary=VOCABULARY, layers=1, width=16)
    prompts, settings = setting.prompts(), label.writing_settings(setting.config, setting.longest, {})
    teacher = setting.teacher()
    writer = label.Writer(teacher, language.stand_in_tokenizer(), teacher.generation_config, settings)
    written = [texts[0] for texts in writer.write(prompts.input_ids, 0)]
    assert all(text.ended for text in written)
    assert [text.tokens for text in written] == [len(ids) for ids in prompts.input_ids]


def test_encoders_are_trained_timed_and_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "compared", lambda: ["ours, live", "ours, cached", "ours, vectors"])
    monkeypatch.setattr(encoders, "relation_ratio", lambda *_: 1.0)
    for name, kind in (("classifier", BertForSequenceClassification), ("embedder", BertModel)):
        tiny.bert(layers=6, kind=kind).save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
    rows = tiny.rows(40)
    names = rows.features["label"].names
    table = Dataset.from_dict({"text": rows["text"], "category": [names[label] for label in rows["label"]]})
    table.to_csv(tmp_path / "rows.csv")
    table.select_columns(["text"]).to_json(tmp_path / "sentences.jsonl")
    pairs = {"text": rows["text"][:8], "text_pair": rows["text"][8:16], "score": [float(i) for i in range(8)]}
    Dataset.from_dict(pairs).to_json(tmp_path / "pairs.jsonl")
    files = {"rows": "rows.csv", "test": "rows.csv", "sentences": "sentences.jsonl", "pairs": "pairs.jsonl"}
    files |= {"classifier": "classifier", "embedder": "embedder"}
    setting = encoders.Setting(
        folder=str(tmp_path / "out"),
        count=40,
        batch=4,
        **{
            name: str(tmp_path / file)
            for name, file in {**files, "classifier": "classifier", "embedder": "embedder"}.items()
        },
    )
    found, goals = encoders.measure(setting, 0, encoders.one_round)
    assert [row["name"] for row in found] == ["ours, live", "ours, cached", "ours, vectors"]
    assert all(0 <= row["accuracy"] <= 1 for row in found[:2])
    assert -1 <= found[2]["spearman"] <= 1
    assert all(row["rows_a_second"] > 0 for row in found)
    assert [each["value"] == "not measured" for each in goals] == [True] * 5 + [False] * 2


def test_ways_to_train_a_student_are_compared_once_on_the_validation_rows(tmp_path, results, monkeypatch, capsys):
    dump_recipe(load_recipe(tiny.recipe(), {"training.max_steps": 2, "evaluate.resamples": 100}), tmp_path / "a.yaml")
    chosen = ["labels", "labels + logits + hidden x10", "labels + logits + hidden x10, the teacher's layers"]
    words = [str(tmp_path / "a.yaml"), "--runs", str(tmp_path / "runs"), "--only", *chosen]
    monkeypatch.setattr(sys, "argv", ["defaults.py", *words])
    defaults.main()
    found = json.loads((results / "defaults.json").read_text())
    assert [row["name"] for row in found["rows"]] == chosen
    assert all(row["steps"] == 2 and 0 <= row["student"]["value"] <= 1 for row in found["rows"])
    assert all({"cpu", "cores"} <= set(row["machine"]) for row in found["rows"])
    capsys.readouterr()
    defaults.main()
    assert capsys.readouterr().out == ""


def grid(**changes) -> Namespace:
    chosen = {"divergence": ["jsd"], "dtype": ["float32"], "vocabulary": [VOCABULARY], "positions": [8]}
    return Namespace(
        **{"device": "cpu", "rounds": 1, "seconds": 5.0, "again": False, "no_times": False, **chosen, **changes}
    )


def test_cells_that_are_there_are_not_run_again_unless_asked_for(results, monkeypatch):
    measured = []

    def peak_of(name: str, cell: Cell, device: str) -> int | None:
        measured.append((name, cell.positions))
        return None if name == "plain" else 1000

    monkeypatch.setattr(fused_loss, "peak_in_a_process", peak_of)
    fused_loss.run(grid())
    fused_loss.run(grid(positions=[8, 16]))
    assert measured == [("ours", 8), ("plain", 8), ("ours", 16), ("plain", 16)]
    content = json.loads((results / "fused_loss.json").read_text())
    assert [row["positions"] for row in content["rows"]] == [8] * 3 + [16] * 3
    assert "seconds" not in content["rows"][1]  # It did not fit.
    assert len(content["goals"]) == 2 * 9
    fused_loss.run(grid(again=True))
    assert len(measured) == 6


def test_memory_is_measured_first_and_times_are_added(results, monkeypatch):
    measured = []
    monkeypatch.setattr(fused_loss, "peak_in_a_process", lambda name, *_: measured.append(name) or 1000)
    fused_loss.run(grid(no_times=True))
    read = lambda: json.loads((results / "fused_loss.json").read_text())  # noqa: E731
    assert not any("seconds" in row for row in read()["rows"])
    assert "not measured" in [each["value"] for each in read()["goals"]]
    fused_loss.run(grid())
    fused_loss.run(grid())
    assert measured == ["ours", "plain"]
    assert all(row["rounds"] == 1 for row in read()["rows"])


def test_results_of_another_machine_are_not_mixed_in(results, monkeypatch):
    monkeypatch.setattr(fused_loss, "peak_in_a_process", lambda *_: 1000)
    fused_loss.run(grid())
    path = results / "fused_loss.json"
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "abacus"'))
    with pytest.raises(SystemExit, match="measured on another machine; --again"):
        fused_loss.run(grid(positions=[16]))
    fused_loss.run(grid(positions=[16], again=True))
    assert {row["positions"] for row in json.loads(path.read_text())["rows"]} == {16}


def test_what_students_write_is_judged_by_their_teacher_and_what_they_learned_from_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.pipeline.run.check_above_chance", lambda *_: None)
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
    monkeypatch.setattr("hf_distill.pipeline.run.check_above_chance", lambda *_: None)
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
    monkeypatch.setattr("hf_distill.pipeline.run.check_above_chance", lambda *_: None)
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
