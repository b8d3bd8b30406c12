"""Stages of one recipe: each goes on with the student that the one before left, and so does its control."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from hf_distill import check, load_recipe, run, sweep
from hf_distill.errors import ObjectiveError, RecipeError
from hf_distill.pipeline.experiment import with_defaults
from hf_distill.pipeline.run import cache, evaluate
from hf_distill.recipe.load_recipe import dump_recipe
from hf_distill.report.figures import training_curves
from tests.helpers import tiny
from tests.helpers.command_line import process
from tests.helpers.data import completions
from tests.helpers.seams import accept_any_teacher

STAGES = [
    {"name": "off-policy", "objectives": [{"kind": "logits", "temperature": 1.0}], "training": {"max_steps": 4}},
    {
        "name": "on-policy",
        "objectives": [{"kind": "logits", "divergence": "reverse_kl", "temperature": 1.0}],
        "rollout": {"share": 1.0, "max_new_tokens": 4},
        "training": {"max_steps": 3, "learning_rate": 0.02},
    },
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A decoder of four layers, on disk, that has seen the rows: of one that knows nothing a run learns nothing."""
    folder, made, model = (
        tmp_path_factory.mktemp("teacher"),
        tiny.chat_tokenizer(),
        tiny.decoder(4, seed=2, pad_token_id=0),
    )
    rows = [row["prompt"] + row["completion"] + " [SEP]" for row in completions(40)]
    tiny.learn(model, made, rows, steps=40, rate=3e-3)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def recipe(teacher: str, **changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "staged",
        "seed": 3,
        "task": {"name": "causal-lm", "max_length": 32},
        "data": {"path": "tests.helpers.data:completion_splits"},
        "teacher": {"model": teacher},
        "student": {"layers": 2},
        "stages": STAGES,
        "training": {
            "per_device_train_batch_size": 8,
            "learning_rate": 0.05,
            "optim": "sgd",  # Adam makes much of a last digit where a gradient is nearly 0.
            "logging_steps": 1,
            "use_cpu": True,
            "save_strategy": "steps",
            "save_steps": 2,
            "eval_strategy": "no",
        },
        "evaluate": {"resamples": 100},
        **changes,
    }


def alone(teacher: str, number: int, **changes: Any) -> dict[str, Any]:
    """The recipe of one stage, as a person would write it who trains stage by stage."""
    made = recipe(teacher, **changes)
    stage = made.pop("stages")[number]
    more = {key: stage[key] for key in ("objectives", "rollout") if key in stage}
    return {**made, **more, "name": f"stage-{number}", "training": {**made["training"], **stage["training"]}}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    """But for the last digit: weights of a file lie elsewhere in memory, and are summed in another order."""
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-6, rtol=0, msg=name)


def silent(line: str) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def finished(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run in two stages."""
    runs = tmp_path_factory.mktemp("runs")
    return run(recipe(teacher), runs=runs, report=silent).folder


# --- two stages are two trainings -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_stages_give_the_student_and_the_control_of_two_runs_one_after_the_other(teacher, finished, tmp_path):
    first = run(alone(teacher, 0), runs=tmp_path, report=silent).folder
    assert_same_weights(first / "student", finished / "stages" / "off-policy" / "student")
    assert_same_weights(first / "control", finished / "stages" / "off-policy" / "control")
    for name in ("student", "control"):
        second = alone(teacher, 1, student={"pretrained": str(first / name)})
        by_hand = run({**second, "name": f"second-{name}"}, runs=tmp_path, report=silent).folder
        assert_same_weights(by_hand / name, finished / name)


@pytest.mark.slow
def test_each_stage_changes_the_student(finished):
    before, after = weights(finished / "stages" / "off-policy" / "student"), weights(finished / "student")
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.slow
def test_what_is_learned_beside_the_student_belongs_to_its_stage(teacher, tmp_path):
    stages = [
        {**STAGES[0], "objectives": [{"kind": "hidden"}]},
        {**STAGES[0], "name": "both", "objectives": [{"kind": "hidden"}, {"kind": "logits"}]},
    ]
    narrow = {"student": {"width": {"target": 0.5}}, "evaluate": {"resamples": 100, "control": False}}
    staged = run(recipe(teacher, stages=stages, **narrow), runs=tmp_path, report=silent).folder
    first = run(alone(teacher, 0, stages=stages, **narrow), runs=tmp_path, report=silent).folder
    assert_same_weights(first / "student", staged / "stages" / "off-policy" / "student")
    second = {**narrow, "student": {"pretrained": str(first / "student")}}
    by_hand = run(alone(teacher, 1, stages=stages, **second), runs=tmp_path, report=silent).folder
    assert_same_weights(by_hand / "student", staged / "student")
    assert json.loads((staged / "student" / "config.json").read_text())["hidden_size"] < 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "name"),
    [({"layers": 1, "freeze": ["embeddings"]}, "model"), ({"pretrained": None, "lora": {"r": 2}}, "adapter_model")],
    ids=["frozen", "adapters"],
)
def test_frozen_parts_and_adapters_go_on_too(student, name, teacher, tmp_path):
    if "pretrained" in student:
        student = {**student, "pretrained": teacher}
    stages = [{**stage, "objectives": [{"kind": "labels"}], "rollout": None} for stage in STAGES]
    made = recipe(teacher, student=student, stages=stages, evaluate={"resamples": 100, "control": False})
    folder = run(made, runs=tmp_path, report=silent).folder
    first, last = (
        load_file(each / "student" / f"{name}.safetensors") for each in (folder / "stages/off-policy", folder)
    )
    assert first.keys() == last.keys()
    moved = {key for key, value in first.items() if not torch.equal(value, last[key])}
    assert moved
    assert not any("embed" in key for key in moved)


@pytest.mark.slow
def test_vectors_go_on_with_the_projection_that_is_a_part_of_the_student(tmp_path, monkeypatch):
    accept_any_teacher(monkeypatch)  # Random vectors are good enough here.
    folder = tmp_path / "encoder"
    tiny.bert(2, kind=BertModel).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    rates = {"one": 0.05, "still": 0.0}
    stages = [
        {"name": name, "objectives": [{"kind": "similarity"}], "training": {"max_steps": 2, "learning_rate": rate}}
        for name, rate in rates.items()
    ]
    more = {"task": {"name": "embeddings", "dimensions": 8}, "data": {"path": "tests.helpers.data:scored_pairs"}}
    more |= {"student": {"layers": 1}, "evaluate": {"resamples": 100, "control": False}, "stages": stages}
    made = recipe(str(folder), **more)
    del made["training"]["learning_rate"]
    done = run(made, runs=tmp_path, report=silent).folder
    born = run(alone(str(folder), 1, **more), runs=tmp_path, report=silent).folder
    one, two, start = (
        load_file(each / "student" / "2_Dense" / "model.safetensors")["linear.weight"]
        for each in (done / "stages" / "one", done, born)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, start)


# --- what was finished is never lost ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_killed_in_its_second_stage_goes_on_there_and_ends_with_the_same_student(teacher, finished, tmp_path):
    dump_recipe(load_recipe(recipe(teacher)), tmp_path / "recipe.yaml")
    # The first stage writes two checkpoints, so the third is the second stage's.
    killed = process("tests/helpers/killed.py", str(tmp_path / "recipe.yaml"), str(tmp_path), "3")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    folder = tmp_path / "staged"
    first = folder / "stages" / "off-policy" / "student" / "model.safetensors"
    written = first.stat().st_mtime_ns
    assert list((folder / "checkpoints" / "student").glob("checkpoint-*"))
    assert not (folder / "student").exists()
    again = process("-m", "hf_distill", "run", str(tmp_path / "recipe.yaml"), "--allow-code", "--runs", str(tmp_path))
    assert again.returncode == 0, again.stderr[-2000:]
    assert "stage off-policy: student: trained already" in " ".join(again.stdout.split())
    assert first.stat().st_mtime_ns == written
    assert_same_weights(finished / "student", folder / "student")
    assert_same_weights(finished / "control", folder / "control")


# --- what a run tells -------------------------------------------------------------------------------------------------


def test_student_and_control_go_through_the_same_stages_and_steps(finished):
    training = json.loads((finished / "results.json").read_text())["training"]
    for name in ("student", "control"):
        assert training[name]["steps"] == 7
        assert {stage: each["steps"] for stage, each in training[name]["stages"].items()} == {
            "off-policy": 4,
            "on-policy": 3,
        }
        logs = json.loads((finished / "checkpoints" / f"{name}.json").read_text())["log_history"]
        rates = [entry["learning_rate"] for entry in logs if "learning_rate" in entry]
        assert rates == pytest.approx([0.02, 0.02 * 2 / 3, 0.02 / 3])  # A schedule of its own.
        terms = {key for entry in logs for key in entry if key.startswith("loss_")}
        assert terms == {"loss_logits" if name == "student" else "loss_labels"}


@pytest.mark.slow
def test_a_control_has_the_steps_that_rows_without_room_leave_to_its_student(teacher, tmp_path):
    long = [{**STAGES[0], "training": {"num_train_epochs": 2}}, {**STAGES[1], "training": {"num_train_epochs": 2}}]
    long[1] = {**long[1], "rollout": {"share": 1.0, "max_new_tokens": 57}}
    made = recipe(teacher, stages=long)
    lines: list[str] = []
    results = run(made, runs=tmp_path, report=lines.append).results
    assert any("rows are dropped" in line for line in lines)
    steps = {name: each["stages"]["on-policy"]["steps"] for name, each in results["training"].items()}
    assert steps["student"] == steps["control"] < results["training"]["student"]["stages"]["off-policy"]["steps"]


def test_results_and_card_tell_every_stage(finished):
    results = json.loads((finished / "results.json").read_text())
    assert list(results["stages"]) == ["off-policy", "on-policy"]
    assert "objectives" not in results
    assert results["stages"]["on-policy"]["rollout"]["share"] == 1.0
    for name in ("student", "control"):
        stages = results["training"][name]["stages"]
        assert stages["on-policy"]["loss"] == pytest.approx(results["models"][name]["metrics"]["loss"]["value"])
        assert stages["off-policy"]["loss"] != stages["on-policy"]["loss"]
    card = (finished / "student" / "README.md").read_text()
    table = re.findall(r"^\| (off-policy|on-policy) \| (\d+) \| .* \| ([\d.]+) \| .* \| ([\d.]+) \|$", card, re.M)
    told = {name: results["training"][name]["stages"] for name in ("student", "control")}
    assert table == [
        (stage, str(told["student"][stage]["steps"]), *(f"{told[name][stage]['loss']:.4f}" for name in told))
        for stage in ("off-policy", "on-policy")
    ]
    assert "* off-policy: logits" in card
    assert "In 100% of the steps of on-policy" in card
    assert "stage: off-policy" in card.split("---")[1]


def test_the_curves_of_all_stages_are_one_behind_the_other(finished, tmp_path):
    (panel,) = (finished / "figures").glob("training.png")
    assert panel.stat().st_size > 0
    done = [4, 3]
    history = [{"step": step, "weighted_loss_logits": 1.0 / step} for step in range(1, 8)]
    training_curves({"student": history}, "loss", tmp_path / "with.png", done)
    training_curves({"student": history}, "loss", tmp_path / "without.png")
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_a_complete_run_is_evaluated_again_without_training(finished, tmp_path):
    copied = tmp_path / "runs" / finished.name
    shutil.copytree(finished, copied)
    lines: list[str] = []
    again = evaluate(copied, ["evaluate.resamples=200"], report=lines.append)
    assert sum("trained already" in line for line in lines) == 4
    before, after = json.loads((finished / "results.json").read_text())["training"], again.results["training"]
    for stage, told in before["student"]["stages"].items():
        assert after["student"]["stages"][stage] == pytest.approx(told)


def test_lines_of_check_name_the_stage(teacher):
    lines: list[str] = []
    check(recipe(teacher), report=lines.append)
    told = " ".join(lines)
    assert "stage off-policy: steps: 4" in told
    assert "stage on-policy: rollout: the student writes in 100% of the steps" in told


def test_a_cache_serves_all_stages(teacher, tmp_path):
    stages = [STAGES[0], {**STAGES[0], "name": "more", "training": {"max_steps": 2}}]
    made = recipe(teacher, stages=stages, evaluate={"resamples": 100, "control": False})
    made["teacher"] = {"model": teacher, "kind": "cached"}
    folder = cache(made, runs=tmp_path, report=silent)
    lines: list[str] = []
    run(made, runs=tmp_path, report=lines.append)
    assert sum(f"{folder} fits and is complete" in line for line in lines) == 2


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_resolved_recipe_loads_again_to_the_same(teacher, tmp_path):
    given = recipe(teacher, stages=[{**stage, "training": {"max_steps": 2, "eval_strategy": "no"}} for stage in STAGES])
    del given["training"]["eval_strategy"]
    resolved = with_defaults(load_recipe(given))
    assert "eval_strategy" not in resolved.training
    dump_recipe(resolved, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == resolved


def test_a_recipe_without_stages_is_written_as_before_there_were_any():
    assert "stages" not in load_recipe(tiny.recipe()).to_dict()


def test_a_stage_takes_its_length_in_place_of_the_recipes(teacher):
    made = recipe(teacher, stages=[{"name": "short", "objectives": [{"kind": "labels"}]}, STAGES[0]])
    made["training"]["num_train_epochs"] = 3
    first, second = (each.training for each in load_recipe(made).by_stage().values())
    assert first["num_train_epochs"] == 3
    assert second["max_steps"] == 4
    assert "num_train_epochs" not in second


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stages": STAGES[:1]}, "at least two"),
        ({"stages": []}, "expected a list of stages"),
        ({"stages": None}, "expected a list of stages"),
        ({"stages": [STAGES[0], STAGES[0]]}, "a name of its own"),
        ({"stages": [STAGES[0], {**STAGES[1], "name": "OFF-policy"}]}, "a name of its own"),
        ({"stages": [STAGES[0], {**STAGES[1], "name": "../up"}]}, "recipe.stages.1.name: expected at most 100 letters"),
        ({"stages": [STAGES[0], {**STAGES[1], "teacher": {"model": "x"}}]}, "recipe.stages.1.teacher: no such key"),
        ({"stages": [STAGES[0], {"name": "b"}]}, "recipe.stages.1.objectives: required"),
        ({"stages": [STAGES[0], {"name": "b", "objectives": []}]}, "stage b: recipe.objectives: expected at least one"),
        ({"stages": [STAGES[0], {**STAGES[1], "training": {"seed": 1}}]}, "recipe.stages.1.training.seed"),
        ({"objectives": [{"kind": "labels"}]}, "recipe.objectives: do nothing beside stages"),
        ({"rollout": {"share": 1.0}}, "recipe.rollout: does nothing beside stages"),
        ({"training": {"max_steps": 4}}, "recipe.training.max_steps: does nothing"),
        ({"training": {"num_train_epochs": 4}}, "recipe.training.num_train_epochs: does nothing"),
        ({"student": {"layers": 2, "lora": {"merge": True}}}, "recipe.student.lora.merge"),
    ],
)
def test_what_does_nothing_or_is_no_stage_is_refused_when_the_recipe_loads(changes, told, teacher):
    with pytest.raises(RecipeError, match=re.escape(told)):
        load_recipe(recipe(teacher, **changes))


def test_a_stage_is_checked_as_a_recipe_is_and_named(teacher):
    made = recipe(teacher)
    made["teacher"]["kind"] = "cached"
    with pytest.raises(RecipeError, match=r"stage on-policy: recipe\.teacher\.kind: a cache holds"):
        load_recipe(made)
    alone = [STAGES[0], {**STAGES[1], "objectives": [{"kind": "labels"}]}]
    with pytest.raises(ObjectiveError, match="stage on-policy: rollout: what a student writes has no labels"):
        check(recipe(teacher, stages=alone), report=silent)
    unknown = [STAGES[0], {**STAGES[1], "training": {"max_steps": 3, "learning_rat": 1e-3}}]
    with pytest.raises(RecipeError, match=r"stage on-policy: recipe\.training\.learning_rat: TrainingArguments"):
        check(recipe(teacher, stages=unknown), report=silent)


def test_a_stream_needs_a_length_in_every_stage(teacher):
    made = recipe(teacher, stages=[STAGES[0], {**STAGES[1], "training": {}}])
    made["data"]["streaming"] = True
    with pytest.raises(RecipeError, match="max_steps: required"):
        with_defaults(load_recipe(made))


def test_a_sweep_refuses_stages_by_name(teacher, tmp_path):
    made = recipe(teacher, evaluate={"metric": "loss"})
    with pytest.raises(RecipeError, match=r"recipe\.stages: a sweep"):
        sweep(made, ["stages.0.training.learning_rate=0.1,0.2"], runs=tmp_path, report=silent)
    assert not list(Path(tmp_path).iterdir())
