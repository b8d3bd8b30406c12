"""The teacher's own text: what the teacher writes, whole after any kill, filtered as asked, and what students learn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForSeq2SeqLM, LogitsProcessorList

import hf_distill
from hf_distill import label, run
from hf_distill.errors import DataError, RecipeError, WritingError
from hf_distill.generation.generate import writer_inputs
from hf_distill.generation.hypotheses import ModelWriter
from hf_distill.generation.logprobs import Likelihood
from hf_distill.generation.writer import repeated_share
from hf_distill.labelling.selection import compression_ratio, sentence_scorer
from hf_distill.recipe.load_recipe import dump_recipe, load_recipe
from hf_distill.tasks import CausalLanguageModeling, Translation
from tests.helpers import data as shared_data
from tests.helpers import tiny
from tests.helpers.data import reversed_pairs, translations
from tests.helpers.seams import accept_any_teacher

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"suppress_tokens": [0, 1, 2, 4], "min_new_tokens": 2}
"""Special tokens would be left out of texts, some of which would be empty then."""
DRAWN = {"do_sample": True, "max_new_tokens": 6, "top_k": 0, **WORDS}
BEAMS = {"num_beams": 3, "max_new_tokens": 6, **WORDS}


def silent(line: str) -> None:
    """Nobody reads it."""


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> Path:
    """A translator and a language model with random weights: what they write is as good as anything to keep."""
    folder = tmp_path_factory.mktemp("teachers")
    size = len(tiny.CHAT_WORDS)
    translator = tiny.encoder_decoder("t5", 2, 2, seed=2, vocab_size=size)
    with torch.no_grad():
        for name, values in translator.named_parameters():
            values.mul_(3 if values.dim() > 1 and "shared" not in name else 1)  # So that it tells sources apart.
    translator.save_pretrained(folder / "t5")
    tiny.decoder(2).save_pretrained(folder / "llama")
    tiny.chat_tokenizer().save_pretrained(folder / "t5")
    tiny.chat_tokenizer(tiny.CHAT_TEMPLATE).save_pretrained(folder / "llama")
    return folder


@pytest.fixture
def recipe(teachers):
    def make(name: str = "translation", rows: str = "translations", **label_keys) -> dict:
        kind = "t5" if name == "translation" else "llama"
        lengths = {"max_length": 32, **({"max_target_length": 12} if name == "translation" else {})}
        return {
            "version": 1,
            "name": "written",
            "task": {"name": name, **lengths},
            "data": {"path": f"tests.helpers.data:{rows}", "arguments": {"train": 24 if rows == "translations" else 8}},
            "teacher": {"model": str(teachers / kind), "dtype": "float32"},
            "label": {"generation": BEAMS, **label_keys},
            "student": {"layers": {"decoder": [0]} if name == "translation" else 1},
            "objectives": [{"kind": "labels"}, {"kind": "logits"}, {"kind": "hidden"}],
            "training": {"max_steps": 3, "per_device_train_batch_size": 4, "use_cpu": True, "eval_strategy": "no"},
            "evaluate": {"resamples": 100, **({"generation": {"max_new_tokens": 4}} if kind == "t5" else {})},
        }

    return make


def written(folder: Path) -> Dataset:
    return load_dataset("parquet", data_files=str(folder / "datasets" / "train-*.parquet"), split="train")


def provenance(folder: Path) -> dict:
    return json.loads((folder / "provenance.json").read_text())


def content(folder: Path) -> dict[str, bytes]:
    """All texts and data sets, by name: what must be the same however often it was broken off."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".jsonl", ".parquet")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in [*paths, *folder.rglob("manifest.json")]}


def test_every_row_gets_what_the_teacher_itself_generates(recipe, teachers, tmp_path):
    found = written(label(recipe(batch_size=5), runs=tmp_path, report=silent))
    model, words = AutoModelForSeq2SeqLM.from_pretrained(teachers / "t5"), tiny.chat_tokenizer()
    assert found["row_id"] == list(range(24))
    assert found["source"] == translations()["train"]["source"]
    assert found["original_target"] == translations()["train"]["target"]
    for row in list(found)[:6]:
        ids = words(row["source"], return_tensors="pt")["input_ids"]
        expected = model.generate(ids, do_sample=False, **BEAMS)[0]
        assert row["target"] == words.decode(expected, skip_special_tokens=True)
    assert len(set(found["target"])) > 6


@pytest.mark.parametrize("beams", [3, 1], ids=["beams", "drawn"])
@pytest.mark.parametrize("kind", ["marian", "llama"])
def test_a_texts_likelihood_is_what_a_second_pass_of_the_teacher_says(beams, kind):
    size, end = len(tiny.CHAT_WORDS), tiny.CHAT_WORDS.index("[SEP]")
    model = (
        tiny.encoder_decoder("marian", 2, 2, vocab_size=size, decoder_vocab_size=size)
        if kind == "marian"
        else tiny.decoder(2).eval()
    )
    inputs = writer_inputs(
        model, tiny.chat_tokenizer(), tiny.chat_tokenizer()(list(tiny.rows(12)["text"]))["input_ids"]
    )
    seen, start = Likelihood(beams, [end]), 1 if kind == "marian" else inputs["input_ids"].shape[1]
    found = model.generate(
        **inputs,
        num_beams=beams,
        do_sample=beams == 1,
        num_return_sequences=2,
        max_new_tokens=9,
        logits_processor=LogitsProcessorList([seen]),
        return_dict_in_generate=True,
        forced_eos_token_id=None,
    )
    written = found.sequences[:, start:]
    means, counts = seen.means(written, found.get("beam_indices"))
    ids, mask = (inputs[name].repeat_interleave(2, 0) for name in ("input_ids", "attention_mask"))
    if kind == "marian":
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=found.sequences[:, :-1]).logits
    else:
        mask = torch.cat([mask, torch.ones_like(written)], 1)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=found.sequences, attention_mask=mask, position_ids=places).logits[:, start - 1 : -1]
    logs = logits.log_softmax(-1).gather(2, written[..., None]).squeeze(2)
    ends = [row.index(end) + 1 if end in row else len(row) for row in written.tolist()]
    assert counts == ends
    assert kind == "marian" or min(ends) < max(ends)
    assert means == pytest.approx([row[:count].mean().item() for row, count in zip(logs, ends, strict=True)], abs=1e-4)


class Killed(BaseException):
    """As a machine that loses power: nothing handles it."""


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, {"generation": DRAWN, "hypotheses": 2}], ids=["beams", "drawn"])
def test_a_call_that_is_killed_again_and_again_ends_with_the_same_bytes(keys, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.labelling.shards.SHARD_ROWS", 7)
    settings = recipe(batch_size=3, **keys)
    label(settings, runs=tmp_path / "whole", report=silent)
    write, count = ModelWriter.write, iter(range(1000))

    def write_or_die(self, *arguments):
        if next(count) % 6 == 5:
            raise Killed
        return write(self, *arguments)

    monkeypatch.setattr(ModelWriter, "write", write_or_die)
    kills = 0
    while kills < 20:
        try:
            label(settings, runs=tmp_path / "broken", report=silent)
            break
        except Killed:
            kills += 1
    assert 1 < kills < 20
    assert content(tmp_path / "broken") == content(tmp_path / "whole") != {}


def test_other_filters_and_names_find_what_was_written_and_other_settings_write_anew(
    recipe, teachers, tmp_path, monkeypatch
):
    first = label(recipe(), runs=tmp_path, report=silent)
    lines: list[str] = []
    monkeypatch.setattr(ModelWriter, "write", None)
    filtered = label(recipe(filters={"length_ratio": [0.0, 9.0]}), runs=tmp_path, report=lines.append)
    assert filtered != first
    assert any("what the teacher wrote is in" in line for line in lines)
    assert label(recipe(), runs=tmp_path, report=silent) == first
    shutil.copytree(teachers / "t5", tmp_path / "renamed")
    renamed = recipe() | {"teacher": {"model": str(tmp_path / "renamed"), "dtype": "float32"}}
    assert label(renamed, runs=tmp_path, report=silent) == first
    with pytest.raises(TypeError):
        label(recipe(generation={**BEAMS, "length_penalty": 2.0}), runs=tmp_path, report=silent)


def test_what_students_are_told_to_write_like_does_not_change_how_the_teacher_writes(recipe, tmp_path):
    first = label(recipe(), runs=tmp_path, report=silent)
    changed = recipe()
    changed["evaluate"]["generation"] = {"num_beams": 2, "repetition_penalty": 3.0}
    assert label(changed, runs=tmp_path, report=silent) == first


@pytest.mark.parametrize(
    ("name", "measure", "at_least"),
    [
        ("length_ratio", lambda row: len(row["target"].split()) / len(row["source"].split()), True),
        ("mean_log_probability", lambda row: row["mean_log_probability"], True),
        ("compression_ratio", lambda row: compression_ratio(row["target"]), False),
        ("repetition", lambda row: round(repeated_share(row["target"].split()), 5), False),
        ("reference_score", lambda row: row["score"], True),
    ],
)
def test_a_filter_drops_what_it_should_and_tells_how_many(name, measure, at_least, recipe, teachers):
    keys = {"generation": {**BEAMS, "max_new_tokens": 9}, "scorer": "chrf"}
    whole = list(written(label(recipe(**keys), runs=teachers / "kept", report=silent)))
    found = sorted(map(measure, whole))
    bound = found[16] if at_least else found[8]
    expected = [r["row_id"] for r in whole if (measure(r) >= bound if at_least else measure(r) <= bound)]
    lines: list[str] = []
    filters = {name: [bound - 1e-9, 100.0] if name == "length_ratio" else bound}
    folder = label(recipe(**keys, filters=filters), runs=teachers / "kept", report=lines.append)
    facts = provenance(folder)
    assert written(folder)["row_id"] == expected
    assert facts["dropped"][name] == 24 - len(expected) > 0
    assert facts["rows"]["kept"] == len(expected) > 0
    assert any(f"{facts['dropped'][name]} by {name}" in line for line in lines)


def test_filters_that_drop_everything_say_so(recipe, tmp_path):
    settings = recipe(filters={"mean_log_probability": -1e-9, "length_ratio": [50.0, 60.0]})
    with pytest.raises(WritingError, match=r"nothing is left of 24 rows \(24 by length_ratio\)"):
        label(settings, runs=tmp_path, report=silent)


def test_the_best_of_several_is_better_by_the_scorer_than_the_likeliest(recipe, tmp_path):
    keys = {"generation": DRAWN, "hypotheses": 6, "scorer": "chrf"}
    best, likeliest = (
        written(label(recipe(choose=choose, **keys), runs=tmp_path, report=silent)) for choose in ("best", "likeliest")
    )
    assert all(a >= b for a, b in zip(best["score"], likeliest["score"], strict=True))
    assert sum(best["score"]) > sum(likeliest["score"])
    assert sum(best["mean_log_probability"]) < sum(likeliest["mean_log_probability"])


def test_a_short_text_that_is_right_has_the_whole_score():
    scorer = sentence_scorer("bleu")
    assert scorer.scores(scorer.statistics(["the card"], ["the card"]), torch.ones(1).numpy())["bleu"] == [
        pytest.approx(100)
    ]


def test_completions_and_the_last_turns_of_chats_are_written_anew_and_all_else_stays(recipe, tmp_path):
    for rows, column in (("answers", "completion"), ("chats", "messages")):
        found = written(label(recipe("causal-lm", rows), runs=tmp_path, report=silent))
        given = getattr(shared_data, rows)(8)["train"]
        if column == "messages":
            for before, after, old in zip(given, found, found["original_target"], strict=True):
                assert after["messages"][:3] == before["messages"][:3]
                assert after["messages"][3]["role"] == "assistant"
                assert before["messages"][3]["content"] == old != after["messages"][3]["content"]
        else:
            assert found["prompt"] == given["prompt"]
            assert all(new != old for new, old in zip(found["completion"], given["completion"], strict=True))


def test_a_chat_that_ends_with_a_question_is_answered():
    rows = Dataset.from_list([{"messages": [{"role": "user", "content": "my card"}]}])
    task = CausalLanguageModeling()
    assert task.with_answers(rows, ["good"])[0]["messages"][1] == {"role": "assistant", "content": "good"}
    prompts = task.prompts(task.with_answers(rows, None), tiny.chat_tokenizer(tiny.CHAT_TEMPLATE))
    assert tiny.chat_tokenizer().decode(prompts.input_ids[0]) == "user my card [SEP]"


def test_rows_without_a_target_are_written_for_too(recipe, tmp_path):
    settings = recipe()
    settings["data"] |= {"arguments": {"more": True}, "unlabelled_split": "more"}
    folder = label(settings, runs=tmp_path, report=silent)
    found = written(folder)
    assert found["source"][24:] == list(reversed_pairs(5, 3)["source"])
    assert found["original_target"][24:] == [None] * 5
    assert provenance(folder)["rows"] == {"asked": 29, "written": 29, "kept": 29, "original": 0}
    settings["label"] |= {"hypotheses": 2, "choose": "best"}
    with pytest.raises(RecipeError, match=r"label\.choose: texts are judged against what the data say, and 5"):
        label(settings, runs=tmp_path, report=silent)
    del settings["label"]
    with pytest.raises(DataError, match="teach nothing unless the teacher writes it"):
        run(settings, runs=tmp_path, report=silent)


def test_a_run_trains_the_student_on_the_labels_and_the_control_on_the_data(recipe, tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    seen: dict[str, list[str]] = {}
    encode = Translation.encode

    def remember(self, rows, *arguments, **options):
        seen.setdefault(str(len(rows)), []).append(rows["target"][0])
        return encode(self, rows, *arguments, **options)

    monkeypatch.setattr(Translation, "encode", remember)
    result = run(recipe(keep_original=True), runs=tmp_path, report=silent)
    folder = label(recipe(keep_original=True), runs=tmp_path, report=silent)
    found = written(folder)
    assert found["writer"] == ["teacher"] * 24 + ["data"] * 24
    assert found["target"][24:] == translations()["train"]["target"]
    assert seen["48"] == [found["target"][0]]
    assert seen["24"][-2:-1] == [translations()["train"]["target"][0]]
    assert result.results["labels"]["rows"]["original"] == 24
    card = (result.student / "README.md").read_text()
    assert "its teacher's: 24 of 24 rows, beside the rows as the data have them: Kim and Rush 2016" in card
    assert {each["steps"] for each in result.results["training"].values()} == {3}


def test_the_folder_is_data_that_a_recipe_reads_and_provenance_tells_all_but_the_token(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    folder = hf_distill.label(recipe(scorer="bleu"), {"seed": 3}, runs=tmp_path, report=silent)
    facts = provenance(folder)
    assert facts["teacher"]["model"] == "t5"
    assert facts["teacher"].keys() >= {"revision", "license", "weights", "dtype"}
    assert facts["generation"]["num_beams"] == 3
    assert facts["generation"]["max_new_tokens"] == 6
    assert facts["label"]["filters"] == dict.fromkeys(
        ("length_ratio", "repetition", "compression_ratio", "mean_log_probability", "reference_score")
    )
    assert facts["seed"] == 3
    assert facts["command"] == "hf_distill.label(recipe)"
    assert facts["versions"].keys() >= {"hf_distill", "transformers", "sacrebleu"}
    assert len(facts["data"]["fingerprint"]) == len(facts["tokenizer"]["sha256"]) == 64
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    plain = recipe()
    del plain["label"]
    plain["data"] = {"path": str(folder / "datasets")}
    lines: list[str] = []
    hf_distill.check({**plain, "name": "on-labels"}, report=lines.append)
    assert any("24 train, 6 validation, 6 test" in line for line in lines)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"choose": "best"}, "there is nothing to choose"),
        ({"hypotheses": 2}, "is the one that beams give anyway"),
        ({"hypotheses": 4, "choose": "best"}, "3 beams give 3 texts at most"),
        ({"hypotheses": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"generation": {"do_sample": True, "num_beams": 4}}, "got both"),
        ({"generation": {"num_beams": "five"}}, r"num_beams: expected at least 1, got 'five'"),
        ({"generation": {"num_beems": 4}}, r"label\.generation\.num_beems: .* did you mean num_beams"),
        ({"generation": {"num_return_sequences": 2}}, r"label\.hypotheses tells how many"),
        ({"scorer": "blue"}, r"label\.scorer: 'blue' is unknown"),
        ({"filters": {"length_ratio": [2.0, 1.0]}}, "low < high"),
        ({"filters": {"length_ratio": [2.0]}}, "low < high"),
        ({"filters": {"repetition": 1.5}}, "a share from 0"),
        ({"filters": {"compression_ratio": 0.0}}, "above 0"),
        ({"filters": {"mean_log_probability": 0.5}}, "less than 0"),
        ({"filters": {"length": 3}}, "no such key"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(keys, told, recipe, tmp_path):
    with pytest.raises(RecipeError, match=told):
        label(recipe(**keys), runs=tmp_path, report=silent)


def test_a_teacher_that_cannot_write_is_refused_with_the_way_out(recipe, tmp_path):
    cached = recipe()
    cached["teacher"]["kind"] = "cached"
    nobody = {key: value for key, value in recipe().items() if key != "teacher"}
    plain = recipe("causal-lm", "answer_texts")
    words = {**tiny.recipe(), "label": {}}
    for settings, told in (
        (cached, r"set teacher\.kind to live"),
        ({**nobody, "student": {"pretrained": "a/b"}}, "nobody is there to write"),
        (plain, "plain text has no prompt"),
        (words, "nothing is written in text-classification"),
    ):
        with pytest.raises(RecipeError, match=told):
            label(settings, runs=tmp_path, report=silent)


def test_a_sweep_says_where_its_labels_may_come_from(recipe, tmp_path):
    with pytest.raises(RecipeError, match=r"write first \(hf-distill label\)"):
        hf_distill.sweep(recipe(), ["objectives.1.temperature=1,2"], runs=tmp_path, report=silent)


def test_a_recipe_without_label_is_written_as_before_there_was_one(recipe):
    whole = load_recipe(recipe())
    assert load_recipe(whole.to_dict()) == whole
    plain = recipe()
    del plain["label"]
    assert "label" not in load_recipe(plain).to_dict()


@pytest.mark.slow
def test_two_processes_write_what_one_writes(recipe, tmp_path):
    settings = load_recipe(recipe(batch_size=3))
    dump_recipe(settings, tmp_path / "recipe.yaml")
    small = (
        "import sys; from hf_distill.labelling import shards; shards.SHARD_ROWS = 7; "
        "from hf_distill.cli import app; app(sys.argv[1:])"
    )
    (tmp_path / "small.py").write_text(small)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
        arguments = [
            str(tmp_path / "small.py"),
            "label",
            str(tmp_path / "recipe.yaml"),
            "--allow-code",
            "--runs",
            str(tmp_path / str(count)),
        ]
        done = subprocess.run([sys.executable, *torchrun, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    assert content(tmp_path / "1") == content(tmp_path / "2") != {}
