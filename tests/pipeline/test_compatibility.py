"""The table of what goes with what is the table of the documentation."""

from __future__ import annotations

from pathlib import Path

from hf_distill.pipeline.compatibility import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
COMMAND = "python -c 'from hf_distill.pipeline.compatibility import table; print(table(), end=\"\")'"


def test_the_page_of_the_documentation_is_the_table_that_refuses():
    _, _, rows = PAGE.read_text().partition("\n\n| key |")
    assert f"| key |{rows}" == table(), f"write the rows below the text of {PAGE.name} anew, with {COMMAND}"
