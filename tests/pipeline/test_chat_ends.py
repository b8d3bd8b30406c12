"""What ends a turn in training ends it in writing: scored, on-policy and labelling, as teacher and as student."""

from __future__ import annotations

import json
import re

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_distill import check, run
from tests.helpers import tiny

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def chats(count: int = 16) -> list[dict]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"the {tiny.SUBJECTS[i % 8]}"},
                {"role": "assistant", "content": f"the {tiny.SUBJECTS[i % 8]} is fine"},
            ]
        }
        for i in range(count)
    ]


def base_model(folder):
    """A base model's tokenizer ends texts with [SEP]; its template ends turns with a mark of its own."""
    made = tiny.chat_tokenizer(CHATML)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    model = tiny.decoder(2, vocab_size=len(made))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return made.convert_tokens_to_ids("<|im_end|>"), made.eos_token_id


def recipe(tmp_path, **changes) -> dict:
    rows = tmp_path / "chats.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chats()))
    files = dict.fromkeys(("train", "validation", "test"), str(rows))
    return {
        "version": 1,
        "name": "ends",
        "task": {"name": "causal-lm", "max_length": 32},
        "data": {"files": files},
        "student": {"pretrained": str(tmp_path / "base")},
        "objectives": [{"kind": "labels"}],
        "training": {
            "max_steps": 60, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "use_cpu": True,
            "eval_strategy": "no", "logging_steps": 1, "save_strategy": "no",
        },
        "evaluate": {
            "resamples": 100, "control": False, "scorers": ["exact_match"], "generation": {"max_new_tokens": 12}
        },
        **changes,
    }  # fmt: skip


@pytest.mark.slow
def test_a_base_model_that_is_tuned_on_chats_stops_as_student_as_teacher_on_policy_and_labelling(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", "hf_distill")
    mark, end = base_model(tmp_path / "base")
    lines = []
    check(recipe(tmp_path), report=lines.append)
    assert any("<|im_end|>" in line and "added" in line for line in lines)
    first = run(recipe(tmp_path))
    assert first.metrics["exact_match"] == 1.0
    tuned = AutoModelForCausalLM.from_pretrained(first.student)
    assert {*tuned.generation_config.eos_token_id} == {end, mark}

    # The same weights, as somebody else left them: their config names the old end alone.
    tuned.generation_config.eos_token_id = end
    tuned.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(first.student).save_pretrained(tmp_path / "tuned")
    again = recipe(
        tmp_path,
        name="again",
        teacher={"model": str(tmp_path / "tuned")},
        student={"pretrained": str(tmp_path / "tuned")},
        objectives=[{"kind": "logits", "temperature": 1.0}],
        rollout={"share": 1.0, "max_new_tokens": 12, "temperature": 0.1},
    )
    again["training"] |= {"max_steps": 2, "learning_rate": 1e-6}
    result = run(again)
    scores = {name: each["metrics"]["exact_match"]["value"] for name, each in result.results["models"].items()}
    assert scores["teacher"] == scores["student"] == 1.0
    assert set(re.findall(r"rollout_ended ([\d.]+)", caplog.text)) == {"1.0000"}

    del again["rollout"]
    run({**again, "name": "taught", "objectives": [{"kind": "labels"}], "label": {}})
    (folder,) = (tmp_path / "runs" / "labels").glob("*/datasets")
    written = load_dataset("parquet", data_files=str(folder / "train-*.parquet"), split="train")
    assert sorted(row[-1]["content"] for row in written["messages"]) == sorted(
        row["messages"][-1]["content"] for row in chats()
    )


def test_the_end_of_turns_is_found_kept_beside_others_and_not_invented():
    from hf_distill.generation.ends import ends_of, keep_ends, with_ends
    from hf_distill.tasks import CausalLanguageModeling

    made = tiny.chat_tokenizer(CHATML)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    mark, end = made.convert_tokens_to_ids("<|im_end|>"), made.eos_token_id
    student, task = tiny.decoder(1, vocab_size=len(made)), CausalLanguageModeling()
    assert ends_of(student, made, task) == [end]
    task.read_labels(Dataset.from_list(chats(4)))
    student.generation_config.eos_token_id = [end, 30]
    assert ends_of(student, made, task) == [end, 30, mark]
    assert with_ends({"eos_token_id": 7}, student, made, task)["eos_token_id"] == 7
    assert len(keep_ends(student, made, task)) == 1
    assert student.generation_config.eos_token_id == [end, 30, mark]
    assert keep_ends(student, made, task) == []
    assert with_ends({}, student, made, task) == {}
    made.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} the {% endfor %}"
    assert task.turn_ends(made) == []  # A word is no end.
