"""A recipe's file: read strictly, overridden by dotted keys, and written so that it loads again to the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.recipe.members import teachers_in
from hf_distill.recipe.parse import plain, read, read_yaml, read_yaml_value, refuse_unless, shown, write_yaml
from hf_distill.secrets.references import complaint


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """Read a recipe, put in the overrides, and check every key; what does not fit is refused by its dotted path.

    Args:
        source: A YAML file, a mapping of the same keys, or a loaded recipe.
        overrides: ``["a.b=value"]``, values in YAML, or ``{"a.b": value}``; numbers index lists.
    """
    path = None if isinstance(source, (Mapping, Recipe)) else Path(source)
    content: Any = plain(source if path is None else read_yaml(path))
    told = f"{path}: expected a mapping of recipe keys, got {type(content).__name__}; see `hf-distill init`"
    refuse_unless(isinstance(content, dict), told)
    _refuse_secrets(content, "recipe")
    for where, teacher in teachers_in(content, "recipe"):
        if isinstance(teacher.get("recipe"), str):
            inlined = read_yaml((path.parent if path else Path()) / teacher["recipe"])
            told = f"{where}.recipe: {teacher['recipe']} holds no mapping of recipe keys"
            refuse_unless(isinstance(inlined, Mapping), told)
            _refuse_secrets(inlined, f"{where}.recipe")
            teacher["recipe"] = plain(inlined)
    for key, value in parsed_overrides(overrides):
        _override(content, key, value)
    return read(Recipe, content, "recipe")


def dump_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe so that it loads again to an equal one."""
    write_yaml(recipe.to_dict(), path)


def parsed_overrides(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values of overrides, see :func:`load_recipe`."""
    pairs = list(overrides.items()) if isinstance(overrides, Mapping) else []
    for text in () if isinstance(overrides, Mapping) else overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {text!r}: expected key=value, such as training.learning_rate=3e-5")
        pairs.append((key.strip().removeprefix("recipe."), read_yaml_value(value, f"override {key}")))
    for key, value in pairs:
        _refuse_secrets(value, f"recipe.{key}")
    return pairs


def _refuse_secrets(content: Any, where: str) -> None:
    """Refuse a secret that stands in a recipe as it is, before anything else is said of the recipe."""
    told = complaint(content, where)
    refuse_unless(told is None, told or "")


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here: Any = content
    path = "recipe"
    for part in parents:
        place = _place(here, part, path)
        path += f".{part}"
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        elif path == "recipe.task" and isinstance(here[part], str):
            here[part] = {"name": here[part]}
        here = here[place]
        refuse_unless(isinstance(here, (dict, list)), f"{path}: holds {shown(here)}, so it has no keys to override")
    here[_place(here, last, path)] = value


def _place(here: Any, part: str, path: str) -> Any:
    if not isinstance(here, list):
        return part
    if not part.lstrip("-").isdigit() or not -len(here) <= int(part) < len(here):
        raise RecipeError(f"{path}.{part}: expected an index of a list of {len(here)} (0 to {len(here) - 1})")
    return int(part)
