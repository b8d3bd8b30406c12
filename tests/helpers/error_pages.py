"""Pages of errors: a table that a test makes anew, and compares with the page that people read.

``HF_DISTILL_WRITE_PAGES=1 pytest tests/...`` writes the pages instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def check_page(name: str, opening: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Compare a page below ``docs/`` with what it should hold."""
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
    page, expected = DOCS / name, f"{opening.strip()}\n\n{table}\n"
    if os.environ.get("HF_DISTILL_WRITE_PAGES"):
        page.write_text(expected, encoding="utf-8")
    assert page.read_text(encoding="utf-8").splitlines() == expected.splitlines()
