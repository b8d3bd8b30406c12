"""Several teachers of one student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_distill.recipe.parse import refuse_unless


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """One of several teachers."""

    model: str | None = None
    """A Hub id or folder."""
    recipe: Any = None
    """How to make it, as of a single teacher; its own seed makes another one of the same recipe."""
    name: str | None = None
    """What it is called, and what rows call it that it alone teaches; the end of ``model`` unless given."""
    weight: float | None = None
    """How much its probabilities count beside the others'; 1 unless given."""
    revision: str | None = None
    """A branch, tag or commit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """As of a single teacher."""
    labels: list[str] | None = None
    """The names of its outputs in its own order, where its config does not tell them."""
    device_map: str | None = None
    """How to spread it over devices; all members say it, or none."""
    kind: str = "live"
    """A member is live; what all say together may be cached, see ``teacher.kind``."""

    def __post_init__(self) -> None:
        where = "recipe.teacher.ensemble"
        refuse_unless(
            (self.model is None) != (self.recipe is None), f"{where}: expected exactly one of model and recipe of each"
        )
        for name in ("revision", "labels"):
            refuse_unless(
                self.model is not None or getattr(self, name) is None,
                f"{where}: {name} does nothing for a teacher made by a recipe; remove it",
            )
        refuse_unless(
            getattr(self.recipe, "teacher", None) is None,
            f"{where}: the recipe of a teacher trains on labels alone; remove its teacher",
        )
        refuse_unless(
            self.weight is None or 0 < self.weight < float("inf"),
            f"{where}: expected a finite weight above 0, got {self.weight}; remove a teacher that is to count for "
            "nothing",
        )
        refuse_unless(
            self.kind == "live",
            f"{where}: a member cannot be {self.kind}: one cache keeps what all say together; set teacher.kind: cached",
        )

    def called(self, number: int) -> str:
        """Its name, or what it is called without one: the end of ``model``, or a number."""
        return self.name or (Path(self.model).name if self.model is not None else f"teacher-{number + 1}")


def check_ensemble(members: tuple[MemberConfig, ...], route: str | None) -> None:
    """Refuse members that do not go together.

    Raises:
        RecipeError: With the way out.
    """
    refuse_unless(len(members) > 0, "recipe.teacher.ensemble: expected at least one teacher, got an empty list")
    names = [member.called(number) for number, member in enumerate(members)]
    twice = sorted({name for name in names if names.count(name) > 1})
    refuse_unless(
        not twice,
        f"recipe.teacher.ensemble: two teachers are called {', '.join(twice)}; give each a name of its own (name: ...)",
    )
    refuse_unless(
        len({member.device_map is None for member in members}) == 1,
        "recipe.teacher.ensemble: some teachers have a device_map and some have none; give one to all, or to none",
    )
    if route is None:
        return
    refuse_unless(
        all(member.name is not None for member in members),
        f"recipe.teacher.route: rows name their teacher in column {route!r}, so each needs a name; give every member "
        "of teacher.ensemble one (name: ...)",
    )
    refuse_unless(
        all(member.weight is None for member in members),
        "recipe.teacher.ensemble: weight does nothing where teacher.route gives each row one teacher; remove it, or "
        "remove route",
    )
