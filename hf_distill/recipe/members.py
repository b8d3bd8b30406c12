"""``teacher.ensemble`` of a recipe: several teachers of one student; and what recipes of teachers inherit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from hf_distill.recipe.data import UNLABELLED
from hf_distill.recipe.parse import Section, above_zero, check_known, plain, read
from hf_distill.recipe.teacher import ALWAYS, SingleTeacher, TeacherConfig

if TYPE_CHECKING:
    from hf_distill.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class MemberConfig(Section, where="recipe.teacher.ensemble"):
    """One of several teachers: the keys of a single one, its name and its weight."""

    teacher: SingleTeacher = field(metadata={"inlined": True})
    """The model, whose keys stand beside the next two."""
    name: str | None = None
    """What it is called, and what rows call it that it alone teaches; the end of ``model`` unless given."""
    weight: float | None = field(default=None, metadata=above_zero("remove a teacher that is to count for nothing"))
    """How much its probabilities count beside the others'; 1 unless given."""

    @override
    def check(self) -> None:
        told = ": a member cannot be cached: one cache keeps what all say together; set teacher.kind: cached"
        self.require(not self.teacher.is_cached, told)

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        if not isinstance(value, Mapping):
            return cls, value
        check_known(value, [*(key for key in ALWAYS if key != "cache"), "name", "weight"], where)
        single = dict(value)
        own = {key: single.pop(key) for key in ("name", "weight") if key in value}
        return cls, {**own, "teacher": read(SingleTeacher, single, where)}  # type: ignore[type-abstract]  # read gives a kind of it.

    @override
    def to_dict(self) -> dict[str, Any]:
        single = self.teacher.to_dict()
        del single["cache"]
        made, kind = {key: single.pop(key) for key in ("model", "recipe")}, single.pop("kind")
        return {**made, "name": self.name, "weight": self.weight, **single, "kind": kind}

    def called(self, number: int) -> str:
        """Its name, or what it is called without one: the end of ``model``, or a number."""
        return self.name or self.teacher.match(lambda local: Path(local.model).name, lambda _: f"teacher-{number + 1}")


@dataclass(frozen=True, kw_only=True)
class EnsembleTeacher(TeacherConfig):
    """Several teachers in place of one: the student learns from the weighted mean of their probabilities."""

    KEY = "ensemble"
    FOREIGN = "does nothing beside ensemble; say it of each member"

    ensemble: tuple[MemberConfig, ...]
    """The members."""
    route: str | None = None
    """A column of the data that names, in each row, the member of ``ensemble`` that alone teaches it."""

    @override
    def check(self) -> None:
        super().check()
        self.require(len(self.ensemble) > 0, ".ensemble: expected at least one teacher, got an empty list")
        twice = ", ".join(sorted({name for name in self.names if self.names.count(name) > 1}))
        self.require(not twice, f".ensemble: two teachers are called {twice}; give each a name of its own (name: ...)")
        told = ".ensemble: some teachers have a device_map and some have none; give one to all, or to none"
        self.require(len({member.teacher.device_map is None for member in self.ensemble}) == 1, told)
        if self.route is not None:
            told = f".route: rows name their teacher in column {self.route!r}, so each needs a name; give every member "
            named = all(member.name is not None for member in self.ensemble)
            self.require(named, told + "of teacher.ensemble one (name: ...)")
            told = ".ensemble: weight does nothing where teacher.route gives each row one teacher; remove it, or "
            self.require(all(member.weight is None for member in self.ensemble), told + "remove route")

    @property
    @override
    def members(self) -> tuple[MemberConfig, ...]:
        return self.ensemble

    @property
    @override
    def models(self) -> tuple[SingleTeacher, ...]:
        return tuple(member.teacher for member in self.ensemble)

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return () if self.route is None else (self.route,)

    @property
    def names(self) -> list[str]:
        """What its members are called."""
        return [member.called(number) for number, member in enumerate(self.ensemble)]

    @override
    def with_recipes(self, change: Callable[[Recipe], Recipe]) -> Self:
        changed = [dataclasses.replace(each, teacher=each.teacher.with_recipes(change)) for each in self.ensemble]
        return dataclasses.replace(self, ensemble=tuple(changed))


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
    filled: dict[str, Any] = plain(content)
    for place, teacher in teachers_in(filled, ""):
        if isinstance(teacher.get("recipe"), Mapping):
            number = place.rpartition(".")[2]
            name = f"{content.get('name')}-teacher" + (f"-{int(number) + 1}" if number.isdigit() else "")
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
