"""Names: when two are the same, which known one is meant, and how many of them a message shows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence


def folded(name: str) -> str:
    """A label's name without what makes no difference: case, outer blanks, and how words are joined."""
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())


def are_generic(names: Sequence[str]) -> bool:
    """Whether labels are only numbered, as Transformers calls them where nobody named them: LABEL_0, LABEL_1, ..."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the nearest known name; nothing where none is near."""
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """As :func:`nearest`, but where none is near, the list of all."""
    known = list(known)
    return nearest(name, known) or f"; expected one of {', '.join(known)}"
