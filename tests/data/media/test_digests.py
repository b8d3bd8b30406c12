"""Rows of media count by what their files hold, and not by where these are."""

from __future__ import annotations

import shutil

import pytest
from datasets import Dataset, DatasetDict

from hf_distill.data.media.digests import EDGE, contents, digests, fingerprint
from hf_distill.data.rows import load_data
from hf_distill.recipe import DataConfig
from tests.helpers.data import given
from tests.helpers.media import image_folder, picture, sine, sound_bytes, write_image, write_sound


def loaded(path: str, **config):
    return load_data(DataConfig(path=path, **config), ("image", "label"), (), (), 0)


def of_cells(*cells: dict) -> Dataset:
    return Dataset.from_dict({"audio": list(cells)})


def test_the_fingerprint_follows_content_and_not_the_place(tmp_path):
    here = image_folder(tmp_path / "here")
    before = loaded(str(here)).fingerprint
    shutil.copytree(here, tmp_path / "there")
    assert loaded(str(tmp_path / "there")).fingerprint == before
    write_image(here / "train" / "red" / "0.png", (1, 2, 3))
    assert loaded(str(here)).fingerprint != before


def test_a_cells_bytes_count_whole_and_its_name_does_not():
    whole = sound_bytes(sine(seconds=10.0))
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    one, renamed, other = (
        fingerprint([of_cells({"bytes": bytes(each), "path": name})])
        for each, name in ((whole, "a.wav"), (whole, "b.wav"), (changed, "a.wav"))
    )
    assert one == renamed != other


@pytest.mark.parametrize(
    ("place", "differs"), [(0, True), (EDGE - 1, True), (-1, True), (-EDGE, True), (2 * EDGE, False)]
)
def test_of_a_file_the_size_the_beginning_and_the_end_count(tmp_path, place, differs):
    content = bytearray(4 * EDGE)
    found = []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(content)
        found.append(next(digests(of_cells({"bytes": None, "path": str(tmp_path / name)}), "audio")))
        content[place] ^= 1
    assert (found[0] != found[1]) == differs
    (tmp_path / "b").write_bytes(bytes(4 * EDGE + 1))
    assert next(digests(of_cells({"bytes": None, "path": str(tmp_path / "b")}), "audio")) not in found


def test_small_files_and_empty_cells_have_digests_of_their_own(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    cells = [{"bytes": None, "path": str(tmp_path / "a")}, {"bytes": b"b", "path": None}, None]
    assert len({*digests(of_cells(*cells), "audio")}) == 3


def test_rows_of_two_splits_are_the_same_where_their_files_are(tmp_path):
    folder = image_folder(tmp_path)
    assert not loaded(str(folder)).warnings
    for i in range(2):
        shutil.copy(folder / "train" / "red" / f"{i}.png", folder / "test" / "red" / f"other{i}.png")
    data = loaded(str(folder), validation_size=1)
    assert any("of 10 test rows stand among the training rows" in line for line in data.warnings)


def test_sound_counts_where_its_texts_differ(tmp_path):
    path = str(write_sound(tmp_path / "a.wav"))
    rows = Dataset.from_dict({"audio": [{"bytes": None, "path": path}] * 2, "text": ["Hello.", "hello"]})
    first, second = contents(rows, ("text",))
    assert first == second


def test_images_of_a_callable_are_told_apart_by_their_pixels():
    def rows(first: int) -> Dataset:
        images = [picture((first + i, 0, 0)) for i in range(8)]
        return Dataset.from_dict({"image": images, "label": [0, 1] * 4})

    given.value = DatasetDict(train=rows(0), validation=rows(8), test=rows(16))
    before = loaded("tests.helpers.data:given")
    assert not before.warnings
    given.value["test"] = rows(17)
    assert loaded("tests.helpers.data:given").fingerprint != before.fingerprint
    given.value["test"] = rows(0)
    assert "8 of 8 test rows" in loaded("tests.helpers.data:given").warnings[0]
