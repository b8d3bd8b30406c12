"""Students cut from a Whisper: what is left of it, and an encoder that both models share."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import TrainingArguments, WhisperForConditionalGeneration

from hf_distill import DistillationTrainer, Hidden, Labels, Logits
from hf_distill.recipe import FromParts
from hf_distill.students import build_student, chosen_cuts
from hf_distill.students.freezing import freeze
from hf_distill.students.layers import cut
from tests.helpers import whispers
from tests.tasks.speech.test_whisper import ENGLISH, batch_of, bound


def pair(**options: Any) -> tuple[WhisperForConditionalGeneration, WhisperForConditionalGeneration]:
    """A student with its teacher's encoder, frozen, and the first and last layer of its decoder; and that teacher."""
    teacher = whispers.whisper(2, 3, **options)
    student = cut(teacher, chosen_cuts(teacher, {"decoder": [0, -1]}))
    freeze(student, ["encoder"])
    return student, teacher


def of_layers(teacher: Any, made: Any) -> Any:
    """A student of a recipe that names the first and the last layer of its decoder."""
    config = FromParts(layers={"decoder": [0, -1]})
    more = {"auto_model": WhisperForConditionalGeneration, "texts": list, "model_options": {}}
    return build_student(config, teacher=teacher, teacher_tokenizer=made, **more).model


def trainer(student: Any, teacher: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=student,
        teacher=teacher,
        task=bound(teacher),
        objectives=[Labels(), Logits(temperature=2.0), Hidden()],
        args=TrainingArguments("unused", use_cpu=True, report_to="none"),
    )


def runs_of(*models: Any) -> list[Any]:
    runs: list[Any] = []
    for model in models:
        model.get_encoder().register_forward_hook(lambda module, *_: runs.append(module))
    return runs


def loss_and_gradients(one: DistillationTrainer, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    one.model.train()
    loss = one.compute_loss(one.model, dict(batch))
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in one.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("prompts", [False, True])
def test_a_shared_encoder_runs_once_a_step_and_changes_no_loss_and_no_gradient(prompts):
    student, teacher = pair()
    batch = batch_of(bound(teacher), whispers.rows(4, prompts=prompts))
    once, twice = trainer(student, teacher), trainer(copy.deepcopy(student), copy.deepcopy(teacher))
    assert once.step.shares_encoder
    twice.step.shares_encoder = False
    shared, separate = runs_of(student, teacher), runs_of(twice.model, twice.step.teacher.model)
    (loss, gradients), (expected, wanted) = (loss_and_gradients(each, batch) for each in (once, twice))
    assert (len(shared), len(separate)) == (1, 2)
    assert shared == [student.get_encoder()]
    assert torch.equal(loss, expected)
    assert gradients.keys() == wanted.keys()
    assert all(torch.equal(gradient, wanted[name]) for name, gradient in gradients.items())


def test_a_frozen_encoder_neither_drops_out_nor_masks_what_it_hears():
    student, teacher = pair(dropout=0.3, apply_spec_augment=True, mask_time_prob=0.5)
    batch = batch_of(bound(teacher), whispers.rows(4))
    heard = batch["input_features"].clone()
    one, found = trainer(student, teacher), []
    student.get_encoder().register_forward_hook(lambda _, __, output: found.append(output[0]))
    loss_and_gradients(one, batch)
    loss_and_gradients(one, batch)
    assert torch.equal(*found)
    assert torch.equal(batch["input_features"], heard)


def test_a_student_of_chosen_layers_writes_as_its_teacher_is_told_to_and_keeps_the_heads_of_its_layers(tmp_path):
    made = whispers.processor()
    teacher = whispers.whisper(2, 3, made=made)
    teacher.generation_config.alignment_heads = [[0, 1], [1, 0], [2, 1]]
    student = of_layers(teacher, made)
    assert (student.config.encoder_layers, student.config.decoder_layers) == (2, 2)
    assert len(student.get_encoder().layers) == len(student.get_decoder().layers) == 2
    task = bound(teacher)
    task.prepare_student(student, made, teacher, made, list)
    generation = student.generation_config
    assert generation.alignment_heads == [[0, 1], [1, 1]]
    assert generation.suppress_tokens == teacher.generation_config.suppress_tokens
    assert {name: getattr(generation, name) for name in ENGLISH} == ENGLISH
    student.save_pretrained(tmp_path)
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.generation_config.to_dict() == generation.to_dict()
    assert loaded.generation_config.lang_to_id == teacher.generation_config.lang_to_id


def test_heads_are_removed_where_none_of_their_layers_is_left():
    teacher = whispers.whisper(2, 3)
    teacher.generation_config.alignment_heads = [[1, 0]]
    student = of_layers(teacher, whispers.processor())
    assert not hasattr(student.generation_config, "alignment_heads")


def test_a_fresh_whisper_is_told_how_to_write():
    made = whispers.processor()
    student = whispers.whisper(made=made)
    student.generation_config = type(student.generation_config).from_model_config(student.config)
    bound(student).prepare_student(student, made, None, None, list)
    published = whispers.whisper(made=made).generation_config
    for name in ("lang_to_id", "task_to_id", "no_timestamps_token_id", "prev_sot_token_id", "is_multilingual"):
        assert getattr(student.generation_config, name) == getattr(published, name), name
