"""The house keeps its direction: a room imports only from the rooms before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "hf_distill"
FLOORS = [
    ["secrets"],
    ["errors", "logs", "names", "signals"],
    ["types"],
    ["artifacts"],
    ["recipe", "models"],
    ["data", "tokenizers"],
    ["losses", "tasks", "students"],
    ["objectives"],
    ["generation"],
    ["evaluation"],
    ["teachers"],
    ["training"],
    ["labelling", "report"],
    ["pipeline"],
    ["search"],
    ["cli"],
]
"""Rooms of one floor do not import one another."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or not path.name.startswith("__")]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms_imported(path: Path) -> set[str]:
    """The other rooms that a file imports, those that only type checkers see included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            names = (
                [f"{node.module}.{a.name}" for a in node.names] if node.module == "hf_distill" else [node.module or ""]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("hf_distill.")}
    return (found & FLOOR.keys()) - {room_of(path)}


def test_every_file_has_its_room():
    assert {room_of(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_those_before_it(path):
    room = room_of(path)
    against = {other for other in rooms_imported(path) if FLOOR[other] >= FLOOR[room]}
    assert not against


def test_the_package_and_its_command_line_start_without_torch():
    code = (
        "import sys, hf_distill, hf_distill.cli, hf_distill.recipe; "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]


def test_public_names_are_there_and_the_same_for_type_checkers():
    import hf_distill

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {(part.module, alias.name) for part in guarded.body for alias in part.names}
    assert seen == {(home, name) for name, home in hf_distill._HOME_OF.items()}
    for name in hf_distill.__all__:
        assert getattr(hf_distill, name).__name__ == name
    assert set(hf_distill.__all__) < set(dir(hf_distill))
    with pytest.raises(AttributeError):
        _ = hf_distill.nonsense


def test_stable_paths_have_all_that_their_registries_name():
    from hf_distill import objectives, tasks, teachers

    for room, registry in ((objectives, "OBJECTIVES"), (tasks, "TASKS"), (teachers, "TEACHERS")):
        classes = {cls.__name__ for cls in getattr(room, registry).values()}
        assert classes <= set(room.__all__)
        assert classes <= set(__import__("hf_distill").__all__)
