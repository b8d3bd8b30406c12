"""Whole runs on prompts without answers, and on chats whose template opens a thought before an answer."""

from __future__ import annotations

import json
import math

import pytest
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_distill import label, run
from hf_distill.errors import RecipeError
from tests.helpers import tiny
from tests.helpers.seams import accept_any_teacher

TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} [SEP] {% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant {% endif %}"
OPENS = TEMPLATE.replace("m.content }}", "m.content.split('</think>')[-1] }}").replace(
    "assistant {%", "assistant <think> {%"
)


def asked(i: int) -> dict:
    return {"role": "user", "content": f"the {tiny.SUBJECTS[i % 8]}"}


def answer(i: int) -> str:
    return f"the {tiny.SUBJECTS[i % 8]} is fine"


def said(i: int, thought: str = "") -> dict:
    return {"messages": [asked(i), {"role": "assistant", "content": thought + answer(i)}]}


FORMS = {
    "texts": (
        lambda i: {"prompt": asked(i)["content"]},
        lambda i: {"prompt": asked(i)["content"], "completion": answer(i)},
    ),
    "chats as prompts": (lambda i: {"prompt": [asked(i)]}, said),
    "chats of one turn": (lambda i: {"messages": [asked(i)]}, said),
}


def recipe(folder, open_row, whole_row, template: str = TEMPLATE, **changes) -> dict:
    made = tiny.chat_tokenizer(template)
    made.save_pretrained(folder / "teacher")
    tiny.decoder(2, seed=3).save_pretrained(folder / "teacher")
    for name, row in (("prompts", open_row), ("answered", whole_row)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(16)))
    files = {"train": str(folder / "prompts.jsonl")}
    files |= dict.fromkeys(("validation", "test"), str(folder / "answered.jsonl"))
    return {
        "version": 1,
        "name": "open",
        "task": {"name": "causal-lm", "max_length": 32},
        "data": {"files": files},
        "teacher": {"model": str(folder / "teacher"), "dtype": "float32"},
        "student": {"layers": 1},
        "objectives": [{"kind": "logits", "temperature": 1.0}],
        "training": {
            "max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "use_cpu": True,
            "eval_strategy": "no", "logging_steps": 1, "save_strategy": "no",
        },
        "evaluate": {"resamples": 100, "control": False},
        **changes,
    }  # fmt: skip


def silent(line: str) -> None:
    """Nobody reads it."""


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_student_learns_on_policy_from_prompts_alone_and_is_scored_on_answers(form, tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    given = recipe(tmp_path, *FORMS[form], rollout={"share": 1.0, "max_new_tokens": 6})
    result = run(given, runs=tmp_path / "runs", report=silent)
    history = json.loads((result.folder / "checkpoints" / "student.json").read_text())["log_history"]
    logged = [entry for entry in history if "loss" in entry]
    assert len(logged) == 3
    assert all(entry["loss"] > 0 and 0 < entry["rollout_length"] <= 6 for entry in logged)
    assert math.isfinite(result.metrics["loss"])
    assert result.results["data"]["rows"] == {"train": 16, "validation": 16, "test": 16}
    with pytest.raises(RecipeError, match=r"evaluate\.control: .*prompts without any"):
        run({**given, "name": "controlled", "evaluate": {"resamples": 100}}, runs=tmp_path / "runs", report=silent)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_writes_after_prompts_alone_and_the_student_learns_what_it_wrote(form, tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    given = recipe(tmp_path, *FORMS[form], label={"generation": {"num_beams": 1, "max_new_tokens": 6}})
    folder = label(given, runs=tmp_path / "runs", report=silent)
    rows = load_dataset("parquet", data_files=str(folder / "datasets" / "train-*.parquet"), split="train")
    assert len(rows) == json.loads((folder / "provenance.json").read_text())["rows"]["kept"] > 8
    for row in rows:
        if form == "texts":
            assert row["prompt"].startswith("the ")
            assert row["completion"]
        else:
            first, second = row["messages"]
            assert (first["role"], second["role"]) == ("user", "assistant")
            assert second["content"]
    result = run({**given, "objectives": [{"kind": "labels"}]}, runs=tmp_path / "runs", report=silent)
    assert result.results["labels"]["rows"]["kept"] == len(rows)
    # What was written is a data set as any other.
    again = {**given, "name": "again", "data": {"path": str(folder / "datasets")}}
    del again["label"]
    assert math.isfinite(run(again, runs=tmp_path / "runs", report=silent).metrics["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("thought", ["", "<think>my bank</think>"])
def test_chats_of_a_template_that_opens_a_thought_are_learned_and_answered(thought, tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    given = recipe(
        tmp_path,
        lambda i: said(i, thought),
        lambda i: said(i),
        OPENS,
        objectives=[{"kind": "labels"}],
        student={"pretrained": str(tmp_path / "teacher")},
    )
    given["training"]["max_steps"] = 60
    given["evaluate"] |= {"scorers": ["exact_match"], "generation": {"max_new_tokens": 8}}
    told: list[str] = []
    result = run(given, runs=tmp_path / "runs", report=told.append)
    assert result.metrics["exact_match"] == 1.0
    assert any("leaves out" in line for line in told) == bool(thought)
    student, made = AutoModelForCausalLM.from_pretrained(result.student), AutoTokenizer.from_pretrained(result.student)
    assert made.chat_template == OPENS
    read = made("user the card [SEP] assistant", add_special_tokens=False, return_tensors="pt")
    written = student.generate(read["input_ids"], max_new_tokens=8)[0, read["input_ids"].shape[1] :]
    assert made.decode(written, skip_special_tokens=True) == "the card is fine"
