"""A row of a batch is read as it is alone, whichever side a tokenizer, rows or a collator pad on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    BertForQuestionAnswering,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
)

from hf_distill import DistillationTrainer, Labels, Logits
from hf_distill.errors import DataError
from hf_distill.generation.generate import generate, writer_inputs
from hf_distill.tasks import make_task
from tests.helpers import tiny
from tests.helpers.families import DECODERS, ENCODER_DECODERS, family
from tests.helpers.trainers import arguments

TEXTS = ["the card is good", "my", "the bank was very slow and the letter is not good", "a river is warm"]


def sided(side: str) -> Any:
    return tiny.chat_tokenizer(side=side)


def rows_of(kind: str) -> Dataset:
    if kind in DECODERS:
        return Dataset.from_dict({"text": TEXTS})
    return Dataset.from_dict({"source": TEXTS, "target": TEXTS[::-1]})


def losses(kind: str, folder: Any, side: str, rows: Dataset, batch_size: int = 4, **options: Any) -> dict[str, float]:
    """What an evaluation says of student and teacher: it weighs tokens alike, however rows are batched."""
    task = options.pop("task")
    trainer = DistillationTrainer(
        model=family(kind, 1),
        teacher=family(kind, 2),
        task=task,
        objectives=[Labels(), Logits(temperature=1.0)],
        args=arguments(folder, per_device_eval_batch_size=batch_size, train_sampling_strategy="random"),
        eval_dataset=rows,
        processing_class=sided(side),
        **options,
    )
    found = trainer.evaluate()
    return {name: found[name] for name in ("eval_loss_labels", "eval_loss_logits")}


def language_task(kind: str) -> Any:
    return make_task("causal-lm", {"max_length": 16, "packing": False}) if kind in DECODERS else "translation"


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
def test_a_batch_is_what_its_rows_are_alone_on_whichever_side_it_is_padded(kind, tmp_path):
    alone = losses(kind, tmp_path, "right", rows_of(kind), 1, task=language_task(kind))
    for side in ("right", "left"):
        together = losses(kind, tmp_path, side, rows_of(kind), task=language_task(kind))
        assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "xglm", "ctrl", "llama", "opt", "marian", "bart", "t5"])
def test_a_collator_that_pads_on_the_left_gives_the_same(kind, tmp_path):
    made, collate = sided("left"), None
    if kind in DECODERS:
        rows = Dataset.from_list([{"input_ids": made(text)["input_ids"]} for text in TEXTS])
        collate = DataCollatorForLanguageModeling(made, mlm=False)
    else:
        pairs = zip(TEXTS, reversed(TEXTS), strict=True)
        rows = Dataset.from_list(
            [{"input_ids": made(a)["input_ids"], "labels": made(b)["input_ids"]} for a, b in pairs]
        )
        collate = DataCollatorForSeq2Seq(made, model=family(kind) if kind != "t5" else None)
    alone = losses(kind, tmp_path, "right", rows, 1, task=language_task(kind))
    assert losses(kind, tmp_path, "left", rows, task=language_task(kind), data_collator=collate) == pytest.approx(
        alone, abs=1e-5
    )


def test_rows_that_are_padded_on_the_left_themselves_give_the_same(tmp_path):
    made = sided("left")
    rows = Dataset.from_dict({**made(TEXTS, padding="max_length", max_length=20)})
    assert not rows[1]["attention_mask"][0]
    bare = Dataset.from_list([{"input_ids": made(text)["input_ids"]} for text in TEXTS])
    alone = losses("gpt2", tmp_path, "right", bare, 1, task="causal-lm")
    assert losses("gpt2", tmp_path, "left", rows, task="causal-lm") == pytest.approx(alone, abs=1e-5)


def test_positions_of_answers_that_may_count_padding_are_refused(tmp_path):
    made = sided("left")
    rows = [{**made("is good", text), "start_positions": 5, "end_positions": 6} for text in TEXTS if len(text) > 2]
    trainer = DistillationTrainer(
        model=tiny.bert(kind=BertForQuestionAnswering, vocab_size=len(tiny.CHAT_WORDS)),
        objectives=[Labels()],
        args=arguments(tmp_path, train_sampling_strategy="random"),
        eval_dataset=Dataset.from_list(rows),
        processing_class=made,
        data_collator=DataCollatorWithPadding(made),
    )
    with pytest.raises(DataError, match=r"begin with padding.*pad on the right"):
        trainer.evaluate()


@pytest.mark.parametrize("kind", [*DECODERS, *ENCODER_DECODERS])
def test_what_a_model_writes_behind_a_prompt_does_not_depend_on_the_batch(kind):
    model, made = family(kind, 3), sided("right")
    prompts = [[5, 6], [8, 9, 10, 11, 12, 13, 14, 15]]
    settings = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "forced_eos_token_id": None}
    together = generate(model, writer_inputs(model, made, prompts), settings).tokens
    alone = [generate(model, writer_inputs(model, made, [prompt]), settings).tokens[0] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone))
