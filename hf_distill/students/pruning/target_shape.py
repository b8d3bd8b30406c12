"""The shape that a recipe requests: sizes that fit each other, or the widest within a share of the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hf_distill.errors import StudentError
from hf_distill.students.pruning.families import (
    Shape,
    family_of,
    family_of_shapes,
    head_counts,
    head_size,
    pruned_config,
    rounded,
    shape_of,
)

if TYPE_CHECKING:
    from hf_distill.recipe import WidthConfig

Count = Callable[[Shape], int]  # How many parameters a model of a shape has.


def chosen_shape(model: PreTrainedModel, width: WidthConfig, parameters: int) -> Shape:
    """The shape that ``student.width`` requests of a model, where ``parameters`` are those of the whole source."""
    config = model.config
    if width.target is None:
        shape = explicit_shape(config, width)
    else:
        most = int(width.target * parameters)
        shape = largest_shape(config, most, lambda each: count_parameters(type(model), config, each))
    if family_of(config).experts and (shape.hidden_size % 8 or shape.intermediate_size % 8):
        raise StudentError(
            "student.width: experts are multiplied at once, which needs multiples of 8; expected a hidden_size and an "
            f"intermediate_size of that kind, got {shape.hidden_size} and {shape.intermediate_size}"
        )
    return shape


def count_parameters(kind: type[PreTrainedModel], config: PretrainedConfig, shape: Shape) -> int:
    """How many parameters a model of a class would have in another shape, embeddings included."""
    with torch.device("meta"):
        return int(kind(pruned_config(config, shape)).num_parameters())


def largest_shape(config: PretrainedConfig, most: int, count: Count) -> Shape:
    """The largest shape of the family with at most ``most`` parameters: units take up what is left.

    That is more of them, or, where there are no more, fewer beside the next hidden size.
    """
    shapes = family_of_shapes(config)
    source, least, total = shapes[-1], count(shapes[0]), count(shapes[-1])
    if least > most:
        raise StudentError(
            f"student.width.target: expected at least {least:,} parameters, which it has with {shapes[0].heads} of "
            f"{source.heads} heads, {shapes[0].hidden_size} channels and {shapes[0].intermediate_size} units, got "
            f"{most:,}; raise it, keep fewer student.layers, or cut student.vocabulary"
        )
    if total <= most:
        raise StudentError(
            f"student.width.target: does nothing, the model has {total:,} parameters before it is narrowed, and "
            f"{most:,} are allowed; lower it, or remove student.width"
        )
    first, last = 0, len(shapes) - 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if count(shapes[middle]) <= most else (first, middle)
    chosen = _with_units(shapes[first], most, count)
    if chosen.intermediate_size <= source.intermediate_size:
        return chosen
    higher = _with_units(shapes[last], most, count)
    if 2 * higher.intermediate_size >= shapes[first].intermediate_size:
        return higher
    return dataclasses.replace(chosen, intermediate_size=source.intermediate_size)


def _with_units(shape: Shape, most: int, count: Count) -> Shape:
    """The shape with as many units as fit: the number of parameters grows evenly with them."""
    one = count(dataclasses.replace(shape, intermediate_size=1))
    each = count(dataclasses.replace(shape, intermediate_size=2)) - one
    units = 1 + (most - one) // each
    # Multiples of 8 are computed faster.
    return dataclasses.replace(shape, intermediate_size=units - units % 8 if units >= 8 else units)


def explicit_shape(config: PretrainedConfig, width: WidthConfig) -> Shape:
    """The shape of sizes that a recipe names; what is not named stays as it is, or follows."""
    source, family = shape_of(config), family_of(config)
    units = _size("intermediate_size", width.intermediate_size, source.intermediate_size)
    if family.head_size == "follows":
        hidden, heads = _together(width, source, head_size(config))
        return Shape(hidden_size=hidden, heads=heads, key_value_heads=heads, intermediate_size=units)
    counts = head_counts(source)
    heads = _heads(width.heads, source.heads, list(counts))
    hidden = _size("hidden_size", width.hidden_size, source.hidden_size)
    if family.head_size == "divides" and hidden % heads:
        if not isinstance(width.hidden_size, float):
            raise StudentError(
                f"student.width.hidden_size: expected a multiple of the {heads} heads, which {config.model_type} asks "
                f"for, got {hidden}; {_around(hidden, heads, source.hidden_size)} would do"
            )
        hidden = heads * max(1, hidden // heads)
    return Shape(hidden_size=hidden, heads=heads, key_value_heads=counts[heads], intermediate_size=units)


def _together(width: WidthConfig, source: Shape, size: int) -> tuple[int, int]:
    """Hidden size and heads where all heads together have the hidden size."""
    hidden, heads = width.hidden_size, width.heads
    if hidden is None and heads is None:
        return source.hidden_size, source.heads
    if isinstance(hidden, int):
        _size("hidden_size", hidden, source.hidden_size)
        if hidden % size:
            raise StudentError(
                f"student.width.hidden_size: expected a multiple of {size}, the size of a head, which stays as it is, "
                f"got {hidden}; {_around(hidden, size, source.hidden_size)} would do"
            )
    elif hidden is not None:
        hidden = size * max(1, round(hidden * source.heads))
    count = None if heads is None else _heads(heads, source.heads, range(1, source.heads + 1))
    if hidden is not None and count is not None and hidden != count * size:
        raise StudentError(
            f"student.width: expected {hidden // size} heads of {size} channels for a hidden size of {hidden}, got "
            f"{count}; set heads to {hidden // size} or hidden_size to {count * size}, or leave one out"
        )
    if count is not None:
        return count * size, count
    assert hidden is not None
    return hidden, hidden // size


def _size(name: str, value: float | None, full: int) -> int:
    """A whole number as it is, or a share of the source's, rounded to a multiple of 8 where possible."""
    if value is None:
        return full
    if isinstance(value, float):
        return min(rounded(value * full), full)
    if value > full:
        raise StudentError(f"student.width.{name}: expected at most {full}, which the source has, got {value}")
    return value


def _heads(value: float | None, full: int, allowed: Sequence[int]) -> int:
    if value is None:
        return full
    if isinstance(value, float):
        return min(allowed, key=lambda count: abs(count - value * full))
    if value not in allowed:
        some = f"1 to {full}" if len(allowed) == full else f"one of {', '.join(map(str, allowed))}"
        raise StudentError(f"student.width.heads: expected {some} (the source has {full}), got {value}")
    return value


def _around(value: int, step: int, largest: int) -> str:
    below = value // step * step
    return " or ".join(str(each) for each in (below, below + step) if 0 < each <= largest)
