"""A model of some of another's layers: embeddings, chosen layers, final norms and head, copied."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from hf_distill.errors import StudentError
from hf_distill.models.sizes import sizes_of
from hf_distill.students.layer_choice import Cut
from hf_distill.students.request import of_layers, refused_as, renew, set_options

logger = logging.getLogger(__name__)

_PLAIN = (bool, int, float, str, tuple, list, type(None))

_OF_THE_CALLER = ("training", "name_or_path")
"""Attributes of modules that tell where they come from or what is done with them, not what they compute."""

_POSITIONS = ("relative_attention_bias", "rel_attn_embed")
"""Tables that T5 and its like, and WavLM, keep in their first layer and pass to all others."""

_DROPS = ("drop_path",)
"""What drops a whole layer at random in training, the more often the later it stands; it has no weights."""


def cut(teacher: PreTrainedModel, cuts: Sequence[Cut]) -> PreTrainedModel:
    """A copy of a model, in float32, of which only some layers are left.

    It is built from its own config, so that what a module knows of its position is right, and loads with
    ``from_pretrained``.
    """
    with refused_as("student.layers"):
        config = _cut_config(teacher, cuts)
        student = type(teacher)(config).float()
        with torch.device("meta"):
            # As it is made: what it has read changes some (BigBird's attention, the capacity of NLLB's experts).
            unread = type(teacher)(copy.deepcopy(teacher.config))
    for each in cuts:
        for i, source in enumerate(each.layer_map):
            block, original = (m.get_submodule(f"{each.stack}.{n}") for m, n in ((student, i), (unread, source)))
            if reason := difference(block, original, (i, source)):
                raise StudentError(
                    f"student.layers: the teacher's layer {source} cannot be layer {i} of the student, {reason}; "
                    f"choose other layers{' and keep layer 0' if i == 0 else ''}, or use student.config"
                )
    state = _cut_state(teacher.state_dict(), cuts)
    if len(cuts) == 1:
        _cut_tables(state, student.state_dict(), cuts[0])
    with refused_as("student.layers"):
        student.load_state_dict(state)
    for name, tensor in student.state_dict().items():
        if "meta" in (tensor.device.type, state[name].device.type):
            continue  # Only shapes are planned there; some weights of XLNet have a device of their own.
        if not torch.equal(tensor, state[name].to(tensor.device, tensor.dtype)):
            raise StudentError(f"student.layers: {name} differs from the teacher's; this is a bug, please report it")
    return student


def generation_of(model: PreTrainedModel, decoder_layers: Sequence[int] | None) -> GenerationConfig:
    """How a model writes, for a student that has those layers of its decoder; all of them for None.

    Whisper's ``alignment_heads`` tell when a word is said by the attention of some layers; those of layers that are
    left out are removed, and where none is left, so are times of words.
    """
    generation: Any = copy.deepcopy(model.generation_config)
    if decoder_layers is not None and (heads := getattr(generation, "alignment_heads", None)):
        places = {layer: place for place, layer in enumerate(decoder_layers)}
        kept = generation.alignment_heads = [[places[layer], head] for layer, head in heads if layer in places]
        if not kept:
            del generation.alignment_heads
        if len(kept) < len(heads):
            rest = f"the other {len(kept)} tell when a word is said" if kept else "it cannot tell when a word is said"
            logger.info(
                f"student: {len(heads) - len(kept)} of the teacher's {len(heads)} alignment heads are in layers that "
                f"it does not have; {rest}"
            )
    assert isinstance(generation, GenerationConfig)
    return generation


def _cut_config(teacher: PreTrainedModel, cuts: Sequence[Cut]) -> PretrainedConfig:
    config = copy.deepcopy(teacher.config)
    set_options(config, {"name_or_path": ""})
    # The decoder first: in one config for both sides the lists with one entry a layer are the encoder's (LED's
    # attention windows).
    for each in reversed(cuts):
        sizes = sizes_of(config, each.side)
        changed = of_layers(sizes, each.layer_map) if each is cuts[0] or sizes is not config else {}
        # The last layers of Gemma 3n and 4 reuse keys and values of others.
        if shared := getattr(sizes, "num_kv_shared_layers", 0):
            changed["num_kv_shared_layers"] = sum(i >= each.total - shared for i in each.layer_map)
        set_options(sizes, {each.count: len(each.layer_map), **changed})
        if len(each.layer_map) < each.total:
            renew(sizes)
    return config


def _cut_state(state: dict[str, Tensor], cuts: Sequence[Cut]) -> dict[str, Tensor]:
    stacks = tuple(f"{each.stack}." for each in cuts)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(stacks)}
    for each in cuts:
        for i, source in enumerate(each.layer_map):
            kept |= _of_layer(state, each.stack, source, i)
        # Where the first layer is left out, the one that takes its place takes over the table that it keeps for all.
        first = _of_layer(state, each.stack, 0, 0)
        kept = {**{name: tensor for name, tensor in first.items() if _is_table(name)}, **kept}
    return kept


def _is_table(name: str) -> bool:
    return any(table in name for table in _POSITIONS)


def _cut_tables(state: dict[str, Tensor], wanted: Mapping[str, Tensor], cut: Cut) -> None:
    """Cut what holds something for each layer in turn: the embeddings by layer of Gemma 3n, the contact head of ESM.

    Weights by which models of speech mix the states of their layers begin with one for the embeddings.
    """
    for name, tensor in state.items():
        if name.endswith("layer_weights"):
            state[name] = tensor[[0, *(i + 1 for i in cut.layer_map)]]
            continue
        for dimension, size in enumerate(wanted[name].shape if name in wanted else ()):
            each, rest = divmod(tensor.shape[dimension], cut.total)
            if tensor.shape[dimension] != size == each * len(cut.layer_map) and not rest:
                parts = tensor.chunk(cut.total, dimension)
                tensor = torch.cat([parts[i] for i in cut.layer_map], dimension)
        state[name] = tensor


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
            is_position = (value, known) == positions or key == "has_relative_attention_bias"
            is_extra = key == "store_full_length_kv" and known  # That nobody need read: Gemma 4.
            if key.startswith("_") or key in _OF_THE_CALLER or is_position or is_extra or not isinstance(value, _PLAIN):
                continue
            if value != known:
                return f"where {f'{name}.{key}'.lstrip('.')} is {value!r} and not {known!r}"
    return None


def _modules(block: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in block.named_modules() if not name.endswith((*_POSITIONS, *_DROPS))]
