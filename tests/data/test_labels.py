"""Labels as people have them: which rows have none, what kind they are, what is refused before a model is loaded."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_distill import check
from hf_distill.data.rows import load_data
from hf_distill.errors import DataError
from hf_distill.recipe import DataConfig
from hf_distill.tasks import Task, TextClassification, TokenClassification, make_task
from hf_distill.types import IGNORED
from tests.helpers import tiny
from tests.helpers.data import given

TOKENIZER = tiny.tokenizer()
SPLITS = ("train", "validation", "test")


def named(names: list[str]) -> Features:
    return Features({"text": Value("string"), "label": ClassLabel(names=names)})


def of(labels: list[Any], features: Features | None = None, **more) -> Dataset:
    texts = [f"the {tiny.SUBJECTS[i % len(tiny.SUBJECTS)]}" for i in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels, **more}, features=features)


def splits_of(rows: Dataset, **others: Dataset) -> DatasetDict:
    return DatasetDict({**dict.fromkeys(SPLITS, rows), **others})


def load(splits: DatasetDict, task: type[Task] = TextClassification, **config):
    given.value = splits
    config = DataConfig(path="tests.helpers.data:given", **config)
    return load_data(config, task.required, task.optional, task.text_columns, 0)


def checked(splits: DatasetDict, task: Any = "text-classification", **data) -> list[str]:
    """What ``check`` reports of a recipe on these rows."""
    given.value, lines = splits, []
    keys = {"path": "tests.helpers.data:given", **data}
    objectives = [{"kind": "labels"}]
    check(tiny.recipe(task=task, data=keys, objectives=objectives, evaluate={}), report=lines.append)
    return lines


def encoded(rows: Dataset, **options) -> list[Any]:
    task = TextClassification(**options)
    task.read_labels(rows)
    return list(task.encode(rows, TOKENIZER)["labels"])


# --- rows without a label ---------------------------------------------------------------------------------------------

CLASSES = ["no", "maybe", "yes"]
MISSING: dict[str, tuple[list[Any], Features | None]] = {
    "-1 of a ClassLabel": ([0, -1, 2, 1, -1, 0], named(CLASSES)),
    "null of a ClassLabel": ([0, None, 2, 1, None, 0], named(CLASSES)),
    "an empty text": (["no", "", "yes", "maybe", " ", "no"], None),
    "null": (["no", None, "yes", "maybe", None, "no"], None),
    "NaN beside whole numbers": ([0.0, float("nan"), 2.0, 1.0, float("nan"), 0.0], None),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_row_without_a_label_is_unlabelled_counted_and_never_a_class(kind):
    labels, features = MISSING[kind]
    whole = of([each for each in labels if each in (0, 1, 2, *CLASSES)], features)
    data = load(splits_of(whole, train=of(labels, features)))
    assert data.labelled_rows["train"] == (4, 2)
    assert any("train: 4 rows with a label, 2 without" in note for note in data.notes)
    assert [i for i, each in enumerate(data.train["label"]) if each is None] == [1, 4]
    codes = encoded(data.train)
    assert [codes[1], codes[4]] == [IGNORED] * 2
    assert sorted({*codes} - {IGNORED}) == [0, 1, 2]
    assert codes == encoded(of(labels, features))  # The Python class reads rows as they are.


@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_dropped_or_refused_where_the_recipe_says_so(kind):
    labels, features = MISSING[kind]
    whole, holed = of([each for each in labels if each in (0, 1, 2, *CLASSES)], features), of(labels, features)
    dropped = load(splits_of(holed), missing_labels="drop")
    assert [len(dropped.splits[split]) for split in SPLITS] == [4, 4, 4]
    with pytest.raises(DataError, match=r"split 'train': 2 of 6 rows have no label \(first: row 1, .*missing_labels"):
        load(splits_of(whole, train=holed), missing_labels="refuse")
    for split in ("validation", "test"):
        with pytest.raises(DataError, match=f"split '{split}': 2 of 6 rows .*data.missing_labels: drop") as refused:
            load(splits_of(whole, **{split: holed}))
        assert "benchmark" not in str(refused.value)


@pytest.mark.parametrize("hidden", [-1, None])
def test_a_benchmark_that_hides_all_labels_of_its_test_split_is_told_as_such(hidden):
    with pytest.raises(DataError, match=r"2 of 2 rows have no label.*benchmarks hide.*test_split: validation"):
        load(splits_of(of([0, 1, 0, 1]), test=of([hidden, hidden])))


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz"])
@pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "N/A"])
def test_what_pandas_takes_for_missing_is_a_class_or_a_text_where_it_stands_in_a_table(ending, name, tmp_path):
    separator = "\t" if ending == "tsv" else ","
    rows = [("text", "label"), *([(name, name), ("a card", "x"), ("the bank", "y"), (name, "")] * 3)]
    text = "".join(f"{first}{separator}{second}\n" for first, second in rows).encode()
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
    config = DataConfig(files=str(path), test_size=4, validation_size=4, missing_labels="drop")
    data = load_data(config, TextClassification.required, (), ("text",), 0)
    parts = [row for part in (data.train, data.validation, data.test) for row in part]
    assert {row["label"] for row in parts} == {name, "x", "y"}
    assert len(parts) == 9
    assert name in {row["text"] for row in parts}


def test_single_words_without_a_tag_are_ignored_and_counted():
    features = Features({"tokens": List(Value("string")), "labels": List(ClassLabel(names=["O", "B-x", "I-x"]))})
    rows = {"tokens": [["the", "good", "card"], ["a", "bank"]], "labels": [[1, -1, 0], [-1, -1]]}
    train = Dataset.from_dict(rows, features=features)
    whole = Dataset.from_dict({"tokens": [["a", "bank"]], "labels": [[0, 1]]}, features=features)
    data = load(splits_of(whole, train=train), TokenClassification)
    assert data.labelled_rows["train"] == (1, 1)
    task = TokenClassification()
    task.read_labels(data.train)
    assert task.encode(data.train, TOKENIZER)["word_labels"] == [[1, IGNORED, 0], [IGNORED, IGNORED]]
    assert list(task.label_notes(data.train))[1:] == ["labels: 1 of 3 training words have none: they are ignored"]


# --- what kind of labels ----------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[list[Any], tuple[str, ...], list[Any]]] = {
    "-1, 0, 1": ([-1, 0, 1, -1], ("-1", "0", "1"), [0, 1, 2, 0]),
    "-1 and 1": ([1, -1, 1, -1], ("-1", "1"), [1, 0, 1, 0]),
    "1.0 and 2.0": ([1.0, 2.0, 1.0, 3.0], ("1", "2", "3"), [0, 1, 0, 2]),
    "a gap among whole numbers": ([1.0, None, 0.0, 1.0], ("0", "1"), [1, IGNORED, 0, 1]),
    "case that a ClassLabel keeps": (["it", "them", "it", "them"], ("it", "them"), [0, 1, 0, 1]),
    "multi-hot, whole": ([[0, 1, 0], [1, 1, 0]], ("LABEL_0", "LABEL_1", "LABEL_2"), [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]),
    "multi-hot, floats": ([[0.0, 1.0], [1.0, 0.0]], ("LABEL_0", "LABEL_1"), [[0.0, 1.0], [1.0, 0.0]]),
    "multi-hot, booleans": ([[True, False], [True, True]], ("LABEL_0", "LABEL_1"), [[1.0, 0.0], [1.0, 1.0]]),
    "shares": ([[0.25, 0.75], [1.0, 0.5]], ("LABEL_0", "LABEL_1"), [[0.25, 0.75], [1.0, 0.5]]),
    "numbers of classes": ([[0, 2], [1], []], ("0", "1", "2"), [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_form_are_read_as_they_are_meant(kind):
    values, names, expected = KINDS[kind]
    rows = of(values)
    task = TextClassification()
    task.read_labels(rows)
    assert task.label_set.names == names
    assert encoded(rows) == expected
    task.check_labels(rows, "train")


@pytest.mark.parametrize("values", [[[0, 1, 0], [1, 1, 0]], [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]])
def test_multi_hot_lists_are_named_by_the_recipe_or_the_model_and_read_by_the_python_class(values):
    config = tiny.bert(labels=("card", "bank", "phone"), problem_type="multi_label_classification").config
    named_task, of_model, followed = (
        TextClassification(labels=["a", "b", "c"]),
        TextClassification(),
        make_task("text-classification"),
    )
    rows, expected = of(values), [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    named_task.read_labels(rows)
    of_model.read_labels(rows)
    assert of_model.align(config) is None
    followed.follow(config)
    assert named_task.label_set.names == ("a", "b", "c")
    assert of_model.label_set.names == ("card", "bank", "phone")
    for task in (named_task, of_model, followed):
        assert task.encode(rows, TOKENIZER)["labels"] == expected


@pytest.mark.parametrize(
    ("values", "problem_type", "expected"),
    [
        ([1.0, 2.0, 5.0], "regression", [1.0, 2.0, 5.0]),
        ([-1, 4, 2], "regression", [-1.0, 4.0, 2.0]),
        (["1.5", "2.25", "-3"], "regression", [1.5, 2.25, -3.0]),
        ([0.5, 1.5, 0.5], "single_label_classification", [0, 1, 0]),
        (["0.5", "1.5", "0.5"], "single_label_classification", [0, 1, 0]),
    ],
)
def test_the_problem_type_decides_where_a_column_could_be_either(values, problem_type, expected):
    assert encoded(of(values), problem_type=problem_type) == expected


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["1.183", "2.5", "0.25"], "numbers written as texts.*problem_type: regression"),
        (["1.183", "2.5", "n/a"], "and 'n/a', which is none"),
        (["good", "bad", "good ", "bad"], "'good' and 'good ', which differ by case, blanks or unseen characters only"),
        (["IT", "it", "them"], "'IT' and 'it', which differ by case, blanks or unseen characters only.*task.labels"),
        (["caf\u00e9", "cafe\u0301", "tea"], "unseen characters only"),
        (["good", "good\u200b", "bad"], "unseen characters only"),
        (["0,5", "1,25", "3,0"], "'0,5'.*3 classes; write them with a point"),
        (["[1, 0]", "[0, 1]"], "lists written as texts.*2 classes; make them lists"),
        (["['a', 'b']", "['c']"], "lists written as texts"),
        (["New  York", "New York", "Rome"], "differ by case, blanks or unseen characters only"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(values, told):
    with pytest.raises(DataError, match=told):
        TextClassification().read_labels(of(values))


def test_texts_that_look_like_lists_are_classes_where_that_is_said():
    lists = ["[1, 0]", "[0, 1]", "[1, 0]"]
    assert encoded(of(lists), problem_type="single_label_classification") == [1, 0, 1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["a;b", "b;c", "c", "a"], "'a;b' is read as one class"),
        (["a, b", "b, a", "b"], "'a, b' is read as one class"),
        (["arts, design", "law", "music"], None),
        (["a", "b"], None),
    ],
)
def test_several_labels_joined_in_one_text_are_told(values, told):
    task, rows = TextClassification(), of(values)
    task.read_labels(rows)
    notes = [note for note in task.label_notes(rows) if "one class" in note]
    assert len(notes) == (told is not None)
    assert all(told in note for note in notes)


def test_numbers_below_0_are_labels_where_training_rows_have_them_and_minus_100_never_is():
    named = load(splits_of(of([1, -1, 0]), train=of([-1, 0, 1, -1, 0, 1])))
    assert named.labelled_rows == {"train": (6, 0), "validation": (3, 0), "test": (3, 0)}
    ignored = load(splits_of(of([0, 1]), train=of([0, IGNORED, 1, IGNORED])))
    assert ignored.labelled_rows["train"] == (2, 2)
    with pytest.raises(DataError, match="1 of 2 rows have no label"):
        load(splits_of(of([0, IGNORED]), train=of([0, 1, IGNORED])))


def test_words_whose_tag_is_minus_100_are_ignored_and_no_class():
    rows = Dataset.from_dict({"tokens": [["the", "good", "card"]], "labels": [[0, IGNORED, 1]]})
    task = TokenClassification()
    task.read_labels(rows)
    assert task.label_set.names == ("0", "1")
    assert task.encode(rows, TOKENIZER)["word_labels"] == [[0, IGNORED, 1]]


def test_classes_that_differ_by_case_are_kept_apart_where_they_are_named():
    assert encoded(of(["IT", "it", "them"]), labels=["it", "IT", "them"]) == [1, 0, 2]
    with pytest.raises(DataError, match=r"task.labels: it names 2 labels, but column 'label' holds c, too"):
        encoded(of(["a", "b", "c"]), labels=["a", "b"])
    with pytest.raises(DataError, match=r"task.labels: it names 2 labels, but column 'label' holds lists of 3"):
        encoded(of([[0, 1, 0], [1, 0, 0]]), labels=["a", "b"])


def test_another_number_is_another_class_and_no_place_among_the_names():
    task = TextClassification()
    task.read_labels(of([1, 2, 3]))
    with pytest.raises(DataError, match="label 0 is none of the 3 labels"):
        task.encode(of([0]), TOKENIZER)
    words = TextClassification()
    words.read_labels(of(["bad", "good"]))
    assert words.encode(of([1]), TOKENIZER)["labels"] == [1]
    beyond = Dataset.from_dict({"text": ["a"], "label": [0]}, features=named(["bad", "good"]))
    assert words.encode(beyond, TOKENIZER)["labels"] == [0]


def test_rows_of_the_python_class_may_call_their_labels_as_transformers_does():
    rows = tiny.rows(4).rename_column("label", "labels")
    task = TextClassification()
    task.follow(tiny.bert().config)
    assert task.encode(rows, TOKENIZER)["labels"] == [0, 1, 0, 1]
    features = Features({"text": Value("string"), "labels": ClassLabel(names=["bad", "good"])})
    assert task.encode(Dataset.from_dict({"text": ["a"], "labels": [-1]}, features=features), TOKENIZER)["labels"] == [
        IGNORED
    ]


# --- what check says --------------------------------------------------------------------------------------------------

GOOD = of(["x", "y"] * 6)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("train", "other", "told"),
    [
        (GOOD, of(["x", "z"]), "row 1: label 'z' is none of the 2 labels"),
        (of([0, 1] * 6), of([0, 2]), "row 1: label 2 is none of the 2 labels"),
        (of([[0, 1, 0], [1, 0, 0]] * 6), of([[0, 1], [1, 0]]), r"row 0: a label is \[0, 1\], but the others"),
    ],
)
def test_a_label_that_no_training_row_has_is_refused_by_check(split, train, other, told):
    with pytest.raises(DataError, match=f"split '{split}', {told}"):
        checked(splits_of(train, **{split: other}))


def test_a_tag_that_no_training_row_has_is_refused_by_check():
    train = Dataset.from_dict({"tokens": [["a", "bank"]] * 8, "labels": [["O", "B-x"]] * 8})
    other = Dataset.from_dict({"tokens": [["a", "bank"]], "labels": [["O", "B-y"]]})
    with pytest.raises(DataError, match="split 'test', row 0: label 'B-y' is none"):
        checked(splits_of(train, test=other), "token-classification")


def test_check_tells_how_many_rows_have_a_label_and_what_looks_wrong():
    lines = checked(splits_of(GOOD, train=of(["x", "y", None] * 6)))
    counts = "labels: train: 12 rows with a label, 6 without; validation: 12 rows with a label, 0 without; "
    assert any(line.startswith(counts) for line in lines)
    many = of([f"class {i}" for i in range(30)])
    assert any("30 classes in 30 rows" in line for line in checked(splits_of(many)))
    assert any("read as classes" in line for line in checked(splits_of(of([1.0, 2.0] * 8))))


def test_texts_that_the_teacher_alone_labels_hold_no_row_that_is_scored():
    rows = of(["x", "y"] * 10)
    rows = rows.remove_columns("text").add_column("text", [f"text {i}" for i in range(20)])
    given.value = DatasetDict(train=rows)
    config = {"path": "tests.helpers.data:given", "unlabelled_split": "train", "train_limit": 4}
    data = load_data(DataConfig(**config, test_size=5, validation_size=5), *_columns(), 0)
    taught, scored = set(data.unlabelled["text"]), {*data.validation["text"], *data.test["text"]}
    assert len(taught) == 10
    assert not taught & scored
    for split in ("validation", "test"):
        with pytest.raises(DataError, match=f"data.unlabelled_split: {split} is the {split} split"):
            load(splits_of(rows), unlabelled_split=split)


def _columns() -> tuple[Any, Any, Any]:
    return TextClassification.required, TextClassification.optional, TextClassification.text_columns
