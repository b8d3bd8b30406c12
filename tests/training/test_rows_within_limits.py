"""Positions and tokens that a model of the trainer lacks: cut and told, or refused before a forward pass fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModel,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    Seq2SeqTrainingArguments,
)

from hf_distill import DistillationTrainer, Labels, Logits
from hf_distill.errors import DataError, ModelError, ObjectiveError
from hf_distill.models.sizes import position_limit
from hf_distill.tasks import make_task
from hf_distill.tasks.encoding import pads_left
from hf_distill.teachers import EnsembleTeacher
from tests.helpers import tiny
from tests.helpers.data import reversed_pairs
from tests.helpers.families import DECODERS, ENCODER_DECODERS, POSITIONS, family
from tests.helpers.trainers import arguments

WORDS = len(tiny.CHAT_WORDS)
TEXTS = Dataset.from_dict({"text": [" ".join([word] * 40) for word in tiny.SUBJECTS]})


def unlimited(*tokens: str) -> Any:
    made = tiny.chat_tokenizer()
    made.model_max_length = 10**30
    made.add_tokens(list(tokens))
    return made


def trainer_of(folder: Any, rows: Dataset, student: Any, teacher: Any = None, **options: Any) -> DistillationTrainer:
    keys = ("max_steps", "per_device_train_batch_size")
    more = {key: options.pop(key) for key in keys if key in options}
    return DistillationTrainer(
        model=student,
        teacher=teacher,
        objectives=[Labels(), *([Logits(temperature=1.0)] if teacher is not None else [])],
        args=arguments(folder, **{"max_steps": 1, "train_sampling_strategy": "random", **more}),
        train_dataset=rows,
        **{"processing_class": unlimited(), **options},
    )


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        *((kind, {}, POSITIONS) for kind in (*DECODERS, *ENCODER_DECODERS) if kind != "t5"),
        ("t5", {}, None),
        ("bloom", {}, None),
        ("xlnet", {}, None),
        ("mpt", {"max_seq_len": 64}, 64),  # Its table of distances ends there.
        ("falcon", {"alibi": True, "max_position_embeddings": 64}, None),
        ("falcon", {"alibi": False, "max_position_embeddings": 64}, 64),
        ("deberta-v2", {"relative_attention": True, "position_biased_input": False}, None),
        ("roberta", {"pad_token_id": 1, "max_position_embeddings": 64}, 62),
        ("gptj", {"n_positions": 64, "rotary_dim": 8, "n_embd": 32, "n_head": 2}, 64),
    ],
)
def test_how_many_tokens_a_model_reads_is_known(kind, shape, expected):
    with torch.device("meta"):
        known = {**DECODERS, **ENCODER_DECODERS}
        model = AutoModel.from_config(AutoConfig.for_model(kind, **{"pad_token_id": 0, **known.get(kind, {}), **shape}))
    assert position_limit(model) == position_limit(model, "encoder") == position_limit(model, "decoder") == expected


def test_both_sides_of_an_encoder_decoder_have_their_own_positions():
    model = tiny.encoder_decoder("led", max_encoder_position_embeddings=64, max_decoder_position_embeddings=32)
    assert (position_limit(model, "encoder"), position_limit(model, "decoder")) == (64, 32)


@pytest.mark.parametrize(("kind", "teacher"), [("gpt2", "gpt2"), ("llama", "ctrl"), ("opt", None), ("gpt2", "several")])
def test_rows_are_cut_at_the_positions_of_all_models_which_is_told(kind, teacher, tmp_path):
    members = [family("gpt2", 2), family("gpt2", 3)]
    made = EnsembleTeacher(members) if teacher == "several" else teacher and family(teacher, 2)
    trainer = trainer_of(tmp_path, TEXTS, family(kind), made, task=make_task("causal-lm", {"packing": False}))
    (line,) = (line for line in trainer.connection_notes if "rows are cut" in line)
    assert line.startswith(f"task.max_length: rows are cut at {POSITIONS} tokens and not at 512: the ")
    trainer.train()


@pytest.mark.parametrize("kind", ["marian", "bart"])
def test_sources_and_targets_are_cut_and_no_more_is_written(kind, tmp_path):
    rows = reversed_pairs(8).map(lambda row: {name: " ".join([text] * 9) for name, text in row.items()})
    args = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, generation_max_length=90, use_cpu=True, report_to="none", max_steps=1
    )
    trainer = DistillationTrainer(
        model=family(kind, 1),
        teacher=family(kind, 2),
        task="translation",
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=unlimited(),
    )
    assert sum("rows are cut at 24" in line for line in trainer.connection_notes) == 2
    trainer.train()
    assert trainer.predict(rows).predictions.shape[1] <= POSITIONS


@pytest.mark.parametrize("kind", ["gpt2", "ctrl"])
def test_tokenised_rows_that_are_longer_than_the_positions_are_refused(kind, tmp_path):
    rows = Dataset.from_dict({"input_ids": [[5] * (POSITIONS + 1)] * 8})
    trainer = trainer_of(tmp_path, rows, family(kind), task="causal-lm")
    with pytest.raises(DataError, match=f"rows of 25 tokens, but the student .* has {POSITIONS} positions"):
        trainer.train()
    packed = Dataset.from_dict({"input_ids": [[5] * 40] * 8, "position_ids": [[*range(20), *range(20)]] * 8})
    trainer_of(tmp_path, packed, family("gpt2"), task="causal-lm").train()
    trainer_of(tmp_path, rows, family("gpt_neox"), task="causal-lm").train()  # Which computes them.


# --- tokens -----------------------------------------------------------------------------------------------------------


def pair(rows: tuple[int, int]) -> tuple[Any, Any]:
    return family("llama", 1, vocab_size=rows[0]), family("llama", 2, vocab_size=rows[1])


@pytest.mark.parametrize(
    ("rows", "of_teacher", "error", "message"),
    [
        (
            (WORDS, WORDS),
            None,
            ModelError,
            rf"the student \(.*has {WORDS} rows.*'<x>' \({WORDS}\).*embeddings",
        ),
        ((WORDS + 1, WORDS), None, ModelError, r"the teacher \(LlamaForCausalLM\): its table.*'<x>'"),
        ((WORDS + 1, WORDS), unlimited(), ObjectiveError, r"lacks, whose table.*'<x>' .*cross_tokenizer: true"),
        ((WORDS + 1, WORDS + 9), unlimited(), ObjectiveError, rf"table of tokens has {WORDS + 9} rows: '<x>'"),
    ],
)
def test_tokens_that_a_model_lacks_are_refused_when_the_trainer_is_made(rows, of_teacher, error, message, tmp_path):
    made = unlimited("<x>")
    with pytest.raises(error, match=message):
        trainer_of(tmp_path, TEXTS, *pair(rows), processing_class=made, teacher_processing_class=of_teacher)


def test_tables_with_spare_rows_are_as_good(tmp_path):
    trainer_of(tmp_path, TEXTS, *pair((WORDS + 3, WORDS + 9)), teacher_processing_class=unlimited()).train()
    more = unlimited()
    more.add_special_tokens({"pad_token": "<pad>"})
    student, teacher = pair((WORDS + 1, WORDS + 9))
    trainer_of(tmp_path, TEXTS, student, teacher, processing_class=more, teacher_processing_class=unlimited()).train()


def test_a_classifier_with_a_token_more_learns_from_one_that_reads_its_own(tmp_path):
    more = tiny.tokenizer()
    more.add_tokens(["<x>"])
    kind = BertForSequenceClassification
    rows = tiny.rows(16).map(lambda row: {"text": f"<x> {row['text']}"})
    student, teacher = tiny.bert(kind=kind, vocab_size=len(more)), tiny.bert(3, kind=kind)
    options = {"processing_class": more, "teacher_processing_class": tiny.tokenizer()}
    trainer_of(tmp_path, rows, student, teacher, **options).train()


@pytest.mark.parametrize("collate", [None, "Transformers'"])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_tokenised_rows_with_tokens_that_a_table_lacks_are_refused(whose, collate, tmp_path):
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7 if i else WORDS + 1, 8] for i in range(8)]})
    models = pair((WORDS, WORDS + 9) if whose == "student" else (WORDS + 9, WORDS))
    made = DataCollatorForLanguageModeling(unlimited(), mlm=False) if collate else None
    trainer = trainer_of(tmp_path, rows, *models, data_collator=made)
    told = rf"input_ids: row \d of a batch has the token {WORDS + 1}, but the table of the {whose} .* has {WORDS} rows"
    for act in (trainer.train, lambda: trainer.evaluate(rows), lambda: trainer.predict(rows)):
        with pytest.raises(DataError, match=told):
            act()


def test_only_what_answers_at_the_end_keeps_its_padding_in_front():
    xlnet, llama = tiny.tokenizer(), tiny.chat_tokenizer(side="left")
    ends = [(token, tiny.WORDS.index(token)) for token in ("[SEP]", "[CLS]")]
    xlnet.backend_tokenizer.post_processor = processors.TemplateProcessing("$A [SEP] [CLS]", special_tokens=ends)
    xlnet.padding_side = "left"
    assert pads_left(xlnet)
    assert not pads_left(llama)
