"""``teacher.ensemble`` of a recipe: several teachers of one student."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from hf_distill.recipe.parse import Section, above_zero, check_known, read
from hf_distill.recipe.teacher import ALWAYS, SingleTeacher, TeacherConfig

if TYPE_CHECKING:
    from hf_distill.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class MemberConfig(Section, where="recipe.teacher.ensemble"):
    """One of several teachers: the keys of a single one, its name and its weight."""

    teacher: SingleTeacher
    """The model."""
    name: str | None = None
    """What it is called, and what rows call it that it alone teaches; the end of ``model`` unless given."""
    weight: float | None = field(default=None, metadata=above_zero("remove a teacher that is to count for nothing"))
    """How much its probabilities count beside the others'; 1 unless given."""

    @override
    def check(self) -> None:
        self.require(
            not self.teacher.is_cached,
            ": a member cannot be cached: one cache keeps what all say together; set teacher.kind: cached",
        )

    @classmethod
    @override
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        if not isinstance(value, Mapping):
            return cls, value
        check_known(value, [*(key for key in ALWAYS if key != "cache"), "name", "weight"], where)
        own = {key: item for key, item in value.items() if key in ("name", "weight")}
        single = {key: item for key, item in value.items() if key not in own}
        return cls, {**own, "teacher": read(SingleTeacher, single, where)}

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
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        self.require(
            not twice,
            f".ensemble: two teachers are called {', '.join(twice)}; give each a name of its own (name: ...)",
        )
        self.require(
            len({member.teacher.device_map is None for member in self.ensemble}) == 1,
            ".ensemble: some teachers have a device_map and some have none; give one to all, or to none",
        )
        if self.route is not None:
            self.require(
                all(member.name is not None for member in self.ensemble),
                f".route: rows name their teacher in column {self.route!r}, so each needs a name; give every member of "
                "teacher.ensemble one (name: ...)",
            )
            self.require(
                all(member.weight is None for member in self.ensemble),
                ".ensemble: weight does nothing where teacher.route gives each row one teacher; remove it, or remove "
                "route",
            )

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
