"""Media of data sets on the Hub: no library decodes them, and their rows may read none of this machine's files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, Value

from hf_distill.data.media.cells import CELL
from hf_distill.data.media.columns_of_media import as_cells
from hf_distill.data.media.origins import Origin
from hf_distill.data.media.read_audio import read_audio
from hf_distill.data.rows import load_data
from hf_distill.errors import DataError
from hf_distill.recipe import DataConfig
from tests.helpers.media import image_bytes, picture, sine, sound_bytes, sound_folder, write_image, write_sound

HUB = Origin(hub_id="somebody/sounds")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where what is downloaded of the data set lies."""
    folder = tmp_path / "cache" / "datasets--somebody--sounds"
    folder.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent))
    return folder


@pytest.fixture
def on_hub(monkeypatch):
    """Puts splits where the Hub would give them."""
    load = datasets.load_dataset

    def put(splits: Any) -> None:
        def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
            assert path == "somebody/sounds"
            if callable(splits):
                return splits(load, options.get("streaming", False))
            return splits

        monkeypatch.setattr("hf_distill.data.sources.datasets.load_dataset", load_dataset)

    return put


def load(*required: str, **config: Any) -> Any:
    config = {"path": "somebody/sounds", "validation_size": 2, **config}
    return load_data(DataConfig(**config), required, (), (), 0)


def audio_rows(count: int = 8) -> Dataset:
    """As a parquet file on the Hub holds them: encoded bytes under the feature Audio, with a class by number."""
    cells = [{"bytes": sound_bytes(sine(200 + 10 * i)), "path": f"{i}.wav"} for i in range(count)]
    rows = Dataset.from_dict({"audio": cells, "label": [i % 2 for i in range(count)]})
    rows = rows.cast_column("label", ClassLabel(names=["low", "high"]))
    return rows.cast_column("audio", Audio(sampling_rate=16_000))


@pytest.mark.parametrize("streaming", [False, True])
def test_audio_is_never_decoded_and_other_columns_stay_as_they_are(on_hub, streaming):
    test = DatasetDict(train=audio_rows(8), test=audio_rows(4))
    on_hub({name: rows.to_iterable_dataset() for name, rows in test.items()} if streaming else test)
    data = load("audio", "label", streaming=streaming)
    rows = list(data.train)
    assert len(rows) == 6
    assert data.test.features["audio"] == CELL
    assert data.test.features["label"].names == ["low", "high"]
    for row in [*rows, *data.test]:
        assert len(read_audio(row["audio"], 16_000)) == len(sine())


def test_the_feature_is_changed_without_a_copy_of_the_files():
    rows = audio_rows().select([5, 3, 1])
    made = as_cells(rows, {"audio": "audio"}, HUB, "train")
    assert [cell["path"] for cell in made["audio"]] == ["5.wav", "3.wav", "1.wav"]
    places = [table.data.column("audio").chunk(0).field("bytes").buffers()[2].address for table in (rows, made)]
    assert places[0] == places[1]
    assert made.features == Features({"audio": CELL, "label": rows.features["label"]})


def test_a_repository_of_audio_files_is_loaded_without_torchcodec(on_hub, cache, tmp_path):
    folder = sound_folder(cache / "snapshots")

    def splits(load: Any, streaming: bool) -> Any:
        return load("audiofolder", data_dir=str(folder), streaming=streaming, cache_dir=str(tmp_path / "rows"))

    on_hub(splits)
    data = load("audio", "label")
    assert data.counts == {"train": 6, "validation": 2, "test": 8}
    assert data.test.features["label"].names == ["high", "low"]
    assert all(len(read_audio(row["audio"], 16_000)) == 1600 for row in data.test)
    encode = Audio.encode_example
    assert encode.__module__ == "datasets.features.audio"  # It is as it was.


def cells_of(form: str, column: str, path: str) -> Dataset:
    cell = {"bytes": None, "path": path}
    feature = {"audio": Audio(), "image": Image()}[column]
    if form == "paths":
        return Dataset.from_dict({column: [path]})
    rows = Dataset.from_dict({column: [cell]}, features=Features({column: CELL}))
    return rows.cast_column(column, feature) if form == "features" else rows


FORMS = ("paths", "cells", "features")


PLACES: dict[str, Callable[[Path, Path], str]] = {
    "absolute": lambda folder, cache: f"{folder}/secret.png",
    "through the cache": lambda folder, cache: f"{cache}/../../secret.png",
    "a link": lambda folder, cache: f"{cache}/link.png",
    "of another data set": lambda folder, cache: f"{cache.parent}/datasets--my--own/secret.png",
    "relative": lambda folder, cache: "secret.png",
    "relative upwards": lambda folder, cache: "../secret.png",
    "home": lambda folder, cache: "~/secret.png",
    "an address": lambda folder, cache: "https://example.com/secret.png",
    "an address of a file": lambda folder, cache: f"file://{folder}/secret.png",
    "packed": lambda folder, cache: f"zip://secret.png::{folder}/secret.zip",
    "an address of another data set": lambda folder, cache: "hf://datasets/somebody/else@main/secret.png",
    "an address of a similar name": lambda folder, cache: "hf://datasets/somebody/sounds-of-mine@main/secret.png",
}
"""Paths that a stranger might write, in a folder with a secret, and beside what was downloaded."""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("column", ["audio", "image"])
def test_a_row_of_the_hub_may_not_read_what_was_not_downloaded_with_it(
    tmp_path, cache, column, place, form, streaming, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, cache.parent / "datasets--my--own"):
        write_image(folder / "secret.png")
    os.symlink(tmp_path / "secret.png", cache / "link.png")
    rows: Any = cells_of(form, column, PLACES[place](tmp_path, cache))
    rows = rows.to_iterable_dataset() if streaming else rows
    with pytest.raises(DataError, match=r"rows of the Hub may not read|only files are read"):
        list(as_cells(rows, {column: column}, HUB, "train"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("column", ["audio", "image"])
def test_a_row_of_the_hub_reads_what_was_downloaded(cache, column, form):
    path = str(write_sound(cache / "a.wav") if column == "audio" else write_image(cache / "a.png"))
    made = as_cells(cells_of(form, column, path), {column: column}, HUB, "train")
    assert made[0][column] == {"bytes": None, "path": path}


def test_beside_bytes_a_path_is_a_name_and_never_read(tmp_path, cache):
    write_image(tmp_path / "secret.png", (0, 0, 0))
    cell = {"bytes": image_bytes(picture()), "path": str(tmp_path / "secret.png")}
    rows = Dataset.from_dict({"image": [cell]}, features=Features({"image": CELL}))
    assert as_cells(rows, {"image": "image"}, HUB, "train")[0]["image"]["bytes"] == cell["bytes"]


def test_what_a_stream_of_the_hub_names_by_its_address_is_read(monkeypatch):
    content = sound_bytes()
    address = "hf://datasets/somebody/sounds@main/a.wav"
    asked = []

    def xopen(path: str, mode: str) -> Any:
        asked.append(path)
        return io.BytesIO(content)

    monkeypatch.setattr("hf_distill.data.media.columns_of_media.xopen", xopen)
    stream = IterableDataset.from_generator(
        lambda: iter([{"audio": address, "text": "a"}]), features=Features({"audio": Audio(), "text": Value("string")})
    )
    (row,) = as_cells(stream, {"audio": "audio"}, HUB, "train")
    assert row == {"audio": {"bytes": content, "path": address}, "text": "a"}
    assert asked == [address]


def test_media_columns_that_a_task_does_not_read_do_no_harm(on_hub):
    rows = audio_rows().add_column("image", [{"bytes": image_bytes(), "path": None}] * 8, feature=Image())
    on_hub(DatasetDict(train=rows, test=rows))
    assert load("image", "label").test.column_names == ["image", "label"]
