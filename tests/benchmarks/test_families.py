"""The page of families says what its cells do, and what is tried is tried for every family."""

from __future__ import annotations

import pytest

from benchmarks import families
from benchmarks.families import FAMILIES, columns_of, outcome, row, written

COMMAND = "write docs/families.md anew with python -m benchmarks.families"
TRIED = {
    "Llama": ("packed",),
    "Gemma 3 multimodal": ("width",),
    "Jamba": ("layers",),
    "Falcon-H1": ("logits",),
    "T5": ("width",),
    "BART": ("layers", "packed"),
    "deberta-v2": ("other width",),
    "ibert": ("relation", "frozen"),
}


def test_the_page_has_a_row_for_every_family_and_a_cell_for_every_column():
    found = written()
    assert {title: list(cells) for title, cells in found.items()} == {
        title: list(columns_of(family)) for title, family in FAMILIES.items()
    }
    outcomes = [outcome for cells in found.values() for outcome in cells.values()]
    assert {word for word, _ in outcomes} <= {"yes", "refused", "-"}
    assert all(bool(reason) == (word == "refused") for word, reason in outcomes)


@pytest.mark.parametrize(
    ("title", "column"), [(title, column) for title, columns in TRIED.items() for column in columns]
)
def test_a_cell_is_what_the_page_says(title, column):
    family = FAMILIES[title]
    assert outcome(family, columns_of(family)[column]) == written()[title][column], COMMAND


@pytest.mark.slow
@pytest.mark.parametrize("title", FAMILIES)
def test_a_row_is_what_the_page_says(title):
    family = FAMILIES[title]
    assert dict(zip(columns_of(family), row(family), strict=True)) == written()[title], COMMAND


@pytest.mark.parametrize(
    ("error", "word"), [(families.HfDistillError("x cannot; do y"), "refused"), (families.Wrong("x"), "fails")]
)
def test_what_goes_wrong_in_a_cell_is_told_apart(error, word):
    def cell(family, folder):
        raise error

    found, reason = outcome(FAMILIES["Llama"], cell)
    assert found == word
    assert reason in ("x cannot", "Wrong: x")
