"""Rows from every source, picked, split and named as the task names them, and refused before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from hf_distill.data.rows import fingerprint, load_data
from hf_distill.errors import DataError, RecipeError
from hf_distill.recipe import DataConfig, TestDataConfig
from hf_distill.recipe.load_recipe import load_recipe
from tests.helpers import tiny
from tests.helpers.data import given

REQUIRED, OPTIONAL = ("text", "label"), ("text_pair",)

SPLITS = "tests.helpers.tiny:splits"


def load(seed: int = 0, **config):
    return load_data(DataConfig(**config), REQUIRED, OPTIONAL, ("text", "text_pair"), seed)


def plain(rows: Dataset) -> list[tuple[str, str]]:
    return [(row["text"], str(row["label"])) for row in rows]


def file_of(rows: Dataset, path: Path) -> str:
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    elif path.suffix in (".json", ".jsonl"):
        rows.to_json(path)
    else:
        rows.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
    return str(path)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_files_of_every_kind_give_the_same_rows(ending, tmp_path):
    train, test = tiny.rows(40, 0), tiny.rows(20, 1)
    data = load(
        files={"train": file_of(train, tmp_path / f"train{ending}"), "test": file_of(test, tmp_path / f"test{ending}")}
    )
    assert plain(data.test) == plain(test)
    assert sorted(plain(data.train) + plain(data.validation)) == sorted(plain(train))
    assert len(data.validation) == 4


def test_a_folder_that_was_saved_to_disk_and_several_files_of_a_split_are_read(tmp_path):
    tiny.splits(40, 20).save_to_disk(tmp_path / "saved")
    assert plain(load(path=str(tmp_path / "saved")).train) == plain(tiny.rows(40, 0))
    halves = [
        file_of(tiny.rows(40, 0).select(part), tmp_path / f"{part.start}.csv") for part in (range(20), range(20, 40))
    ]
    test = file_of(tiny.rows(20, 2), tmp_path / "test.csv")
    data = load(files={"train": halves, "validation": test, "test": file_of(tiny.rows(8, 3), tmp_path / "other.csv")})
    assert plain(data.train) == plain(tiny.rows(40, 0))


def test_columns_are_named_as_the_task_names_them_even_where_names_swap():
    rows = tiny.rows(40, 0).rename_columns({"text": "label", "label": "text"})
    splits = DatasetDict(train=rows, test=rows.select(range(8)))
    splits_in = {"path": "tests.helpers.data:given", "columns": {"text": "label", "label": "text"}}
    given.value = splits
    assert plain(load(**splits_in).test) == plain(tiny.rows(40, 0).select(range(8)))


def test_limits_and_splits_follow_the_seed():
    one, again, other = (
        load(seed, path=SPLITS, train_limit=30, validation_split="test", test_split="validation") for seed in (0, 0, 1)
    )
    assert plain(one.train) == plain(again.train) != plain(other.train)
    assert len(one.train) == 30
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert plain(one.test) == plain(tiny.rows(32, 1))


def test_a_stream_is_not_read_into_memory_and_gives_its_first_rows_for_validation(tmp_path):
    train, test = file_of(tiny.rows(40, 0), tmp_path / "train.csv"), file_of(tiny.rows(20, 1), tmp_path / "test.csv")
    data = load(files={"train": train, "test": test}, streaming=True, validation_size=8)
    assert isinstance(data.train, IterableDataset)
    assert plain(data.validation) == plain(tiny.rows(40, 0))[:8]
    assert plain(data.train) == plain(tiny.rows(40, 0))[8:]
    assert plain(data.test) == plain(tiny.rows(20, 1))


def test_a_test_split_is_drawn_from_the_training_rows_where_there_is_none():
    given.value = DatasetDict(train=tiny.rows(40, 0))
    data = load(path="tests.helpers.data:given", test_size=8, validation_size=4)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [28, 4, 8]
    assert sorted(plain(data.train) + plain(data.validation) + plain(data.test)) == sorted(plain(tiny.rows(40, 0)))
    with pytest.raises(DataError, match="test_size: does nothing where there is a test split"):
        load(path=SPLITS, test_size=8)


def test_rows_to_score_on_may_come_from_another_source_under_names_of_their_own(tmp_path):
    elsewhere = tiny.rows(12, 5).rename_columns({"text": "sentence", "label": "class"})
    DatasetDict(dev=elsewhere).save_to_disk(tmp_path / "other")
    other = TestDataConfig(path=str(tmp_path / "other"), split="dev", columns={"text": "sentence", "label": "class"})
    data, own = load(path=SPLITS, test=other), load(path=SPLITS)
    assert plain(data.test) == plain(tiny.rows(12, 5))
    assert (plain(data.train), plain(data.validation)) == (plain(own.train), plain(own.validation))
    assert data.fingerprint != own.fingerprint
    assert data.source == "tests.helpers.tiny:splits, test: other"
    assert len(load(path=SPLITS, test=other, test_limit=5).test) == 5
    given.value = DatasetDict(train=tiny.rows(40, 0))
    assert len(load(path="tests.helpers.data:given", test=other, validation_size=4).train) == 36


def test_rows_to_score_on_are_refused_where_they_cannot_be_used(tmp_path):
    for config, told in (
        ({"split": "tset"}, "data.test.split: there is no split 'tset'; there are train, validation, test"),
        ({"columns": {"txt": "text"}}, "data.test.columns.txt: the task has no such column"),
        ({"columns": {"text": "txt"}}, "name the right one in data.test.columns: {text: ...}"),
    ):
        with pytest.raises(DataError) as refused:
            load(path=SPLITS, test=TestDataConfig(path=SPLITS, **config))
        assert told in str(refused.value)
    with pytest.raises(RecipeError, match="at most one of test, test_split and test_size"):
        DataConfig(path=SPLITS, test=TestDataConfig(path=SPLITS), test_split="test")
    told = r"recipe\.data\.test\.splt: no such key; did you mean split\?"
    with pytest.raises(RecipeError, match=told):
        load_recipe(tiny.recipe(data={"path": SPLITS, "test": {"path": "a/b", "splt": "dev"}}))


def test_several_columns_of_candidates_become_a_list_and_one_stays_as_it_is():
    rows = Dataset.from_dict({"text": ["a", "b"], "wrong": ["x", "y"], "worse": ["z", None]})
    given.value = DatasetDict(train=rows, test=rows, validation=rows)
    for columns, expected in ((["wrong", "worse"], [["x", "z"], ["y"]]), ("wrong", ["x", "y"])):
        config = DataConfig(path="tests.helpers.data:given", columns={"candidates": columns})
        data = load_data(config, ("text",), ("candidates",), ("text", "candidates"), 0)
        assert data.train["candidates"] == expected


def test_a_column_within_a_column_is_named_with_a_dot():
    rows = Dataset.from_list([{"pair": {"de": "ja", "en": "yes"}, "label": 0}] * 4)
    given.value = DatasetDict(train=rows, test=rows, validation=rows)
    assert load(path="tests.helpers.data:given", columns={"text": "pair.de"}).train["text"] == ["ja"] * 4


def test_a_column_may_be_several_joined_and_what_is_empty_leaves_no_gap():
    rows = Dataset.from_dict({"ask": ["a", "b"], "more": ["x", None], "label": [0, 1]})
    given.value = DatasetDict(train=rows, test=rows, validation=rows)
    data = load(path="tests.helpers.data:given", columns={"text": ["ask", "more"]})
    assert data.train["text"] == ["a\n\nx", "b"]
    with pytest.raises(DataError, match="no column 'most'"):
        load(path="tests.helpers.data:given", columns={"text": ["ask", "most"]})


def test_unlabelled_rows_need_no_label_and_lose_the_one_they_have(tmp_path):
    path = tmp_path / "more.txt"
    path.write_text("a first text\na second text\n")
    assert load(path=SPLITS, unlabelled_files=str(path)).unlabelled["text"] == [
        "a first text",
        "a second text",
    ]
    given.value = DatasetDict(**tiny.splits(), more=tiny.rows(8, 5))
    assert load(path="tests.helpers.data:given", unlabelled_split="more").unlabelled.column_names == ["text"]


def test_the_fingerprint_is_that_of_the_content():
    rows = tiny.rows(20, 0)
    assert fingerprint([rows]) == fingerprint([Dataset.from_dict(rows.to_dict(), features=rows.features)])
    assert fingerprint([rows]) != fingerprint([rows.select(range(19, -1, -1))])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"files": {"train": "no.csv"}}, "there is no file no.csv"),
        ({"path": SPLITS, "train_split": "trian"}, "did you mean train?"),
        ({"path": SPLITS, "test_split": "train"}, "one split cannot serve twice"),
        (
            {"path": SPLITS, "columns": {"txt": "text"}},
            "data.columns.txt: the task has no such column",
        ),
        ({"path": SPLITS, "columns": {"text": "txt"}}, "no column 'txt'"),
        ({"path": SPLITS, "unlabelled_split": "more"}, "there is no split 'more'"),
        ({"path": SPLITS, "arguments": {"rows": 3}}, "data.arguments"),
        (
            {"path": "tests.helpers.data:listed"},
            "must return a datasets.DatasetDict",
        ),
        ({"path": "./nowhere"}, "neither a folder here nor a data set on the Hub"),
    ],
)
def test_data_that_cannot_be_used_are_refused(config, told):
    with pytest.raises(DataError) as refused:
        load(**config)
    assert told in str(refused.value)


def test_rows_without_text_and_test_rows_without_labels_are_refused(tmp_path):
    good = file_of(tiny.rows(20, 0), tmp_path / "good.csv")
    for name, text, told in (
        ("empty", 'text,label\nfine,1\n"  ",0\n', "1 of 2 rows have no text"),
        ("hidden", "text,label\nfine,-1\ngood,-1\n", "2 of 2 rows have no label"),
        ("none", "text,label\n", "no rows"),
    ):
        (tmp_path / f"{name}.csv").write_text(text)
        with pytest.raises(DataError, match=told):
            load(files={"train": good, "test": str(tmp_path / f"{name}.csv")})
