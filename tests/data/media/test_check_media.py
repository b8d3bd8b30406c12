"""Rows whose files cannot be used are named, and dropped or refused, before anything is trained."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset

from hf_distill.data.media.cells import MediaError
from hf_distill.data.media.check_media import check_media
from hf_distill.data.media.threads import HELD, over_cells
from hf_distill.data.rows import load_data
from hf_distill.errors import DataError
from hf_distill.logs import reported
from hf_distill.recipe import DataConfig
from tests.helpers.data import given
from tests.helpers.media import image_bytes, picture, sine, sound_bytes

SOUNDS: dict[str, tuple[Any, str]] = {
    "broken": ({"bytes": b"RIFF junk", "path": "x.wav"}, "x.wav is no audio that can be read"),
    "cut": ({"bytes": sound_bytes()[:8000], "path": "x.wav"}, "x.wav is truncated or damaged"),
    "empty": ({"bytes": b"", "path": "x.wav"}, "x.wav is empty"),
    "missing": ({"bytes": None, "path": "/no/x.wav"}, "x.wav: its file /no/x.wav cannot be read"),
    "none": (None, "the row has no audio"),
    "silent": ({"bytes": sound_bytes(np.zeros(8000, np.float32)), "path": "x.wav"}, "x.wav is silent"),
    "too short": ({"bytes": sound_bytes(sine(seconds=0.05)), "path": "x.wav"}, "0.05 s long, shorter than 0.1 s"),
    "too long": ({"bytes": sound_bytes(sine(seconds=2.0)), "path": "x.wav"}, "2.00 s long, longer than 1 s"),
}
IMAGES: dict[str, tuple[Any, str]] = {
    "broken": ({"bytes": b"GIF89a junk", "path": "x.png"}, "x.png is no image that can be read"),
    "cut": ({"bytes": image_bytes(picture(size=(64, 64)), "JPEG")[:-200], "path": "x.jpg"}, "x.jpg is truncated"),
    "empty": ({"bytes": b"", "path": "x.png"}, "x.png is empty"),
    "missing": ({"bytes": None, "path": "/no/x.png"}, "x.png: its file /no/x.png cannot be read"),
    "none": (None, "the row has no image"),
}
FAULTS = [("audio", kind) for kind in SOUNDS] + [("image", kind) for kind in IMAGES]
GOOD = {
    "audio": {"bytes": sound_bytes(), "path": "good.wav"},
    "image": {"bytes": image_bytes(), "path": "good.png"},
}
CASES = {"audio": SOUNDS, "image": IMAGES}


def rows_with(column: str, bad: Any, at: tuple[int, ...] = (2,), count: int = 8) -> Dataset:
    cells = [bad if i in at else GOOD[column] for i in range(count)]
    return Dataset.from_dict({column: cells, "label": [i % 2 for i in range(count)]})


def load(column: str, **config: Any) -> Any:
    config = {"path": "tests.helpers.data:given", **config}
    return load_data(DataConfig(**config), (column, "label"), (), (), 0, seconds=(0.1, 1.0))


@pytest.mark.parametrize(("column", "kind"), FAULTS)
def test_faults_are_told_by_row_and_name_and_dropped_where_that_is_asked(column, kind):
    bad, told = CASES[column][kind]
    rows = rows_with(column, bad)
    with pytest.raises(DataError) as refused:
        check_media(rows, "train", "refuse", (column,), seconds=(0.1, 1.0))
    assert f"split 'train': 1 of 8 rows hold {column} that cannot be used (1 " in str(refused.value)
    assert "row 2 (" in str(refused.value)
    assert told in str(refused.value)
    assert "set data.invalid_rows: drop" in str(refused.value)
    kept, lines = check_media(rows, "train", "drop", (column,), seconds=(0.1, 1.0))
    assert len(kept) == 7
    assert len(lines) == 1
    assert "1 of 8 rows are dropped" in lines[0]


def test_faults_are_counted_by_kind_and_the_first_five_are_named():
    names = ("silent", "broken", "silent", "empty", "silent", "too long", "silent")
    cells = [GOOD["audio"], *(SOUNDS[name][0] for name in names), GOOD["audio"]]
    with pytest.raises(DataError) as refused:
        check_media(Dataset.from_dict({"audio": cells}), "test", "refuse", ("audio",), seconds=(0.0, 1.0))
    message = str(refused.value)
    assert (
        "7 of 9 rows hold audio that cannot be used (4 silent, 1 broken, 1 empty, 1 too long): row 1 (x.wav" in message
    )
    assert message.count("row ") == 5
    assert "and 2 more" in message


def test_rows_are_named_by_where_they_stood_before_they_were_shuffled():
    rows = rows_with("audio", SOUNDS["empty"][0], at=(5,)).select([7, 6, 5, 4])
    with pytest.raises(DataError, match=r"row 5 \(x.wav is empty"):
        check_media(rows, "train", "refuse", ("audio",))


def test_rows_none_of_which_can_be_used_are_refused_even_where_they_would_be_dropped():
    rows = rows_with("image", IMAGES["empty"][0], at=tuple(range(8)))
    with pytest.raises(DataError, match=r"8 of 8 rows.*no row would be left"):
        check_media(rows, "train", "drop", ("image",))


@pytest.mark.parametrize("column", ["audio", "image"])
def test_loading_drops_what_cannot_be_used_and_tells_it(column):
    bad = CASES[column]["broken"][0]
    part = rows_with(column, bad)
    given.value = DatasetDict(train=part, validation=part, test=part)
    with pytest.raises(DataError, match="split 'train': 1 of 8 rows hold"):
        load(column)
    data = load(column, invalid_rows="drop")
    assert data.counts == {"train": 7, "validation": 7, "test": 7}
    assert sum("1 of 8 rows are dropped" in note for note in data.notes) == 3


@pytest.mark.parametrize("column", ["audio", "image"])
def test_rows_of_a_stream_are_refused_or_dropped_and_counted_as_they_come(column):
    bad = CASES[column]["broken"][0]
    stream = rows_with(column, bad, at=(2, *range(10, 30)), count=40).to_iterable_dataset()
    refused, _ = check_media(stream, "train", "refuse", (column,))
    assert isinstance(refused, IterableDataset)
    first = iter(refused)
    assert [next(first)["label"] for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="row 2 of the stream holds"):
        next(first)
    kept, _ = check_media(stream, "train", "drop", (column,))
    lines: list[str] = []
    with reported(lines.append):
        assert len(list(kept)) == 19
    assert [line.split(": ")[3].split(" ")[0] for line in lines] == ["1", "10"]


def test_many_files_are_looked_at_and_few_are_held(tmp_path: Path):
    content = bytes(1 << 18)
    rows = Dataset.from_generator(
        lambda: ({"audio": {"bytes": content, "path": str(i)}} for i in range(4 * HELD)), cache_dir=str(tmp_path)
    )
    tracemalloc.start()
    names = list(over_cells(rows, "audio", lambda cell: (cell["path"], len(cell["bytes"]))))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert names == [(str(i), len(content)) for i in range(4 * HELD)]
    assert most < 2.5 * HELD * len(content)


def test_a_missing_library_is_no_fault_of_rows(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match="pip install") as refused:
        check_media(rows_with("audio", GOOD["audio"]), "train", "drop", ("audio",))
    assert not isinstance(refused.value, MediaError)
