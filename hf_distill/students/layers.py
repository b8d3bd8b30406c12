"""A model of some of another's layers: embeddings, chosen layers, final norms and head, copied."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.errors import StudentError
from hf_distill.students.layer_choice import Cut
from hf_distill.students.request import per_layer_lists, refused_as, set_options

_PLAIN = (bool, int, float, str, tuple, list, type(None))

_POSITIONS = (
    "relative_attention_bias"  # The table that T5 and its like keep in their first layer and pass to all others.
)


def cut(teacher: PreTrainedModel, cuts: Sequence[Cut]) -> PreTrainedModel:
    """A copy of a model, in float32, of which only some layers are left.

    It is built from its own config, so that what a module knows of its position is right, and loads with
    ``from_pretrained``.
    """
    # Of an encoder-decoder the lists with one entry a layer are the encoder's (LED's attention windows).
    first = cuts[0].layer_map
    lists = {name: [values[i] for i in first] for name, values in per_layer_lists(teacher.config).items()}
    config = copy.deepcopy(teacher.config)
    with refused_as("student.layers"):
        set_options(config, {**{each.count: len(each.layer_map) for each in cuts}, **lists, "name_or_path": ""})
        student = type(teacher)(config).float()
    for each in cuts:
        for i, source in enumerate(each.layer_map):
            block, original = (m.get_submodule(f"{each.stack}.{n}") for m, n in ((student, i), (teacher, source)))
            if reason := difference(block, original, (i, source)):
                raise StudentError(
                    f"student.layers: the teacher's layer {source} cannot be layer {i} of the student, {reason}; "
                    f"choose other layers{' and keep layer 0' if i == 0 else ''}, or use student.config"
                )
    state = _cut_state(teacher.state_dict(), cuts)
    with refused_as("student.layers"):
        student.load_state_dict(state)
    for name, tensor in student.state_dict().items():
        if "meta" in (tensor.device.type, state[name].device.type):
            continue  # Only shapes are planned there; some weights of XLNet have a device of their own.
        if not torch.equal(tensor, state[name].to(tensor.device, tensor.dtype)):
            raise StudentError(f"student.layers: {name} differs from the teacher's; this is a bug, please report it")
    return student


def _cut_state(state: dict[str, Tensor], cuts: Sequence[Cut]) -> dict[str, Tensor]:
    stacks = tuple(f"{each.stack}." for each in cuts)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(stacks)}
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
