"""A narrower copy of a model: which heads, units and channels are kept, and the tensors without the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_distill.errors import StudentError
from hf_distill.students.layer_choice import all_layers
from hf_distill.students.pruning.families import Shape, family_of, pruned_config, shape_of
from hf_distill.students.pruning.importance import Importance
from hf_distill.students.request import refused_as

Select = Callable[[str, int], Sequence[Any]]
"""Which entries to keep of a tensor, by its name, along a dimension; of experts a list for each of them."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The channels of a model, and the heads and units of each layer, that are kept, ascending, counted from 0."""

    hidden: list[int]
    heads: list[list[int]]
    key_value_heads: list[list[int]]
    units: list[Any]  # Of experts a list for each.
    cross_heads: dict[int, list[int]] = field(default_factory=dict)


def most_important(importance: Importance, source: Shape, shape: Shape) -> Kept:
    """Keep what matters most: channels of the whole model, heads and units of each layer.

    Where queries share keys and values, their importance is that of the group where whole groups are dropped.
    """
    chosen = [_chosen_heads(each, source, shape) for each in importance.heads]
    heads, shared = ([pair[i] for pair in chosen] for i in (0, 1))
    units = [_largest(each, shape.intermediate_size) for each in importance.units]
    cross = {i: _chosen_heads(each, source, shape)[0] for i, each in importance.cross_heads.items()}
    hidden = _largest(importance.hidden, shape.hidden_size)
    return Kept(hidden=hidden, heads=heads, key_value_heads=shared, units=units, cross_heads=cross)


def first_ones(shape: Shape, layers: int) -> Kept:
    """Keep the first of everything: enough to plan a model without weights."""
    sizes = (shape.heads, shape.key_value_heads, shape.intermediate_size)
    heads, shared, units = ([list(range(size))] * layers for size in sizes)
    return Kept(
        hidden=list(range(shape.hidden_size)),
        heads=heads,
        key_value_heads=shared,
        units=units,
        cross_heads=dict(enumerate(heads)),
    )


def prune(model: PreTrainedModel, shape: Shape, kept: Kept) -> PreTrainedModel:
    """A copy of a model in a narrower shape, in float32, an ordinary model of its class."""
    along_layers = _of_layers(model, kept)
    old, new = shape_of(model.config).hidden_size, shape.hidden_size
    state = model.state_dict()

    def select(name: str, dimension: int) -> Sequence[Any]:
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
    # What is not saved with a model is made anew for its width when it is loaded (Marian's table of positions).
    unsaved = set(model._keys_to_ignore_on_save or ())
    state = {}
    for name, tensor in model.state_dict().items():
        if name in unsaved:
            tensor = wanted[name]
        for dimension, size in enumerate(tensor.shape):
            if name in wanted and size != wanted[name].shape[dimension]:
                kept = torch.tensor(select(name, dimension), device=tensor.device)
                if kept.ndim == 1:
                    tensor = tensor.index_select(dimension, kept)
                else:
                    each = zip(tensor, kept, strict=True)
                    tensor = torch.stack([part.index_select(dimension - 1, own) for part, own in each])
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


def _of_layers(model: PreTrainedModel, kept: Kept) -> dict[tuple[str, int], list[Any]]:
    """The entries to keep along dimensions of heads or units, by the name of the tensor and the dimension."""
    family, source = family_of(model.config), shape_of(model.config)
    modules: dict[str, Any] = dict(model.named_modules())
    found: dict[tuple[str, int], list[Any]] = {}
    for i, layer in enumerate(layer for each in all_layers(model) for layer in each.layers):
        groups = {
            "q": (source.heads, kept.heads[i]),
            "k": (source.key_value_heads, kept.key_value_heads[i]),
            "u": (source.intermediate_size, kept.units[i]),
            "c": (source.heads, kept.cross_heads.get(i, [])),
        }
        for are_outputs, named in ((True, family.writes), (False, family.reads)):
            for name, letters in named.items():
                if (module := modules.get(full := f"{layer}.{name}")) is None:
                    continue
                # Conv1D and tables have their outputs last.
                along = int(isinstance(module, (Conv1D, nn.Embedding)) == are_outputs)
                places = _places(module.weight.shape[along], [groups[letter] for letter in letters])
                found[f"{full}.weight", along] = places
                if are_outputs:
                    found[f"{full}.bias", 0] = places
        if family.experts:
            own, full = torch.tensor(kept.units[i], device="cpu"), f"{layer}.{family.experts}"
            found[f"{full}.down_proj", 2] = own.tolist()
            found[f"{full}.gate_up_proj", 1] = torch.cat([own, own + source.intermediate_size], dim=-1).tolist()
    return found


def _places(size: int, blocks: Sequence[tuple[int, list[int]]]) -> list[int]:
    """Of blocks of heads or units that follow one another, each with a count and what is kept: the kept entries."""
    each, start, places = size // sum(count for count, _ in blocks), 0, []
    for count, kept in blocks:
        places += [start + one * each + i for one in kept for i in range(each)]
        start += count * each
    return places
