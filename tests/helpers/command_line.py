"""The command line and other programs, called as a person calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hf_distill.cli import app

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str) -> int:
    """Run a command in this process; its exit code."""
    try:
        app([str(argument) for argument in arguments], standalone_mode=False)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def refused(capsys, tmp_path, *arguments: str) -> str:
    """The one line with which a command is refused."""
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    code = call(*arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    told = [line for line in lines if line.startswith("hf-distill: ")]
    assert code == 2, lines
    assert told == lines[-1:], lines
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    return told[0]


def process(*arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=settings, capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )
