"""Which student layer learns from which teacher layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from transformers import PretrainedConfig

from hf_distill.errors import ObjectiveError
from hf_distill.models.forward import compared_layers, encoder_layers

Layers = Literal["auto"] | Mapping[int, int]
"""What the option ``layers`` may be: evenly spaced, or student layer -> teacher layer, negative from the end."""


def spaced_layer_map(student_layers: int, teacher_layers: int) -> dict[int, int]:
    """Student layer -> teacher layer, evenly spaced, the last learning from the last: "skip" of Sun et al. 2019."""
    return {i: round((i + 1) * teacher_layers / student_layers) - 1 for i in range(student_layers)}


def check_layers(name: str, layers: Layers) -> None:
    """Refuse an option ``layers`` of objective ``name`` that is neither ``auto`` nor a map of integers."""
    if layers == "auto":
        return
    whole = isinstance(layers, Mapping) and all(type(number) is int for pair in layers.items() for number in pair)
    if not whole or not layers:
        raise ObjectiveError(
            f"{name}: layers must be auto or a mapping of student to teacher layers as {{0: 1, 1: 3}}, got {layers!r}"
        )


def chosen_layers(
    name: str, layers: Layers, student: PretrainedConfig, teacher: PretrainedConfig, *, of_encoder: bool = False
) -> dict[int, int]:
    """The layers of a pair of models that the option ``layers`` of objective ``name`` means, counted from 0."""
    depths = [encoder_layers(config) if of_encoder else compared_layers(config) for config in (student, teacher)]
    for depth, config in zip(depths, (student, teacher), strict=True):
        if depth is None:
            kind = config.model_type
            raise ObjectiveError(f"{name}: side: encoder: {kind} has one stack of layers, no encoder; remove it")
    own, other = (depth or 0 for depth in depths)
    if not isinstance(layers, Mapping):
        return spaced_layer_map(own, other)
    chosen = {_within(name, i, own, "student"): _within(name, j, other, "teacher") for i, j in layers.items()}
    if len(chosen) < len(layers):
        raise ObjectiveError(
            f"{name}: layers names a student layer twice ({dict(layers)}, the student has {own} layers); "
            "each learns from one teacher layer: remove one"
        )
    # In the order of the layers, not of the recipe: it decides how weights of projections are drawn.
    return dict(sorted(chosen.items()))


def readable(layer_map: Mapping[int, int]) -> str:
    """``0 <- 1, 1 <- 3``."""
    return ", ".join(f"{i} <- {j}" for i, j in layer_map.items())


def _within(name: str, layer: int, total: int, whose: str) -> int:
    if not -total <= layer < total:
        raise ObjectiveError(f"{name}: layer {layer} of the {whose} is out of range, expected {-total} to {total - 1}")
    return layer % total
