"""A student made of some of the teacher's layers: embeddings, chosen layers, final norms and head, copied."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.students.base import Order, Student, per_layer_lists, set_options, told_as
from hf_distill.students.heads import kept_label_order, reorder_outputs
from hf_distill.students.pretrained import from_pretrained

_PLAIN = (bool, int, float, str, tuple, list, type(None))


def from_layers(order: Order) -> Student:
    """The teacher, or a pretrained model, with only some of its layers; every tensor is verified to equal its source.

    Raises:
        StudentError: For layers that are not there, or a teacher that cannot be cut.
        LabelError: Where the teacher's head does not know the data's labels.
    """
    if order.config.pretrained is not None:
        whole = from_pretrained(order)
        return _with_layers(order, whole.model, whole.tokenizer, whole.origin)
    teacher, tokenizer = order.teacher, order.teacher_tokenizer
    if teacher is None or tokenizer is None:
        raise StudentError("student.layers: needs a teacher to take layers from; name one, or use student.config")
    if order.config.tokenizer is not None:
        raise StudentError(
            "student.tokenizer: a student of the teacher's layers keeps its embeddings, so its tokenizer too; "
            "leave it out"
        )
    return _with_layers(order, teacher, tokenizer, "the teacher")


def _with_layers(order: Order, source: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, named: str) -> Student:
    assert order.config.layers is not None
    stack, blocks = layer_stack(source)
    layer_map = choose_layers(order.config.layers, len(blocks))
    outputs = kept_label_order(source.config, order.model_options)
    student = cut(source, stack, layer_map)
    reorder_outputs(student, outputs)
    set_options(student.config, order.model_options)
    if source.can_generate():
        student.generation_config = copy.deepcopy(source.generation_config)
    origin = f"layers {', '.join(map(str, layer_map))} of {len(blocks)} of {named}"
    return Student(model=student, tokenizer=tokenizer, origin=origin, layer_map=layer_map)


def choose_layers(chosen: int | Sequence[int], total: int) -> tuple[int, ...]:
    """Which of the teacher's layers to keep, ascending, counted from 0.

    Args:
        chosen: How many, evenly spaced, first and last among them (1 keeps the first, which reads the embeddings); or
            which, ascending, where negative numbers count from the end.
        total: How many the teacher has.

    Raises:
        StudentError: For layers out of range, twice, or out of order.
    """
    if isinstance(chosen, int):
        if not 1 <= chosen <= total:
            raise StudentError(f"student.layers: expected 1 to {total} (the teacher's layers), got {chosen}")
        return tuple(round(i * (total - 1) / max(chosen - 1, 1)) for i in range(chosen))
    if not chosen:
        raise StudentError("student.layers: expected at least one layer, got an empty list")
    for index in chosen:
        if not -total <= index < total:
            raise StudentError(
                f"student.layers: the teacher has no layer {index}; expected 0 to {total - 1}, "
                f"or {-total} to -1 from the end"
            )
    layers = [index % total for index in chosen]
    ascending = sorted(set(layers))
    if layers != ascending:
        raise StudentError(
            f"student.layers: expected each layer once and in the teacher's order, got {list(chosen)}; "
            f"write {ascending}"
        )
    return tuple(layers)


def layer_stack(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Where a model keeps its layers: the one list of ``num_hidden_layers`` modules of the same class.

    Returns:
        The list's name among the model's modules, and the list.

    Raises:
        StudentError: Where there is no such list, more than one, or layers that are shared.
    """
    config, kind = model.config, type(model).__name__
    way_out = "use student.config or student.pretrained"
    if config.is_encoder_decoder:
        raise StudentError(
            f"student.layers: {kind} is an encoder-decoder, whose layers cannot be chosen yet; {way_out}"
        )
    if hasattr(config, "num_hidden_groups"):
        raise StudentError(
            f"student.layers: {kind} uses the same layer at every depth, so none can be left out; {way_out}"
        )
    total = getattr(config, "num_hidden_layers", 0)
    found = {name: module for name, module in model.named_modules() if _is_stack(module, total)}
    outer = [name for name in found if not any(name.startswith(other + ".") for other in found)]
    if len(outer) != 1:
        reason = f"several ({', '.join(outer)})" if outer else "none"
        raise StudentError(
            f"student.layers: expected one list of {total} equal layers in {kind}, found {reason}; {way_out}"
        )
    blocks = found[outer[0]]
    assert isinstance(blocks, nn.ModuleList)
    return outer[0], blocks


def cut(teacher: PreTrainedModel, stack: str, layer_map: Sequence[int]) -> PreTrainedModel:
    """A copy of a model, in float32, of which only some layers are left.

    It is built from its own config, so that what a module knows of its position is right, and loads with
    ``from_pretrained``.

    Args:
        teacher: The model.
        stack: The name of its list of layers.
        layer_map: Which layers to keep.

    Raises:
        StudentError: Where a kept layer would not do the same at its new place.
    """
    with told_as("student.layers"):
        config = _cut_config(teacher.config, layer_map)
        student = type(teacher)(config).float()
    _check_same_build(student.get_submodule(stack), teacher.get_submodule(stack), layer_map)
    with told_as("student.layers"):
        student.load_state_dict(_cut_state(teacher.state_dict(), stack, layer_map))
    _check_copied(student, teacher, stack, layer_map)
    return student


def _is_stack(module: nn.Module, total: int) -> bool:
    return (
        isinstance(module, nn.ModuleList)
        and 0 < len(module) == total
        and len({type(block) for block in module}) == 1
        and any(True for _ in module[0].children())
    )


def _cut_config(config: PretrainedConfig, layer_map: Sequence[int]) -> PretrainedConfig:
    lists = {name: [values[i] for i in layer_map] for name, values in per_layer_lists(config).items()}
    config = copy.deepcopy(config)
    set_options(config, {"num_hidden_layers": len(layer_map), **lists, "name_or_path": ""})
    return config


def _cut_state(state: dict[str, Tensor], stack: str, layer_map: Sequence[int]) -> dict[str, Tensor]:
    """The teacher's tensors under the student's names."""
    kept = {}
    for name, tensor in state.items():
        if not name.startswith(stack + "."):
            kept[name] = tensor
            continue
        index, _, rest = name.removeprefix(stack + ".").partition(".")
        if int(index) in layer_map:
            kept[f"{stack}.{layer_map.index(int(index))}.{rest}"] = tensor
    return kept


def _check_same_build(blocks: Any, sources: Any, layer_map: Sequence[int]) -> None:
    """Refuse a layer that would be built otherwise at its new place: equal weights alone do not make it do the same."""
    for i, source in enumerate(layer_map):
        difference = _difference(blocks[i], sources[source], (i, source))
        if difference:
            raise StudentError(
                f"student.layers: the teacher's layer {source} cannot be layer {i} of the student, {difference}; "
                f"choose other layers{' and keep layer 0' if i == 0 else ''}, or use student.config"
            )


def _difference(block: nn.Module, source: nn.Module, positions: tuple[int, int]) -> str | None:
    for (name, module), (other_name, other) in zip_longest(
        block.named_modules(), source.named_modules(), fillvalue=("", None)
    ):
        if name != other_name or type(module) is not type(other):
            return f"where {name or other_name} is {type(module).__name__} and not {type(other).__name__}"
        for key, value in vars(module).items():
            known = vars(other).get(key)
            is_position = (value, known) == positions
            if key.startswith("_") or key == "training" or is_position or not isinstance(value, _PLAIN):
                continue
            if value != known:
                return f"where {f'{name}.{key}'.lstrip('.')} is {value!r} and not {known!r}"
    return None


def _check_copied(student: PreTrainedModel, teacher: PreTrainedModel, stack: str, layer_map: Sequence[int]) -> None:
    if teacher.device.type == "meta":
        return  # Only shapes are planned; there is nothing to compare.
    sources = _cut_state(teacher.state_dict(), stack, layer_map)
    for name, tensor in student.state_dict().items():
        if not torch.equal(tensor, sources[name].to(tensor.device, tensor.dtype)):
            raise StudentError(f"student.layers: {name} differs from the teacher's; this is a bug, please report it")
