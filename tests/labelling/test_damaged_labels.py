"""Damaged texts of a teacher are never believed: what it wrote is written again, what is made of it is made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from datasets import Dataset

from hf_distill.artifacts import claim, digest
from hf_distill.data.rows import Data
from hf_distill.errors import WritingError
from hf_distill.generation.writer import Hypothesis
from hf_distill.labelling.dataset import TRAIN, _made_before, _with_origin, _write
from hf_distill.labelling.shards import read_all, write_all
from hf_distill.tasks.rollout_batches import Prompts
from tests.helpers import tiny
from tests.helpers.damage import DAMAGE, damage


class Echo:
    """Writes the number of the row, and counts what it wrote."""

    settings: ClassVar[dict] = {}
    description = "echo"
    at_once = 3

    def __init__(self) -> None:
        self.written: list[int] = []

    def write(self, prompts, places, seed):
        self.written += places
        return [
            [Hypothesis(text=f"row {place}", tokens=2, mean_log_probability=-0.5, repetition=0.0, ended=True)]
            for place in places
        ]

    def content(self, ids):
        return list(ids)


PROMPTS = Prompts(row_ids=list(range(9)), input_ids=[[1] * (i + 1) for i in range(9)], references=["x"] * 9)
IDENTITY = {"format": 1, "teacher": "echo"}


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_distill.labelling.shards.SHARD_ROWS", 4)
    folder = tmp_path / f"written-{digest(IDENTITY)[:12]}"
    write_all(folder, IDENTITY, Echo(), PROMPTS, 0)
    return folder


def changed(**values):
    """The first row with other values, of itself or of its text."""

    def change(text: str) -> str:
        first, *more = text.splitlines()
        row = json.loads(first)
        for name, value in values.items():
            (row["hypotheses"][0] if name in row["hypotheses"][0] else row)[name] = value
        return "\n".join([json.dumps(row), *more]) + "\n"

    return change


TEXTS = {
    "emptied": lambda text: "",
    "cut within a line": lambda text: text[:-20],
    "cut after a line": lambda text: "".join(text.splitlines(keepends=True)[:-1]),
    "a line twice": lambda text: text + text.splitlines()[0] + "\n",
    "an object": lambda text: "{}",
    "a list": lambda text: "[]",
    "null": lambda text: "null",
    "a number": lambda text: "7",
    "deep": lambda text: "[" * 100_000,
    "null bytes": lambda text: "\0" * 40,
    "another row": changed(row_id=77),
    "a row's number as a text": changed(row_id="0"),
    "no texts": changed(hypotheses=[]),
    "texts of another kind": changed(hypotheses={"a": 1}),
    "a number for a text": changed(text=7),
    "a likelihood that is none": changed(mean_log_probability=float("nan")),
    "a likelihood as a text": changed(mean_log_probability="-1"),
    "a key too many": changed(more=1),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_damaged_shard_is_renamed_and_written_again(what, written, caplog):
    path = written / "shard-00001.jsonl"
    whole = path.read_text()
    path.write_text(TEXTS[what](whole))
    caplog.set_level("INFO")
    writer = Echo()
    write_all(written, IDENTITY, writer, PROMPTS, 0)
    assert path.read_text() == whole
    assert len(writer.written) == 4
    assert len(list(read_all(written))) == 9
    assert sum("shard-00001.jsonl is damaged" in record.getMessage() for record in caplog.records) == 1


def test_a_shard_that_is_no_text_is_written_again_and_refused_where_nobody_writes(written):
    path = written / "shard-00000.jsonl"
    path.write_bytes(b"\xff\xfe" * 40)
    with pytest.raises(WritingError, match="delete this file"):
        list(read_all(written))
    write_all(written, IDENTITY, Echo(), PROMPTS, 0)
    assert len(list(read_all(written))) == 9


@pytest.mark.parametrize("way", DAMAGE)
def test_a_damaged_manifest_is_written_again_or_refused_in_a_line(way, written, tmp_path):
    other = shutil.copytree(written, tmp_path / "of another name")
    for folder in (written, other):
        damage(folder / "manifest.json", way)
    is_json_of_something = way in ("wrong types", "other types", "missing keys")
    if is_json_of_something:
        with pytest.raises(WritingError, match="something else"):
            write_all(written, IDENTITY, Echo(), PROMPTS, 0)
    else:
        write_all(written, IDENTITY, Echo(), PROMPTS, 0)
        assert claim(written, IDENTITY) == {}
        with pytest.raises(WritingError, match="delete"):
            write_all(other, IDENTITY, Echo(), PROMPTS, 0)


@pytest.fixture
def made(tmp_path):
    rows = tiny.rows(6).select_columns(["text"])
    held_out = {"validation": rows.select([0]), "test": rows.select([1])}
    data = Data(train=rows, unlabelled=None, **held_out, source="", dataset_id=None, fingerprint="")
    facts = {
        "teacher": {},
        "generation": {},
        "label": {},
        "rows": {"asked": 6, "written": 6, "kept": 6, "original": 0},
        "dropped": {"empty": 0},
        "not_ended": 0,
        "mean_log_probability": None,
    }
    _write(tmp_path / "made", _with_origin(rows, range(6), "teacher", {}), data, facts)
    return tmp_path / "made", data


@pytest.mark.parametrize("way", DAMAGE)
def test_damaged_provenance_is_made_again(way, made):
    folder, data = made
    assert len(_made_before(folder, data).train) == 6
    damage(folder / "provenance.json", way)
    assert _made_before(folder, data) is None


PARQUET = {
    "missing": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "binary": lambda path: path.write_bytes(b"\xff" * 400),
    "of other columns": lambda path: Dataset.from_dict({"x": [1] * 6}).to_parquet(path),
    "of other types": lambda path: Dataset.from_dict({"text": [[1]] * 6}).to_parquet(path),
    "of fewer rows": lambda path: Dataset.from_dict({"text": ["a"] * 5}).to_parquet(path),
}


@pytest.mark.parametrize("what", PARQUET)
def test_damaged_rows_are_made_again(what, made):
    folder, data = made
    PARQUET[what](folder / "datasets" / TRAIN)
    assert _made_before(folder, data) is None
