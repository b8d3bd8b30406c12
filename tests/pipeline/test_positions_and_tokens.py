"""What the models of a run can read together: positions and tokens, told or refused before anything is trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from hf_distill import check, label, run
from hf_distill.errors import HfDistillError, ModelError, ObjectiveError
from tests.helpers import tiny
from tests.helpers.byte_tokenizers import byte_level
from tests.helpers.families import POSITIONS, family
from tests.helpers.seams import accept_any_teacher

LOGITS = [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0}]
CROSS = [{"kind": "labels"}, {"kind": "logits", "temperature": 1.0, "cross_tokenizer": True}]
WORDS = len(tiny.CHAT_WORDS)


@pytest.fixture(autouse=True)
def no_chance(monkeypatch):
    accept_any_teacher(monkeypatch)


def unlimited(*tokens: str, pad: str | None = None) -> Any:
    """A tokenizer that names no length, with further tokens."""
    made = tiny.chat_tokenizer()
    made.model_max_length = 10**30
    made.add_tokens(list(tokens))
    if pad is not None:
        made.add_special_tokens({"pad_token": pad})
    return made


def saved(folder: Path, model: Any, tokenizer: Any = None) -> str:
    model.save_pretrained(folder)
    (tokenizer or unlimited()).save_pretrained(folder)
    return str(folder)


def masked(kind: str, positions: int) -> Any:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    tokens = {"vocab_size": WORDS, "pad_token_id": 0, "max_position_embeddings": positions}
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **shape, **tokens))


def recipe(task: dict[str, Any], data: str, **changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "read",
        "task": task,
        "data": {"path": f"tests.helpers.data:{data}"},
        "student": {"layers": 1},
        "objectives": LOGITS,
        "training": {"max_steps": 2, "per_device_train_batch_size": 8, "use_cpu": True, "eval_strategy": "no"},
        "evaluate": {"resamples": 100},
        **changes,
    }


def lines_of(action: Any, made: dict[str, Any], **options: Any) -> list[str]:
    told: list[str] = []
    action(made, report=told.append, allow_code=True, **options)
    return told


CAUSAL = {"name": "causal-lm", "max_length": 4 * POSITIONS}
NARROW = {"config": {"max_position_embeddings": POSITIONS}}
WIDE = {"max_position_embeddings": 4 * POSITIONS}


def packed_of(kind: str) -> Any:
    return lambda folder: recipe(CAUSAL, "text_splits", teacher={"model": saved(folder / kind, family(kind))})


def narrow_student(folder: Path, **teacher: Any) -> dict[str, Any]:
    source = saved(folder / "wide", family("llama", **WIDE))
    return recipe(CAUSAL, "text_splits", teacher={"model": source, **teacher}, student=NARROW)


def several(folder: Path) -> dict[str, Any]:
    members = [saved(folder / name, family("gpt2", n_positions=n)) for name, n in (("a", 96), ("b", POSITIONS))]
    return recipe(CAUSAL, "text_splits", teacher={"ensemble": [{"model": member} for member in members]})


def short_tokenizer(folder: Path) -> dict[str, Any]:
    made = unlimited()
    made.model_max_length = POSITIONS
    source = saved(folder / "short", family("llama", **WIDE), made)
    other = saved(folder / "student", family("llama", 1, **WIDE))
    return recipe(CAUSAL, "text_splits", teacher={"model": source}, student={"pretrained": other})


def written(kind: str, data: str, task: dict[str, Any], new: int = 2 * POSITIONS) -> Any:
    def made(folder: Path) -> dict[str, Any]:
        evaluated = {"resamples": 100, "scorers": ["exact_match"], "generation": {"max_new_tokens": new}}
        layers: Any = 1 if data == "answers" else {"encoder": 1, "decoder": 1}
        teacher, student = {"model": saved(folder / kind, family(kind))}, {"layers": layers}
        return recipe(task, data, teacher=teacher, student=student, evaluate=evaluated)

    return made


def two_tokenizers(folder: Path, **shape: Any) -> dict[str, Any]:
    """Of bytes, the student's with one token more."""
    made, more = byte_level(), copy.deepcopy(byte_level())
    more.add_tokens(["<|im_start|>"])
    teacher = saved(folder / "teacher", family("gpt2", 1, vocab_size=len(made), **shape), made)
    student = saved(folder / "student", family("gpt2", vocab_size=len(more), n_positions=96), more)
    changes = {"student": {"pretrained": student}, "objectives": CROSS}
    return recipe({**CAUSAL, "packing": False}, "byte_text_splits", teacher={"model": teacher}, **changes)


def far_of_mpt(folder: Path) -> dict[str, Any]:
    shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": POSITIONS, "vocab_size": WORDS}
    source = saved(folder / "mpt", AutoModelForCausalLM.from_config(AutoConfig.for_model("mpt", **shape)))
    return recipe({**CAUSAL, "packing": False}, "text_splits", teacher={"model": source})


TRANSLATION = {"name": "translation", "max_length": 100, "max_target_length": 90}
READ: dict[str, tuple[Any, int | None]] = {
    "packed, gpt_neox": (packed_of("gpt_neox"), POSITIONS),
    "distances up to a number, mpt": (far_of_mpt, POSITIONS),
    "packed, gpt2": (packed_of("gpt2"), POSITIONS),
    "opt": (
        lambda folder: recipe(
            {**CAUSAL, "packing": False}, "text_splits", teacher={"model": saved(folder / "opt", family("opt"))}
        ),
        POSITIONS,
    ),
    "a narrow student": (narrow_student, POSITIONS),
    "a narrow student of a cached teacher": (lambda folder: narrow_student(folder, kind="cached"), POSITIONS),
    "several teachers": (several, POSITIONS),
    "a tokenizer with a limit": (short_tokenizer, POSITIONS),
    "two tokenizers": (two_tokenizers, POSITIONS),
    "marian": (written("marian", "translations", TRANSLATION), POSITIONS),
    "bart": (written("bart", "translations", TRANSLATION), POSITIONS),
    "t5": (written("t5", "translations", TRANSLATION), None),
    "texts behind prompts, gpt2": (written("gpt2", "answers", CAUSAL), POSITIONS),
    "texts behind prompts, ctrl": (written("ctrl", "answers", CAUSAL), POSITIONS),
    "texts behind cut prompts": (
        written("gpt2", "answers", {**CAUSAL, "max_length": 6, "too_long": "truncate"}, 100),
        None,
    ),
    "roberta": (
        lambda folder: recipe(
            {"name": "masked-lm", "max_length": 90, "packing": True},
            "text_splits",
            teacher={"model": saved(folder / "roberta", masked("roberta", POSITIONS))},
        ),
        POSITIONS - 1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", READ)
def test_rows_are_cut_for_all_models_of_a_run_which_check_tells_and_run_survives(case, tmp_path):
    make, limit = READ[case]
    made = make(tmp_path)
    told = lines_of(check, made)
    cut = [line for line in told if line.startswith("task.max_length: rows are cut at")]
    assert cut == [] if limit is None else f"cut at {limit} tokens" in cut[0]
    told = lines_of(run, made, runs=tmp_path / "runs")
    assert (tmp_path / "runs" / "read" / "results.json").is_file()
    if "generation" in made["evaluate"] and limit is not None:
        assert any(line.startswith("writing: ") for line in told)


@pytest.mark.slow
def test_a_teacher_labels_no_further_than_its_positions(tmp_path):
    made = written("gpt2", "answers", CAUSAL)(tmp_path)
    del made["evaluate"]["scorers"], made["evaluate"]["generation"]
    made["label"] = {"generation": {"num_beams": 2, "max_new_tokens": 40}}
    assert any(line.startswith("writing: ") for line in lines_of(label, made, runs=tmp_path / "runs"))


def added(folder: Path, teacher_rows: int = WORDS, pad: str | None = None) -> Any:
    """A student whose tokenizer has one token more than its teacher's, with a table that has it."""
    made = unlimited(pad=pad) if pad is not None else unlimited("<|im_start|>")
    student = saved(folder / "student", family("llama", 1, vocab_size=WORDS + 1), made)
    teacher = saved(folder / "teacher", family("llama", 2, vocab_size=teacher_rows))
    return recipe(CAUSAL, "text_splits", teacher={"model": teacher}, student={"pretrained": student})


def not_resized(folder: Path) -> Any:
    made = added(folder)
    made["teacher"] = {"model": saved(folder / "teacher", family("llama", 2), unlimited("<|im_start|>"))}
    return made


def student_not_resized(folder: Path) -> Any:
    made = added(folder)
    made["student"] = {"pretrained": saved(folder / "student", family("llama", 2), unlimited(pad="<pad>"))}
    return made


REFUSED: dict[str, tuple[Any, type[HfDistillError], str]] = {
    "a token more": (
        added,
        ObjectiveError,
        rf"lacks, whose table of tokens has {WORDS} rows: '<\|im_start\|>' \({WORDS}\).*c",
    ),
    "a token more, spare rows": (
        lambda folder: added(folder, WORDS + 8),
        ObjectiveError,
        rf"lacks, whose table of tokens has {WORDS + 8} rows: '<\|im_start\|>' \({WORDS}\)",
    ),
    "a pad token more": (
        lambda folder: added(folder, pad="<pad>"),
        ModelError,
        rf"the teacher \(LlamaForCausalLM\): its table of tokens has {WORDS} rows.*'<pad>' \({WORDS}\)",
    ),
    "a teacher that was not resized": (
        not_resized,
        ModelError,
        rf"the teacher \(LlamaForCausalLM\).*'<\|im_start\|>' \({WORDS}\).*resize_token_embeddings\({WORDS + 1}\)",
    ),
    "a student that was not resized": (student_not_resized, ModelError, r"the student \(LlamaForCausalLM\).*'<pad>'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tokens_that_a_model_lacks_are_refused_by_check(case, tmp_path):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        check(make(tmp_path), report=lambda _: None, allow_code=True)


ACCEPTED: dict[str, Any] = {
    "with cross_tokenizer": lambda folder: two_tokenizers(folder, n_positions=96),
    "a pad token in a spare row": lambda folder: added(folder, WORDS + 8, pad="<pad>"),
    "a larger table": lambda folder: recipe(
        CAUSAL, "text_splits", teacher={"model": saved(folder / "padded", family("llama", vocab_size=WORDS + 8))}
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_check_lets_pass_runs(case, tmp_path):
    made = ACCEPTED[case](tmp_path)
    check(made, report=lambda _: None, allow_code=True)
    run(made, runs=tmp_path / "runs", report=lambda _: None, allow_code=True)
    assert (tmp_path / "runs" / "read" / "results.json").is_file()
