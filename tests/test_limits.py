"""The house stays small: few modules at the root and in a room, short files and functions, no name twice."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "hf_distill"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted({path.parent for path in FILES} - {PACKAGE, PACKAGE / "recipe" / "templates"})  # Which holds YAML.

AT_THE_ROOT = 6
IN_A_ROOM = range(3, 13)
LINES_OF_A_FILE = 300
LINES_OF_A_FUNCTION = 60
LINES = 37_000


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def length_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def modules_of(room: Path) -> list[str]:
    return [path.name for path in sorted(room.glob("*.py")) if not path.name.startswith("__")]


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From ``def`` to its end, without the docstring."""
    count = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is not None:
        count -= (first.end_lineno or 0) - first.lineno + 1
    return count


def test_few_modules_stand_at_the_root():
    modules = modules_of(PACKAGE)
    assert len(modules) <= AT_THE_ROOT


@pytest.mark.parametrize("room", ROOMS, ids=named)
def test_a_room_has_neither_too_few_modules_nor_too_many(room):
    modules = modules_of(room)
    assert len(modules) in IN_A_ROOM


@pytest.mark.parametrize("path", FILES, ids=named)
def test_files_and_functions_are_short(path):
    assert length_of(path) <= LINES_OF_A_FILE
    nodes = ast.walk(ast.parse(path.read_text()))
    lengths = {node.name: lines_of(node) for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert {name: length for name, length in lengths.items() if length > LINES_OF_A_FUNCTION} == {}


def test_the_whole_package_is_small():
    lines = sum(map(length_of, FILES))
    assert lines <= LINES


def test_no_module_has_the_name_of_another():
    counted = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [named(path) for path in FILES if counted[path.name] > 1] == []
