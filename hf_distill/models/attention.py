"""Finds a model's self-attention, and catches its queries, keys and values while it runs.

They are caught as they leave the linear layers that make them: before rotary positions, and whatever the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.errors import ModelError
from hf_distill.models.forward import compared_layers
from hf_distill.models.sizes import sizes_of, text_part
from hf_distill.types import Projections

_APART = (
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
)
_FUSED = ("Wqkv", "c_attn")  # One layer that gives queries, keys and values of the model's width, in this order.
_CROSS = re.compile(r"cross|encoder_attn|EncDecAttention")  # In the names of modules that attend to an encoder.


def self_attentions(model: PreTrainedModel) -> list[nn.Module]:
    """The self-attention of every layer, in order; a decoder's, where there is an encoder, too."""
    stack: nn.Module = model.get_decoder() if model.config.is_encoder_decoder else text_part(model)
    width = sizes_of(model.config, "decoder").hidden_size
    found = [
        module
        for name, module in stack.named_modules()
        if not _CROSS.search(name) and (_apart(module) or _fused(module, width))
    ]
    if len(found) != (total := compared_layers(model.config)):
        raise ModelError(
            f"{type(model).__name__} has {total} layers, but the linear layers that make queries, keys and values were "
            f"found in {len(found)} places (looked for {', '.join('/'.join(names) for names in _APART)}, "
            f"{' and '.join(_FUSED)}): objectives that look into attention cannot serve it; use hidden"
        )
    return found


def attention_window(model: PreTrainedModel) -> Any:
    """How far around itself a token looks, of models whose maps and projections are cut into windows; else None."""
    return getattr(model.config, "attention_window", None)


def projection_widths(model: PreTrainedModel, layer: int) -> dict[str, int]:
    """How wide ``q``, ``k`` and ``v`` of a layer are; keys and values are narrower where heads share them."""
    parts = _parts(self_attentions(model)[layer])
    integers = any(type(module).__name__ == "QuantLinear" for _, module in parts)
    if integers or attention_window(model) is not None:
        how = "give integers with a scale (I-BERT)" if integers else "are padded to windows, tokens first (Longformer)"
        raise ModelError(
            f"{type(model).__name__}: its queries, keys and values {how}, which relations cannot be made of; use "
            "hidden, or logits"
        )
    return {name: _width(module) // len(names) for names, module in parts for name in names}


@contextmanager
def caught_projections(model: PreTrainedModel, layers: Collection[int]) -> Iterator[dict[int, Projections]]:
    """Catch the projections of some layers while a model runs, not while a backward pass runs parts of it again."""
    modules = self_attentions(model) if layers else []
    caught: dict[int, Projections] = {layer: {} for layer in layers}
    handles = [handle for layer in layers for handle in _hooks(modules[layer], caught[layer])]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Run a model without a fused attention kernel, which would make no maps; afterwards it runs as before."""
    changer: Any = model
    before = model.config._attn_implementation
    changer.set_attn_implementation("eager")
    try:
        yield
    finally:
        changer.set_attn_implementation(before)


def show_attention(student: PreTrainedModel) -> None:
    """Switch a student to eager attention without dropout for good: a backward pass may run parts of it again."""
    changer: Any = student
    changer.set_attn_implementation("eager")
    for module in self_attentions(student):
        for name in ("dropout", "attn_dropout", "attention_dropout"):
            dropout = getattr(module, name, None)
            if isinstance(dropout, nn.Dropout):
                dropout.p = 0.0
            elif isinstance(dropout, float):
                setattr(module, name, 0.0)


def check_learning(seen: Iterable[Tensor]) -> None:
    """Refuse a student in training if no gradient reaches its attention."""
    if torch.is_grad_enabled() and not any(tensor.requires_grad for tensor in seen):
        raise ModelError(
            "no gradient reaches the student's attention, so an objective that looks into it would teach nothing: "
            "these layers are frozen, or recomputed by reentrant checkpointing; choose other layers, or set "
            "activation_checkpointing_kwargs: {use_reentrant: false}"
        )


def _hooks(attention: nn.Module, store: Projections) -> Iterator[torch.utils.hooks.RemovableHandle]:
    for names, module in _parts(attention):

        def catch(_: nn.Module, __: Any, output: Tensor, names: tuple[str, ...] = names) -> None:
            for name, part in zip(names, output.chunk(len(names), dim=-1), strict=True):
                # DeBERTa projects its table of relative positions by the same layers, after the tokens.
                store.setdefault(name, part)

        yield module.register_forward_hook(catch)


def _parts(attention: nn.Module) -> list[tuple[tuple[str, ...], nn.Module]]:
    """The linear layers of an attention, each with those of ``q``, ``k`` and ``v`` that it gives."""
    if names := _apart(attention):
        return [((part,), getattr(attention, name)) for part, name in zip("qkv", names, strict=True)]
    return [(("q", "k", "v"), next(getattr(attention, name) for name in _FUSED if hasattr(attention, name)))]


def _apart(module: nn.Module) -> tuple[str, ...] | None:
    return next((names for names in _APART if all(_width(getattr(module, name, None)) for name in names)), None)


def _fused(module: nn.Module, hidden: int) -> bool:
    return any(_width(getattr(module, name, None)) == 3 * hidden for name in _FUSED)


def _width(module: Any) -> int:
    """The outputs of a linear layer or Transformers' Conv1D; 0 for anything else."""
    return int(getattr(module, "out_features", None) or getattr(module, "nf", None) or 0)
