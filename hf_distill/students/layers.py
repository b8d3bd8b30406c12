"""A model of some of another's layers: embeddings, chosen layers, final norms and head, copied."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from hf_distill.errors import StudentError
from hf_distill.students.base import per_layer_lists, refused_as, set_options
from hf_distill.students.layer_choice import Cut

_PLAIN = (bool, int, float, str, tuple, list, type(None))

_POSITIONS = "relative_attention_bias"
"""The table of positions that T5 and its like keep in their first layer and pass to all others."""


def cut(teacher: PreTrainedModel, cuts: Sequence[Cut]) -> PreTrainedModel:
    """A copy of a model, in float32, of which only some layers are left.

    It is built from its own config, so that what a module knows of its position is right, and loads with
    ``from_pretrained``.
    """
    with refused_as("student.layers"):
        config = _cut_config(teacher.config, cuts)
        student = type(teacher)(config).float()
    for each in cuts:
        _check_same_build(student.get_submodule(each.stack), teacher.get_submodule(each.stack), each.layer_map)
    state = _cut_state(teacher.state_dict(), cuts)
    with refused_as("student.layers"):
        student.load_state_dict(state)
    _check_copied(student, teacher, state)
    return student


def _cut_config(config: PretrainedConfig, cuts: Sequence[Cut]) -> PretrainedConfig:
    # Of an encoder-decoder the lists with one entry a layer are the encoder's (LED's attention windows).
    first = cuts[0].layer_map
    lists = {name: [values[i] for i in first] for name, values in per_layer_lists(config).items()}
    counts = {each.count: len(each.layer_map) for each in cuts}
    config = copy.deepcopy(config)
    set_options(config, {**counts, **lists, "name_or_path": ""})
    return config


def _cut_state(state: dict[str, Tensor], cuts: Sequence[Cut]) -> dict[str, Tensor]:
    kept = {name: tensor for name, tensor in state.items() if not any(each.holds(name) for each in cuts)}
    for each in cuts:
        for i, source in enumerate(each.layer_map):
            kept |= _of_layer(state, each.stack, source, i)
        # Where the first layer is left out, the one that takes its place takes over the table that it keeps for all.
        first = _of_layer(state, each.stack, 0, 0)
        kept = {**{name: tensor for name, tensor in first.items() if _POSITIONS in name}, **kept}
    return kept


def _of_layer(state: dict[str, Tensor], stack: str, source: int, place: int) -> dict[str, Tensor]:
    old, new = f"{stack}.{source}.", f"{stack}.{place}."
    return {new + name.removeprefix(old): tensor for name, tensor in state.items() if name.startswith(old)}


def _check_same_build(blocks: Any, sources: Any, layer_map: Sequence[int]) -> None:
    for i, source in enumerate(layer_map):
        reason = difference(blocks[i], sources[source], (i, source))
        if reason:
            raise StudentError(
                f"student.layers: the teacher's layer {source} cannot be layer {i} of the student, {reason}; "
                f"choose other layers{' and keep layer 0' if i == 0 else ''}, or use student.config"
            )


def difference(block: nn.Module, source: nn.Module, positions: tuple[int, int]) -> str | None:
    """How one module is built otherwise than another, for people; None where equal weights make them do the same.

    They may differ in their ``positions`` among their like, which some modules know.
    """
    for (name, module), (other_name, other) in zip_longest(_modules(block), _modules(source), fillvalue=("", None)):
        if name != other_name or type(module) is not type(other):
            return f"where {name or other_name} is {type(module).__name__} and not {type(other).__name__}"
        for key, value in vars(module).items():
            known = vars(other).get(key)
            is_position = (value, known) == positions or key == f"has_{_POSITIONS}"
            if key.startswith("_") or key == "training" or is_position or not isinstance(value, _PLAIN):
                continue
            if value != known:
                return f"where {f'{name}.{key}'.lstrip('.')} is {value!r} and not {known!r}"
    return None


def _modules(block: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in block.named_modules() if not name.endswith(_POSITIONS)]


def _check_copied(student: PreTrainedModel, teacher: PreTrainedModel, state: dict[str, Tensor]) -> None:
    if teacher.device.type == "meta":
        return  # Only shapes are planned; there is nothing to compare.
    for name, tensor in student.state_dict().items():
        if not torch.equal(tensor, state[name].to(tensor.device, tensor.dtype)):
            raise StudentError(f"student.layers: {name} differs from the teacher's; this is a bug, please report it")
