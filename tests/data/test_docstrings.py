"""The quickstart's data: sentences from docstrings, honest to tell apart."""

from __future__ import annotations

import pytest

from hf_distill.data import docstrings
from hf_distill.errors import DataError

LIBRARIES = ["networkx", "numpy", "sklearn"]


@pytest.fixture(scope="module")
def splits():
    return docstrings.load(LIBRARIES, rows_per_class=200, unlabelled_per_class=50)


def test_every_split_holds_each_library_as_often(splits):
    for name, rows in (("train", 140), ("validation", 20), ("test", 40)):
        assert [splits[name]["label"].count(i) for i in range(3)] == [rows] * 3
    assert splits["train"].features["label"].names == LIBRARIES
    assert splits["unlabelled"].column_names == ["text"]
    assert 0 < len(splits["unlabelled"]) <= 150


def test_no_sentence_names_a_library(splits):
    texts = [text.lower() for rows in splits.values() for text in rows["text"]]
    assert not [text for text in texts if "numpy" in text or "scikit" in text or "networkx" in text or " np." in text]


def test_no_two_sentences_share_most_of_their_words(splits):
    words = [docstrings._words(text) for rows in splits.values() for text in rows["text"]]
    for i, one in enumerate(words):
        for other in words[:i]:
            assert len(one & other) < docstrings.NEAR_DUPLICATE * len(one | other)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(splits):
    again = docstrings.load(LIBRARIES, rows_per_class=200, unlabelled_per_class=50)
    assert again["train"]["text"] == splits["train"]["text"]
    other = docstrings.load(LIBRARIES, rows_per_class=200, seed=1)
    assert other["train"]["text"] != splits["train"]["text"]


def test_a_source_is_parsed_and_never_run(tmp_path):
    path = tmp_path / "source.py"
    path.write_text('"""Says what the module does."""\nraise SystemExit\n\ndef f():\n    """Says what f does."""\n')
    assert list(docstrings._docstrings(path)) == ["Says what the module does.", "Says what f does."]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"libraries": ["numpy", "fortran"]}, "'fortran' is none of the libraries"),
        ({"libraries": ["numpy"]}, "at least two different libraries"),
        ({"libraries": ["numpy", "numpy"]}, "at least two different libraries"),
        ({"rows_per_class": 3}, "rows_per_class must be at least 10"),
        ({"unlabelled_per_class": -1}, "unlabelled_per_class must be at least 0"),
        ({"test_share": 0.95}, "leave a split empty"),
        ({"libraries": ["numpy", "networkx"], "rows_per_class": 100_000}, "lower data.arguments.rows_per_class"),
    ],
)
def test_what_cannot_be_gathered_is_refused(arguments, told):
    with pytest.raises(DataError, match=told):
        docstrings.load(**arguments)
