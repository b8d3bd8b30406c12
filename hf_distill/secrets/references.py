"""A secret in a recipe: it stands there as the name of an environment variable, never as it is.

    data: {path: my_data:load, arguments: {token: $HF_DISTILL_DATA_TOKEN}}

So it is in no file that a run keeps, the recipe is the same whatever it is, and whoever runs the recipe again gives it
again. Only names that begin with ``HF_DISTILL_`` are read: a stranger's recipe must not ask for others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from hf_distill.secrets.recognise import is_secret_name, may_be_secret
from hf_distill.secrets.redact import hidden

PREFIX = "HF_DISTILL_"
"""How the name of every variable begins that a recipe may have read."""

_REFERENCE = re.compile(rf"\$(?:({PREFIX}[A-Z0-9_]+)|\{{({PREFIX}[A-Z0-9_]+)\}})")
_OTHER = re.compile(r"\$\{?[A-Z_][A-Z0-9_]+\}?")
_READ_IN = ".data.arguments"


def is_readable(variable: str) -> bool:
    """Whether a recipe may have this variable read."""
    return re.fullmatch(rf"{PREFIX}[A-Z0-9_]+", variable) is not None


def complaint(content: Any, where: str) -> str | None:
    """What is wrong with the first secret that stands in a part of a recipe as it is; None where there is none."""
    for path, value in _leaves(content, where):
        arguments = f"{_READ_IN}." in f"{path}."
        rest = _REFERENCE.sub("", value) if isinstance(value, str) else value
        if arguments and isinstance(rest, str) and _OTHER.fullmatch(rest):
            return (
                f"{path}: of environment variables only those whose names begin with {PREFIX} are read, for a recipe "
                f"may be a stranger's; put the value into {_example(path)}, and write '${_example(path)}'"
            )
        if not arguments and rest != value:
            return f"{path}: environment variables are read in data.arguments alone; remove the reference"
        if (rest == value and _is_named_secret(path, value, arguments)) or _holds_secret(rest):
            return f"{_shown(path)}: a secret (not shown) would be kept in recipe.yaml and the card; {_way_out(path)}"
    return None


def variables(content: Any) -> set[str]:
    """The names of the variables that stand in a part of a recipe."""
    found = (_REFERENCE.findall(value) for _, value in _leaves(content, "") if isinstance(value, str))
    return {bare or braced for references in found for bare, braced in references}


def resolved(content: Any) -> Any:
    """The same with what its variables hold, all of which must be set."""
    if isinstance(content, Mapping):
        return {key: resolved(item) for key, item in content.items()}
    if isinstance(content, (list, tuple)):
        return [resolved(item) for item in content]
    if not isinstance(content, str):
        return content
    return _REFERENCE.sub(lambda found: os.environ[found[1] or found[2]], content)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every key and every value that is no container, by its dotted path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and hidden(key) != key:
                yield where, key
            yield from _leaves(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{where}.{i}")
    else:
        yield where, value


def _is_named_secret(path: str, value: Any, arguments: bool) -> bool:
    """Whether one of the names above a value says so; names of columns and splits say nothing."""
    names = path.split(".")
    if "columns" in names or "files" in names or not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return False
    if not isinstance(value, str):
        return is_secret_name(names[-1]) and not names[-1].lower().endswith("token")
    return bool(value) and (any(map(is_secret_name, names)) or (arguments and may_be_secret(names[-1], value)))


def _holds_secret(value: Any) -> bool:
    return isinstance(value, str) and any(hidden(text) != text for text in (value, unquote(value)))


def _shown(path: str) -> str:
    return ".".join("[secret]" if hidden(name) != name else name for name in path.split("."))


def _example(path: str) -> str:
    return PREFIX + re.sub(r"\W+", "_", path.rpartition(".")[2]).upper()


def _way_out(path: str) -> str:
    if f"{_READ_IN}." in f"{path}.":
        example = _example(path)
        return f"set an environment variable to it, such as {example}, and write '${example}', in single quotes"
    if ".server." in path:
        return "leave it out, and put the server's key into the environment variable that key_variable names"
    return (
        "leave it out: for the Hub, log in with `hf auth login` or set HF_TOKEN; for a callable of data.path, put "
        f"it into an environment variable ${PREFIX}... in data.arguments"
    )
