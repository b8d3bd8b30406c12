"""What a person writes in a file of their own runs a recipe from data to card, as what the package brings does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_distill import run
from hf_distill.errors import RecipeError
from hf_distill.tasks import Task, make_task
from tests.helpers import tiny
from tests.helpers.toy_task import ToyTask

TOY_TASK = {
    "task": "tests.helpers.toy_task:ToyTask",
    "data": {"path": "tests.helpers.toy_task:splits"},
    "evaluate": {"resamples": 100},
}


def test_a_task_of_ones_own_has_a_teacher_a_student_a_control_and_a_card(tmp_path):
    folder = run(tiny.recipe(**TOY_TASK), runs=tmp_path, report=lambda line: None).folder
    results = json.loads((folder / "results.json").read_text())
    assert results["task"] == "tests.helpers.toy_task:ToyTask"
    assert set(results["models"]) == {"teacher", "student", "control"}
    assert results["models"]["teacher"]["metrics"]["accuracy"]["value"] > 0.6
    card = (folder / "student" / "README.md").read_text()
    assert 'pipeline("text-classification", "USER/tiny")' in card
    assert "of the lines" in card


def test_a_task_of_ones_own_has_options_that_are_checked():
    assert make_task("tests.helpers.toy_task:ToyTask", {"max_length": 8}).max_length == 8
    with pytest.raises(RecipeError, match=r"task\.stride.*max_length"):
        make_task("tests.helpers.toy_task:ToyTask", {"stride": 8})
    with pytest.raises(RecipeError, match=r"no subclass of hf_distill\.tasks\.Task"):
        make_task("tests.helpers.toy_task:splits")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"distribution": "softmax"}, "categorical, bernoulli, real, vector"),
        ({"scored_as": "rows"}, "decisions, tags, answers, vectors, tokens"),
        ({"usage": "example"}, "pipeline"),
        ({"timed_as": "train"}, "forward, generate"),
        ({"cache_schemes": ("all",)}, "dense, sampled, top_k, naive_top_k"),
        ({"required": "line"}, "should be a tuple, got 'line'"),
    ],
)
def test_a_task_that_says_what_does_not_exist_is_refused_where_it_is_defined(wrong: dict[str, Any], told: str):
    with pytest.raises(RecipeError, match=f"{next(iter(wrong))}.*{told}"):
        type("Wrong", (ToyTask,), wrong)


def test_a_task_that_lacks_what_every_task_says_is_refused_where_it_is_defined():
    with pytest.raises(RecipeError, match="lacks name, pipeline_tag, auto_model, required, text_columns"):
        type("Empty", (Task,), {})
