"""A recipe's file: read strictly, overridden by dotted keys, and written so that it loads again to the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.recipe.inherit import teachers_in
from hf_distill.recipe.parse import copied, read, read_yaml, read_yaml_value, refuse_unless, shown, write_yaml


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """Read a recipe, put in the overrides, and check every key.

    Args:
        source: A YAML file, a mapping of the same keys, or a loaded recipe.
        overrides: ``["a.b=value"]``, values in YAML, or ``{"a.b": value}``; numbers index lists.

    Raises:
        RecipeError: For anything that does not fit, by its dotted path.
    """
    if isinstance(source, Recipe):
        source = source.to_dict()
    path = None if isinstance(source, Mapping) else Path(source)
    content: Any = dict(source) if isinstance(source, Mapping) else read_yaml(Path(source))
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"{path}: expected a mapping of recipe keys, got {type(content).__name__}; see `hf-distill init`"
        )
    content = copied(content)
    for where, teacher in teachers_in(content, "recipe"):
        if isinstance(teacher.get("recipe"), str):
            inlined = read_yaml((path.parent if path else Path()) / teacher["recipe"])
            refuse_unless(
                isinstance(inlined, Mapping), f"{where}.recipe: {teacher['recipe']} holds no mapping of recipe keys"
            )
            teacher["recipe"] = copied(inlined)
    for key, value in parsed_overrides(overrides):
        _override(content, key, value)
    return read(Recipe, content, "recipe")


def dump_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe so that it loads again to an equal one."""
    write_yaml(recipe.to_dict(), path)


def parsed_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values of overrides, see :func:`load_recipe`."""
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {text!r}: expected key=value, such as training.learning_rate=3e-5")
        pairs.append((key.strip().removeprefix("recipe."), read_yaml_value(value, f"override {key}")))
    return pairs


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here: Any = content
    path = "recipe"
    for part in parents:
        here = _enter(here, part, path)
        path += f".{part}"
    if isinstance(here, list):
        here[_index(here, last, path)] = value
    else:
        here[last] = value


def _enter(here: Any, part: str, path: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, part, path)]
    if here.get(part) is None:
        here[part] = {}
    if path == "recipe" and part == "task" and isinstance(here[part], str):
        here[part] = {"name": here[part]}
    if not isinstance(here[part], (dict, list)):
        raise RecipeError(f"{path}.{part}: holds {shown(here[part])}, so it has no keys to override")
    return here[part]


def _index(here: list[Any], part: str, path: str) -> int:
    if not part.lstrip("-").isdigit() or not -len(here) <= int(part) < len(here):
        raise RecipeError(f"{path}.{part}: expected an index of a list of {len(here)} (0 to {len(here) - 1})")
    return int(part)
