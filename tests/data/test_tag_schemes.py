"""Tags of every scheme are read as the same entities, and told where they mark none."""

from __future__ import annotations

import pytest
from datasets import Dataset

from hf_distill.data.tag_schemes import read_scheme
from hf_distill.evaluation.tags import spans
from hf_distill.tasks import TokenClassification

ENTITIES = [("PER", 0, 1), ("LOC", 3, 3)]
SCHEMES = {
    "IOB": ["B-PER", "I-PER", "O", "B-LOC"],
    "IOB ": ["I-PER", "I-PER", "O", "B-LOC"],  # IOB1 begins with I where nothing of the type stands before.
    "IO": ["I-PER", "I-PER", "O", "I-LOC"],
    "IOBES": ["B-PER", "E-PER", "O", "S-LOC"],
    "BILOU": ["B-PER", "L-PER", "O", "U-LOC"],
    "BMES": ["B-PER", "E-PER", "O", "S-LOC", "M-PER"],
    "IOB with underscores": ["B_PER", "I_PER", "O", "B_LOC"],
    "IOB behind": ["PER-B", "PER-I", "O", "LOC-B"],
    "IOB in small letters": ["b-PER", "i-PER", "o", "b-LOC"],
    "IOB with another outside": ["B-PER", "I-PER", "OUTSIDE", "B-LOC"],
}


@pytest.mark.parametrize("kind", SCHEMES)
def test_every_scheme_gives_the_same_entities(kind):
    row = SCHEMES[kind]
    names = tuple(sorted(set(row)))
    assert read_scheme(names).name == kind.split()[0]
    assert spans(names, [names.index(tag) for tag in row[:4]]) == ENTITIES


@pytest.mark.parametrize(("begin", "inside", "outside"), [("B", "I", "O"), ("b", "i", "o"), ("B", "I", "OUTSIDE")])
def test_bare_letters_are_entities_of_one_type(begin, inside, outside):
    names = (begin, inside, outside)
    assert spans(names, [0, 1, 2, 0]) == [("entity", 0, 1), ("entity", 3, 3)]


def test_one_odd_tag_switches_nothing_off():
    names = ("B-PER", "I-PER", "O", "X")
    assert spans(names, [0, 1, 2, 3]) == [("PER", 0, 1), ("X", 3, 3)]


@pytest.mark.parametrize("names", [("NOUN", "VERB", "X"), ("NN", "O", "S-BAR", "VB", "X"), ("0", "1", "2")])
def test_labels_that_mark_no_entities_are_scored_word_by_word(names):
    assert read_scheme(names).name is None
    assert spans(names, [0, 0]) == [(names[0], 0, 0), (names[0], 1, 1)]


@pytest.mark.parametrize(
    ("tags", "options", "told"),
    [
        (["B-PER", "L-PER", "O", "U-LOC"], {}, "tags are BILOU: whole entities are scored, of the types LOC, PER"),
        (["NOUN", "VERB", "O", "X"], {}, "tags mark no entities (no B- or I-): each word is scored by itself"),
        ([1, 2, 0, 3], {}, "none stands for no entity: each word is scored by itself; name them in task.labels"),
        ([1, 2, 0, 1], {"labels": ["O", "B-x", "I-x"]}, "tags are IOB: whole entities are scored, of the types x"),
    ],
)
def test_what_is_scored_is_told(tags, options, told):
    rows = Dataset.from_dict({"tokens": [["a", "b", "c", "d"]], "labels": [tags]})
    task = TokenClassification(**options)
    task.read_labels(rows)
    assert told in " ".join(task.label_notes(rows))
