"""A run whose training runs away names which model it is, and goes on from what was good."""

from __future__ import annotations

from functools import partial

import pytest

from hf_distill import run
from hf_distill.errors import OutputError, RecipeError, TrainingError
from hf_distill.recipe.load_recipe import load_recipe
from tests.helpers import tiny
from tests.helpers.broken import Scripted
from tests.helpers.seams import accept_any_teacher

NAN = float("nan")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A teacher with random weights, a student of its layers, ten steps with a checkpoint every other one."""
    accept_any_teacher(monkeypatch)
    tiny.bert(3, seed=5).save_pretrained(tmp_path / "teacher")
    tiny.tokenizer().save_pretrained(tmp_path / "teacher")
    steps = {"max_steps": 10, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "no"}
    return {
        "version": 1,
        "name": "tiny",
        "task": {"name": "text-classification", "max_length": 32},
        "data": {"path": "tests.helpers.tiny:splits", "arguments": {"train": 48, "test": 24}},
        "teacher": {"model": str(tmp_path / "teacher")},
        "student": {"layers": 1},
        "objectives": [{"kind": "logits"}],
        "training": {**steps, "per_device_train_batch_size": 8, "use_cpu": True},
        "evaluate": {"resamples": 100},
    }


def refused(recipe, folder, **overrides) -> str:
    with pytest.raises(TrainingError) as raised:
        run(recipe, overrides, runs=folder, report=lambda line: None)
    return str(raised.value)


def broken_at(monkeypatch, step: int) -> None:
    """The control's labels are NaN at a step."""
    monkeypatch.setattr("hf_distill.pipeline.train.Labels", partial(Scripted, {step - 1: NAN}))


@pytest.mark.slow
def test_the_control_is_named_keeps_its_good_checkpoints_and_goes_on(recipe, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        broken_at(patch, 5)
        assert refused(recipe, tmp_path).startswith("control: the loss of scripted is not finite at step 5; ")
    folder = tmp_path / "tiny"
    kept = sorted(path.name for path in (folder / "checkpoints" / "control").glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4"]
    assert (folder / "student").is_dir()
    assert not (folder / "control").exists()
    with pytest.raises(OutputError, match="another recipe"):
        run(recipe, {"training.learning_rate": 1e-6}, runs=tmp_path, report=lambda line: None)
    # What broke it is gone, and the guard changes nothing of what is trained.
    result = run(recipe, {"training_guard": False}, runs=tmp_path, report=lambda line: None)
    assert result.results["training"]["control"]["steps"] == 10


def test_a_stage_and_its_student_are_named(recipe, tmp_path):
    objectives = recipe.pop("objectives")
    rate = {"training": {"learning_rate": 1e30}}
    recipe["stages"] = [{"name": "a", "objectives": objectives, **rate}, {"name": "b", "objectives": objectives}]
    assert refused(recipe, tmp_path).startswith("stage a: student: ")


def test_a_teacher_that_its_own_recipe_trains_is_named(recipe, tmp_path):
    own = {"student": {"config": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2}}}
    own["student"]["config"] |= {"num_attention_heads": 4, "intermediate_size": 64}
    own["student"]["tokenizer"] = {"vocab_size": 100}
    recipe["teacher"] = {"recipe": {**own, "training": {**recipe["training"], "learning_rate": 1e30}}}
    message = refused(recipe, tmp_path)
    assert message.startswith("teacher tiny-teacher: the loss of labels is not finite")
    assert "learning_rate (it is 1e+30)" in message


def test_the_key_is_true_unless_it_says_false_and_leaves_the_recipe_as_it_was(recipe):
    assert load_recipe(recipe).training_guard is True
    assert "training_guard" not in load_recipe(recipe).to_dict()
    assert load_recipe(recipe, {"training_guard": False}).to_dict()["training_guard"] is False
    with pytest.raises(RecipeError, match="training_guard"):
        load_recipe(recipe, {"training_guard": "maybe"})
    with pytest.raises(RecipeError, match=r"recipe\.training_guard"):
        load_recipe(recipe, {"training.logging_nan_inf_filter": True})
