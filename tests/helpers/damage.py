"""Files of JSON that are damaged in the ways in which files are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "an object without keys": lambda content: b"{}",
    "a list": lambda content: b"[]",
    "null": lambda content: b"null",
    "a number": lambda content: b"7",
    "binary": lambda content: b"\xff\xfe\x00\x01" * 9,
    "wrong types": lambda content: _changed(content, lambda value: "x"),
    "other types": lambda content: _changed(content, lambda value: [value]),
    "missing keys": lambda content: json.dumps(dict(list(json.loads(content).items())[:1])).encode(),
}


def damage(path: Path, way: str) -> None:
    path.write_bytes(DAMAGE[way](path.read_bytes()))


def _changed(content: bytes, change: Callable[[Any], Any]) -> bytes:
    """Every value is of another type."""
    return json.dumps({key: change(value) for key, value in json.loads(content).items()}).encode()
