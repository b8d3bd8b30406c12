"""The benchmarks run, at sizes that prove nothing, and write what they say they write."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import BertForSequenceClassification, BertModel

from benchmarks import (
    cache,
    common,
    encoders,
    fused_loss,
    gradient_angles,
    instruments,
    label,
    language,
    lm_step,
    on_policy,
    speech,
)
from benchmarks.losses import Cell, ours, plain, products
from hf_distill.generation.hypotheses import ModelWriter
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import CausalLanguageModeling, Summarization
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


@pytest.fixture
def clock(monkeypatch):
    """Every measure runs once; the first takes a second, the next two, and so on, so that what is told is known."""

    def in_turn(measures, rounds, budget=0.0):
        for measure in measures.values():
            measure()
        return {name: [float(i)] for i, name in enumerate(measures, 1)}

    for module in (encoders, label, lm_step, on_policy, speech):
        monkeypatch.setattr(module, "in_turn", in_turn)


def values_of(goals: list[dict]) -> list:
    return [each["value"] for each in goals]


def test_the_first_round_is_a_warm_up_unless_time_leaves_no_other():
    values = iter(range(100))
    assert common.in_turn({"a": lambda: next(values), "b": lambda: next(values)}, 2) == {"a": [2, 4], "b": [3, 5]}
    assert common.in_turn({"a": lambda: 7.0}, 2, budget=0.0) == {"a": [7.0]}


def test_whole_steps_of_all_trainers_are_timed_and_told(setting, clock):
    rows, goals = lm_step.measure(setting, 1, lm_step.two_steps)
    assert [row["name"] for row in rows] == lm_step.compared()
    assert [row["tokens_a_second"] for row in rows] == [16.0, 8.0, 5.3]
    losses = {row["name"]: row["loss"] for row in rows}
    assert losses["ours, cached"] == pytest.approx(losses["ours, live"], rel=0.2)
    assert values_of(goals) == ["not measured"] * 4 + [pytest.approx(2 / 3, abs=1e-4)]
    assert [each["met"] for each in goals] == [False] * 4 + [True]


def test_steps_in_which_the_student_writes_are_timed_beside_those_in_which_it_does_not(setting, clock):
    given = on_policy.Setting(**dataclasses.asdict(setting), prompt=3)
    rows, goals = on_policy.measure(given, 1, on_policy.two_steps)
    assert [row["name"] for row in rows] == ["ours", "ours, of the data"]
    assert [row["written_tokens_a_second"] for row in rows] == [2.0 * given.new, 0.0]
    assert rows[0]["loss"] != rows[1]["loss"]
    assert [each["value"] for each in goals] == ["not measured"] * 4


def test_what_a_cache_costs_is_measured_on_both_kinds_of_teacher(setting):
    subject = cache.stand_in(setting, 4)
    subjects = [subject, dataclasses.replace(subject, name="a real one")]
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


def test_what_a_teacher_writes_for_rows_is_timed_beside_plain_generate(clock):
    setting = label.Setting(count=6, batch=2, beams=2, longest=10, vocabulary=VOCABULARY, layers=1, width=16)
    rows, goals = label.measure(setting, 1)
    assert [row["name"] for row in rows] == ["ours", "generate, sorted", "generate, as the data come"]
    assert [row["texts_a_second"] for row in rows] == [6.0, 3.0, 2.0]
    assert values_of(goals) == [2.0, 3.0]


def test_the_texts_of_that_teacher_are_as_long_as_their_sources():
    setting = label.Setting(count=6, batch=6, beams=2, longest=10, vocabulary=VOCABULARY, layers=1, width=16)
    prompts, tokenizer = setting.prompts(), language.stand_in_tokenizer()
    teacher = setting.teacher()
    own = teacher.generation_config
    writer = ModelWriter(
        teacher, tokenizer, setting.config, own=own, task=Summarization(max_length=setting.longest), options={}
    )
    written = [texts[0] for texts in writer.write(prompts, range(len(prompts.input_ids)), 0)]
    assert all(text.ended for text in written)
    assert [text.tokens for text in written] == [len(ids) for ids in prompts.input_ids]


@pytest.mark.slow
def test_encoders_are_trained_timed_and_scored(tmp_path, monkeypatch, clock):
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
    places = {name: str(tmp_path / file) for name, file in files.items()}
    setting = encoders.Setting(folder=str(tmp_path / "out"), count=40, batch=4, **places)
    found, goals = encoders.measure(setting, 0, encoders.one_round)
    assert [row["name"] for row in found] == ["ours, live", "ours, cached", "ours, vectors"]
    assert all(0 <= row["accuracy"] <= 1 for row in found[:2])
    assert -1 <= found[2]["spearman"] <= 1
    epochs = encoders.EPOCHS["classifier"]
    assert [row["rows_a_second"] for row in found[:2]] == [40.0 * epochs, 20.0 * epochs]
    assert values_of(goals[:6]) == ["not measured"] * 5 + [1.0]


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


def test_an_instrument_that_is_wrong_misses_its_goal(monkeypatch):
    monkeypatch.setattr(instruments, "seconds_of_help", lambda: 0.7)
    monkeypatch.setattr(instruments, "peak_memory", lambda *_: 2 * instruments.TAKEN)
    monkeypatch.setattr(instruments, "latencies", lambda rounds: {"small": 2.0, "large": 10.0})
    rows, goals = instruments.measure(1)
    assert [row["name"] for row in rows] == ["hf-distill --help", "64 MiB", "small model", "large model"]
    assert values_of(goals) == [0.7, 2.0, 2.0, 5.0]
    assert [each["met"] for each in goals] == [False, False, True, True]


def test_the_command_in_a_file_of_results_runs_the_benchmark_again(results, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/label.py", "--rounds", "1"])
    common.save_results("label", [], [], "cpu", {})
    assert json.loads((results / "label.json").read_text())["command"] == "python -m benchmarks.label --rounds 1"


def test_a_shared_encoder_is_timed_beside_one_that_runs_twice_and_waiting_for_data_is_told(tmp_path, clock):
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "vocab_size": VOCABULARY}
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    small = speech.Setting(
        folder=str(tmp_path), shape={**shape, **heads, **ids}, seconds=1, spoken=0.5, tokens=6, rows=2, steps=1
    )
    rows, goals = speech.measure(small, 1)
    assert [row["name"] for row in rows][:2] == ["encoder shared", "encoder twice"]
    assert all(0 <= row["share"] <= 1 for row in rows[2:])
    assert values_of(goals)[0] == 0.5
    assert [each["bound"] for each in goals] == [speech.SHARED, speech.WAITING]
