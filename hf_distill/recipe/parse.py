"""Read mappings into frozen dataclasses, strictly: unknown and missing keys and wrong types are told by their path."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from hf_distill.errors import OutputError, RecipeError
from hf_distill.names import nearest_or_all

T = TypeVar("T")

_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


def refuse_unless(condition: bool, message: str) -> None:
    """Raise a RecipeError with this message unless the condition holds."""
    if not condition:
        raise RecipeError(message)


def read(cls: type[T], value: Any, where: str) -> T:
    """A dataclass from a mapping.

    Args:
        cls: A dataclass.
        value: What the YAML holds there.
        where: The dotted path of the value, for messages.

    Raises:
        RecipeError: For what does not fit.
    """
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
    hints = _hints(cls)  # type: ignore[arg-type]  # Classes are hashable.
    for key in value:
        if key not in hints:
            raise RecipeError(f"{where}.{key}: no such key{nearest_or_all(key, hints)}")
    fields = {each.name: each for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name, each in fields.items():
        if name not in value and each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}.{name}: required, but missing")
    return cls(**{key: convert(hints[key], item, f"{where}.{key}") for key, item in value.items()})


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
    if origin is tuple:
        return tuple(convert(get_args(hint)[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if origin in (list, dict):
        return _convert_container(origin, hint, value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where}: expected {_NAMES[hint]}, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value and what it is, for messages."""
    if value is None:
        return "null"
    kind = _NAMES.get(type(value), type(value).__name__).removeprefix("a ").removeprefix("an ")
    return f"{value!r} ({kind})" if not isinstance(value, bool) else f"{str(value).lower()} (a boolean)"


def read_yaml(path: Path) -> Any:
    """The content of a YAML 1.2 file.

    Raises:
        RecipeError: Where it is not there, cannot be read, or is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe {path}; see `hf-distill recipes`, or write one with `hf-distill init`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    return read_yaml_value(text, str(path))


def read_yaml_value(text: str, where: str) -> Any:
    """A YAML 1.2 value from text: ``3e-5`` is a number, ``no`` is a string.

    Raises:
        RecipeError: Where the text is no YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise RecipeError(f"{where}: not valid YAML: {place}{error.problem or error.context}") from None
    except (YAMLError, ValueError) as error:
        raise RecipeError(f"{where}: not valid YAML: {error}") from None


def write_yaml(value: Any, path: Path) -> None:
    """Write plain data as YAML 1.2, keys in their order.

    Raises:
        OutputError: Where the file cannot be written.
    """
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.default_flow_style = False
    yaml.width = 1000
    try:
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(value, file)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror})") from error


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


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
    if type(value) is not origin and not (origin is dict and isinstance(value, Mapping)):
        raise RecipeError(f"{where}: expected {_NAMES[origin]}, got {shown(value)}")
    if origin is list:
        return [convert(get_args(hint)[0], item, f"{where}.{i}") for i, item in enumerate(value)]
    key_hint, item_hint = get_args(hint)
    return {convert(key_hint, key, where): convert(item_hint, item, f"{where}.{key}") for key, item in value.items()}
