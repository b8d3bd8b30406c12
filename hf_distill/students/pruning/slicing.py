"""A narrower copy of a model: which heads, units and channels are kept, and the tensors without the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_distill.errors import StudentError
from hf_distill.students.base import refused_as
from hf_distill.students.layer_choice import layer_stack
from hf_distill.students.pruning.families import Shape, family_of, pruned_config, shape_of
from hf_distill.students.pruning.importance import Importance

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
    return Kept(
        hidden=_largest(importance.hidden, shape.hidden_size),
        heads=[heads for heads, _ in chosen],
        key_value_heads=[groups for _, groups in chosen],
        units=[_largest(each, shape.intermediate_size) for each in importance.units],
    )


def first_ones(shape: Shape, layers: int) -> Kept:
    """Keep the first of everything: enough to plan a model without weights."""
    return Kept(
        hidden=list(range(shape.hidden_size)),
        heads=[list(range(shape.heads))] * layers,
        key_value_heads=[list(range(shape.key_value_heads))] * layers,
        units=[list(range(shape.intermediate_size))] * layers,
    )


def prune(model: PreTrainedModel, shape: Shape, kept: Kept) -> PreTrainedModel:
    """A copy of a model in a narrower shape, in float32, an ordinary model of its class."""
    along_layers = _of_layers(model, kept)
    old, new = shape_of(model.config).hidden_size, shape.hidden_size
    state = model.state_dict()

    def select(name: str, dimension: int) -> Sequence[int]:
        if (name, dimension) in along_layers:
            return along_layers[name, dimension]
        if state[name].shape[dimension] != old:
            raise StudentError(
                f"student.width: {name} of {type(model).__name__} has {state[name].shape[dimension]} entries that "
                f"change with the width, and are not known to be heads, units or one of {old} channels; use "
                "student.layers or student.config"
            )
        return kept.hidden

    with refused_as(f"student.width of {old} to {new}"):
        return selected(model, pruned_config(model.config, shape), select)


def selected(model: PreTrainedModel, config: PretrainedConfig, select: Select) -> PreTrainedModel:
    """A copy of a model with another config, in float32, whose tensors are a selection of the model's."""
    # mypy would take the class for a torch module's.
    kind: Any = type(model)
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
    modules = dict(model.named_modules())
    found: dict[tuple[str, int], list[int]] = {}
    for i in range(total):
        heads = partial(_indices, count=source.heads, kept=kept.heads[i])
        shared = partial(_indices, count=source.key_value_heads, kept=kept.key_value_heads[i])
        units = partial(_indices, count=source.intermediate_size, kept=kept.units[i])
        outputs = [(family.queries, heads), (family.keys_and_values, shared), (family.up, units)]
        for names, indices in outputs:
            for name in names:
                full = f"{stack}.{i}.{name}"
                module = modules.get(full)
                if module is not None:
                    along = _outputs(module)
                    rows = indices(size=_weight(module).shape[along], blocks=family.fused.get(name, 1))
                    found |= {(f"{full}.weight", along): rows, (f"{full}.bias", 0): rows}
        for name, indices in ((family.attention_output, heads), (family.down, units)):
            full = f"{stack}.{i}.{name}"
            along = 1 - _outputs(modules[full])
            found[f"{full}.weight", along] = indices(size=_weight(modules[full]).shape[along], blocks=1)
    return found


def _indices(*, size: int, blocks: int, count: int, kept: list[int]) -> list[int]:
    """The entries of kept heads or units among ``size``, which lie in equal blocks with ``count`` of them each."""
    return torch.arange(size, device="cpu").view(blocks, count, -1)[:, kept].flatten().tolist()


def _outputs(module: nn.Module) -> int:
    """The dimension of a weight that is the module's outputs."""
    return 1 if isinstance(module, Conv1D) else 0


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
