"""YAML 1.2 as recipes are written in: read within limits that no real recipe reaches, and written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from hf_distill.errors import OutputError, RecipeError
from hf_distill.secrets import hidden_in

MOST_BYTES = 200_000
"""Of a text that is read: the parser needs seconds for more."""
MOST_VALUES = 20_000
"""Of a text, each counted as often as an alias repeats it."""
MOST_LEVELS = 30
"""Of lists and mappings inside one another."""


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file, which must be there."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        _check_size(len(content), str(path))
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe {path}; see `hf-distill recipes`, or write one with `hf-distill init`"
        ) from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}; expected a YAML file in UTF-8") from error
    return read_yaml_value(text, str(path))


def read_yaml_value(text: str, where: str) -> Any:
    """Read YAML 1.2 from a text: ``3e-5`` is a number, ``no`` is a string."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    _check_size(len(text), where)
    try:
        told = _beyond_limits(YAML(typ="safe", pure=True), text)
        if told is None:
            return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        # What it quotes behind "with value" may be a secret.
        problem = ", ".join(part.partition(" with value ")[0] for part in (error.context, error.problem) if part)
        raise RecipeError(f"{where}: not valid YAML: {place}{problem}") from None
    except Exception as error:  # A parser that is given any text fails in more ways than it names.
        raise RecipeError(f"{where}: not valid YAML: {error}") from None
    raise RecipeError(f"{where}: {told}")


def yaml_text(value: Any) -> str:
    """Plain data as YAML 1.2, keys in their order, texts without secrets."""
    from ruamel.yaml import YAML

    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.default_flow_style = False
    yaml.width = 1000
    yaml.dump(hidden_in(value), text)
    return text.getvalue()


def write_yaml(value: Any, path: Path, note: str = "") -> None:
    """Write plain data as :func:`yaml_text`, after a note for the reader."""
    try:
        path.write_text((f"# {note}\n" if note else "") + yaml_text(value), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror})") from error


def _check_size(size: int, where: str) -> None:
    if size > MOST_BYTES:
        raise RecipeError(f"{where}: expected at most {MOST_BYTES:,} bytes, got more; a recipe holds keys, and no data")


def _beyond_limits(yaml: Any, text: str) -> str | None:
    """What of a text would take too long, too deep a stack, or make something that is no plain data; None for nothing.

    Only the parser's events are looked at, which come one after the other: nothing is built of them yet.
    """
    sizes: dict[str | None, int] = {}  # By anchor: how many values an alias of it repeats.
    around: list[tuple[str | None, int]] = []  # The anchors of what is open, and what came before it.
    count = 0
    for event in yaml.parse(text):
        line, anchor = f"line {event.start_mark.line + 1}: ", getattr(event, "anchor", None)
        match type(event).__name__:
            case "AliasEvent":
                if anchor not in sizes:
                    return (
                        f"{line}the alias *{anchor} stands inside of what it names, or before it; write the value out"
                    )
                count += sizes[anchor]
            case "ScalarEvent":
                sizes[anchor] = 1
                count += 1
            case "MappingStartEvent" | "SequenceStartEvent":
                around.append((anchor, count))
                count += 1
            case "MappingEndEvent" | "SequenceEndEvent":
                anchor, before = around.pop()
                sizes[anchor] = count - before
        if getattr(event, "tag", None) is not None or getattr(event, "version", None) not in (None, (1, 2)):
            return (
                f"{line}expected YAML 1.2 without tags; remove %YAML, or what begins with !, and put texts into quotes"
            )
        if len(around) > MOST_LEVELS:
            return f"{line}expected at most {MOST_LEVELS} levels of lists and mappings inside one another, got more"
        if count > MOST_VALUES:
            return f"{line}expected at most {MOST_VALUES:,} values, got more (aliases count with all that they repeat)"
    return None
