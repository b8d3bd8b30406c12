"""Segments: which text of a pair a token is of. Each model gets them that reads them, whoever's tokenizer made them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hf_distill.models.forward import accepted_inputs, reads_segments
from hf_distill.objectives import Logits
from hf_distill.pipeline.teacher_cache import Source, cached
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import Embeddings, QuestionAnswering, TextClassification, TokenClassification
from hf_distill.teachers import EnsembleTeacher, ModelTeacher
from hf_distill.tokenizers.compare import fitted
from tests.helpers import tiny
from tests.helpers.trainers import trainer

SHAPE = {
    "vocab_size": len(tiny.WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.5,
}
WITHOUT = ("distilbert", "roberta", "mpnet", "modernbert", "big_bird")
READING = ("bert", "albert", "xlnet", "rembert", "electra", "funnel")
MORE: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "distilbert": {"hidden_size": None, "intermediate_size": None},
    "modernbert": {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "big_bird": {"attention_type": "original_full"},
    "xlnet": {"num_hidden_layers": None, "intermediate_size": None, "n_layer": 2, "d_inner": 48, "d_head": 8},
    "funnel": {"num_hidden_layers": None, "intermediate_size": None, "block_sizes": [1, 1], "d_head": 8},
}


def model(kind: str, seed: int = 0, **options) -> Any:
    settings = {**SHAPE, **MORE.get(kind, {}), **options}
    if kind == "distilbert":
        settings |= {"dim": settings["hidden_size"] or 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
    known = {name: value for name, value in settings.items() if value is not None}
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **known)).eval()


def pairs(count: int = 12) -> Dataset:
    rows = tiny.rows(count)
    return rows.add_column("text_pair", list(reversed(rows["text"])))


def bound(rows: Dataset) -> TextClassification:
    task = TextClassification(max_length=32)
    task.read_labels(rows)
    return task


def with_segments(teacher: Any, rows: Dataset) -> torch.Tensor:
    """What a model says of pairs that its own tokenizer reads."""
    read = tiny.tokenizer()(
        list(rows["text"]), list(rows["text_pair"]), padding=True, return_tensors="pt", return_token_type_ids=True
    )
    assert read["token_type_ids"].any()
    with torch.inference_mode():
        return teacher(**accepted_inputs(teacher, dict(read))).logits


def batch_of(task: Any, rows: Dataset, tokenizer: Any) -> dict[str, torch.Tensor]:
    return task.collator(tokenizer)(list(task.encode(rows, tokenizer)))


@pytest.mark.parametrize("student", WITHOUT)
@pytest.mark.parametrize("teacher", READING)
def test_a_teacher_has_its_segments_beside_a_student_that_reads_none(teacher, student):
    rows, reads = pairs(), fitted(tiny.tokenizer(), model(student))
    assert "token_type_ids" not in reads.model_input_names
    made = model(teacher, seed=1)
    batch = batch_of(bound(rows), rows, reads)
    beside = ModelTeacher(made, tiny.tokenizer()).beside(reads)
    logits = beside.targets(bound(rows), batch, frozenset({"logits"})).logits
    assert torch.allclose(logits, with_segments(made, rows), atol=1e-5)
    without = {name: value for name, value in batch.items() if name != "token_type_ids"}
    assert not torch.allclose(logits, beside.targets(bound(rows), without, frozenset({"logits"})).logits, atol=1e-3)


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_model_that_reads_no_segments_never_gets_them(kind):
    made, rows = model(kind), pairs()
    assert not reads_segments(made)
    batch = bound(rows).student_inputs(batch_of(bound(rows), rows, tiny.tokenizer()))
    assert "token_type_ids" in batch
    assert "token_type_ids" not in accepted_inputs(made, batch)


def test_every_member_of_an_ensemble_gets_what_it_reads():
    rows = pairs()
    members = [model("distilbert", seed=1), model("bert", seed=2)]
    teacher = EnsembleTeacher(members)
    teacher.follow(bound(rows))
    batch = batch_of(bound(rows), rows, fitted(tiny.tokenizer(), members[0]))
    logits = teacher.targets(bound(rows), batch, frozenset({"logits"})).logits
    mean = torch.stack([with_segments(each, rows).softmax(-1) for each in members]).mean(0)
    assert torch.allclose(logits.softmax(-1), mean, atol=1e-5)


def test_a_cache_holds_what_a_teacher_says_with_its_segments(tmp_path):
    rows, student = pairs(), model("distilbert")
    reads, made = fitted(tiny.tokenizer(), student), model("bert", seed=1)
    task, teacher = bound(rows), ModelTeacher(made, tiny.tokenizer(), folder=tmp_path).beside(reads)
    made.save_pretrained(tmp_path)
    source = Source(teacher=teacher, task=task, tokenizer=reads, student=student.config, data_fingerprint="", seed=0)
    encoded = task.encode(rows, reads)
    objectives = {"logits": Logits()}
    kept, train, _ = cached(source, encoded, encoded.select(range(2)), objectives, CacheConfig(), tmp_path / "c", 4)
    batch = task.collator(reads)(list(train)) | {"row_id": torch.tensor(train["row_id"])}
    logits = kept.targets(task, batch, frozenset({"logits"})).logits
    assert torch.allclose(logits.float(), with_segments(made, rows), atol=2e-2)


@pytest.mark.parametrize("student", ["distilbert", "mpnet"])
def test_the_trainer_keeps_the_segments_that_only_the_teacher_reads(student, tmp_path):
    rows, made = pairs(), model("bert", seed=1)
    rows = rows.remove_columns("label").add_column("label", [i % 2 for i in range(len(rows))])
    one = trainer(tmp_path, ["logits"], rows=rows, student=model(student), teacher=made)
    batch = next(iter(one.get_eval_dataloader(one.train_dataset)))
    shown = one.processing_class.batch_decode(batch["input_ids"])
    logits = one.step.targets(batch).logits
    own = with_segments(made, rows)
    order = [next(i for i, row in enumerate(rows) if text.startswith(f"[CLS] {row['text']} [SEP]")) for text in shown]
    assert torch.allclose(logits, own[order], atol=1e-5)


@pytest.mark.parametrize("kind", READING)
def test_a_student_is_saved_with_a_tokenizer_that_gives_what_it_learned_with(kind, tmp_path):
    silent = copy.deepcopy(tiny.tokenizer())
    silent.model_input_names = ["input_ids", "attention_mask"]  # As Transformers 5 gives that of an ALBERT.
    assert "token_type_ids" not in silent("a", "b")
    fitted(silent, model(kind)).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert fitted(silent, model("distilbert")) is silent


@pytest.mark.parametrize("task", [TextClassification, TokenClassification, QuestionAnswering, Embeddings])
def test_every_task_of_encoders_keeps_segments_through_its_collator(task):
    rows = {
        TextClassification: pairs(4),
        TokenClassification: Dataset.from_dict({"tokens": [["good", "card"]], "labels": [["O", "B-x"]]}),
        QuestionAnswering: Dataset.from_dict(
            {"question": ["the card"], "context": ["a good bank"], "answers": [{"text": [], "answer_start": []}]}
        ),
        Embeddings: Dataset.from_dict({"text": ["the card", "a bank"]}),
    }[task]
    made = task()
    made.read_labels(rows)
    silent = fitted(tiny.tokenizer(), model("distilbert"))
    inputs = made.student_inputs(batch_of(made, rows, silent))
    assert inputs["token_type_ids"].shape == inputs["input_ids"].shape
