"""Chats as people have them go into DistillationTrainer as they are: nothing is tokenised before."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_distill import DistillationTrainer, Labels, Logits, Rollout, RolloutConfig
from hf_distill.errors import DataError
from hf_distill.tasks import CausalLanguageModeling
from tests.helpers import tiny
from tests.helpers.trainers import arguments

TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} [SEP] {% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}assistant {% endif %}"


def turns(i: int) -> list[tuple[str, str]]:
    return [("user", f"the {tiny.SUBJECTS[i % 8]}"), ("assistant", "is very fine" if i % 2 else "is bad")]


def openai(i: int) -> dict:
    return {"messages": [{"role": role, "content": said} for role, said in turns(i)]}


FORMS = {
    "messages": openai,
    "ShareGPT": lambda i: {
        "conversations": [
            {"from": {"user": "human", "assistant": "gpt"}[role], "value": said} for role, said in turns(i)
        ]
    },
    "prompt and completion": lambda i: {
        "prompt": openai(i)["messages"][:1],
        "completion": openai(i)["messages"][1:],
    },
    "parts": lambda i: {
        "messages": [{"role": role, "content": [{"type": "text", "text": said}]} for role, said in turns(i)]
    },
}


def made(folder, rows: Dataset, template: str | None = TEMPLATE, **options) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.decoder(1, seed=1),
        teacher=tiny.decoder(2, 48, seed=2),
        args=arguments(folder, max_steps=3, train_sampling_strategy="random"),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tiny.chat_tokenizer(template),
        **{"objectives": [Labels(), Logits()], **options},
    )


@pytest.mark.parametrize("form", FORMS)
def test_chats_of_every_form_train_a_student_on_what_the_assistant_says(form, tmp_path):
    rows = Dataset.from_list([FORMS[form](i) for i in range(16)])
    trainer = made(tmp_path, rows)
    labels = next(iter(trainer.get_eval_dataloader()))["labels"]
    counted = trainer.processing_class.batch_decode([row[row != -100] for row in labels[:2]])
    assert counted == ["is bad [SEP]", "is very fine [SEP]"]
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["loss_labels"] > 0 and entry["loss_logits"] > 0 for entry in entries)
    assert any(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.evaluate()["eval_loss_labels"] > 0


def test_the_form_of_the_rows_changes_no_loss(tmp_path):
    losses = []
    for form in FORMS.values():
        rows = Dataset.from_list([form(i) for i in range(16)])
        losses.append(made(tmp_path, rows).evaluate()["eval_loss"])
    assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-6)


@pytest.mark.parametrize("row", [{"messages": openai(0)["messages"][:1]}, {"prompt": openai(0)["messages"][:1]}])
def test_chats_without_an_answer_are_enough_where_the_student_writes_all(row, tmp_path):
    rows, task = Dataset.from_list([row] * 16), CausalLanguageModeling(max_length=32)
    with pytest.raises(DataError):
        made(tmp_path, rows, task=task)
    rollout = Rollout(RolloutConfig(share=1.0, max_new_tokens=4))
    answered = Dataset.from_list([openai(i) for i in range(4)])
    trainer = DistillationTrainer(
        model=tiny.decoder(1, seed=1),
        teacher=tiny.decoder(2, 48, seed=2),
        task=task,
        objectives=[Logits()],
        rollout=rollout,
        args=arguments(tmp_path, max_steps=2, train_sampling_strategy="random"),
        train_dataset=rows,
        eval_dataset=answered,
        processing_class=tiny.chat_tokenizer(TEMPLATE),
    )
    trainer.train()
    assert all(entry["rollout_length"] > 0 for entry in trainer.state.log_history if "loss" in entry)


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"chat template.*task\.chat_template"):
        made(tmp_path, Dataset.from_list([openai(i) for i in range(4)]), None)
