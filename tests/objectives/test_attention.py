"""What models show of their attention, and the trainer that lets objectives look at it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from hf_distill import DKD, Attention, DistillationTrainer, Labels, Relation
from hf_distill.errors import ModelError, ObjectiveError, TeacherError
from hf_distill.models.attention import caught_projections, projection_widths, self_attentions, show_attention
from hf_distill.models.forward import compared_attentions
from hf_distill.pipeline.cases import TargetsCase
from hf_distill.pipeline.compatibility import check_targets
from hf_distill.tasks import CausalLanguageModeling, TextClassification
from tests.helpers import tiny
from tests.helpers.trainers import arguments, assert_same, trained, trainer

LAYERS, WIDTH, LENGTH = 2, 32, 6
SIZES = {
    "vocab_size": 40,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
}
BARE = {"vocab_size": 40, "max_position_embeddings": 32, "pad_token_id": 0}
KINDS = {
    "bert": SIZES,
    "roberta": SIZES,
    "xlm-roberta": SIZES,
    "electra": {**SIZES, "embedding_size": 16},
    "distilbert": {**BARE, "dim": WIDTH, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True},
    "modernbert": {**SIZES, "pad_token_id": 0, "global_attn_every_n_layers": 2},
    "gpt2": {"vocab_size": 40, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 32},
    "llama": {**SIZES, "num_key_value_heads": 2},
    "qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "vit": {**SIZES, "image_size": 8, "patch_size": 4},
    "wav2vec2": {**SIZES, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "whisper": {
        "d_model": WIDTH,
        "encoder_layers": 1,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "num_mel_bins": 8,
        "max_source_positions": 8,
        **{f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "decoder_start")},
    },
}
"""What is shown of the inside of a model is the same for text, images and speech."""
TEXTS = [kind for kind in KINDS if kind not in ("vit", "wav2vec2", "whisper")]


def model(kind: str, **options):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(kind, **{**KINDS[kind], **options}))


def inputs(kind: str) -> dict[str, torch.Tensor]:
    if kind == "vit":
        return {"pixel_values": torch.randn(2, 3, 8, 8)}
    if kind == "wav2vec2":
        return {"input_values": torch.randn(2, 2000)}
    if kind == "whisper":
        return {"input_features": torch.randn(2, 8, 16), "decoder_input_ids": torch.arange(10).view(2, 5)}
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, 4:] = 0
    return {"input_ids": torch.arange(5, 5 + 2 * LENGTH).view(2, LENGTH), "attention_mask": mask}


@pytest.mark.parametrize("kind", KINDS)
def test_projections_are_found_and_caught_of_the_layers_that_are_asked_for(kind):
    one = model(kind).eval()
    assert len(self_attentions(one)) == LAYERS
    with caught_projections(one, {1}) as caught:
        outputs = one(**inputs(kind))
    one(**inputs(kind))
    rows, length = outputs.last_hidden_state.shape[:2]
    widths = projection_widths(one, 1)
    assert widths["q"] == WIDTH
    assert widths["k"] == widths["v"] == (WIDTH // 2 if kind in ("llama", "qwen3") else WIDTH)
    assert {name: tuple(x.shape) for name, x in caught[1].items()} == {
        name: (rows, length, width) for name, width in widths.items()
    }
    assert caught.keys() == {1}
    assert not any(module._forward_hooks for module in one.modules())


@pytest.mark.parametrize("kind", ["bert", "distilbert", "deberta-v2", "modernbert", "gpt2"])
def test_projections_are_what_the_layers_make_of_the_tokens(kind):
    one = model(kind).eval()
    seen = {}
    attention = self_attentions(one)[0]
    handle = attention.register_forward_hook(
        lambda module, given, named, _: seen.update(entered=given[0] if given else named["hidden_states"]),
        with_kwargs=True,
    )
    with caught_projections(one, {0}) as caught:
        one(**inputs(kind))
    handle.remove()
    names = {"bert": ("query", "key", "value"), "distilbert": ("q_lin", "k_lin", "v_lin")}
    names["deberta-v2"] = ("query_proj", "key_proj", "value_proj")
    if kind in names:
        expected = [getattr(attention, name)(seen["entered"]) for name in names[kind]]
    else:
        fused = attention.Wqkv if kind == "modernbert" else attention.c_attn
        expected = fused(seen["entered"]).split(WIDTH, dim=-1)
    for name, vectors in zip("qkv", expected, strict=True):
        assert torch.allclose(caught[0][name], vectors, atol=1e-6), name


@pytest.mark.parametrize("kind", TEXTS)
def test_maps_are_shown_whole_while_a_model_learns(kind):
    one = model(kind).train()
    show_attention(one)
    maps = compared_attentions(one(**inputs(kind), output_attentions=True), one)
    assert len(maps) == LAYERS
    for shown in maps:
        assert shown.shape == (2, 4, LENGTH, LENGTH)
        assert torch.allclose(shown.sum(-1)[0], torch.ones(()), atol=1e-5)
        assert not shown[1, :, :4, 4:].any(), "a padding token is looked at"


def test_the_decoder_of_an_encoder_decoder_is_what_is_looked_at():
    one = tiny.encoder_decoder("t5", 3, 2)
    assert len(self_attentions(one)) == 2
    assert all("EncDec" not in type(module).__name__ for module in self_attentions(one))
    assert len(self_attentions(tiny.encoder_decoder("marian", 3, 2))) == 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("albert", {**SIZES, "embedding_size": 16}),
        ("gpt_neox", {**SIZES, "rotary_pct": 1.0}),
    ],
)
def test_a_model_whose_projections_are_not_found_is_refused_by_name(kind, options):
    one = AutoModel.from_config(AutoConfig.for_model(kind, **options))
    with pytest.raises(ModelError, match=type(one).__name__ + ".*use hidden"):
        self_attentions(one)


LOOKING = {
    "relation": lambda: [Relation()],
    "attention": lambda: [Labels(), Attention()],
    "dkd": lambda: [DKD()],
}


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("longformer", {**SIZES, "attention_window": 4}, "are padded to windows, tokens first"),
        ("ibert", SIZES, "give integers with a scale"),
    ],
)
def test_relations_of_what_is_not_vectors_of_tokens_are_refused_with_the_reason(kind, options, reason):
    one = AutoModel.from_config(AutoConfig.for_model(kind, **options))
    objective = Relation()
    objective.connect(one.config, one.config)
    with pytest.raises(ModelError, match=f"{type(one).__name__}: its queries, keys and values {reason}.*use\\s+hidden"):
        objective.check_models(one, one)


@pytest.mark.parametrize("name", LOOKING)
def test_any_split_of_a_batch_trains_the_same_student(name, tmp_path):
    options = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 2}
    whole = trained(tmp_path, LOOKING[name](), per_device_train_batch_size=8, **options)
    split = trained(tmp_path, LOOKING[name](), per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert_same(whole, split)


@pytest.mark.parametrize("name", ["relation", "attention"])
def test_gradient_checkpointing_changes_nothing(name, tmp_path):
    options = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 2}
    plain = trained(tmp_path, LOOKING[name](), **options)
    assert_same(plain, trained(tmp_path, LOOKING[name](), activation_checkpointing=True, **options))


@pytest.mark.parametrize("name", ["relation", "attention"])
def test_reentrant_checkpointing_which_cuts_the_gradient_off_is_refused(name, tmp_path):
    one = trainer(
        tmp_path,
        LOOKING[name](),
        activation_checkpointing=True,
        activation_checkpointing_kwargs={"use_reentrant": True},
    )
    with pytest.raises(ModelError, match="use_reentrant: false"):
        one.train()


def test_the_relation_teaches_the_layer_that_it_names_and_those_below_it(tmp_path):
    student = tiny.bert(3, 32, seed=1)
    before = copy.deepcopy(student.state_dict())
    _, after = trained(tmp_path, [Relation(student_layer=1, teacher_layer=2)], student=student, weight_decay=0.0)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any("layer.0" in name for name in moved)
    assert any("layer.1.attention.self.value" in name for name in moved)
    assert not any("layer.2" in name or "classifier" in name for name in moved)
    assert student.config._attn_implementation == "sdpa"


def test_attention_switches_the_student_to_where_its_maps_can_be_seen_and_leaves_the_teacher_as_it_was(tmp_path):
    student = tiny.bert(2, 32, seed=1, attention_probs_dropout_prob=0.1, hidden_dropout_prob=0.1)
    one = trainer(tmp_path, [Attention()], student=student)
    one.train()
    assert student.config._attn_implementation == "eager"
    assert one.teacher.config._attn_implementation == "sdpa"
    assert all(module.dropout.p == 0.0 for module in self_attentions(student))
    assert student.bert.embeddings.dropout.p == 0.1
    again = trainer(tmp_path, [Attention()], model_init=lambda: tiny.bert(2, 32, seed=1))
    again.train()
    assert again.state.global_step == 4


def test_a_decoder_whose_heads_share_keys_learns_relations_without_its_logits_being_held(tmp_path):
    train = tiny.rows(16).remove_columns("label")
    one = DistillationTrainer(
        model=tiny.decoder(1, seed=1),
        teacher=tiny.decoder(2, 48, seed=2),
        task=CausalLanguageModeling(max_length=32),
        objectives=[Labels(), Relation(teacher_layer=0), Attention()],
        args=arguments(tmp_path, max_steps=2),
        train_dataset=train,
        processing_class=tiny.chat_tokenizer(),
    )
    one.train()
    entries = [entry for entry in one.state.log_history if "loss" in entry]
    assert all(entry["loss_relation"] > 0 and entry["loss_attention"] > 0 for entry in entries)


def test_relations_that_widths_do_not_allow_are_refused_with_what_they_do(tmp_path):
    with pytest.raises(ObjectiveError, match="set relation_heads to one of 1, 2, 4, 8, 16"):
        trainer(tmp_path, [Relation(relation_heads=5)])
    shared, whole = tiny.decoder(1), tiny.decoder(1, num_key_value_heads=4)
    objective = Relation(relations=["qk"])
    objective.connect(shared.config, whole.config)
    objective.check_models(whole, whole)
    with pytest.raises(ObjectiveError, match="the student's heads share keys"):
        objective.check_models(shared, whole)


def test_a_student_that_may_not_look_where_its_teacher_does_is_refused():
    ahead, behind = model("bert"), model("llama")
    objective = Attention()
    objective.connect(behind.config, ahead.config)
    with pytest.raises(ObjectiveError, match="look at later ones, which those of LlamaModel may not"):
        objective.check_models(behind, ahead)
    objective.check_models(ahead, behind)


def test_what_cannot_be_looked_at_is_refused_before_training(tmp_path):
    with pytest.raises(ObjectiveError, match="torch_compile to false"):
        trainer(tmp_path, [Relation()], torch_compile=True)
    for objective, need in ((Relation(), "projections"), (Attention(), "attentions")):
        case = TargetsCase(traits=frozenset({"cached"}), task=TextClassification(), objectives={"it": objective})
        with pytest.raises(TeacherError, match=f"{need}, which a cache does not keep"):
            check_targets(case)
    with pytest.raises(ObjectiveError, match="dkd is for tasks of a few classes"):
        DistillationTrainer(
            model=tiny.decoder(1),
            teacher=tiny.decoder(1),
            task=CausalLanguageModeling(max_length=32),
            objectives=[DKD()],
            args=arguments(tmp_path),
        )


def test_a_model_without_maps_is_refused_by_name():
    one = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **KINDS["llama"]))
    with pytest.raises(ModelError, match="LlamaForCausalLM gives no attention maps"):
        compared_attentions(one(**inputs("llama")), one)


def test_a_student_that_equals_its_teacher_has_no_relation_or_attention_to_learn(tmp_path):
    student = tiny.bert(2, 32, seed=1)
    teacher = copy.deepcopy(student)
    losses, _ = trained(tmp_path, [Relation(), Attention()], student=student, teacher=teacher, optim="sgd")
    assert max(losses) < 1e-5


def test_adapters_learn_relations_and_attention(tmp_path):
    from peft import LoraConfig, get_peft_model

    student = get_peft_model(tiny.bert(2, 32, seed=1), LoraConfig(target_modules="all-linear", task_type="SEQ_CLS"))
    one = trainer(tmp_path, [Relation(), Attention()], student=student, learning_rate=0.05, max_steps=8)
    one.train()
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
