"""Pages of errors: tables that a test makes anew, and compares with the page that people read.

``HF_DISTILL_WRITE_PAGES=1 pytest -n 0 tests/...`` writes the pages instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def check_page(name: str, opening: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Compare a page below ``docs/`` with what it should hold."""
    page, expected = DOCS / name, f"{opening.strip()}\n\n{table(head, rows)}\n"
    if os.environ.get("HF_DISTILL_WRITE_PAGES"):
        page.write_text(expected, encoding="utf-8")
    assert page.read_text(encoding="utf-8").splitlines() == expected.splitlines()


def check_section(name: str, opening: str, titles: Iterable[str], title: str, body: str) -> None:
    """Compare one section of a page below ``docs/``, which has an opening and sections of these titles."""
    page = DOCS / name
    there = page.read_text(encoding="utf-8") if page.is_file() else ""
    expected = {**dict.fromkeys(titles, ""), **_sections(there), title: body.strip()}
    if os.environ.get("HF_DISTILL_WRITE_PAGES"):
        there = opening.strip() + "".join(f"\n\n## {each}\n\n{expected[each]}" for each in titles) + "\n"
        page.write_text(there, encoding="utf-8")
    found = _sections(there)
    assert list(found) == list(titles)
    assert there.startswith(opening.strip())
    assert found[title].splitlines() == body.strip().splitlines()


def _sections(page: str) -> Mapping[str, str]:
    parts = (part.partition("\n") for part in page.split("\n## ")[1:])
    return {title: body.strip() for title, _, body in parts}
