"""How wide models are: which families can be narrowed, the shapes that they can take, and their configs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PretrainedConfig

from hf_distill.errors import StudentError
from hf_distill.models.sizes import sizes_of
from hf_distill.students.request import refused_as, set_options


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The width of a model: channels between layers, and the attention heads and feed-forward units of a layer.

    There are fewer ``key_value_heads`` than ``heads`` where several queries share keys and values.
    """

    hidden_size: int
    heads: int
    key_value_heads: int
    intermediate_size: int


@dataclass(frozen=True)
class Family:
    """What can be narrowed in the layers of a family's models.

    Modules are named as a layer names them; a layer need not have all. What their channels are is a letter: ``q``
    attention heads, ``k`` heads of keys or values that several queries may share, ``c`` heads of attention to an
    encoder, ``u`` feed-forward units.

    Attributes:
        writes: What the outputs of modules are, a letter for each of the blocks that follow one another in them.
        reads: What the inputs of modules are.
        heads: The config's attributes for the number of heads; they must be equal.
        units: The same for the number of units.
        head_size: ``follows`` where it is always hidden size / heads; ``divides`` where the config tells it, but heads
            must divide the hidden size; ``free`` where both are free.
        experts: The module with the units of all experts, of which each keeps as many; empty where there are none.
        one_table: Whether all layers of a stack share a table with a position bias for each head, so that the same
            heads must be kept in all of them.
    """

    writes: Mapping[str, str]
    reads: Mapping[str, str]
    heads: tuple[str, ...] = ("num_attention_heads",)
    units: tuple[str, ...] = ("intermediate_size",)
    head_size: Literal["follows", "divides", "free"] = "follows"
    experts: str = ""
    one_table: bool = False


def _named(prefix: str, names: str, letters: str) -> dict[str, str]:
    return dict(zip((prefix + name for name in names.split()), letters, strict=True))


_BERT = Family(
    {**_named("attention.self.", "query key value", "qkk"), "intermediate.dense": "u"},
    {"attention.output.dense": "q", "output.dense": "u"},
)
_LLAMA = Family(
    {**_named("self_attn.", "q_proj k_proj v_proj", "qkk"), **_named("mlp.", "gate_proj up_proj", "uu")},
    {"self_attn.o_proj": "q", "mlp.down_proj": "u"},
    head_size="free",
)
_BART = Family(
    {
        **_named("self_attn.", "q_proj k_proj v_proj", "qkk"),
        **_named("encoder_attn.", "q_proj k_proj v_proj", "ccc"),
        "fc1": "u",
    },
    {"self_attn.out_proj": "q", "encoder_attn.out_proj": "c", "fc2": "u"},
    heads=("encoder_attention_heads", "decoder_attention_heads"),
    units=("encoder_ffn_dim", "decoder_ffn_dim"),
)
_T5 = Family(
    {
        **_named("layer.0.SelfAttention.", "q k v relative_attention_bias", "qkkq"),
        **_named("layer.1.EncDecAttention.", "q k v", "ccc"),
        # The first of an encoder, the second of a decoder.
        **_named("layer.1.DenseReluDense.", "wi wi_0 wi_1", "uuu"),
        **_named("layer.2.DenseReluDense.", "wi wi_0 wi_1", "uuu"),
    },
    {
        "layer.0.SelfAttention.o": "q",
        "layer.1.EncDecAttention.o": "c",
        **dict.fromkeys(("layer.1.DenseReluDense.wo", "layer.2.DenseReluDense.wo"), "u"),
    },
    units=("d_ff",),
    head_size="free",
    one_table=True,
)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("bert", "roberta", "camembert", "xlm-roberta", "electra"), _BERT),
    "distilbert": Family(
        {**_named("attention.", "q_lin k_lin v_lin", "qkk"), "ffn.lin1": "u"},
        {"attention.out_lin": "q", "ffn.lin2": "u"},
        units=("hidden_dim",),
    ),
    "deberta-v2": replace(
        _BERT,
        writes={
            **_named("attention.self.", "query_proj pos_query_proj key_proj value_proj pos_key_proj", "qqkkk"),
            "intermediate.dense": "u",
        },
    ),
    "modernbert": Family({"attn.Wqkv": "qqq", "mlp.Wi": "uu"}, {"attn.Wo": "q", "mlp.Wo": "u"}),
    "gpt2": Family(
        {"attn.c_attn": "qqq", "mlp.c_fc": "u"}, {"attn.c_proj": "q", "mlp.c_proj": "u"}, units=("n_inner",)
    ),
    # Query, key and value of a head stand together, head by head: one block.
    "gpt_neox": Family(
        {"attention.query_key_value": "q", "mlp.dense_h_to_4h": "u"},
        {"attention.dense": "q", "mlp.dense_4h_to_h": "u"},
    ),
    **dict.fromkeys(("llama", "gemma2", "gemma3_text"), replace(_LLAMA, head_size="divides")),
    **dict.fromkeys(("qwen2", "qwen3", "mistral", "gemma", "smollm3", "granite", "cohere"), _LLAMA),
    **{
        kind: Family(
            {name: letter for name, letter in _LLAMA.writes.items() if letter != "u"},
            {"self_attn.o_proj": "q"},
            units=(units,),
            head_size="free",
            experts="mlp.experts",
        )
        for kind, units in {"qwen3_moe": "moe_intermediate_size", "mixtral": "intermediate_size"}.items()
    },
    "phi3": replace(_LLAMA, writes={"self_attn.qkv_proj": "qkk", "mlp.gate_up_proj": "uu"}),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "blenderbot", "m2m_100"), _BART),
    **dict.fromkeys(("t5", "mt5"), _T5),
}
"""By ``model_type``."""


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model."""
    kind = sizes_of(config).model_type
    if kind not in FAMILIES:
        raise StudentError(
            f"student.width: {config.model_type} cannot be narrowed, only {', '.join(FAMILIES)} can; use "
            "student.layers, or student.config for fresh weights of that size"
        )
    return FAMILIES[kind]


def shape_of(config: PretrainedConfig) -> Shape:
    """How wide a model is."""
    family, sizes = family_of(config), sizes_of(config)
    heads, units = (_one(sizes, names) for names in (family.heads, family.units))
    assert heads is not None
    if family.experts and (getattr(sizes, "mlp_only_layers", None) or getattr(sizes, "decoder_sparse_step", 1) > 1):
        raise StudentError(
            "student.width: some of its layers have experts and some have none, and only one size of units can "
            "be be named; use student.layers"
        )
    return Shape(
        hidden_size=sizes.hidden_size,
        heads=heads,
        key_value_heads=getattr(sizes, "num_key_value_heads", None) or heads,
        intermediate_size=4 * sizes.hidden_size if units is None else units,
    )


def _one(config: PretrainedConfig, names: tuple[str, ...]) -> int | None:
    values = {name: getattr(config, name, None) for name in names}
    if len(set(values.values())) > 1:
        raise StudentError(
            f"student.width: its encoder and its decoder have different sizes ({values}), and only one for both can be "
            "named; use student.layers"
        )
    return values[names[0]]


def head_size(config: PretrainedConfig) -> int:
    """The channels of an attention head, as many in a narrower model."""
    sizes = sizes_of(config)
    return int(getattr(sizes, "head_dim", None) or sizes.hidden_size // sizes.num_attention_heads)


def head_counts(source: Shape) -> dict[int, int]:
    """The numbers of heads that can be kept, each with that of keys and values.

    Where queries share these, whole groups are dropped where that comes out even, else as many queries of every group.
    """
    group = source.heads // source.key_value_heads
    most, shared = source.heads + 1, source.key_value_heads
    within = dict.fromkeys(range(shared, most, shared), shared)
    return dict(sorted((within | {heads: heads // group for heads in range(group, most, group)}).items()))


def family_of_shapes(config: PretrainedConfig) -> list[Shape]:
    """The shapes that a model can be scaled to, from the narrowest to its own: hidden size, heads and units together.

    Heads fall by one, or by the smaller of a group and the number of groups; their size stays.
    """
    source = shape_of(config)
    group = source.heads // source.key_value_heads
    whole = group <= source.key_value_heads
    step = group if whole else source.key_value_heads
    shapes = []
    for heads in range(step, source.heads + 1, step):
        hidden = source.hidden_size * heads / source.heads
        shapes.append(
            Shape(
                hidden_size=int(hidden) if hidden.is_integer() else rounded(hidden),
                heads=heads,
                key_value_heads=heads // group if whole else source.key_value_heads,
                intermediate_size=rounded(source.intermediate_size * heads / source.heads),
            )
        )
    return [*(shape for shape in shapes[:-1] if shape.hidden_size != _own_embeddings(config)), source]


def pruned_config(config: PretrainedConfig, shape: Shape) -> PretrainedConfig:
    """The config of the same model in another shape; heads keep their size."""
    if shape.hidden_size == _own_embeddings(config):
        raise StudentError(
            f"student.width.hidden_size: with {shape.hidden_size}, the width of its embeddings, {config.model_type} "
            "has no projection from these to the hidden size, which the source has; choose another size"
        )
    source, own, size = sizes_of(config), shape_of(config).hidden_size, head_size(config)
    sizes = {
        "hidden_size": shape.hidden_size,
        **dict.fromkeys(family_of(config).heads, shape.heads),
        **dict.fromkeys(family_of(config).units, shape.intermediate_size),
    }
    for name in ("pooler_hidden_size", "embedding_size"):  # The hidden size under another name, where they are equal.
        if getattr(source, name, None) == own != shape.hidden_size:
            sizes[name] = shape.hidden_size
    if hasattr(source, "num_key_value_heads"):
        sizes["num_key_value_heads"] = shape.key_value_heads
    if hasattr(source, "head_dim") or size != shape.hidden_size // shape.heads:
        sizes["head_dim"] = size
    pruned = copy.deepcopy(config)
    with refused_as("student.width"):
        set_options(pruned, {"name_or_path": ""})
        set_options(sizes_of(pruned), sizes)
        for each in (sizes_of(pruned), pruned):
            each.validate()
    return pruned


def _own_embeddings(config: PretrainedConfig) -> int | None:
    """The width of embeddings that a model projects to its hidden size."""
    sizes = sizes_of(config)
    size: int | None = getattr(sizes, "embedding_size", None)
    return None if size == sizes.hidden_size else size


def rounded(size: float) -> int:
    """The nearest multiple of 8, or the nearest whole number above zero where it is small."""
    return 8 * round(size / 8) if size >= 8 else max(1, round(size))
