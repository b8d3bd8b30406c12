"""Finds a model's layers, and those of them that a recipe chooses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from hf_distill.errors import StudentError
from hf_distill.models.sizes import is_staged, sizes_of, text_part

_COUNTS = {  # What configs call the number of layers of each side; the first that a config has.
    "encoder": ("encoder_layers", "num_encoder_layers", "num_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
_WAY_OUT = "use student.config or student.pretrained"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which layers are kept of one stack."""

    side: str  # ``encoder`` or ``decoder`` of an encoder-decoder, else empty.
    stack: str  # The name of the list of layers among the model's modules.
    count: str  # The config's attribute for their number.
    layer_map: tuple[int, ...]  # Ascending.
    total: int

    @property
    def layers(self) -> list[str]:
        """The names of the kept layers among the model's modules."""
        return [f"{self.stack}.{i}" for i in self.layer_map]

    def __str__(self) -> str:
        return f"{self.side} layers {', '.join(map(str, self.layer_map))} of {self.total}".lstrip()


def chosen_cuts(model: PreTrainedModel, chosen: int | list[int] | dict[str, int | list[int]]) -> list[Cut]:
    """Which layers of a model a recipe keeps, by stack; a side that is not named keeps all."""
    kind = type(model).__name__
    if not model.config.is_encoder_decoder:
        if isinstance(chosen, Mapping):
            raise StudentError(
                f"student.layers: {kind} has one stack of layers, so there are no sides to choose from; expected a "
                f"number or a list, got {dict(chosen)}"
            )
        chosen = {"": chosen}
    elif not isinstance(chosen, Mapping):
        raise StudentError(
            f"student.layers: {kind} is an encoder-decoder, whose sides are chosen apart; expected a mapping such as "
            f"{{encoder: 6, decoder: [0, -1]}}, got {chosen}; a side that is left out keeps all its layers"
        )
    return [
        dataclasses.replace(each, layer_map=choose_layers(chosen[each.side], each.total, f"student.layers.{each.side}"))
        if each.side in chosen
        else each
        for each in all_layers(model)
    ]


def all_layers(model: PreTrainedModel) -> list[Cut]:
    """The stacks of a model, of which all layers are kept."""
    if is_staged(model.config):
        depths = getattr(model.config, "depths", None)
        fewer = f"such as {{depths: {[max(1, depth // 2) for depth in depths]}}}, " if depths else ""
        raise StudentError(
            f"student.layers: the layers of {type(model).__name__} stand in stages of different shapes, so they cannot "
            f"be chosen from one list; use student.config, {fewer}or student.pretrained"
        )
    if not model.config.is_encoder_decoder:
        return [_all_layers(model, "", text_part(model), "num_hidden_layers")]
    stacks = []
    for side, part in (("encoder", model.get_encoder()), ("decoder", model.get_decoder())):
        sizes = sizes_of(model.config, side)
        # One config for both sides calls the encoder's layers num_hidden_layers.
        names = _COUNTS[side] if sizes is model.config else ("num_hidden_layers",)
        count = next((name for name in names if hasattr(sizes, name)), None)
        if count is None or part is None or part is model:
            kind = type(model).__name__
            raise StudentError(f"student.layers: {kind} does not tell how many layers its {side} has; {_WAY_OUT}")
        stacks.append(_all_layers(model, side, part, count))
    return stacks


def _all_layers(model: PreTrainedModel, side: str, part: nn.Module, count: str) -> Cut:
    total = getattr(sizes_of(model.config, side), count, 0)
    return Cut(side=side, stack=_stack(model, part, total), count=count, total=total, layer_map=tuple(range(total)))


def choose_layers(chosen: int | Sequence[int], total: int, where: str = "student.layers") -> tuple[int, ...]:
    """Which of the teacher's layers to keep, ascending, counted from 0."""
    where = where.rstrip(".")
    if isinstance(chosen, int):
        if not 1 <= chosen <= total:
            raise StudentError(f"{where}: expected 1 to {total} (the teacher's layers), got {chosen}")
        return tuple(round(i * (total - 1) / max(chosen - 1, 1)) for i in range(chosen))
    if not chosen:
        raise StudentError(f"{where}: expected at least one layer, got an empty list")
    for i in chosen:
        if not -total <= i < total:
            raise StudentError(f"{where}: the teacher has no layer {i}; expected 0 to {total - 1}, or {-total} to -1")
    layers = [index % total for index in chosen]
    if layers != (right := sorted(set(layers))):
        raise StudentError(f"{where}: expected each layer once, in the teacher's order, got {[*chosen]}; write {right}")
    return tuple(layers)


def _stack(model: PreTrainedModel, part: nn.Module, total: int) -> str:
    """The name of the layers in a model's ``part``: the one list of as many modules as there are layers."""
    kind = type(model).__name__
    if hasattr(model.config, "num_hidden_groups"):
        raise StudentError(f"student.layers: {kind} uses the same layer at every depth, so none can go; {_WAY_OUT}")
    within = {id(module) for module in part.modules()}
    found = [name for name, module in model.named_modules() if id(module) in within and _is_stack(module, total)]
    outer = [name for name in found if not any(name.startswith(other + ".") for other in found)]
    if len(outer) > 1:
        # Encoders of sounds have stacks of convolutions, too, which may be as many as their layers.
        outer = [name for name in outer if _attends(model.get_submodule(name))] or outer
    if len(outer) != 1:
        got = f"several ({', '.join(outer)})" if outer else "none"
        raise StudentError(f"student.layers: expected one list of {total} layers in {kind}, found {got}; {_WAY_OUT}")
    return outer[0]


def _is_stack(module: nn.Module, total: int) -> bool:
    if not isinstance(module, nn.ModuleList) or not 0 < len(module) == total:
        return False
    return all(any(True for _ in block.children()) for block in module)


def _attends(stack: nn.Module) -> bool:
    return all(any("att" in name for name, _ in block.named_children()) for block in stack.children())
