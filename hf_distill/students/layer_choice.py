"""Finds a model's layers, and those of them that a recipe chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from hf_distill.errors import StudentError

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
    total: int
    layer_map: tuple[int, ...]  # Ascending.

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
        return [_cut(model, "", model, "num_hidden_layers", chosen)]
    if not isinstance(chosen, Mapping):
        raise StudentError(
            f"student.layers: {kind} is an encoder-decoder, whose sides are chosen apart; expected a mapping such as "
            f"{{encoder: 6, decoder: [0, -1]}}, got {chosen}; a side that is left out keeps all its layers"
        )
    cuts = []
    for side, part in (("encoder", model.get_encoder()), ("decoder", model.get_decoder())):
        count = next((name for name in _COUNTS[side] if hasattr(model.config, name)), None)
        if count is None or part is None or part is model:
            raise StudentError(f"student.layers: {kind} does not tell how many layers its {side} has; {_WAY_OUT}")
        cuts.append(_cut(model, side, part, count, chosen.get(side, getattr(model.config, count))))
    return cuts


def _cut(model: PreTrainedModel, side: str, part: nn.Module, count: str, chosen: int | Sequence[int]) -> Cut:
    stack, total = layer_stack(model, part, count)
    where = f"student.layers.{side}".rstrip(".")
    return Cut(side=side, stack=stack, count=count, total=total, layer_map=choose_layers(chosen, total, where))


def choose_layers(chosen: int | Sequence[int], total: int, where: str = "student.layers") -> tuple[int, ...]:
    """Which of the teacher's layers to keep, ascending, counted from 0."""
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


def layer_stack(model: PreTrainedModel, part: nn.Module, count: str) -> tuple[str, int]:
    """Find the layers in a model's ``part``: the one list of as many modules of one class as the config's ``count``."""
    config, kind = model.config, type(model).__name__
    if hasattr(config, "num_hidden_groups"):
        raise StudentError(f"student.layers: {kind} uses the same layer at every depth, so none can go; {_WAY_OUT}")
    total = getattr(config, count, 0)
    within = {id(module) for module in part.modules()}
    found = [name for name, module in model.named_modules() if id(module) in within and _is_stack(module, total)]
    outer = [name for name in found if not any(name.startswith(other + ".") for other in found)]
    if len(outer) != 1:
        got = f"several ({', '.join(outer)})" if outer else "none"
        raise StudentError(
            f"student.layers: expected one list of {total} equal layers in {kind}, found {got}; {_WAY_OUT}"
        )
    return outer[0], total


def _is_stack(module: nn.Module, total: int) -> bool:
    if not isinstance(module, nn.ModuleList) or not 0 < len(module) == total:
        return False
    return len({type(block) for block in module}) == 1 and any(True for _ in module[0].children())
