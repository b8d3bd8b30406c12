"""A fresh encoder-decoder starts to write as the teacher whose tokenizer it has."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_distill import run
from hf_distill.recipe import StudentConfig
from hf_distill.recipe.parse import read
from hf_distill.students import build_student
from hf_distill.tasks import Translation
from tests.helpers import tiny
from tests.helpers.seams import accept_any_teacher

END = tiny.CHAT_WORDS.index("[SEP]")
SMALL = {
    "encoder_layers": 1, "decoder_layers": 1, "d_model": 16, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
}  # fmt: skip
SMALL_T5 = {"num_layers": 1, "num_decoder_layers": 1, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2}
PAIRS = [
    *((kind, kind) for kind in ("bart", "m2m_100", "mbart", "led", "marian", "pegasus", "blenderbot", "t5")),
    *(("m2m_100", "bart"), ("t5", "bart"), ("bart", "marian")),
]


def teacher_of(kind: str, start: int = END, **options):
    made = tiny.encoder_decoder(kind, 4 if kind == "led" else 2, 1, decoder_start_token_id=start, **options)
    made.generation_config.decoder_start_token_id = start
    return made


def student_of(kind: str, teacher, known, **more):
    shape = SMALL_T5 if "t5" in kind else {**SMALL, **({"attention_window": 4} if kind == "led" else {})}
    keys = {"config": {"model_type": kind, **shape}, **more}
    return build_student(
        read(StudentConfig, keys, "recipe.student"),
        auto_model=AutoModelForSeq2SeqLM,
        teacher=teacher,
        teacher_tokenizer=known,
        texts=lambda: iter(["the card is good"] * 4),
        model_options={},
    ).model


@pytest.mark.parametrize("start", [END, 0, 7])
@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_both_read_the_same_decoder_inputs_and_write_from_the_same_token(kind, other, start):
    teacher, tokenizer = teacher_of(kind, start), tiny.chat_tokenizer()
    student = student_of(other, teacher, tokenizer)
    task = Translation()
    task.follow(teacher.config)
    task.check_model(student)
    assert student.config.decoder_start_token_id == teacher.config.decoder_start_token_id
    assert student.generation_config.decoder_start_token_id == start
    assert student.config.pad_token_id == tokenizer.pad_token_id


def test_a_tokenizer_that_is_named_and_the_same_is_the_teachers(tmp_path):
    tiny.chat_tokenizer().save_pretrained(tmp_path)
    student = student_of("bart", teacher_of("bart"), tiny.chat_tokenizer(), tokenizer=str(tmp_path))
    assert student.config.decoder_start_token_id == END


def test_one_with_tokens_of_its_own_starts_as_these_begin_a_text():
    student = student_of(
        "bart", teacher_of("bart", 7), tiny.chat_tokenizer(), tokenizer={"kind": "bpe", "vocab_size": 300}
    )
    assert student.config.decoder_start_token_id == student.config.bos_token_id


@pytest.mark.slow
def test_a_recipe_trains_a_fresh_bart_beside_one_that_starts_with_its_end(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)
    teacher_of("bart", encoder_layerdrop=0.2).save_pretrained(tmp_path / "teacher")
    tiny.chat_tokenizer().save_pretrained(tmp_path / "teacher")
    told: list[str] = []
    result = run(
        {
            "version": 1,
            "name": "fresh",
            "task": {"name": "translation", "max_length": 32, "max_target_length": 32},
            "data": {"path": "tests.helpers.data:translations", "arguments": {"train": 16, "test": 4}},
            "teacher": {"model": str(tmp_path / "teacher")},
            "student": {"config": {"model_type": "bart", **SMALL}},
            "objectives": [{"kind": "labels"}, {"kind": "logits"}, {"kind": "hidden", "side": "encoder"}],
            "training": {"max_steps": 2, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no"},
            "evaluate": {"resamples": 100, "generation": {"max_new_tokens": 8}},
        },
        runs=tmp_path / "runs",
        report=told.append,
    )
    student = AutoModelForSeq2SeqLM.from_pretrained(result.student)
    assert student.config.decoder_start_token_id == student.generation_config.decoder_start_token_id == END
    read_of = AutoTokenizer.from_pretrained(result.student)(["the card"], return_tensors="pt")
    written = student.generate(read_of["input_ids"], max_new_tokens=4)
    assert written[0, 0] == END
    assert torch.isfinite(torch.tensor(result.metrics["kl_to_teacher"]))
