"""Students narrower than their teacher: which heads, units and channels stay, and that what is left is ordinary."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging

from hf_distill import check, load_recipe, run
from hf_distill.errors import RecipeError, StudentError
from hf_distill.recipe import StudentConfig, WidthConfig
from hf_distill.recipe.parse import read
from hf_distill.students import Shape, build_student, chosen_cuts, family_of_shapes, shape_of
from hf_distill.students.layer_choice import all_layers
from hf_distill.students.layers import cut
from hf_distill.students.pruning.families import FAMILIES, family_of, head_counts, pruned_config
from hf_distill.students.pruning.importance import Importance, activation_importance, sample
from hf_distill.students.pruning.slicing import first_ones, most_important, prune
from hf_distill.students.pruning.target_shape import count_parameters, explicit_shape
from tests.helpers import tiny

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": len(tiny.WORDS),
    "num_hidden_layers": 3,
    "max_position_embeddings": 64,
}
SIDE = {"layers": 3, "attention_heads": 4, "ffn_dim": 48, "layerdrop": 0.0}
GROUPED = {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0, "head_dim": 8}
IDS = {"vocab_size": len(tiny.WORDS), "pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}
PAIRED = {
    "d_model": 32,
    "max_position_embeddings": 64,
    **IDS,
    **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIDE.items()},
}
BARTS = ("bart", "mbart", "marian", "pegasus", "blenderbot", "m2m_100")
T5_LAYERS = {"num_layers": 3, "num_decoder_layers": 3, **IDS}
KINDS: dict[str, dict[str, Any]] = {
    **{kind: {**SMALL, "pad_token_id": 0} for kind in ("bert", "roberta", "camembert", "xlm-roberta")},
    "electra": {**SMALL, "embedding_size": 24},
    "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 48, "vocab_size": len(tiny.WORDS), "n_layers": 3},
    "deberta-v2": {
        **SMALL,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
    },
    "modernbert": {**SMALL, **{f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 3, "vocab_size": len(tiny.WORDS), "pad_token_id": 0},
    "gpt_neox": {**SMALL, "pad_token_id": 0},
    "llama": {**GROUPED, "attention_bias": True},
    "gemma2": {**GROUPED, "head_dim": 16},
    "qwen2": {key: value for key, value in GROUPED.items() if key != "head_dim"},
    "qwen3": {**GROUPED, "head_dim": 16},
    "mistral": GROUPED,
    "gemma": {**GROUPED, "num_key_value_heads": 1},
    "gemma3_text": {**GROUPED, "head_dim": 16},
    "qwen3_moe": {**GROUPED, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {**GROUPED, "num_local_experts": 4},
    **{kind: {**GROUPED, "head_dim": 16} for kind in ("smollm3", "granite", "cohere", "phi3")},
    **dict.fromkeys(BARTS, PAIRED),
    "t5": {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_heads": 4, **T5_LAYERS},
    "mt5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "feed_forward_proj": "gated-gelu", **T5_LAYERS},
}
AUTO: dict[str, Any] = {
    **dict.fromkeys(("granite", "cohere"), AutoModelForCausalLM),
    **dict.fromkeys((*BARTS, "t5", "mt5"), AutoModelForSeq2SeqLM),
}
"""Those that are no classifiers here."""

NARROW = {"hidden_size": 16, "heads": 2, "intermediate_size": 24}


def make(kind: str = "bert", auto_model: Any = None, **more: Any) -> PreTrainedModel:
    config = transformers.AutoConfig.for_model(kind, **{**KINDS[kind], **more})
    config.id2label, config.label2id = {0: "bad", 1: "good"}, {"bad": 0, "good": 1}
    torch.manual_seed(0)
    auto_model = auto_model or AUTO.get(kind, AutoModelForSequenceClassification)
    model = auto_model.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in filter(lambda each: each.requires_grad, model.parameters()):  # Not Marian's positions.
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(5, len(tiny.WORDS), (3, 12), generator=torch.Generator().manual_seed(1))
    more = {"decoder_input_ids": ids.flip(0)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits


def build(teacher: PreTrainedModel | None, texts: Any = None, auto_model: Any = None, **keys: Any) -> Any:
    return build_student(
        read(StudentConfig, {"width": NARROW, **keys}, "recipe.student"),
        auto_model=auto_model or AutoModelForSequenceClassification,
        teacher=teacher,
        teacher_tokenizer=tiny.tokenizer(),
        texts=lambda: iter(tiny.rows(24)["text"] if texts is None else texts),
        model_options={"num_labels": 2, "id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}},
    )


def importance_of(model: PreTrainedModel) -> Importance:
    """That of what comes first is the largest; a test changes it."""
    shape, stacks = shape_of(model.config), all_layers(model)
    layers = sum(each.total for each in stacks)
    return Importance(
        hidden=torch.arange(shape.hidden_size, 0, -1.0),
        heads=[torch.arange(shape.heads, 0, -1.0) for _ in range(layers)],
        units=[torch.arange(shape.intermediate_size, 0, -1.0) for _ in range(layers)],
        cross_heads={i: torch.arange(shape.heads, 0, -1.0) for i in range(stacks[0].total, layers)},
    )


def readers(model: PreTrainedModel, letters: str) -> list[Any]:
    """The modules whose inputs are heads (of self-attention, of attention to an encoder) or units."""
    modules = dict(model.named_modules())
    layers = [layer for each in all_layers(model) for layer in each.layers]
    names = [name for name, letter in family_of(model.config).reads.items() if letter in letters]
    return [modules[found] for layer in layers for name in names if (found := f"{layer}.{name}") in modules]


def experts_of(model: PreTrainedModel) -> list[Any]:
    name = family_of(model.config).experts
    return [model.get_submodule(f"{layer}.{name}") for each in all_layers(model) for layer in each.layers if name]


def silence(model: PreTrainedModel, heads: list[int], units: list[int]) -> None:
    """Let nothing of some heads and units reach the layers' outputs."""
    shape = shape_of(model.config)
    for letters, dropped, count in (("qc", heads, shape.heads), ("u", units, shape.intermediate_size)):
        for module in readers(model, letters):
            weight = module.weight.data if "Conv1D" in type(module).__name__ else module.weight.data.T
            weight.view(count, -1, weight.shape[1])[dropped] = 0.0
    for experts in experts_of(model):
        experts.down_proj.data[:, :, units] = 0.0


# ---- every family


def test_every_family_is_tried_here() -> None:
    assert KINDS.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_nothing_gives_the_logits_of_the_source(kind: str) -> None:
    model = make(kind)
    shape = shape_of(model.config)
    same = prune(model, shape, most_important(importance_of(model), shape, shape))
    assert torch.equal(logits(same), logits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_heads_and_units_that_say_nothing_changes_nothing(kind: str) -> None:
    # Where the hidden size follows the heads, its last channels go with them, so nothing of these may be read either.
    follows = FAMILIES[kind].head_size == "follows"
    model = make(kind)
    shape = shape_of(model.config)
    groups = shape.heads // shape.key_value_heads
    dropped = [0, 1] if groups == 2 else [1, 3]
    silence(model, [] if follows else dropped, list(range(0, 48, 2)))
    importance = importance_of(model)
    for heads in (*importance.heads, *importance.cross_heads.values()):
        heads[dropped] = 0.0
    for units in importance.units:
        units[:48:2] = 0.0
    heads = shape.heads if follows else 2
    wanted = Shape(
        hidden_size=shape.hidden_size,
        heads=heads,
        key_value_heads=head_counts(shape)[heads],
        intermediate_size=shape.intermediate_size - 24,
    )
    narrow = prune(model, wanted, most_important(importance, shape, wanted))
    assert narrow.num_parameters() < model.num_parameters()
    torch.testing.assert_close(logits(narrow), logits(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if FAMILIES[kind].head_size == "follows"])
def test_the_kept_heads_of_a_layer_compute_what_they_computed(kind: str) -> None:
    """Channels are kept whole, only heads go: the attention's input and output are compared head by head."""
    model = make(kind)
    shape = shape_of(model.config)
    wanted = Shape(hidden_size=16, heads=2, key_value_heads=2, intermediate_size=24)
    importance = importance_of(model)
    for heads in (*importance.heads, *importance.cross_heads.values()):
        heads[2] = 10.0
    narrow = prune(model, wanted, most_important(importance, shape, wanted))
    kept = [0, 2]
    for name, tensor in model.state_dict().items():
        after, family = narrow.state_dict()[name], FAMILIES[kind]
        if name.endswith(tuple(f"{output}.weight" for output, letter in family.reads.items() if letter != "u")):
            across = tensor if "gpt2" in kind else tensor.T
            expected = across.view(4, 8, -1)[kept].reshape(16, -1)[:, :16]
            assert torch.equal(after if "gpt2" in kind else after.T, expected)
        if name.endswith(tuple(f"{query}.weight" for query, letters in family.writes.items() if letters[0] in "qc")):
            rows = (tensor.T if "gpt2" in kind else tensor)[:, :16]
            blocks = 1 if kind == "gpt_neox" else rows.shape[0] // 32
            expected = rows.view(blocks, 4, -1, 16)[:, kept].reshape(-1, 16)
            assert torch.equal(after.T if "gpt2" in kind else after, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_student_loads_again_without_a_warning_and_is_of_its_size(
    kind: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = make(kind)
    before = copy.deepcopy(teacher.state_dict())
    student = build(teacher)
    student.model.save_pretrained(tmp_path)
    logging.enable_propagation()
    try:
        caplog.clear()
        auto_model = AUTO.get(kind, AutoModelForSequenceClassification)
        loaded = auto_model.from_pretrained(tmp_path, attn_implementation="eager")
    finally:
        logging.disable_propagation()
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    shape = shape_of(loaded.config)
    assert (shape.hidden_size, shape.heads, shape.intermediate_size) == (16, 2, 24)
    assert torch.equal(logits(loaded), logits(student.model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    layer = student.report["width"]["layers"][0]
    assert len(layer["heads"]) == 2
    assert 0.0 < layer["units_share"] < 1.0
    json.dumps(student.report)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "qwen3", "gemma"])
def test_tied_embeddings_stay_tied(kind: str) -> None:
    auto = transformers.AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
    model = make(kind, auto, tie_word_embeddings=True)
    student = build(model, auto_model=auto).model
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert student.get_input_embeddings().weight.shape[1] == 16


def test_the_embeddings_of_electra_keep_their_width_unless_they_are_the_hidden_size() -> None:
    assert build(make("electra")).model.config.embedding_size == 24
    assert build(make("electra", embedding_size=32)).model.config.embedding_size == 16
    # As wide as the embeddings it would lose the projection from them.
    assert 24 not in [shape.hidden_size for shape in family_of_shapes(make("electra").config)]
    with pytest.raises(StudentError, match="with 24, the width of its embeddings, electra has no projection"):
        build(make("electra"), width={"hidden_size": 24})


# ---- what matters


@pytest.mark.parametrize("kind", KINDS)
def test_heads_units_and_channels_that_say_nothing_are_the_least_important(kind: str) -> None:
    model = make(kind)
    shape, family = shape_of(model.config), family_of(model.config)
    ups = tuple("." + name for name, letters in family.writes.items() if "u" in letters)
    for name, module in model.named_modules():
        if name.endswith(ups) and "attention" not in name:
            # Gated or not: a unit whose input projections are zero is zero.
            weight = module.weight.data.T if "Conv1D" in type(module).__name__ else module.weight.data
            weight.view(-1, shape.intermediate_size, weight.shape[1])[:, 5] = 0.0
            if module.bias is not None:
                module.bias.data.view(-1, shape.intermediate_size)[:, 5] = 0.0
    for experts in experts_of(model):
        experts.gate_up_proj.data[:, 5] = 0.0
    importance = activation_importance(model, tiny.tokenizer(), tiny.rows(12)["text"], all_layers(model))
    assert {each for units in importance.units for each in torch.atleast_2d(units).argmin(-1).tolist()} == {5}
    assert {each.shape for each in importance.heads} == {(shape.heads,)}
    assert importance.hidden.shape == (shape.hidden_size,)
    assert importance.hidden.min() > 0.0


def test_the_most_important_units_heads_and_channels_survive() -> None:
    model = make("bert")
    encoder = model.bert.encoder.layer
    with torch.no_grad():
        for layer in encoder:
            layer.attention.self.value.weight[8:16] *= 30.0  # Head 1.
            layer.intermediate.dense.bias[7] = 40.0
        model.bert.embeddings.LayerNorm.weight[3] = 50.0
        for layer in encoder:
            layer.output.LayerNorm.weight[3] = 50.0
    student = build(model, width={"hidden_size": 8, "intermediate_size": 1})
    assert [layer["heads"] for layer in student.report["width"]["layers"]] == [[1]] * 3
    for own, source in zip(student.model.bert.encoder.layer, encoder, strict=True):
        assert torch.equal(own.intermediate.dense.bias, source.intermediate.dense.bias[[7]])
        assert source.output.LayerNorm.weight[3] in own.output.LayerNorm.weight


def test_padding_says_nothing() -> None:
    model, texts = make("bert"), ["the good card", "the bank is very bad and not a good house"]
    together = activation_importance(model, tiny.tokenizer(), texts, chosen_cuts(model, [0]))
    lengths = [len(tiny.tokenizer()(text)["input_ids"]) for text in texts]
    apart = [activation_importance(model, tiny.tokenizer(), [text], chosen_cuts(model, [0])) for text in texts]
    for name in ("heads", "units"):
        first, second = (getattr(each, name)[0] for each in apart)
        mean = (first * lengths[0] + second * lengths[1]) / sum(lengths)
        torch.testing.assert_close(getattr(together, name)[0], mean)


def test_measuring_leaves_the_source_as_it_was() -> None:
    model = make("bert").train()
    activation_importance(model, tiny.tokenizer(), ["the good card"], chosen_cuts(model, 1))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_sample_is_of_all_texts_and_the_same_again() -> None:
    texts = [str(i) for i in range(500)]
    drawn = sample(texts, 50)
    assert drawn == sample(texts, 50) != texts[:50]
    assert len(set(drawn)) == 50
    assert sorted(sample(["a", " ", "b"], 9)) == ["a", "b"]


def test_random_importance_reads_no_text_and_follows_the_seed() -> None:
    def kept(seed: int) -> Any:
        torch.manual_seed(seed)
        return build(make("bert"), texts=(), width={**NARROW, "importance": "random"}).report["width"]["layers"]

    # The model draws its weights from the same generator, by its own seed.
    assert kept(1) == kept(1)


def test_heads_of_one_table_of_positions_are_the_same_in_all_layers_and_those_of_cross_attention_are_not() -> None:
    model = make("t5")
    with torch.no_grad():
        for i, heads in enumerate(([0], [0], [1])):
            for side, layer in (("encoder", 0), ("decoder", 1)):
                attention = model.get_submodule(f"{side}.block.{i}.layer.{layer}")
                for head in heads:
                    part = attention.SelfAttention if side == "encoder" else attention.EncDecAttention
                    part.v.weight[16 * head : 16 * head + 16] *= 30.0
    importance = activation_importance(model, tiny.tokenizer(), tiny.rows(12)["text"], all_layers(model))
    assert all(torch.equal(each, importance.heads[0]) for each in importance.heads[:3])
    assert importance.heads[0].topk(2).indices.sort().values.tolist() == [0, 1]
    assert [importance.cross_heads[i].argmax().item() for i in (3, 4, 5)] == [0, 0, 1]
    shape = shape_of(model.config)
    kept = most_important(importance, shape, dataclasses.replace(shape, heads=1, key_value_heads=1))
    assert (kept.heads[:3], [kept.cross_heads[i] for i in (3, 4, 5)]) == ([[0]] * 3, [[0], [0], [1]])


def test_every_expert_keeps_its_own_units_and_layers_without_experts_are_refused() -> None:
    model = make("qwen3_moe")
    for experts in experts_of(model):
        for i, own in enumerate(experts.gate_up_proj.data):
            own[8 * i : 8 * i + 8] *= 100.0
    student = build(model, width={"intermediate_size": 8}).model
    for narrow, experts in zip(experts_of(student), experts_of(model), strict=True):
        for i in range(4):
            assert torch.equal(narrow.down_proj[i], experts.down_proj[i][:, 8 * i : 8 * i + 8])
    with pytest.raises(StudentError, match=r"which needs multiples of 8; .* got 32 and 12"):
        build(model, width={"intermediate_size": 12})
    with pytest.raises(StudentError, match=r"some of its layers have experts and some have none.*use student\.layers"):
        build(make("qwen3_moe", mlp_only_layers=[1]))


# ---- with layers, pretrained


def test_layers_are_cut_first_and_their_importance_is_measured_in_the_whole_source() -> None:
    teacher = make("bert")
    student = build(teacher, layers=[0, 2])
    assert student.origin == (
        "width 16 of 32, 2 of 4 heads, 24 of 48 units a layer, by activation on 24 texts, of layers 0, 2 of 3 of the "
        "teacher"
    )
    assert student.layer_map == {"": (0, 2)}
    importance = activation_importance(teacher, tiny.tokenizer(), tiny.rows(24)["text"], chosen_cuts(teacher, [0, 2]))
    heads = [sorted(each.topk(2).indices.tolist()) for each in importance.heads]
    told = student.report["width"]["layers"]
    assert [layer["heads"] for layer in told] == heads
    assert [layer["source_layer"] for layer in told] == [0, 2]


def test_a_pretrained_model_is_narrowed_with_the_head_in_the_order_of_the_data(tmp_path: Any) -> None:
    make("distilbert").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    student = build(None, pretrained=str(tmp_path), width={"heads": 2})
    assert student.model.config.dim == 16
    assert student.origin.endswith(f"of {tmp_path.name}")
    assert student.model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize("kind", ["bert", "bart", "t5", "qwen3_moe"])
def test_a_student_without_weights_has_the_same_shape(kind: str) -> None:
    teacher = make(kind)
    layers = {"encoder": 1, "decoder": 2} if teacher.config.is_encoder_decoder else 2
    with torch.device("meta"):
        empty = AUTO.get(kind, AutoModelForSequenceClassification).from_config(teacher.config)
        planned = build(empty, texts=(), layers=layers)
    made = build(teacher, layers=layers)
    assert planned.model.device.type == "meta"
    assert planned.model.num_parameters() == made.model.num_parameters()
    told = made.report["width"]["layers"]
    sides = [(layer.get("side", ""), layer["source_layer"]) for layer in told]
    assert sides == [(side, i) for side, kept in made.layer_map.items() for i in kept]


# ---- shapes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [0.9, 0.6, 0.35])
def test_a_target_is_reached_and_missed_by_little(kind: str, target: float) -> None:
    family = FAMILIES[kind]
    sizes = {**dict.fromkeys(family.heads, 8), **dict.fromkeys(family.units, 512), "hidden_size": 128, "head_dim": 16}
    named = AutoConfig.for_model(kind).attribute_map
    model = make(kind, **{named.get(name, name): size for name, size in sizes.items()})
    student = build(model, width={"target": target, "importance": "random"}).model
    reached = student.num_parameters() / model.num_parameters()
    assert target - 0.03 < reached <= target
    shape, before = shape_of(student.config), shape_of(model.config)
    assert shape.heads / before.heads == shape.hidden_size / before.hidden_size <= 0.75 + 0.25 * (target == 0.9)
    assert shape.intermediate_size % 8 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_shapes_of_a_family_grow_and_end_with_the_source(kind: str) -> None:
    model = make(kind)
    shapes = family_of_shapes(model.config)
    counts = [count_parameters(type(model), model.config, shape) for shape in shapes]
    assert counts == sorted(set(counts))
    assert counts[-1] == model.num_parameters()
    assert shapes[-1] == shape_of(model.config)
    for shape in shapes:
        assert shape_of(pruned_config(model.config, shape)) == shape


@pytest.mark.parametrize(
    ("heads", "groups", "allowed"),
    [(4, 4, {1: 1, 2: 2, 3: 3, 4: 4}), (4, 1, {1: 1, 2: 1, 3: 1, 4: 1}), (14, 2, {2: 2, 4: 2, 6: 2, 7: 1, 8: 2})],
)
def test_whole_groups_are_dropped_where_that_comes_out_even(heads: int, groups: int, allowed: dict[int, int]) -> None:
    shape = Shape(hidden_size=64, heads=heads, key_value_heads=groups, intermediate_size=8)
    assert {count: kept for count, kept in head_counts(shape).items() if count <= 8} == allowed


def test_queries_are_dropped_evenly_where_groups_stay() -> None:
    source = Shape(hidden_size=8, heads=6, key_value_heads=2, intermediate_size=2)
    shape = Shape(hidden_size=8, heads=4, key_value_heads=2, intermediate_size=2)
    importance = Importance(hidden=torch.ones(8), heads=[torch.tensor([9.0, 1, 8, 1, 2, 3])], units=[torch.ones(2)])
    kept = most_important(importance, source, shape)
    assert (kept.heads, kept.key_value_heads) == ([[0, 2, 4, 5]], [[0, 1]])
    whole = most_important(importance, source, Shape(hidden_size=8, heads=3, key_value_heads=1, intermediate_size=2))
    assert (whole.heads, whole.key_value_heads) == ([[0, 1, 2]], [[0]])


@pytest.mark.parametrize(
    ("kind", "width", "shape"),
    [
        ("bert", {"hidden_size": 16}, (16, 2, 48)),
        ("bert", {"heads": 3}, (24, 3, 48)),
        ("bert", {"hidden_size": 0.5, "heads": 0.5, "intermediate_size": 0.5}, (16, 2, 24)),
        ("bert", {"hidden_size": 0.01}, (8, 1, 48)),
        ("gpt2", {"intermediate_size": 100}, (32, 4, 100)),
        ("llama", {"heads": 2}, (32, 2, 48)),
        ("llama", {"hidden_size": 0.7, "intermediate_size": 0.3}, (24, 4, 16)),
        ("qwen3", {"hidden_size": 12}, (12, 4, 48)),
    ],
)
def test_sizes_are_whole_numbers_or_shares_and_what_is_not_named_follows_or_stays(
    kind: str, width: dict[str, Any], shape: tuple[int, int, int]
) -> None:
    chosen = explicit_shape(make(kind).config, WidthConfig(**width))
    assert (chosen.hidden_size, chosen.heads, chosen.intermediate_size) == shape


@pytest.mark.parametrize(
    ("kind", "width", "message"),
    [
        ("bert", {"hidden_size": 64}, "hidden_size: expected at most 32, which the source has, got 64"),
        ("bert", {"intermediate_size": 49}, "intermediate_size: expected at most 48"),
        ("bert", {"heads": 5}, r"heads: expected 1 to 4 \(the source has 4\), got 5"),
        ("bert", {"hidden_size": 20}, "expected a multiple of 8, the size of a head.*got 20; 16 or 24 would do"),
        ("bert", {"hidden_size": 16, "heads": 3}, "expected 2 heads.*got 3; set heads to 2 or hidden_size to 24"),
        ("llama", {"heads": 1}, "expected one of 2, 4"),
        ("llama", {"hidden_size": 30}, "expected a multiple of the 4 heads.*28 or 32 would do"),
        ("bert", {"target": 0.01}, "target: expected at least .* parameters, which it has with 1 of 4 heads"),
    ],
)
def test_sizes_that_cannot_be_are_refused(kind: str, width: dict[str, Any], message: str) -> None:
    with pytest.raises(StudentError, match=message):
        build(make(kind), width=width)


def test_a_target_that_layers_alone_reach_is_refused() -> None:
    with pytest.raises(StudentError, match=r"target: does nothing.*lower it, or remove"):
        build(make("bert"), layers=1, width={"target": 0.9})


def test_what_cannot_be_narrowed_is_refused_with_the_way_out() -> None:
    with pytest.raises(StudentError, match=r"mpnet cannot be narrowed, only bert.*use student.layers"):
        shape_of(transformers.AutoConfig.for_model("mpnet"))
    unequal = tiny.encoder_decoder("bart", encoder_ffn_dim=64)
    with pytest.raises(StudentError, match=r"its encoder and its decoder have different sizes.*use student.layers"):
        shape_of(unequal.config)
    with pytest.raises(StudentError, match="no training text"):
        build(make("bert"), texts=["", " "])
    with pytest.raises(StudentError, match="needs a teacher to take width from"):
        build(None)


def test_a_cut_model_can_be_pruned_by_hand() -> None:
    model = make("bert")
    shape = Shape(hidden_size=8, heads=1, key_value_heads=1, intermediate_size=4)
    assert logits(prune(cut(model, chosen_cuts(model, 1)), shape, first_ones(shape, 1))).shape == (3, 2)


# ---- recipes


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"width": {}}, "expected either target or sizes.*got none"),
        ({"width": {"target": 0.5, "heads": 2}}, "got heads and target"),
        ({"width": {"heads": 0}}, r"width\.heads: expected at least 1, or a share"),
        ({"width": {"hidden_size": 1.0}}, r"width\.hidden_size: expected at least 1, or a share"),
        ({"width": {"target": 1.0}}, r"width\.target: expected a share between 0\.0 and 1\.0"),
        ({"width": {"heads": 2, "rows": 0}}, "rows: expected at least 1"),
        ({"width": {"heads": 2, "rows": 8, "importance": "random"}}, "rows: does nothing for importance: random"),
        ({"width": {"heads": 2, "importance": "loss"}}, "importance: expected one of activation, random"),
        ({"width": {"heads": 2}, "config": {"hidden_size": 8}}, "exactly one of config and pretrained"),
        ({"width": {"heads": 2}, "lora": {}}, "lora.merge: adapters alone.*width make a new one"),
    ],
)
def test_widths_that_make_no_sense_are_refused(student: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny.recipe(student=student))


def test_a_recipe_plans_and_trains_a_narrow_student(tmp_path: Any) -> None:
    teacher = tmp_path / "teacher"
    model = tiny.bert(2, 32, seed=3)
    model.save_pretrained(teacher)
    tiny.tokenizer().save_pretrained(teacher)
    student = {"layers": 1, "width": {"target": 0.5, "rows": 16}, "pretrained": str(teacher)}
    training = {"max_steps": 2, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1}
    recipe = tiny.recipe(
        teacher=None,
        student=student,
        objectives=[{"kind": "labels"}],
        training=training,
        evaluate={"resamples": 100},
        data={"path": "tests.helpers.tiny:splits", "arguments": {"train": 32, "test": 16}},
    )
    lines: list[str] = []
    check(recipe, report=lines.append)
    result = run(recipe, runs=tmp_path / "runs", report=lambda line: None)
    made = result.results["models"]["student"]
    assert made["parameters"] <= model.num_parameters() / 2
    assert made["origin"].startswith("width ")
    assert result.results["training"]["student"]["kept"]["width"]["layers"][0]["source_layer"] == 0
    assert any(f"bert, {made['parameters'] / 1e6:.1f} million parameters" in line for line in lines)
