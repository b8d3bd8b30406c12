"""How tags mark entities: the schemes of named-entity recognition, read as one."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

OUTSIDE = "O"
"""The tag of a word that is part of nothing, in :attr:`Scheme.tags`."""

_LETTERS = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S", "M": "I", "W": "S"}
"""What tells where in an entity a word stands, and what it is in IOBES: begin, inside, end, single."""

_BEFORE = re.compile(r"([BIESLUMW])[-_](.+)", re.IGNORECASE)
_BEHIND = re.compile(r"(.+)[-_]([BIESLUMW])", re.IGNORECASE)


@dataclass(frozen=True)
class Scheme:
    """What the labels of words say.

    Attributes:
        name: As the literature calls it; None where labels mark no entities (parts of speech, numbers).
        tags: Of each label what it is in IOBES: B-x, I-x, E-x, S-x or O.
    """

    name: str | None
    tags: tuple[str, ...]

    @property
    def outside(self) -> int | None:
        """Which label stands for no entity."""
        return self.tags.index(OUTSIDE) if OUTSIDE in self.tags else None


@functools.lru_cache
def read_scheme(names: tuple[str, ...]) -> Scheme:
    """The scheme of labels; where most of them mark an entity, the others are entities of one word."""
    inside = [name for name in names if not _is_outside(name)]
    split = {name: _letter_and_type(name) for name in inside}
    bare = {name.upper() for name in inside}
    if len(inside) < len(names) and bare <= set(_LETTERS) and bare & {"B", "I"}:
        split = {name: (name.upper(), "entity") for name in inside}
    marked = [found[0] for found in split.values() if found is not None]
    if not marked or len(marked) * 2 < len(inside):
        return Scheme(None, tuple(OUTSIDE if _is_outside(name) else f"S-{name}" for name in names))
    letters = set(marked)
    tags = []
    for name in names:
        letter, kind = split.get(name) or ("S", name)
        tags.append(OUTSIDE if _is_outside(name) else f"{_LETTERS[letter]}-{kind}")
    return Scheme(_called(letters), tuple(tags))


def _called(letters: set[str]) -> str:
    if letters & {"L", "U"}:
        return "BILOU"
    if "M" in letters:
        return "BMES"
    if letters & {"E", "S", "W"}:
        return "IOBES"
    return "IOB" if "B" in letters else "IO"


def _is_outside(name: str) -> bool:
    return name.strip().upper() in ("O", "OUT", "OUTSIDE")


def _letter_and_type(name: str) -> tuple[str, str] | None:
    if found := _BEFORE.fullmatch(name):
        return found[1].upper(), found[2]
    found = _BEHIND.fullmatch(name)
    return (found[2].upper(), found[1]) if found else None
