"""What is kept on disk is read as it was written, or refused in one line that says what to do."""

from __future__ import annotations

import pytest

from hf_distill.artifacts import read_json, write_json
from hf_distill.errors import CacheError, OutputError

WHOLE = '{"rows": 3, "names": ["a", "b"]}'
DAMAGE = {
    "missing": None,
    "emptied": b"",
    "cut": WHOLE.encode()[:-9],
    "without its keys": b"{}",
    "another kind": b'["rows"]',
    "a number": b"7",
    "no text": b"\xff\xfe\x00",
    "null bytes": bytes(32),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_json_is_one_line_that_names_the_file_and_the_way_out(kind, tmp_path):
    path = tmp_path / "results.json"
    if DAMAGE[kind] is not None:
        path.write_bytes(DAMAGE[kind])
    with pytest.raises(OutputError, match=r"results\.json: expected the results") as raised:
        read_json(path, OutputError, "the results of a run", ["rows"])
    assert "delete it" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_in_place_of_a_file_is_an_error_of_the_kind_that_is_asked_for(tmp_path):
    with pytest.raises(CacheError, match=r"\(Is a directory\); make it again"):
        read_json(tmp_path, CacheError, "a manifest", remedy="make it again")


def test_what_was_written_is_read_again(tmp_path):
    content = {"rows": 3, "name": "\u00e9t\u00e9 \u2028", "value": 0.1}
    write_json(tmp_path / "results.json", content)
    assert read_json(tmp_path / "results.json", OutputError, "results", ["rows", "value"]) == content
