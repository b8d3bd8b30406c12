"""Models whose sizes are nested in a config of the text: they are cut, narrowed and taught as any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import family_models
from benchmarks.family_models import DECODERS, LAYERS
from hf_distill import check, run
from hf_distill.errors import ModelError, StudentError
from hf_distill.models.attention import self_attentions
from hf_distill.models.loading import empty_model
from hf_distill.students import chosen_cuts
from hf_distill.students.layers import cut
from hf_distill.tokenizers.compare import position_limit
from tests.helpers import tiny

MULTIMODAL = DECODERS["Gemma 3 multimodal"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Gemma 3 that reads images, too, on disk, which has learned a little of its texts."""
    folder, made, model = tmp_path_factory.mktemp("teacher"), tiny.chat_tokenizer(), MULTIMODAL.model()
    tiny.learn(model, made, list(tiny.rows(64)["text"]), steps=20, rate=5e-3)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def recipe(folder: str, student: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "nested",
        "task": {"name": "causal-lm", "max_length": 32},
        "data": {"path": "tests.helpers.tiny:splits", "arguments": {"train": 24, "test": 8}},
        "teacher": {"model": folder},
        "student": student,
        "objectives": [{"kind": "labels"}, {"kind": "logits"}, {"kind": "hidden"}],
        "training": {"max_steps": 2, "use_cpu": True, "per_device_train_batch_size": 4, "eval_strategy": "no"},
        "evaluate": {"resamples": 100, "control": False, "floor": False},
        **changes,
    }


@pytest.mark.parametrize(
    ("student", "layers", "width"),
    [
        ({"layers": 2}, 2, 32),
        ({"width": {"hidden_size": 16, "heads": 2, "intermediate_size": 24}}, 4, 16),
        pytest.param({"pretrained": "the teacher"}, 4, 32, marks=pytest.mark.slow),
        pytest.param({"config": {"num_hidden_layers": 2, "hidden_size": 16}}, 2, 16, marks=pytest.mark.slow),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_recipe_makes_every_student_of_a_model_that_reads_images_too(teacher, student, layers, width, tmp_path):
    student = {key: teacher if value == "the teacher" else value for key, value in student.items()}
    lines: list[str] = []
    check(recipe(teacher, student), report=lines.append, allow_code=True)
    assert any(line.startswith("memory: ") for line in lines)
    run(recipe(teacher, student), runs=tmp_path, report=lines.append, allow_code=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "nested" / "student")
    assert type(loaded).__name__ == "Gemma3ForConditionalGeneration"
    sizes = loaded.config.get_text_config()
    assert (sizes.num_hidden_layers, len(sizes.layer_types), sizes.hidden_size) == (layers, layers, width)
    assert loaded.config.vision_config.num_hidden_layers == LAYERS
    assert loaded.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2, min_new_tokens=2).shape == (1, 5)


def test_a_vocabulary_is_cut_in_the_nested_config(teacher, tmp_path):
    student = {"pretrained": teacher, "vocabulary": {"keep": "used"}}
    alone = {"teacher": None, "objectives": [{"kind": "labels"}]}
    run(recipe(teacher, student, **alone), runs=tmp_path, report=lambda line: None, allow_code=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "nested" / "student")
    assert loaded.config.get_text_config().vocab_size == len(loaded.get_input_embeddings().weight) < 64


def test_the_tower_for_images_is_neither_cut_nor_looked_at():
    model = MULTIMODAL.model()
    (chosen,) = chosen_cuts(model, [0, 3])
    assert chosen.stack == "model.language_model.layers"
    assert len(self_attentions(model)) == LAYERS
    assert position_limit(model) == 64
    student = cut(model, [chosen])
    tower = {name: tensor for name, tensor in model.state_dict().items() if "vision" in name}
    assert tower
    assert all(torch.equal(student.state_dict()[name], tensor) for name, tensor in tower.items())


@pytest.mark.parametrize(
    ("title", "more", "kept", "expected"),
    [
        ("Llama 4", {"moe_layers": [1, 3]}, [1, 2, 3], {"moe_layers": [0, 2]}),
        ("Bamba", {}, [1, 2, 3], {"attn_layer_indices": [0, 2]}),
        ("Qwen3-MoE", {"mlp_only_layers": [2]}, [0, 2], {"mlp_only_layers": [1]}),
        ("Gemma 3n text", {"num_kv_shared_layers": 2}, [0, 1, 3], {"num_kv_shared_layers": 1}),
        ("Gemma 3n text", {}, [0, 3], {"intermediate_size": [48, 48], "activation_sparsity_pattern": [0.0, 0.0]}),
    ],
)
def test_what_a_config_says_of_single_layers_follows_those_that_are_kept(title, more, kept, expected, tmp_path):
    family = DECODERS[title]
    nested = {"text_config": {**family.options["text_config"], **more}} if "text_config" in family.options else more
    model = family.model(**nested)
    student = cut(model, chosen_cuts(model, kept))
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {name: getattr(loaded.config.get_text_config(), name) for name in expected} == expected
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded(ids).logits, student.eval()(ids).logits)


def test_a_layer_whose_keys_and_values_others_reuse_must_be_kept():
    model = DECODERS["Gemma 3n text"].model(num_kv_shared_layers=2)
    with pytest.raises(StudentError, match="set of layer types producing a cache is different"):
        cut(model, chosen_cuts(model, [1, 2]))


def test_layers_of_two_classes_are_kept_where_their_order_allows_it():
    model = DECODERS["Jamba"].model()
    with pytest.raises(StudentError, match=r"layer 2 cannot be layer 1 .*JambaAttentionDecoderLayer and not"):
        cut(model, chosen_cuts(model, [0, 2]))


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("mistral3", {"text_config": {"model_type": "mistral", **family_models._HEADED}}, "Mistral3Config"),
        ("emu3", {"text_config": family_models._HEADED}, "Emu3TextConfig"),
    ],
)
def test_what_no_class_loads_again_is_refused_by_the_name_of_its_config(kind, options, named):
    with pytest.raises(ModelError, match=f"AutoModelForCausalLM loads no model with a {named}.*save that with"):
        empty_model(AutoModelForCausalLM, AutoConfig.for_model(kind, **options), "some/model")


def test_keys_of_the_text_are_given_without_the_name_of_its_config(teacher):
    with pytest.raises(StudentError, match=r"student.config.text_config: .*give the keys within it without it"):
        check(recipe(teacher, {"config": {"text_config": {"num_hidden_layers": 1}}}), allow_code=True)


def test_check_refuses_a_model_that_no_class_of_the_task_loads_with_the_way_out(tmp_path):
    AutoConfig.for_model("llava").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"AutoModelForCausalLM loads no model with a LlavaConfig; name another or"):
        check(recipe(str(tmp_path), {"layers": 1}), allow_code=True)
