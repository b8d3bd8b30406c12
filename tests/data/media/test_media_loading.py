"""Rows of sound and images from every source are cells that are not decoded, ``{"bytes", "path"}``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value
from datasets import Image as ImageFeature

from hf_distill.data.media.cells import CELL
from hf_distill.data.media.read_audio import read_audio
from hf_distill.data.media.read_image import read_image
from hf_distill.data.rows import Data, load_data
from hf_distill.errors import DataError
from hf_distill.logs import reported
from hf_distill.recipe import DataConfig
from tests.helpers.data import given
from tests.helpers.media import (
    BLUE,
    RED,
    dominant,
    image_bytes,
    image_folder,
    picture,
    sine,
    sound_bytes,
    sound_folder,
    write_image,
    write_sound,
)

GIVEN = "tests.helpers.data:given"


def load(*required: str, **config: Any) -> Data:
    return load_data(DataConfig(**config), required or ("image", "label"), (), (), 0)


def given_rows(rows: dict[str, list[Any]] | Dataset, *required: str, **config: Any) -> Data:
    part = rows if isinstance(rows, Dataset) else Dataset.from_dict(rows)
    given.value = DatasetDict(train=part, validation=part, test=part)
    return load(*required, path=GIVEN, **config)


def colours(rows: Any) -> list[str]:
    """Which is brightest, red or blue, in each row's image."""
    found = (read_image(row["image"]).getpixel((0, 0)) for row in rows)
    return ["red" if pixel[0] > pixel[2] else "blue" for pixel in found]


@pytest.mark.parametrize("as_files", [False, True], ids=["data.path", "data.files"])
@pytest.mark.parametrize("names", [("train", "test"), ("training", "eval")], ids=str)
def test_a_folder_has_splits_and_classes_as_sub_folders(tmp_path, as_files, names):
    folder = str(image_folder(tmp_path / "images", names))
    data = load(**({"files": folder} if as_files else {"path": folder}))
    assert data.counts == {"train": 7, "validation": 1, "test": 8}
    assert data.train.features["image"] == CELL
    for rows in data.splits.values():
        assert colours(rows) == list(rows["label"])


def test_a_folder_of_sound_is_read_without_torchcodec(tmp_path):
    data = load("audio", "label", path=str(sound_folder(tmp_path)))
    assert data.train.features["audio"] == CELL
    for row in data.train:
        assert (dominant(read_audio(row["audio"], 16_000), 16_000) > 1000) == (row["label"] == "high")


def test_a_class_that_is_called_like_a_split_is_one(tmp_path):
    for name in ("train", "bus", "car"):
        for i in range(4):
            write_image(tmp_path / name / f"{i}.png")
    data = load(path=str(tmp_path), test_size=4)
    assert set(data.train["label"]) == {"train", "bus", "car"}


def test_other_folders_beside_those_of_splits_are_splits(tmp_path):
    image_folder(tmp_path, ("train", "test"))
    for i in range(3):
        write_image(tmp_path / "more" / f"{i}.png")
    data = load(path=str(tmp_path), unlabelled_split="more")
    assert len(data.unlabelled) == 3
    more = load(path=str(tmp_path), unlabelled_files=str(tmp_path / "more"))
    assert more.unlabelled.column_names == ["image"]
    assert len(more.unlabelled) == 3


def test_a_folder_names_files_that_it_does_not_read_and_skips_what_is_hidden(tmp_path):
    image_folder(tmp_path)
    (tmp_path / "train" / "notes.doc").write_text("x")
    write_image(tmp_path / "__MACOSX" / "train" / "red" / "0.png")
    (tmp_path / "train" / ".hidden.png").write_text("x")
    lines: list[str] = []
    with reported(lines.append):
        data = load(path=str(tmp_path))
    assert sum(data.counts.values()) == 16
    assert any("1 files are not read (notes.doc)" in line for line in lines)


def test_files_beside_the_folders_of_splits_are_refused(tmp_path):
    write_image(image_folder(tmp_path) / "loose.png")
    with pytest.raises(DataError, match="1 files beside them"):
        load(path=str(tmp_path))


TABLES = {
    "metadata.csv": lambda rows: "file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows),
    "metadata.tsv": lambda rows: "file_name\ttext\n" + "".join(f"{row['file_name']}\t{row['text']}\n" for row in rows),
    "metadata.jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
}


@pytest.mark.parametrize("above", [False, True], ids=["in each split", "above the splits"])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_beside_the_files_says_what_they_are(tmp_path, name, above):
    rows: dict[Path, list[dict[str, str]]] = {}
    for split in ("train", "test"):
        for i in range(4):
            file = write_sound(tmp_path / split / "clips" / f"{i}.wav", sine(200 + 50 * i + (split == "test")))
            table = tmp_path if above else tmp_path / split
            rows.setdefault(table, []).append({"file_name": str(file.relative_to(table)), "text": f"{split} {i}"})
    write_sound(tmp_path / "train" / "unlisted.wav")
    for folder, listed in rows.items():
        (folder / name).write_text(TABLES[name](listed))
    lines: list[str] = []
    with reported(lines.append):
        data = load("audio", "text", path=str(tmp_path), validation_size=1)
    assert sorted(data.test["text"]) == [f"test {i}" for i in range(4)]
    for row in data.test:
        assert row["audio"]["path"].endswith(f"clips{row['text'].replace('test ', '/')}.wav")
    assert any("1 files stand in no table and are not read (unlisted.wav)" in line for line in lines)


def test_a_table_without_names_of_files_is_refused(tmp_path):
    write_sound(tmp_path / "a.wav")
    (tmp_path / "metadata.csv").write_text("filename,text\na.wav,x\n")
    with pytest.raises(DataError, match=r"no column 'file_name'.*did you mean filename"):
        load("audio", "text", path=str(tmp_path), test_size=1)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_a_manifest_names_files_beside_it(tmp_path, ending, streaming, monkeypatch):
    monkeypatch.chdir("/")  # Paths are relative to the manifest, and not to where it runs.
    for split in ("train", "test"):
        rows = []
        for i in range(6):
            write_sound(tmp_path / split / "clips" / f"{i}.flac", sine(200 + 100 * i + (split == "test")))
            rows.append({"file": f"clips/{i}.flac", "text": f"{200 + 100 * i}"})
        writer = {".csv": Dataset.to_csv, ".jsonl": Dataset.to_json, ".parquet": Dataset.to_parquet}[ending]
        writer(Dataset.from_list(rows), tmp_path / split / f"rows{ending}")
    files = {split: str(tmp_path / split / f"rows{ending}") for split in ("train", "test")}
    config = {"columns": {"audio": "file", "text": "text"}, "streaming": streaming, "validation_size": 2}
    data = load("audio", "text", files=files, **config)
    assert isinstance(data.train, IterableDataset) == streaming
    rows = list(data.train)
    assert len(rows) == 4
    for row in rows:
        assert set(row) == {"audio", "text"}
        assert set(row["audio"]) == {"bytes", "path"}
        heard = dominant(read_audio(row["audio"], 16_000), 16_000)
        assert heard == pytest.approx(float(row["text"]), abs=5)


def test_manifests_of_several_folders_are_one_split(tmp_path):
    files = []
    for part, colour in (("a", RED), ("b", BLUE)):
        write_image(tmp_path / part / "one.png", colour)
        (tmp_path / part / "rows.csv").write_text("image,label\none.png," + part + "\n")
        files.append(str(tmp_path / part / "rows.csv"))
    test = str(image_folder(tmp_path / "test", ("all",)))
    data = load(files={"train": files, "validation": test, "test": test})
    assert colours(data.train) == ["red", "blue"]
    assert len(data.test) == 8


def test_a_path_that_leaves_the_manifests_folder_is_followed_where_files_are_local(tmp_path):
    write_image(tmp_path / "elsewhere" / "one.png")
    (tmp_path / "rows").mkdir()
    whole = str(tmp_path / "elsewhere" / "one.png")
    table = "image,label\n" + f"../elsewhere/one.png,a\n{whole},b\n" * 4
    (tmp_path / "rows" / "rows.csv").write_text(table)
    data = load(files=str(tmp_path / "rows" / "rows.csv"), test_size=2, validation_size=2)
    assert {cell["path"] for cell in data.train["image"]} == {whole}


SOUNDS = {
    "arrays": lambda: {"array": sine().tolist(), "sampling_rate": 16_000},
    "stereo": lambda: {"array": [sine().tolist()] * 2, "sampling_rate": 16_000},
    "bytes": lambda: sound_bytes(),
    "cells": lambda: {"bytes": sound_bytes(), "path": "a.wav"},
}
IMAGES = {
    "images": lambda: picture(),
    "arrays": lambda: np.asarray(picture()).tolist(),
    "grey arrays": lambda: np.full((6, 8), 80, np.uint8).tolist(),
    "bytes": lambda: image_bytes(),
    "cells": lambda: {"bytes": image_bytes(), "path": "a.png"},
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_callable_may_give_sound_in_any_form(kind):
    data = given_rows({"audio": [SOUNDS[kind]()] * 4, "label": [0, 1] * 2}, "audio", "label")
    assert data.train.features["audio"] == CELL
    assert np.allclose(read_audio(data.test[0]["audio"], 16_000), sine(), atol=1e-4)


@pytest.mark.parametrize("kind", IMAGES)
def test_a_callable_may_give_images_in_any_form(kind):
    data = given_rows({"image": [IMAGES[kind]()] * 4, "label": [0, 1] * 2})
    assert data.train.features["image"] == CELL
    expected = (80, 80, 80) if "grey" in kind else RED
    assert read_image(data.test[0]["image"]).getpixel((0, 0)) == expected


def test_a_saved_data_set_is_read(tmp_path):
    rows = Dataset.from_dict({"image": [picture(RED), picture(BLUE)] * 3, "label": ["red", "blue"] * 3})
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    data = load(path=str(tmp_path / "saved"), validation_size=2)
    assert data.train.features["image"] == CELL
    assert colours(data.train) == list(data.train["label"])


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("audio", [0.1, 0.2], "expected audio as a path, bytes"),
        ("audio", {"array": [0.1, 0.2]}, "expected a sampling_rate beside the array"),
        ("audio", {"array": [], "sampling_rate": 8000}, "array of samples is empty"),
        ("audio", 3, "expected audio as a path"),
        ("image", [[[300, 0, 0]]], "pixels from 0 to 255, got values from 0 to 300"),
        ("image", [1, 2], "shape \\[height, width"),
        ("image", {"array": [1]}, "expected image as a path"),
        ("image", "https://example.com/a.png", "only files are read"),
    ],
)
def test_a_cell_that_cannot_be_media_is_refused_by_its_row(column, value, told):
    with pytest.raises(DataError, match=told) as refused:
        given_rows({column: [value] * 4, "label": [0, 1] * 2}, column, "label")
    assert f"row 0, column {column!r}" in str(refused.value)


def test_a_folder_may_be_streamed(tmp_path):
    data = load(path=str(image_folder(tmp_path)), streaming=True, validation_size=2)
    assert isinstance(data.train, IterableDataset)
    rows = list(data.train)
    assert (len(rows), len(data.validation), len(data.test)) == (6, 2, 8)
    assert colours(rows) == [row["label"] for row in rows]
    assert colours(data.test) == list(data.test["label"])


@pytest.mark.parametrize("known", [True, False], ids=["features known", "features unknown"])
def test_a_stream_of_a_callable_may_give_any_form(known):
    def rows() -> Any:
        yield from ({"image": picture(colour), "label": label} for colour, label in ((RED, 0), (BLUE, 1)) * 4)

    features = Features({"image": ImageFeature(), "label": Value("int64")}) if known else None
    stream = IterableDataset.from_generator(rows, features=features)
    given.value = IterableDatasetDict(train=stream, test=stream)
    data = load(path=GIVEN, validation_size=2)
    assert colours(data.train) == ["red", "blue"] * 3
    assert colours(data.test) == ["red", "blue"] * 4


def test_a_column_that_a_stream_lacks_is_told():
    stream = IterableDataset.from_generator(lambda: iter([{"picture": image_bytes(), "label": 0}] * 4))
    given.value = IterableDatasetDict(train=stream, test=stream)
    with pytest.raises(DataError, match="no column 'image'; it has 'picture', 'label'"):
        load(path=GIVEN, validation_size=1)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["images", "rows.csv"], "expected folders, or files with rows, got both"),
        ("empty", "empty holds no image file that can be read"),
        ("images", "sub-folders for several splits .*; name it in data.path"),
    ],
)
def test_folders_that_are_no_split_are_refused(tmp_path, monkeypatch, files, told):
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "images")
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("image,label\na.png,1\n")
    with pytest.raises(DataError, match=told):
        load(files={"train": files, "test": "images/test"})


def test_links_that_lead_back_are_followed_once(tmp_path):
    image_folder(tmp_path / "images")
    (tmp_path / "images" / "train" / "red" / "up").symlink_to(tmp_path / "images", target_is_directory=True)
    assert sum(load(path=str(tmp_path / "images")).counts.values()) == 16


def test_rows_of_a_table_above_the_splits_that_are_of_none_are_told(tmp_path):
    image_folder(tmp_path)
    write_image(tmp_path.parent / "away.png")
    names = [f"{split}/red/{i}.png" for split in ("train", "test") for i in range(4)]
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + "".join(f"{name},1\n" for name in [*names, "a/b.png"]))
    lines: list[str] = []
    with reported(lines.append):
        data = load(path=str(tmp_path))
    assert sum(data.counts.values()) == 8
    assert any("1 rows name files that are in no split's folder and are not read (b.png)" in line for line in lines)
    assert any("4 files stand in no table" in line for line in lines)
