"""What a person writes in a file of their own runs a recipe from data to card, as what the package brings does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_distill import run
from hf_distill.errors import ObjectiveError, RecipeError, TeacherError
from hf_distill.tasks import Task, make_task
from tests.helpers import tiny
from tests.helpers.toy_task import ToyTask

TOY_TASK = {
    "task": "tests.helpers.toy_task:ToyTask",
    "data": {"path": "tests.helpers.toy_task:splits"},
    "evaluate": {"resamples": 100},
}


@pytest.mark.slow
def test_a_task_of_ones_own_has_a_teacher_a_student_a_control_and_a_card(tmp_path):
    folder = run(tiny.recipe(**TOY_TASK), runs=tmp_path, report=lambda line: None, allow_code=True).folder
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


TOYS = {
    **TOY_TASK,
    "teacher": {"kind": "tests.helpers.toy_teacher:ToyTeacher", "certainty": 4.0},
    "student": {
        "config": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "tokenizer": {"vocab_size": 100},
    },
    "objectives": [{"kind": "labels"}, {"kind": "tests.helpers.toy_objective:ToyObjective", "bound": 5.0}],
}


def test_a_task_a_teacher_and_an_objective_of_ones_own_work_together(tmp_path):
    result = run(tiny.recipe(**TOYS), runs=tmp_path, report=lambda line: None, allow_code=True)
    assert set(result.results["models"]) == {"teacher", "student", "control"}
    assert result.results["models"]["teacher"]["metrics"]["accuracy"]["value"] == 1.0
    assert (result.folder / "recipe.yaml").read_text().startswith("# Needs --allow-code: recipe.task.name, ")
    assert result.results["command"] == "hf_distill.run(recipe, allow_code=True)"
    history = json.loads((result.folder / "checkpoints" / "student.json").read_text())["log_history"]
    assert any(0 < entry.get("loss_toyobjective", 0) <= 5 for entry in history)
    card = (result.student / "README.md").read_text()
    assert "a list of words" in card
    assert "a note on a napkin" in card


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("tests.helpers.toy_objective:NoObjective", "cannot be imported"),
        ("tests.helpers.toy_task:ToyTask", r"no subclass of hf_distill\.objectives\.Objective"),
    ],
)
def test_an_objective_of_ones_own_that_is_none_is_refused(kind: str, told: str, tmp_path):
    with pytest.raises(ObjectiveError, match=told):
        run(
            tiny.recipe(**{**TOYS, "objectives": [{"kind": kind}]}),
            runs=tmp_path,
            report=lambda line: None,
            allow_code=True,
        )


def toy_teacher(kind: str = "ToyTeacher", **options: Any) -> dict[str, Any]:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return tiny.recipe(
        teacher={"kind": f"tests.helpers.toy_teacher:{kind}", **options},
        student={"config": {"model_type": "bert", **shape}, "tokenizer": {"vocab_size": 100}},
        objectives=[{"kind": "labels"}, {"kind": "logits"}],
        evaluate={"resamples": 100, "control": False},
    )


def test_a_teacher_of_ones_own_is_scored_teaches_and_is_named_in_the_card(tmp_path):
    result = run(toy_teacher(certainty=4.0), runs=tmp_path, report=lambda line: None, allow_code=True)
    teacher = result.results["models"]["teacher"]
    assert teacher["metrics"]["accuracy"]["value"] == 1.0
    assert "parameters" not in teacher
    history = json.loads((result.folder / "checkpoints" / "student.json").read_text())["log_history"]
    assert any("loss_logits" in entry for entry in history)
    assert "a list of words" in (result.student / "README.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (toy_teacher(sureness=4.0), "unexpected keyword argument 'sureness'"),
        (toy_teacher("tiny"), r"no subclass of hf_distill\.teachers"),
        (toy_teacher("NoTeacher"), "cannot be imported"),
    ],
)
def test_a_teacher_of_ones_own_that_is_none_is_refused(wrong: dict[str, Any], told: str, tmp_path):
    with pytest.raises(TeacherError, match=told):
        run(wrong, runs=tmp_path, report=lambda line: None, allow_code=True)
