"""Names: when two are the same, which known one is meant, what a dotted path names, what others are shown of one."""

from __future__ import annotations

import difflib
import functools
import importlib
import re
import sys
import types
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

UNSEEN = frozenset({"Cc", "Cf", "Cs"})
"""Unicode's categories of characters that steer what is shown, and are not seen themselves: control characters, marks
of direction and of no width, halves of surrogates."""

_ROOT = r"(?:file://[^\s/]*/+|(?<!:)/+|(?<=:)/(?!/)|~[\w.-]*/|(?:\.\./)+|[A-Za-z]:[\\/]|\\\\)"
_WHOLE = re.compile(rf"((?:[\w.-]+=|[\w.-]{{2,}}:)?)({_ROOT}.*)", re.DOTALL)
"""A path that leads out of where a run was started, and nothing else, but perhaps a key before it."""
_INSIDE = re.compile(rf"(?<![\w./~\\-]){_ROOT}(?:[^\s/\\'\",\]}}]+[\\/])*")
"""The folders of such a path inside a text."""


def folded(name: str) -> str:
    """A label's name without what makes no difference: case, outer blanks, and how words are joined."""
    return re.sub(r"[\s_-]+", " ", name.strip().casefold())


def are_generic(names: Sequence[str]) -> bool:
    """Whether labels are only numbered, as Transformers calls them where nobody named them: LABEL_0, LABEL_1, ..."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_hub_id(name: str) -> bool:
    """Whether the Hub allows a repository of this name: ``user/name``, or ``name``."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.isascii()


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the nearest known name; nothing where none is near."""
    found = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """As :func:`nearest`, but where none is near, the list of all."""
    known = list(known)
    return nearest(name, known) or f"; expected one of {', '.join(known)}"


def look_up(name: str, registry: Mapping[str, Any], what: str, error: type[Exception], base: type | None = None) -> Any:
    """The entry of a registry, or what ``package.module:Class`` names; see :func:`plug_in`."""
    if name in registry:
        return registry[name]
    if ":" in name:
        return plug_in(name, what, error, base)
    known = f"{nearest(name, registry)}; choose one of {', '.join(registry)}, or name your own as {_form(base)}"
    raise error(f"{what}: {name!r} is unknown{known}")


DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""``package.module:name``; a name with dots would reach into what a module has imported."""
OF_EVALUATE = "evaluate:"
"""What stands before the folder or Hub id of a metric of the library `evaluate`, whose script is code, too."""
STANDARD = sys.stdlib_module_names | {"test"}
"""Python's own modules, in which there is a function for any harm."""


def could_be_code(name: str) -> bool:
    """Whether a text has the form of something that names code."""
    return DOTTED.fullmatch(name) is not None or (name.startswith(OF_EVALUATE) and name.isprintable())


def is_standard(path: str) -> bool:
    """Whether a dotted path names something of Python's standard library."""
    return ":" in path and re.split(r"[.:]", path)[0] in STANDARD


def plug_in(path: str, what: str, error: type[Exception], base: type | None = None) -> Any:
    """Import what a dotted path names: ``my_package.losses:MyLoss``; nothing of Python's standard library.

    Who reads the path from a recipe has asked before whether its code may run.
    """
    if DOTTED.fullmatch(path) is None:
        raise error(f"{what}: {path!r} names nothing that can be imported; expected {_form(base)}")
    module, _, name = path.partition(":")
    standard = (
        f"{what}: {path} is of Python's standard library, of which nothing is ever called; name a module of your own"
    )
    if is_standard(path):
        raise error(standard)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as cause:  # Whatever a module raises where it is imported.
        raise error(
            f"{what}: {path} cannot be imported ({type(cause).__name__}: {cause}); expected {_form(base)}"
        ) from cause
    if any(is_standard(f"{home}:") for home in _homes(found)) and callable(found):
        raise error(standard)
    if base is None and not callable(found):
        raise error(f"{what}: {path} is of type {type(found).__name__} and cannot be called; expected {_form(base)}")
    if base is not None and not (isinstance(found, type) and issubclass(found, base)):
        home = base.__module__.rpartition(".")[0] or base.__module__
        raise error(f"{what}: {path} is no subclass of {home}.{base.__name__}")
    return found


def check_values(cls: type, name: str, known: Iterable[str], error: type[Exception], *, several: bool = False) -> None:
    """Refuse a class whose attribute is missing, or has a value that does not exist."""
    value, known = getattr(cls, name, None), tuple(known)
    right = isinstance(value, (set, frozenset, tuple)) and set(value) <= set(known) if several else value in known
    if not right:
        got = "none" if value is None else sorted(value) if isinstance(value, (set, frozenset, tuple)) else repr(value)
        expected = f"a set of {', '.join(known)}" if several else f"one of {', '.join(known)}"
        raise error(f"{cls.__module__}.{cls.__qualname__}: {name}: expected {expected}, got {got}")


def _homes(found: Any) -> Iterator[str]:
    """The modules that define a callable, or its class, and those of what it wraps or is bound to."""
    inner = [getattr(found, name) for name in ("__self__", "__func__", "__wrapped__") if hasattr(found, name)]
    if isinstance(found, functools.partial):
        inner = [found.func]
    for each in inner:
        yield from _homes(each)
    if isinstance(found, types.ModuleType):
        yield found.__name__
    elif isinstance(found, (type, types.FunctionType)):
        yield found.__module__
    elif not inner:
        yield type(found).__module__


def _form(base: type | None) -> str:
    return "package.module:function" if base is None else "package.module:Class"


def seen(text: str) -> str:
    """Text of others without the characters that cannot be seen; a line feed is one of them."""
    return "".join(character for character in text if unicodedata.category(character) not in UNSEEN)


def one_line(text: Any) -> str:
    """As :func:`seen`, in one line with single blanks."""
    # Before and after: line feeds are blanks that cannot be seen, and what is dropped may have stood between blanks.
    return " ".join(seen(" ".join(str(text).split())).split())


def portable(text: str) -> str:
    """A text whose paths that lead out of the working folder are cut to the file's name.

    The folders say nothing to others, and may hold a person's name. A text that is a path may have blanks in it.
    """
    if (whole := _WHOLE.fullmatch(text)) and len(parts := re.split(r"[\\/]+", whole[2].rstrip("\\/"))) > 1:
        key, path = whole.groups()
        return text if path == f"/{parts[-1]}" else key + parts[-1]
    return _INSIDE.sub(lambda found: "/" * (found[0] == "/"), text)


def in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Plain data with every text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {in_texts(key, change): in_texts(item, change) for key, item in value.items()}
    return [in_texts(item, change) for item in value] if isinstance(value, (list, tuple)) else value
