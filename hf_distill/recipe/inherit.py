"""What a teacher's own recipe holds unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.recipe.data import UNLABELLED
from hf_distill.recipe.parse import copied


def teachers_in(content: Mapping[str, Any], where: str) -> list[tuple[str, dict[str, Any]]]:
    """The mappings of a recipe's teacher and of its members, by where they stand."""
    teacher = content.get("teacher")
    if not isinstance(teacher, dict):
        return []
    several = teacher.get("ensemble")
    members = enumerate(several if isinstance(several, list) else ())
    named = [(f"{where}.teacher.ensemble.{i}", member) for i, member in members if isinstance(member, dict)]
    return [(f"{where}.teacher", teacher), *named]


def with_inherited(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same, its teachers' recipes with what they inherit."""
    filled: dict[str, Any] = copied(content)
    for place, teacher in teachers_in(filled, ""):
        if isinstance(teacher.get("recipe"), Mapping):
            number = place.rpartition(".")[2]
            suffix = f"-{int(number) + 1}" if number.isdigit() else ""
            name = f"{content.get('name')}-teacher{suffix}"
            teacher["recipe"] = {"name": name, **_inherited(content), **teacher["recipe"]}
    return filled


def _inherited(content: Mapping[str, Any]) -> dict[str, Any]:
    inherited = {key: content[key] for key in ("version", "seed", "task", "data") if key in content}
    if isinstance(content.get("data"), Mapping):
        inherited["data"] = {k: v for k, v in content["data"].items() if k not in UNLABELLED}
        columns, route = inherited["data"].get("columns"), content["teacher"].get("route")
        if isinstance(columns, Mapping) and route in columns:  # Which a teacher of its own does not ask for.
            inherited["data"]["columns"] = {k: v for k, v in columns.items() if k != route}
    return inherited
