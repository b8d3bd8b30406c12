"""A damaged file of a sweep or a plan ends nothing: what it held is found again."""

from __future__ import annotations

import json

import pytest

import hf_distill
from hf_distill.search.sweep import _scores_before
from hf_distill.search.sweep_grid import read_grid
from hf_distill.search.sweep_state import SweepState
from tests.helpers.damage import DAMAGE, damage
from tests.search.test_sweep import TWO, recipe_of, silent, untrained  # noqa: F401


class First:
    """What a sweep's state asks of its first experiment."""

    metric = "accuracy"
    rows = (1, 2)

    class recipe:
        class task:
            name = "text-classification"


def state(folder) -> SweepState:
    return SweepState(folder, read_grid({"seed_of_nothing": [1, 2]}), "hf-distill sweep", First)


@pytest.mark.parametrize("way", DAMAGE)
def test_a_sweep_goes_on_though_its_file_is_damaged(way, tmp_path, caplog):
    caplog.set_level("INFO")
    before = state(tmp_path / "sweep")
    before.claim()
    before.teacher({"cache": "caches/a", "rows_read": 7})
    again = state(tmp_path / "sweep")
    again.claim()
    assert again.content["teacher"]["rows_read"] == 7
    assert not caplog.records
    damage(again.path, way)
    last = state(tmp_path / "sweep")
    last.claim()
    assert last.content["teacher"] is None
    assert json.loads(last.path.read_text()) == last.content
    assert "sweep.json is damaged" in caplog.records[0].getMessage()


@pytest.mark.parametrize("way", DAMAGE)
def test_the_scores_of_a_student_are_made_again_where_they_are_damaged(way, tmp_path):
    path = tmp_path / "validation.json"
    path.write_text(json.dumps({"evaluate": {}, "metrics": {"accuracy": 0.5}}))
    assert _scores_before(path, "accuracy")["metrics"] == {"accuracy": 0.5}
    damage(path, way)
    assert _scores_before(path, "accuracy") == {}


@pytest.mark.slow
def test_a_sweep_whose_files_are_all_damaged_ends_as_it_did(tmp_path):
    first = hf_distill.sweep(recipe_of(tmp_path), TWO, runs=tmp_path / "runs", report=silent)
    for path in (first.folder / "sweep.json", *first.folder.glob("*/validation.json")):
        damage(path, "cut")
    lines: list[str] = []
    again = hf_distill.sweep(recipe_of(tmp_path), TWO, runs=tmp_path / "runs", report=lines.append)
    assert again.best == first.best
    assert sum("is damaged" in line for line in lines) == 3
