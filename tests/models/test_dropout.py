"""A student may learn without dropout: nothing of it is random then, and what is saved has its rates as before."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from hf_distill import check, run
from hf_distill.errors import RecipeError
from hf_distill.models.dropout import at_zero, layer_rates, layerdrop_note, without_dropout
from hf_distill.recipe import FromPretrained, LoraConfig
from tests.helpers import tiny
from tests.helpers.vectors import saved, vector_recipe, with_head

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}
BART = {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 60}
KINDS = {
    **dict.fromkeys(("bert", "roberta", "electra", "modernbert", "gpt_neox", "llama", "phi", "falcon"), SMALL),
    "deberta-v2": {**SMALL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 48, "vocab_size": 60, "n_layers": 3},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 3, "vocab_size": 60},
    "bart": BART,
    "marian": BART,
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 2, "vocab_size": 60},
    "wav2vec2": {**SMALL, "mask_time_prob": 0.0, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "vit": {**SMALL, "image_size": 8, "patch_size": 4},
    "whisper": {**BART, "encoder_layers": 2, "decoder_layers": 2, "max_source_positions": 8, "num_mel_bins": 8},
}


def dropping(kind: str) -> PreTrainedModel:
    """A model that trains, and drops half of all that it may drop."""
    ids = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep", "decoder_start")}
    config = AutoConfig.for_model(kind, **{**ids, **KINDS[kind]})
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, name, 0.5)
    torch.manual_seed(0)
    return AutoModel.from_config(config).train()


def state(model: PreTrainedModel, seed: int) -> torch.Tensor:
    """What comes out for the same input; the seed decides what is dropped."""
    drawn = torch.Generator().manual_seed(1)
    inputs = {
        "wav2vec2": {"input_values": torch.randn(2, 2000, generator=drawn)},
        "vit": {"pixel_values": torch.randn(2, 3, 8, 8, generator=drawn)},
        "whisper": {"input_features": torch.randn(2, 8, 16, generator=drawn)},
    }.get(model.config.model_type, {"input_ids": torch.randint(5, 60, (2, 12), generator=drawn)})
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(5, 60, (2, 6), generator=drawn)
    torch.manual_seed(seed)
    return model(**inputs).last_hidden_state.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_random_without_dropout_and_all_is_as_before_afterwards(kind):
    model = dropping(kind)
    config, dropped = model.config.to_dict(), state(model, 1)
    assert not torch.equal(dropped, state(model, 2))

    with without_dropout(model):
        assert torch.equal(state(model, 1), state(model, 2))
        assert torch.equal(state(model, 1), state(model.eval(), 1))
        model.train()

    assert torch.equal(state(model, 1), dropped)
    assert model.config.to_dict() == config


def test_it_comes_back_where_training_breaks_off():
    model = dropping("bert")
    with pytest.raises(KeyboardInterrupt), without_dropout(model):
        raise KeyboardInterrupt
    assert model.config.hidden_dropout_prob == 0.5
    assert not torch.equal(state(model, 1), state(model, 2))


SPEECH = {**SMALL, "mask_time_prob": 0.0, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LAYERS = {
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "blenderbot", "m2m_100", "plbart", "bigbird_pegasus"), BART),
    "led": {**BART, "attention_window": 4},
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "xglm": {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 48, "vocab_size": 60},
    "biogpt": SMALL,
    "flaubert": {"emb_dim": 32, "n_layers": 3, "n_heads": 4, "n_words": 60},
    "whisper": KINDS["whisper"],
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech"), SPEECH),
}


def states(model: PreTrainedModel, seed: int) -> list[torch.Tensor]:
    """Of all layers, of both sides."""
    drawn = torch.Generator().manual_seed(1)
    inputs = {"input_ids": torch.randint(5, 60, (2, 12), generator=drawn)}
    if model.config.model_type == "whisper":
        inputs = {"input_features": torch.randn(2, 8, 16, generator=drawn)}
    elif "num_conv_pos_embeddings" in vars(model.config):
        inputs = {"input_values": torch.randn(2, 2000, generator=drawn)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(5, 60, (2, 6), generator=drawn)
    torch.manual_seed(seed)
    found = model(**inputs, output_hidden_states=True, return_dict=True)
    names = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    return [state.detach() for name in names for state in found.get(name) or ()]


@pytest.mark.parametrize("kind", LAYERS)
def test_no_layer_is_left_out_and_nothing_else_is_changed(kind):
    config = AutoConfig.for_model(kind, **{"pad_token_id": 0, "encoder_layers": 3, "decoder_layers": 3, **LAYERS[kind]})
    config.pad_token_id, before = 0, config.to_dict()
    dropped = [name for name in before if "drop" in name and name.endswith("layerdrop")] or ["layerdrop"]
    for name, value in before.items():
        if "drop" in name and isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(config, name, 0.0)
    for name in dropped:
        setattr(config, name, 0.9)
    torch.manual_seed(0)
    model = AutoModel.from_config(config).train()
    given = model.config.to_dict()
    whole = states(model.eval(), 0)
    assert all(map(torch.equal, whole, states(model, 1)))  # In eval mode no layer is dropped: no teacher's.
    model.train()
    for seed in (1, 2, 3):
        with at_zero(layer_rates(model)):
            found = states(model, seed)
        assert len(found) == len(whole)
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, whole, strict=True))
    assert model.config.to_dict() == given
    (line,) = layerdrop_note(layer_rates(model))
    assert all(f"{name} 0.9" in line or "layerdrop 0.9" in line for name in dropped)
    drops = [states(model, seed) for seed in range(4)]
    assert any(len(each) != len(whole) or not all(map(torch.equal, each, whole)) for each in drops)


def test_dropout_of_values_stays():
    model = dropping("bart")
    with at_zero(layer_rates(model)):
        assert not torch.equal(state(model, 1), state(model, 2))
        assert model.config.dropout == 0.5
    assert layerdrop_note(layer_rates(dropping("bert"))) == []


def losses(folder, name: str) -> list[float]:
    history = json.loads((folder / "runs" / name / "checkpoints" / "student.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_a_recipe_trains_as_with_rates_of_nought_and_saves_those_of_its_config(tmp_path):
    rates = {"hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.4}
    made = tiny.recipe(evaluate={"control": False, "resamples": 100})
    shape = made["student"]["config"]
    ways = {
        "none": {"config": {**shape, **dict.fromkeys(rates, 0.0)}},
        "disabled": {"config": {**shape, **rates}, "disable_dropout": True},
        "dropping": {"config": {**shape, **rates}},
    }
    done = {
        name: run({**made, "name": name, "student": student}, runs=tmp_path / "runs", report=lambda line: None)
        for name, student in ways.items()
    }
    found = {name: losses(tmp_path, name) for name in ways}
    assert found["disabled"] == found["none"] != found["dropping"]
    assert done["disabled"].metrics == done["none"].metrics
    kept = AutoConfig.from_pretrained(done["disabled"].student)
    assert kept.hidden_dropout_prob == kept.attention_probs_dropout_prob == 0.4


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return saved(with_head("mean", True, seed=4), tmp_path_factory.mktemp("teacher"))


def test_a_control_that_learns_from_two_views_of_a_text_keeps_the_dropout_that_makes_them(teacher, tmp_path):
    told: list[str] = []
    changes = {"objectives": [{"kind": "similarity"}]}
    student = {**vector_recipe(teacher)["student"], "disable_dropout": True}
    done = run(vector_recipe(teacher, student=student, **changes), runs=tmp_path, report=told.append)
    assert any(line.startswith("control: keeps its dropout") for line in told)
    trained = done.results["training"]
    assert (trained["student"].get("without_dropout"), trained["control"].get("without_dropout")) == (True, None)
    card = (done.student / "README.md").read_text()
    assert "s, without dropout." in card


def test_a_student_is_not_asked_to_tell_two_equal_views_apart(teacher):
    student = {**vector_recipe(teacher)["student"], "disable_dropout": True}
    with pytest.raises(RecipeError, match="contrastive reads a text that stands alone twice"):
        check(vector_recipe(teacher, student=student), report=lambda line: None)


def test_check_tells_that_a_student_learns_without_dropout():
    told: list[str] = []
    made = tiny.recipe()
    check({**made, "student": {**made["student"], "disable_dropout": True}}, report=told.append)
    assert "student: learns without dropout" in told


def test_dropout_of_adapters_is_not_asked_for_and_disabled_at_once():
    with pytest.raises(RecipeError, match=r"lora\.dropout asks for the opposite"):
        FromPretrained(pretrained="x", lora=LoraConfig(dropout=0.1), disable_dropout=True)
