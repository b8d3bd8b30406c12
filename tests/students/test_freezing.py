"""Frozen parts of a student: they stay as they are, and an encoder that its teacher shares runs once a step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels, Logits, load_recipe
from hf_distill.errors import RecipeError, StudentError
from hf_distill.recipe import LoraConfig
from hf_distill.students import chosen_cuts, frozen_encoder, learning, share_an_encoder
from hf_distill.students.adapters import add_adapters
from hf_distill.students.freezing import freeze
from hf_distill.students.layers import cut
from hf_distill.tasks import Translation
from tests.helpers import tiny

DROPOUT = {"marian": "dropout", "bart": "dropout", "t5": "dropout_rate"}


def rows(count: int = 16) -> Dataset:
    texts = tiny.rows(count)["text"]
    return Dataset.from_dict({"source": texts, "target": [" ".join(reversed(text.split())) for text in texts]})


def pair(kind: str, dropout: float = 0.0) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A student with its teacher's encoder and one layer of its decoder, and that teacher."""
    teacher = tiny.encoder_decoder(kind, 2, 2, **{DROPOUT[kind]: dropout})
    return cut(teacher, chosen_cuts(teacher, {"decoder": 1})), teacher


def trainer(student: PreTrainedModel, teacher: Any, folder: Any = "unused", **options: Any) -> DistillationTrainer:
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **options,
    }
    return DistillationTrainer(
        model=student,
        teacher=teacher,
        task=Translation(max_length=32, max_target_length=32),
        objectives=[Labels(), Logits(), Hidden()],
        args=TrainingArguments(**settings),
        train_dataset=rows(),
        processing_class=tiny.chat_tokenizer(),
    )


def encoder_runs(*models: PreTrainedModel) -> list[bool]:
    """Gathers at each run of one of the models' encoders whether it was in training mode."""
    runs: list[bool] = []
    for model in models:
        model.get_encoder().register_forward_hook(lambda module, *_: runs.append(module.training))
    return runs


def step(one: DistillationTrainer) -> torch.Tensor:
    """A loss as training computes it; a whole training takes longer."""
    one.model.train()
    return one.compute_loss(one.model, next(iter(one.get_train_dataloader())))


def losses(one: DistillationTrainer) -> list[float]:
    return [entry["loss"] for entry in one.state.log_history if "loss" in entry]


# ---- what is frozen


@pytest.mark.parametrize(
    ("kind", "part"), [("bart", "embeddings"), ("t5", "embeddings"), ("marian", "encoder"), ("t5", "encoder")]
)
def test_what_is_frozen_is_the_same_bit_for_bit_after_training_and_all_else_is_not(kind: str, part: str) -> None:
    student, teacher = pair(kind, 0.1)
    freeze(student, [part])
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    before = {name: value.clone() for name, value in student.named_parameters()}
    trainer(student, teacher).train()
    assert frozen
    for name, value in student.named_parameters():
        if not name.startswith("distillation"):
            assert torch.equal(value, before[name]) == (name in frozen), name
    layers = {name for name in before if "layers." in name or ".block." in name}
    expected = set() if part == "embeddings" else {name for name in layers if "encoder." in name.split("decoder.")[0]}
    assert frozen & layers == expected


def test_the_tables_of_an_encoder_are_frozen_and_its_norms_are_not() -> None:
    model = tiny.bert()
    freeze(model, ["embeddings"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    assert frozen == {f"bert.embeddings.{name}.weight" for name in tables}


def test_a_head_that_is_tied_to_frozen_embeddings_is_frozen_with_them() -> None:
    tied, untied = (tiny.decoder(tie_word_embeddings=tie) for tie in (True, False))
    for model in (tied, untied):
        freeze(model, ["embeddings"])
    assert not tied.lm_head.weight.requires_grad
    assert untied.lm_head.weight.requires_grad


@pytest.mark.parametrize("make", [tiny.bert, tiny.decoder])
def test_a_model_without_an_encoder_beside_a_decoder_refuses_to_freeze_one(make: Any) -> None:
    model = make()
    with pytest.raises(StudentError, match=rf"{type(model).__name__} has no encoder beside a decoder"):
        freeze(model, ["encoder"])


def test_freezing_all_that_could_learn_is_refused() -> None:
    model = tiny.bert()
    for module in (model.bert.encoder, model.bert.pooler, model.bert.embeddings.LayerNorm, model.classifier):
        module.requires_grad_(False)
    with pytest.raises(StudentError, match="with embeddings frozen, nothing of BertForSequenceClassification would"):
        freeze(model, ["embeddings"])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], r"student\.freeze: expected parts of the student, each once, got \[\]"),
        (["encoder", "encoder"], r"each once, got \['encoder', 'encoder'\]"),
        (["decoder"], r"student\.freeze\.0: expected one of embeddings, encoder"),
    ],
)
def test_parts_that_cannot_be_frozen_are_refused_by_name(parts: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny.recipe(student={"layers": 2, "freeze": parts}))


# ---- an encoder that runs once


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_a_frozen_encoder_that_the_teacher_shares_runs_once_a_step_and_changes_no_loss(kind: str) -> None:
    student, teacher = pair(kind)
    freeze(student, ["encoder"])
    other = copy.deepcopy(teacher)
    twice = trainer(copy.deepcopy(student), other)
    twice.step.shares_encoder = False
    separate = encoder_runs(twice.model, other)
    twice.train()
    once = trainer(student, teacher)
    shared = encoder_runs(student, teacher)
    once.train()
    assert (len(shared), len(separate)) == (3, 6)
    assert losses(once) == losses(twice)
    for name, value in once.model.state_dict().items():
        assert torch.equal(value, twice.model.state_dict()[name]), name


def test_an_encoder_that_learns_runs_in_both_models_and_drops_out() -> None:
    student, teacher = pair("marian", 0.1)
    one = trainer(student, teacher)
    runs = encoder_runs(student, teacher)
    step(one)
    assert sorted(runs) == [False, True]
    assert not one.connection_notes[-1].startswith("encoder")


def test_a_frozen_encoder_does_not_drop_out_whether_it_is_shared_or_not() -> None:
    for shared in (True, False):
        student, teacher = pair("marian", 0.3)
        freeze(student, ["encoder"])
        if not shared:
            with torch.no_grad():
                next(teacher.get_encoder().parameters()).add_(0.01)
        one = trainer(student, teacher)
        runs = encoder_runs(student, teacher)
        step(one)
        assert runs == [False] * (1 if shared else 2)
        assert student.get_decoder().training
        whose = "student's and teacher's alike" if shared else "the student's"
        assert one.connection_notes[-1] == f"encoder: {whose}, frozen: run once a step, without dropout"


def test_the_loss_with_a_shared_encoder_is_that_of_two_models_without_dropout() -> None:
    student, teacher = pair("bart")
    freeze(student, ["encoder"])
    one = trainer(student, teacher)
    batch = next(iter(one.get_train_dataloader()))
    reference = trainer(copy.deepcopy(student).requires_grad_(True), copy.deepcopy(teacher))
    frozen_loss, whole_loss = one.compute_loss(one.model, batch), reference.compute_loss(reference.model, batch)
    assert frozen_loss.item() == pytest.approx(whole_loss.item(), abs=1e-6)
    frozen_loss.backward()
    whole_loss.backward()
    others = dict(reference.model.named_parameters())
    for name, parameter in one.model.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, others[name].grad, atol=1e-6), name


def test_what_a_step_evaluates_is_encoded_once_too() -> None:
    student, teacher = pair("marian")
    freeze(student, ["encoder"])
    one = trainer(student, teacher, per_device_eval_batch_size=8)
    runs = encoder_runs(student, teacher)
    one.evaluate(one.train_dataset)
    assert len(runs) == 2


def test_encoders_are_shared_only_where_they_are_equal_built_alike_and_frozen() -> None:
    student, teacher = pair("marian")
    assert not share_an_encoder(student, teacher)
    freeze(student, ["encoder"])
    assert share_an_encoder(student, teacher)
    assert share_an_encoder(student, copy.deepcopy(teacher).to(torch.bfloat16))
    assert not share_an_encoder(student, tiny.encoder_decoder("marian", 2, 2, seed=1))
    assert not share_an_encoder(student, tiny.encoder_decoder("bart", 2, 2))
    assert not share_an_encoder(student, tiny.decoder())
    shorter = cut(teacher, chosen_cuts(teacher, {"encoder": 1}))
    freeze(shorter, ["encoder"])
    assert not share_an_encoder(shorter, teacher)
    teacher.get_encoder().layers[0].self_attn.num_heads = 4
    assert not share_an_encoder(student, teacher)


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_the_encoder_of_a_teacher_that_was_loaded_is_shared_by_a_student_cut_from_it(kind: str, tmp_path) -> None:
    tiny.encoder_decoder(kind, 2, 2).save_pretrained(tmp_path)
    teacher = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    student = cut(teacher, chosen_cuts(teacher, {"decoder": 1}))
    freeze(student, ["encoder"])
    assert share_an_encoder(student, teacher)


def test_a_teacher_in_half_precision_reads_the_shared_encoder_and_stays_near_what_it_says_alone() -> None:
    student, teacher = pair("marian")
    freeze(student, ["encoder"])
    half = copy.deepcopy(teacher).to(torch.bfloat16)
    one = trainer(student, half)
    batch = next(iter(one.get_train_dataloader()))
    shared = one.compute_loss(student, batch).item()
    assert one.step.shares_encoder
    one.step.shares_encoder = False
    assert shared == pytest.approx(one.compute_loss(student, batch).item(), rel=0.05)


def test_an_encoder_beside_whose_decoder_alone_adapters_learn_is_frozen_too() -> None:
    student, teacher = pair("marian")
    add_adapters(student, LoraConfig(r=2, target_modules=r".*decoder.*(q|v)_proj"))
    assert frozen_encoder(student) is not None
    assert learning(student) > 0
    one = trainer(student, teacher)
    runs = encoder_runs(student, teacher)
    step(one)
    assert len(runs) == 1
