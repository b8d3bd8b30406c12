"""The grid of a sweep: which keys of a recipe take which values, and all their combinations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_distill.errors import RecipeError
from hf_distill.recipe.load_recipe import parsed_overrides
from hf_distill.recipe.parse import refuse_unless, shown
from hf_distill.recipe.yaml_text import read_yaml_value

PASS = "another value needs another pass of the teacher over the rows, and a sweep makes one"

FIXED = {
    "version": "there is one",
    "name": "it names the folder of the sweep",
    "seed": f"it decides splits, draws and a teacher that its own recipe makes: {PASS}",
    "task": PASS,
    "data": PASS,
    "teacher": PASS,
    "evaluate": "it changes nothing that is trained",
    "hub": "a sweep pushes nothing",
}
"""Keys that are the same for all students of a sweep, and why."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What changes from student to student, and what does not.

    Attributes:
        axes: Values by key of the recipe, in the order given.
        overrides: Values of keys that are the same for all.
    """

    axes: Mapping[str, tuple[Any, ...]]
    overrides: Mapping[str, Any]

    def combinations(self) -> Iterator[dict[str, Any]]:
        """One value for each axis, the last axis changing fastest."""
        for values in itertools.product(*self.axes.values()):
            yield dict(zip(self.axes, values, strict=True))


def read_grid(
    grid: Sequence[str] | Mapping[str, Sequence[Any]], overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Grid:
    """A grid as a person writes it.

    Args:
        grid: ``["objectives.0.temperature=1,2,4"]``, where a value without a comma outside of brackets and quotes is no
            axis but an override; or ``{"objectives.0.temperature": [1, 2, 4]}``.
        overrides: As for :func:`hf_distill.run`.
    """
    fixed = dict(parsed_overrides(overrides))
    axes: dict[str, tuple[Any, ...]] = {}
    for key, values in _of_mapping(grid) if isinstance(grid, Mapping) else _of_texts(grid):
        refuse_unless(key not in axes and key not in fixed, f"recipe.{key}: is given twice; write all its values once")
        if isinstance(values, tuple):
            axes[key] = values
        else:
            fixed[key] = values
    if not axes:
        raise RecipeError(
            "nothing changes from student to student; expected at least one key with several values, such as "
            "training.learning_rate=1e-5,3e-5"
        )
    for key, values in axes.items():
        _check_axis(key, values)
    return Grid(axes=axes, overrides=fixed)


def _of_mapping(grid: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for key, values in grid.items():
        if not isinstance(values, (list, tuple)):
            raise RecipeError(f"recipe.{key}: expected a list of the values to try, got {shown(values)}")
        yield key.removeprefix("recipe."), tuple(values)


def _of_texts(grid: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for text in grid:
        key, _, value = text.partition("=")
        parts = _parts(value)
        if len(parts) == 1 or not key:
            yield parsed_overrides([text])[0]
            continue
        refuse_unless(all(part.strip() for part in parts), f"axis {text!r}: expected a value between any two commas")
        yield (
            key.strip().removeprefix("recipe."),
            tuple(read_yaml_value(part.strip(), f"axis {key}") for part in parts),
        )


def _parts(text: str) -> list[str]:
    """What stands between commas that are in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        elif sign in "[{(":
            depth += 1
        elif sign in "]})":
            depth -= 1
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _check_axis(key: str, values: tuple[Any, ...]) -> None:
    reason = FIXED.get(key.split(".")[0])
    refuse_unless(
        reason is None,
        f"recipe.{key}: cannot change within a sweep: {reason}; give it one value (a list in brackets), and sweep once "
        "for each, under a name of its own (name=...)",
    )
    refuse_unless(len(values) > 0, f"recipe.{key}: expected at least one value, got none")
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    refuse_unless(not twice, f"recipe.{key}: {twice[:1]} is there twice; write each value once")
