"""Objectives that look into layers compare every layer with its own, whatever a student's config would leave out."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, OPTConfig, OPTForCausalLM

from hf_distill import Attention, DistillationTrainer, Hidden, Labels, Logits, Relation
from hf_distill.tasks import CausalLanguageModeling, Translation
from tests.helpers import tiny
from tests.helpers.thinned import thinned
from tests.helpers.trainers import arguments

RATES = {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5}


def opt():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "dropout": 0.0}
    config = OPTConfig(vocab_size=len(tiny.CHAT_WORDS), word_embed_proj_dim=32, layerdrop=0.5, **shape)
    return OPTForCausalLM(config)


def trained(folder, student, objectives) -> DistillationTrainer:
    """After some steps of a student that starts as its teacher, and stays it: the learning rate is 0."""
    texts = tiny.rows(16)["text"]
    columns = {"source": texts, "target": texts} if student.config.is_encoder_decoder else {"text": texts}
    trainer = DistillationTrainer(
        model=student,
        teacher=copy.deepcopy(student),
        task=Translation() if student.config.is_encoder_decoder else CausalLanguageModeling(packing=False),
        objectives=objectives,
        args=arguments(folder, max_steps=6, learning_rate=0.0, save_strategy="steps", save_steps=3),
        train_dataset=Dataset.from_dict(columns),
        processing_class=tiny.chat_tokenizer(),
    )
    trainer.train()
    return trainer


def losses(trainer: DistillationTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


KINDS = ("m2m_100", "marian", "mbart", "pegasus", "led", "opt")
OBJECTIVES = (Hidden(), Hidden(side="encoder"), Relation(), Attention())
CASES = [*((kind, Hidden(layers={0: 0})) for kind in ("bart", *KINDS)), *(("bart", each) for each in OBJECTIVES)]


@pytest.mark.parametrize(("kind", "objective"), thinned(CASES))
def test_a_student_that_is_its_teacher_has_a_loss_of_0_in_every_step(kind, objective, tmp_path):
    sides = kind != "opt"
    window = {"attention_window": [4, 4]} if kind == "led" else {}
    student = tiny.encoder_decoder(kind, 2, 2, **RATES, **window) if sides else opt()
    trainer = trained(tmp_path, student, [copy.deepcopy(objective)])
    assert losses(trainer) == pytest.approx([0.0] * 6, abs=1e-6)
    rates = RATES if sides else {"layerdrop": 0.5}
    assert sum("no layer is dropped" in line for line in trainer.connection_notes) == 1
    trainer.save_model(str(tmp_path))
    for folder in (tmp_path, tmp_path / "checkpoint-3"):
        saved = AutoConfig.from_pretrained(folder)
        assert {name: getattr(saved, name) for name in rates} == rates
        assert {name: getattr(student.config, name) for name in rates} == rates


def test_layers_are_dropped_as_ever_where_outputs_alone_are_compared(tmp_path):
    trainer = trained(tmp_path, tiny.encoder_decoder("bart", 2, 2, **RATES), [Labels(), Logits()])
    assert not any("dropped" in line for line in trainer.connection_notes)
    assert max(entry.get("loss_logits", 0.0) for entry in trainer.state.log_history) > 0.01
