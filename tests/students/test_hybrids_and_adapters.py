"""Students of models with recurrent layers, of models that have read, and of models with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hf_distill import check
from hf_distill.errors import ModelError, StudentError
from hf_distill.models.sanity_checks import check_cache
from hf_distill.students import chosen_cuts
from hf_distill.students.layers import cut
from tests.helpers import tiny

MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
LINEAR = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")}
LINEAR |= {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
HYBRIDS: dict[str, dict[str, Any]] = {
    "lfm2": {"layer_types": ["conv" if each.startswith("l") else each for each in MIXED]},
    "qwen3_5_text": {"layer_types": MIXED, "head_dim": 8, **LINEAR},
}


def hybrid(kind: str) -> Any:
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 32}
    tokens = {"vocab_size": len(tiny.CHAT_WORDS), "num_key_value_heads": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, **tokens, **HYBRIDS[kind]))


def recipe(teacher: str, student: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "hybrid",
        "task": {"name": "causal-lm", "max_length": 32, "packing": False},
        "data": {"path": "tests.helpers.tiny:splits", "arguments": {"train": 16, "test": 8}},
        "teacher": {"model": teacher},
        "student": student,
        "objectives": [{"kind": "labels"}, {"kind": "logits"}],
        "training": {"max_steps": 1, "use_cpu": True},
    }


@pytest.mark.parametrize("kind", HYBRIDS)
@pytest.mark.parametrize("student", [{"layers": [0, 2]}, {"config": {"num_hidden_layers": 1}}], ids=str)
def test_check_refuses_a_student_of_recurrent_layers_alone_where_the_cache_needs_another(kind, student, tmp_path):
    hybrid(kind).save_pretrained(tmp_path)
    tiny.chat_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no layer of attention among its layers \(\d\).*keep one \(student.layers\)"):
        check(recipe(str(tmp_path), student), report=lambda _: None, allow_code=True)


@pytest.mark.parametrize("kind", HYBRIDS)
def test_check_lets_a_student_with_a_layer_of_attention_pass(kind, tmp_path):
    hybrid(kind).save_pretrained(tmp_path)
    tiny.chat_tokenizer().save_pretrained(tmp_path)
    check(recipe(str(tmp_path), {"layers": [0, 1]}), report=lambda _: None, allow_code=True)


def test_models_with_a_layer_of_attention_and_kinds_of_recurrent_layers_alone_pass():
    for kind in HYBRIDS:
        model = hybrid(kind)
        check_cache(model)
        check_cache(cut(model, chosen_cuts(model, [0, 1])))
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8}
    check_cache(AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba2", vocab_size=40, **shape)))


def test_layers_are_cut_of_a_model_that_has_read():
    ids = {"input_ids": torch.tensor([[5, 6, 7]]), "decoder_input_ids": torch.tensor([[2, 5]])}
    more = {"block_size": 4, "num_random_blocks": 1}
    teacher = tiny.encoder_decoder("bigbird_pegasus", 2, 2, **more)
    with torch.inference_mode():
        teacher(**ids)  # Short rows change its attention from block_sparse to original_full.
        student = cut(teacher, chosen_cuts(teacher, {"encoder": 2, "decoder": 2})).eval()
        assert torch.equal(student(**ids).logits, teacher(**ids).logits)


@pytest.mark.parametrize("student", ["layers", "pretrained"])
def test_check_refuses_to_start_from_a_model_with_adapters(student, tmp_path: Path):
    peft = pytest.importorskip("peft")
    made, whole, adapted = tiny.chat_tokenizer(), str(tmp_path / "whole"), str(tmp_path / "adapted")
    tiny.decoder(2).save_pretrained(whole)
    model = AutoModelForCausalLM.from_pretrained(whole)
    peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(adapted)
    for folder in (whole, adapted):
        made.save_pretrained(folder)
    teacher, asked = (adapted, {"layers": 1}) if student == "layers" else (whole, {"pretrained": adapted})
    with pytest.raises(StudentError, match=rf"student.{student}: .*holds adapters.*merge them first"):
        check(recipe(teacher, asked), report=lambda _: None, allow_code=True)


def test_a_file_of_weights_that_is_missing_is_named(tmp_path):
    tiny.decoder(2).save_pretrained(tmp_path, max_shard_size="10KB")
    tiny.chat_tokenizer().save_pretrained(tmp_path)
    sorted(tmp_path.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(ModelError, match=r"a file of its weights is missing \(.*safetensors\)"):
        check(recipe(str(tmp_path), {"layers": 1}), report=lambda _: None, allow_code=True)
