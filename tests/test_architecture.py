"""The house keeps its direction: a module imports only from those before it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "hf_distill"
ROOMS = [
    ["errors", "names", "views", "mixtures", "sampling", "sums", "checkpoints", "docstrings", "strict"],
    ["machine", "dropout"],
    ["vectors", "columns"],
    ["heads", "attention"],
    ["probes", "alignment"],
    ["shared_tokens"],
    ["recipe", "models"],
    ["recipe_file", "sources", "serving"],
    ["data"],
    ["tasks", "teachers", "students", "objectives"],
    ["pairing"],
    ["rollout", "saving"],
    ["trainer"],
    ["evaluation"],
    ["card_metadata", "markdown"],
    ["card_usage"],
    ["card", "figures"],
    ["hub", "folders"],
    ["limits", "marks"],
    ["caching"],
    ["training", "labelling", "ensembles", "served"],
    ["costs"],
    ["preflight", "stages"],
    ["reporting", "loading", "scoring"],
    ["flow"],
    ["sweeping", "planning"],
    ["tables", "templates"],
    ["cli"],
]
FLOOR = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
BESIDE = {"tasks", "teachers", "students", "objectives"}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE).with_suffix("")
    return relative.parts[0]


def imports(path: Path) -> set[str]:
    """The rooms that a file imports at run time; what only type checkers see does not count."""
    found = set()
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.unparse(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in guarded or not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts[: -node.level]
            module = ".".join([*parts, node.module or ""])
            names = [module]
        elif isinstance(node, ast.ImportFrom):
            names = [
                f"{node.module}.{a.name}" if node.module == "hf_distill" else node.module or "" for a in node.names
            ]
        else:
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("hf_distill.")}
    return found & FLOOR.keys()


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or not path.name.startswith("__")]


def test_every_file_has_its_place():
    assert {room_of(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_those_before_it(path):
    room = room_of(path)
    later = {other for other in imports(path) if other != room and FLOOR[other] > FLOOR[room]}
    assert not later
    if room in BESIDE:
        assert not (imports(path) & BESIDE) - {room}


def test_the_package_and_its_command_line_start_without_torch():
    code = (
        "import sys, hf_distill, hf_distill.cli, hf_distill.recipe; "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]


def test_help_is_immediate():
    def seconds() -> float:
        # Time of the processor, not of the clock: other work on the machine must not decide.
        before = os.times()
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hf_distill", "--help"], capture_output=True, check=True, timeout=60)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        return min(spent, time.perf_counter() - start)

    assert min(seconds() for _ in range(3)) < 0.5


def test_public_names_are_there():
    import hf_distill

    for name in hf_distill.__all__:
        assert getattr(hf_distill, name).__doc__
    with pytest.raises(AttributeError):
        _ = hf_distill.nonsense
