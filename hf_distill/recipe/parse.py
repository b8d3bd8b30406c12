"""Read mappings into frozen dataclasses, strictly: unknown and missing keys and wrong types are told by their path."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from hf_distill.errors import RecipeError
from hf_distill.names import could_be_code, nearest_or_all

T = TypeVar("T")

_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a mapping"}
_NAMES |= {list: "a list", type(None): "null"}


MOST_SHOWN = 200
"""Characters of a value that a message shows."""


def refuse_unless(condition: bool, message: str) -> None:
    """Raise a RecipeError unless the condition holds."""
    if not condition:
        raise RecipeError(message)


def is_number(value: Any) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_option(name: str, value: Any, holds: bool, expected: str) -> None:
    """Refuse the value of a task's option."""
    if not holds:
        raise RecipeError(f"task.{name}: expected {expected}, got {value!r}")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse an option that is none of the choices; None need not be named."""
    told = ", ".join(str(choice) for choice in choices if choice is not None)
    check_option(name, value, value in choices, f"one of {told}")


def checked_length(max_length: int) -> int:
    """``task.max_length``, where it leaves room for anything."""
    fits = isinstance(max_length, int) and max_length >= 4
    check_option("max_length", max_length, fits, "a whole number of at least 4")
    return max_length


@dataclass(frozen=True)
class Bound:
    """What a single key may hold, and why, whatever the other keys hold; ``null`` is never asked."""

    expected: str
    holds: Callable[[Any], bool]
    reason: str = ""


def bound(expected: str, holds: Callable[[Any], bool], reason: str = "") -> dict[str, Bound]:
    """Metadata of a dataclass field whose values have a bound."""
    return {"bound": Bound(expected, holds, reason)}


def at_least(least: int, unit: str = "") -> dict[str, Bound]:
    """Metadata of a field whose values have a least one."""
    return bound(f"at least {least}{unit and f' {unit}'}", lambda value: value >= least)


def above_zero(reason: str = "") -> dict[str, Bound]:
    """Metadata of a field whose values are finite and larger than 0."""
    return bound("a number above 0", lambda value: 0.0 < value < float("inf"), reason)


def share_below_one() -> dict[str, Bound]:
    """Metadata of a field whose values are shares, but never all."""
    return bound("a share from 0 to below 1", lambda value: 0.0 <= value < 1.0)


def size_or_share(expected: str) -> dict[str, Bound]:
    """Metadata of a field whose values are whole numbers from 1, or floats that are shares."""
    return bound(expected, lambda size: size >= 1 if isinstance(size, int) else 0.0 < size < 1.0)


def names_code(expected: str, harmless: Collection[str] = ()) -> dict[str, Any]:
    """Metadata of a field whose texts may name code, as ``package.module:name``, which runs only where it is allowed.

    Args:
        expected: What it may hold, for messages.
        harmless: What it may name that is ours.
    """

    def found(value: Any, where: str) -> list[tuple[str, str]]:
        several = isinstance(value, (tuple, list))
        texts = [(f"{where}.{i}", text) for i, text in enumerate(value)] if several else [(where, value)]
        return [(key, text) for key, text in texts if text is not None and ":" in text and text not in harmless]

    return {"code": found, **bound(expected, lambda value: all(could_be_code(text) for _, text in found(value, "")))}


class Section:
    """A part of a recipe, which is refused, also when it is made in Python, unless its keys fit.

    Bounds of single keys are metadata of their fields.
    """

    where: ClassVar[str] = "recipe"
    """Where it stands in a recipe, for messages."""

    def __init_subclass__(cls, where: str = "") -> None:
        SECTIONS[cls.__name__] = cls
        cls.where = where or cls.where

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):  # type: ignore[arg-type]  # Subclasses are dataclasses.
            value, limit = getattr(self, each.name), each.metadata.get("bound")
            if limit is not None and value is not None and not limit.holds(value):
                reason = f"; {limit.reason}" if limit.reason else ""
                raise RecipeError(f"{self.where}.{each.name}: expected {limit.expected}, got {value!r}{reason}")
        self.check()

    def check(self) -> None:
        """Refuse keys that do not go together."""

    def require(self, holds: bool, message: str) -> None:
        """Raise a RecipeError unless the condition holds; the message goes on where the section's path ends."""
        refuse_unless(holds, self.where + message)

    @classmethod
    def prepared(cls, value: Any, where: str) -> tuple[type[Section], Any]:
        """Give the class that reads what the YAML holds, and the value with the keys of its fields."""
        return cls, value

    def to_dict(self) -> dict[str, Any]:
        """Gives plain data that reads again to an equal section."""
        return {each.name: plain(getattr(self, each.name)) for each in dataclasses.fields(self)}  # type: ignore[arg-type]


SECTIONS: dict[str, Any] = {}
"""Every section by its name: type hints may name one of another module."""


def check_known(value: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse a mapping with unknown keys, and name the nearest known one."""
    for key in value:
        if key not in known:
            raise RecipeError(f"{where}.{key}: no such key{nearest_or_all(key, known)}")


def plain(value: Any) -> Any:
    """A deep copy as plain data: sections and mappings as dictionaries, tuples as lists."""
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


_GIVE_TEXT = "give it as a plain value (in YAML: a text in quotes)"

MOST_LEVELS = 64
"""Of mappings and lists inside one another, in a recipe that is put together of files, overrides and Python."""


def checked(value: Any, where: str, levels: int = MOST_LEVELS) -> Any:
    """A deep copy as plain data, as :func:`plain` makes one; what cannot stand in a recipe's file is refused."""
    if isinstance(value, Section):
        return value.to_dict()
    refuse_unless(levels > 0, f"{where[:200]}: expected at most {MOST_LEVELS} levels inside one another, got more")
    if isinstance(value, Mapping):
        numbered = all(type(key) is int for key in value)  # As {student: teacher} of layers.
        for key in value:
            right = numbered or (type(key) is str and key.isprintable() and len(key) <= MOST_SHOWN)
            refuse_unless(right, f"{where}: expected keys that are short texts, got {shown(key)}; {_GIVE_TEXT}")
        return {key: checked(item, f"{where}.{key}", levels - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [checked(item, f"{where}.{i}", levels - 1) for i, item in enumerate(value)]
    wrong = _wrong(value)
    refuse_unless(wrong is None, f"{where}: {wrong}")
    return value


def _wrong(value: Any) -> str | None:
    """What is wrong with a single value, wherever it stands in a recipe; None for nothing."""
    if type(value) is int and abs(value) >= 2**63:
        return "expected an integer of at most 64 bits, got a larger one"
    if type(value) is float and not math.isfinite(value):
        return f"expected a finite number, got {value}"
    if type(value) is str and ("\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value)):
        return f"expected a text, got one with a character that no file can hold: {shown(value)}"
    if value is not None and type(value) not in (bool, int, float, str):
        return f"expected a text, a number, true, false, null, a list or a mapping, got {shown(value)}; {_GIVE_TEXT}"
    return None


def gathered(value: Any, own: Sequence[str], where: str) -> Any:
    """A mapping whose keys that are not its own stand under ``options``."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
    if set(value) == {*own, "options"} and isinstance(value["options"], Mapping):
        for key in value["options"]:
            refuse_unless(key not in own, f"{where}.options.{key}: stands beside options, too; remove it here")
        return value
    return {**{k: v for k, v in value.items() if k in own}, "options": {k: v for k, v in value.items() if k not in own}}


def without_unset(kind: type, value: Mapping[str, Any], unset: Mapping[str, Any], told: str, where: str) -> Any:
    """What one of several kinds of a section reads."""
    own = {each.name for each in dataclasses.fields(kind)}
    for key, item in value.items():
        if key in unset and key not in own and item != unset[key]:
            raise RecipeError(f"{where}.{key}: {told}")
    return {key: item for key, item in value.items() if key in own or key not in unset}


def read(cls: type[T], value: Any, where: str) -> T:
    """Read a dataclass from what the YAML holds at a dotted path; what does not fit is refused by its path."""
    kind, value = cls.prepared(value, where) if issubclass(cls, Section) else (cls, value)
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
    hints = _hints(kind)  # type: ignore[arg-type]  # Classes are hashable.
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    check_known(value, fields, where)
    for name, each in fields.items():
        optional = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        refuse_unless(optional or name in value, f"{where}.{name}: required, but missing")
    content = {key: convert(hints[key], item, f"{where}.{key}") for key, item in value.items()}
    try:
        return kind(**content)  # type: ignore[return-value]  # It is a subclass.
    except RecipeError as error:  # A section knows where it mostly stands, and not that it is another recipe's.
        general, message = getattr(kind, "where", where), str(error)
        raise RecipeError(where + message.removeprefix(general) if message.startswith(general) else message) from None


def convert(hint: Any, value: Any, where: str) -> Any:
    """A value as its type hint asks for it; an integer serves as a float, a boolean never as a number."""
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            raise RecipeError(f"{where}: expected one of {', '.join(map(str, get_args(hint)))}, got {shown(value)}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else read(hint, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list, dict):
        return _convert_container(origin, hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where}: expected {_NAMES[hint]}, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value and what it is, for messages; of a long one its beginning."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    kind = _NAMES.get(type(value), type(value).__name__).removeprefix("a ").removeprefix("an ")
    text = repr(value)
    return f"{text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + '...'} ({kind})"


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, localns=SECTIONS)


def _convert_union(hint: Any, value: Any, where: str) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    exact = [option for option in rest if (get_origin(option) or option) is type(value)]
    if exact or len(rest) == 1:
        return convert((exact or rest)[0], value, where)
    if float in rest and type(value) is int:
        return float(value)
    kinds = " or ".join(_NAMES.get(get_origin(option) or option, str(option)) for option in rest)
    raise RecipeError(f"{where}: expected {kinds}, got {shown(value)}")


def _convert_container(origin: Any, hint: Any, value: Any, where: str) -> Any:
    expected: Any = {tuple: (list, tuple), dict: Mapping}.get(origin, origin)
    if not isinstance(value, expected):
        raise RecipeError(f"{where}: expected {_NAMES.get(origin, 'a list')}, got {shown(value)}")
    if origin is not dict:
        return origin(convert(get_args(hint)[0], item, f"{where}.{i}") for i, item in enumerate(value))
    key_hint, item_hint = get_args(hint)
    return {convert(key_hint, key, where): convert(item_hint, item, f"{where}.{key}") for key, item in value.items()}
