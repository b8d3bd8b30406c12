"""How wide models are: which families can be narrowed, the shapes that they can take, and their configs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Literal

from transformers import PretrainedConfig

from hf_distill.errors import StudentError
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
    """The modules of a layer that can be narrowed, by name, for the models of a family.

    Attributes:
        queries: Their outputs are query heads.
        keys_and_values: Their outputs are heads of keys or values.
        attention_output: It reads all heads.
        up: Their outputs are units of the feed-forward block, which ``down`` reads.
        fused: How many blocks of heads or units follow one another in the outputs of a module; one unless named.
        units: The config's attribute for the number of units.
        head_size: ``follows`` where it is always hidden size / heads; ``divides`` where the config tells it, but heads
            must divide the hidden size; ``free`` where both are free.
    """

    queries: tuple[str, ...]
    keys_and_values: tuple[str, ...]
    attention_output: str
    up: tuple[str, ...]
    down: str
    fused: dict[str, int] = field(default_factory=dict)
    units: str = "intermediate_size"
    head_size: Literal["follows", "divides", "free"] = "follows"


_BERT = Family(
    ("attention.self.query",),
    ("attention.self.key", "attention.self.value"),
    "attention.output.dense",
    ("intermediate.dense",),
    "output.dense",
)
_LLAMA = Family(
    ("self_attn.q_proj",),
    ("self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj",
    ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj",
    head_size="free",
)

FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("bert", "roberta", "camembert", "xlm-roberta", "electra"), _BERT),
    "distilbert": Family(
        ("attention.q_lin",),
        ("attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        ("ffn.lin1",),
        "ffn.lin2",
        units="hidden_dim",
    ),
    "deberta-v2": replace(
        _BERT,
        queries=("attention.self.query_proj", "attention.self.pos_query_proj"),
        keys_and_values=("attention.self.key_proj", "attention.self.value_proj", "attention.self.pos_key_proj"),
    ),
    "modernbert": Family(("attn.Wqkv",), (), "attn.Wo", ("mlp.Wi",), "mlp.Wo", fused={"attn.Wqkv": 3, "mlp.Wi": 2}),
    "gpt2": Family(
        ("attn.c_attn",), (), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", fused={"attn.c_attn": 3}, units="n_inner"
    ),
    # Query, key and value of a head stand together, head by head: one block.
    "gpt_neox": Family(
        ("attention.query_key_value",), (), "attention.dense", ("mlp.dense_h_to_4h",), "mlp.dense_4h_to_h"
    ),
    **dict.fromkeys(("llama", "gemma2"), replace(_LLAMA, head_size="divides")),
    **dict.fromkeys(("qwen2", "qwen3", "mistral", "gemma"), _LLAMA),
}
"""By ``model_type``."""


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model."""
    if config.model_type not in FAMILIES:
        raise StudentError(
            f"student.width: {config.model_type} cannot be narrowed, only {', '.join(FAMILIES)} can; use "
            "student.layers, or student.config for fresh weights of that size"
        )
    return FAMILIES[config.model_type]


def shape_of(config: PretrainedConfig) -> Shape:
    """How wide a model is."""
    units = getattr(config, family_of(config).units, None)
    heads = config.num_attention_heads
    return Shape(
        hidden_size=config.hidden_size,
        heads=heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        intermediate_size=4 * config.hidden_size if units is None else units,
    )


def head_size(config: PretrainedConfig) -> int:
    """The channels of an attention head, as many in a narrower model."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


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
    own, size = config.hidden_size, head_size(config)
    sizes = {
        "name_or_path": "",
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.heads,
        family_of(config).units: shape.intermediate_size,
    }
    for name in ("pooler_hidden_size", "embedding_size"):  # The hidden size under another name, where they are equal.
        if getattr(config, name, None) == own != shape.hidden_size:
            sizes[name] = shape.hidden_size
    if hasattr(config, "num_key_value_heads"):
        sizes["num_key_value_heads"] = shape.key_value_heads
    if hasattr(config, "head_dim") or size != shape.hidden_size // shape.heads:
        sizes["head_dim"] = size
    pruned = copy.deepcopy(config)
    with refused_as("student.width"):
        set_options(pruned, sizes)
        pruned.validate()
    return pruned


def _own_embeddings(config: PretrainedConfig) -> int | None:
    """The width of embeddings that a model projects to its hidden size."""
    size: int | None = getattr(config, "embedding_size", None)
    return None if size == config.hidden_size else size


def rounded(size: float) -> int:
    """The nearest multiple of 8, or the nearest whole number above zero where it is small."""
    return 8 * round(size / 8) if size >= 8 else max(1, round(size))
