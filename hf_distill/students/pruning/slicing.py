"""A narrower copy of a model: which heads, units and channels are kept, and the tensors without the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_distill.errors import StudentError
from hf_distill.students.layer_choice import layer_stack
from hf_distill.students.pruning.families import Shape, family_of, pruned_config, shape_of
from hf_distill.students.pruning.importance import Importance
from hf_distill.students.request import refused_as

Select = Callable[[str, int], Sequence[int]]
"""Which entries to keep of a tensor, by its name, along a dimension."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The channels of a model, and the heads and units of each layer, that are kept, ascending, counted from 0."""

    hidden: list[int]
    heads: list[list[int]]
    key_value_heads: list[list[int]]
    units: list[list[int]]


def most_important(importance: Importance, source: Shape, shape: Shape) -> Kept:
    """Keep what matters most: channels of the whole model, heads and units of each layer.

    Where queries share keys and values, their importance is that of the group where whole groups are dropped.
    """
    chosen = [_chosen_heads(each, source, shape) for each in importance.heads]
    heads, shared = ([pair[i] for pair in chosen] for i in (0, 1))
    units = [_largest(each, shape.intermediate_size) for each in importance.units]
    return Kept(hidden=_largest(importance.hidden, shape.hidden_size), heads=heads, key_value_heads=shared, units=units)


def first_ones(shape: Shape, layers: int) -> Kept:
    """Keep the first of everything: enough to plan a model without weights."""
    sizes = (shape.heads, shape.key_value_heads, shape.intermediate_size)
    heads, shared, units = ([list(range(size))] * layers for size in sizes)
    return Kept(hidden=list(range(shape.hidden_size)), heads=heads, key_value_heads=shared, units=units)


def prune(model: PreTrainedModel, shape: Shape, kept: Kept) -> PreTrainedModel:
    """A copy of a model in a narrower shape, in float32, an ordinary model of its class."""
    along_layers = _of_layers(model, kept)
    old, new = shape_of(model.config).hidden_size, shape.hidden_size
    state = model.state_dict()

    def select(name: str, dimension: int) -> Sequence[int]:
        if (name, dimension) in along_layers:
            return along_layers[name, dimension]
        if (size := state[name].shape[dimension]) != old:
            raise StudentError(
                f"student.width: {name} of {type(model).__name__} has {size} entries that change with the width, and "
                f"are not known to be heads, units or {old} channels; use student.layers or student.config"
            )
        return kept.hidden

    with refused_as(f"student.width of {old} to {new}"):
        return selected(model, pruned_config(model.config, shape), select)


def selected(model: PreTrainedModel, config: PretrainedConfig, select: Select) -> PreTrainedModel:
    """A copy of a model with another config, in float32, whose tensors are a selection of the model's."""
    kind: Any = type(model)  # mypy would take the class for a torch module's.
    student: PreTrainedModel = kind(config).float()
    wanted = student.state_dict()
    state = {}
    for name, tensor in model.state_dict().items():
        for dimension, size in enumerate(tensor.shape):
            if name in wanted and size != wanted[name].shape[dimension]:
                kept = torch.tensor(select(name, dimension), device=tensor.device)
                tensor = tensor.index_select(dimension, kept)
        state[name] = tensor
    student.load_state_dict(state)
    return student


def _chosen_heads(importance: Tensor, source: Shape, shape: Shape) -> tuple[list[int], list[int]]:
    groups = importance.view(source.key_value_heads, -1)
    size = groups.shape[1]
    if shape.key_value_heads < source.key_value_heads:
        kept = _largest(groups.sum(1), shape.key_value_heads)
        return [group * size + i for group in kept for i in range(size)], kept
    within = [_largest(group, shape.heads // source.key_value_heads) for group in groups]
    return [group * size + i for group, kept in enumerate(within) for i in kept], list(range(len(groups)))


def _largest(importance: Tensor, count: int) -> list[int]:
    return importance.topk(count).indices.sort().values.tolist()


def _of_layers(model: PreTrainedModel, kept: Kept) -> dict[tuple[str, int], list[int]]:
    """The entries to keep along dimensions of heads or units, by the name of the tensor and the dimension."""
    family, source = family_of(model.config), shape_of(model.config)
    stack, total = layer_stack(model, model, "num_hidden_layers")
    modules: dict[str, Any] = dict(model.named_modules())
    found: dict[tuple[str, int], list[int]] = {}
    for i in range(total):
        heads = source.heads, kept.heads[i]
        shared = source.key_value_heads, kept.key_value_heads[i]
        units = source.intermediate_size, kept.units[i]
        outputs = [(family.queries, heads), (family.keys_and_values, shared), (family.up, units)]
        inputs = [((family.attention_output,), heads), ((family.down,), units)]
        for are_outputs, group in ((True, outputs), (False, inputs)):
            for name, (count, chosen) in ((name, each) for names, each in group for name in names):
                module, full = modules.get(f"{stack}.{i}.{name}"), f"{stack}.{i}.{name}"
                if module is None:
                    continue
                along = int(isinstance(module, Conv1D) == are_outputs)  # Conv1D has its outputs last.
                # They lie in equal blocks with ``count`` of them each.
                places = torch.arange(module.weight.shape[along], device="cpu")
                places = places.view(family.fused.get(name, 1), count, -1)[:, chosen].flatten()
                found[f"{full}.weight", along] = places.tolist()
                if are_outputs:
                    found[f"{full}.bias", 0] = places.tolist()
    return found
