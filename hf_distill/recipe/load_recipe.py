"""A recipe's file: read strictly, overridden by dotted keys, and written so that it loads again to the same."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_distill.errors import RecipeError
from hf_distill.names import is_standard
from hf_distill.recipe import Recipe
from hf_distill.recipe.members import teachers_in
from hf_distill.recipe.parse import Section, checked, read, refuse_unless, shown
from hf_distill.recipe.yaml_text import read_yaml, read_yaml_value, write_yaml
from hf_distill.secrets.references import complaint


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    allow_code: bool = False,
) -> Recipe:
    """Read a recipe, put in the overrides, and check every key; what does not fit is refused by its dotted path.

    Args:
        source: A YAML file, a mapping of the same keys, or a loaded recipe.
        overrides: ``["a.b=value"]``, values in YAML, or ``{"a.b": value}``; numbers index lists.
        allow_code: Accept a recipe that names code, as ``package.module:name``, which is imported and run on this
            machine. It is refused unless this is true.
    """
    path = None if isinstance(source, (Mapping, Recipe)) else Path(source)
    content: Any = checked(source if path is None else read_yaml(path), "recipe")
    got = f"expected a mapping of recipe keys, got {type(content).__name__}"
    got = got if content is not None else "holds nothing; expected a mapping of recipe keys"
    told = f"{path}: {got}; see `hf-distill init`"
    refuse_unless(isinstance(content, dict), told)
    _refuse_secrets(content, "recipe")
    for where, teacher in teachers_in(content, "recipe"):
        if isinstance(teacher.get("recipe"), str):
            inlined = checked(read_yaml((path.parent if path else Path()) / teacher["recipe"]), f"{where}.recipe")
            told = f"{where}.recipe: {teacher['recipe']} holds no mapping of recipe keys"
            refuse_unless(isinstance(inlined, Mapping), told)
            _refuse_secrets(inlined, f"{where}.recipe")
            teacher["recipe"] = inlined
    for key, value in parsed_overrides(overrides):
        _override(content, key, value)
    recipe = read(Recipe, checked(content, "recipe"), "recipe")
    check_code([recipe], allow_code)
    return recipe


def dump_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe so that it loads again to an equal one; where it names code, its first line says so."""
    keys = ", ".join(key for key, _ in _code_in(recipe, "recipe"))
    write_yaml(recipe.to_dict(), path, keys and f"Needs --allow-code: {keys}")


def check_code(recipes: Iterable[Recipe], allow_code: bool) -> None:
    """Refuse recipes that name code, all of it at once and before any is imported; Python's own also where allowed."""
    named = dict.fromkeys(pair for recipe in recipes for pair in _code_in(recipe, "recipe"))
    standard = dict.fromkeys(name for _, name in named if is_standard(name))
    if not named or (allow_code and not standard):
        return
    told = f"the recipe names code that would run on this machine ({', '.join(map(': '.join, named))})"
    if not allow_code:
        told += "; read that code, and allow it with --allow-code (in Python: allow_code=True)"
    if standard:
        told += f"; no recipe may use Python's standard library ({', '.join(standard)}): name a module of your own"
    raise RecipeError(told)


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


def _code_in(section: Section, where: str) -> Iterator[tuple[str, str]]:
    """The keys by which a part of a recipe names code, and the code."""
    for each in dataclasses.fields(section):  # type: ignore[arg-type]  # Subclasses are dataclasses.
        value, path = getattr(section, each.name), f"{where}.{each.name}"
        if "code" in each.metadata:
            yield from each.metadata["code"](value, path)
        several = isinstance(value, (tuple, list))
        for key, item in [(f"{path}.{i}", item) for i, item in enumerate(value)] if several else [(path, value)]:
            if isinstance(item, Section):
                yield from _code_in(item, where if each.metadata.get("inlined") else key)


def _override(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    here: Any = content
    path = "recipe"
    for part in parents:
        place = _place(here, part, path)
        path += f".{part}"
        if isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        elif path.endswith("recipe.task") and isinstance(here[part], str):
            here[part] = {"name": here[part]}
        here = here[place]
        refuse_unless(isinstance(here, (dict, list)), f"{path}: holds {shown(here)}, so it has no keys to override")
    here[_place(here, last, path)] = value


def _place(here: Any, part: str, path: str) -> Any:
    if not isinstance(here, list):
        refuse_unless(bool(part), f"{path}.: expected a key between any two dots")
        return part
    if re.fullmatch(r"-?[0-9]{1,9}", part) is None or not -len(here) <= int(part) < len(here):
        raise RecipeError(f"{path}.{part}: expected an index of a list of {len(here)} (0 to {len(here) - 1})")
    return int(part)
