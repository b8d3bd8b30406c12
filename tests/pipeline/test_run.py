"""The whole flow on tiny models: what a run leaves on disk, what it proves, and that nothing is ever lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hf_distill
from hf_distill import load_recipe, run
from hf_distill.errors import HubError, OutputError, RecipeError, TeacherError
from hf_distill.pipeline import flow
from hf_distill.pipeline.preflight import command_of
from hf_distill.recipe.load_recipe import dump_recipe
from tests.helpers import tiny
from tests.helpers.command_line import process

ROOT = Path(__file__).resolve().parents[2]


def silent(line: str) -> None:
    """Report to nobody."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def with_teachers(finished: Path, runs: Path) -> Path:
    """A folder of runs whose teacher is made already."""
    shutil.copytree(finished.parent / "teachers", runs / "teachers")
    return runs


def test_a_run_leaves_everything_that_the_layout_promises(finished):
    for name in (
        "recipe.yaml",
        "results.json",
        "analysis.json",
        "figures/training.png",
        "figures/quality_against_speed.png",
    ):
        assert (finished / name).stat().st_size > 0
    student = {path.name for path in (finished / "student").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "figures"} <= student
    assert (finished / "control" / "model.safetensors").is_file()
    assert not list(finished.rglob("*.partial"))


def test_results_hold_what_they_must(finished):
    results = json.loads((finished / "results.json").read_text())
    for name in ("teacher", "student", "control"):
        model = results["models"][name]
        assert model["parameters"] > 0
        assert model["disk_bytes"] > 4 * model["parameters"]
        assert model["latency_ms"] > 0
        assert model["samples_per_second"] > 0
        for score in model["metrics"].values():
            assert score["low"] <= score["value"] <= score["high"]
        assert {"accuracy", "f1_macro", "precision_weighted"} <= model["metrics"].keys()
    comparison = results["comparison"]
    assert comparison["primary_metric"] == "accuracy"
    assert comparison["lower_is_better"] is False
    assert 0 < comparison["size_ratio"] < 1
    difference = comparison["student_minus_control"]
    accuracy = {name: model["metrics"]["accuracy"]["value"] for name, model in results["models"].items()}
    assert difference["value"] == pytest.approx(accuracy["student"] - accuracy["control"])
    assert comparison["retention"] == pytest.approx(accuracy["student"] / accuracy["teacher"])
    assert {"gap_closed", "speedup", "student_minus_teacher"} <= comparison.keys()
    assert results["floor"]["accuracy"] > 0.5


@pytest.mark.slow
def test_the_student_loads_where_hf_distill_cannot_be_imported(finished, tmp_path):
    code = (
        "import sys; sys.modules['hf_distill'] = None\n"
        "from transformers import pipeline\n"
        f"print(pipeline('text-classification', {str(finished / 'student')!r})('the good card')[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'label': 'good'" in done.stdout or "'label': 'bad'" in done.stdout


def test_saved_weights_hold_no_teacher_and_no_projection(finished):
    names = weights(finished)
    assert not any("distillation" in name or "teacher" in name for name in names)
    assert max(tensor.shape[-1] for name, tensor in names.items() if "encoder" in name and tensor.dim() == 2) == 64
    checkpoint = next((finished / "checkpoints" / "student").glob("checkpoint-*"))
    assert (checkpoint / "distillation.safetensors").is_file()


def test_student_and_control_start_alike_and_differ_only_by_the_teacher(finished):
    facts = {
        name: json.loads((finished / "checkpoints" / f"{name}.json").read_text()) for name in ("student", "control")
    }
    assert facts["student"]["origin"] == facts["control"]["origin"]
    assert facts["student"]["steps"] == facts["control"]["steps"] == 24
    first = {name: each["log_history"][0] for name, each in facts.items()}
    assert {"loss_labels", "loss_logits", "loss_hidden"} <= first["student"].keys()
    assert "loss_logits" not in first["control"]
    assert first["control"]["loss_labels"] > 0


def test_running_a_complete_run_again_gives_its_results_without_training(finished):
    lines: list[str] = []
    again = run(tiny.recipe(), runs=finished.parent, report=lines.append)
    assert again.results == json.loads((finished / "results.json").read_text())
    assert any("complete" in line for line in lines)
    assert again.metrics["accuracy"] == again.results["models"]["student"]["metrics"]["accuracy"]["value"]


@pytest.mark.slow
def test_the_resolved_recipe_gives_the_same_student_again(finished, tmp_path):
    again = run(finished / "recipe.yaml", runs=with_teachers(finished, tmp_path), report=silent)
    assert_same_weights(finished, again.folder)


@pytest.mark.slow
def test_a_run_killed_while_it_writes_a_checkpoint_ends_with_the_same_student(finished, tmp_path):
    dump_recipe(load_recipe(tiny.recipe()), tmp_path / "recipe.yaml")
    with_teachers(finished, tmp_path)
    killed = process("tests/helpers/killed.py", str(tmp_path / "recipe.yaml"), str(tmp_path), HF_TOKEN="hf_verysecret")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    folder = tmp_path / "tiny"
    assert (folder / "checkpoints" / "student" / "checkpoint-10" / "model.safetensors").is_file()
    assert not (folder / "checkpoints" / "student" / "checkpoint-10" / "trainer_state.json").exists()
    assert not (folder / "student").exists()
    again = process(
        "-m",
        "hf_distill",
        "run",
        str(tmp_path / "recipe.yaml"),
        "--allow-code",
        "--runs",
        str(tmp_path),
        HF_TOKEN="hf_verysecret",
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert_same_weights(finished, folder)
    assert "Against its control, the same student without a teacher" in " ".join(again.stdout.split())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert all(b"hf_verysecret" not in path.read_bytes() for path in files)


@pytest.mark.slow
def test_a_teacher_is_made_once_and_made_anew_when_its_recipe_changes(copied):
    made = list((copied.parent / "teachers").iterdir())
    changed = tiny.recipe(
        name="other",
        student={"layers": 1},
        objectives=[{"kind": "logits"}],
        evaluate={"control": False, "resamples": 100},
    )
    run(changed, runs=copied.parent, report=silent)
    assert list((copied.parent / "teachers").iterdir()) == made
    run(changed, {"name": "third", "teacher.recipe.training.num_train_epochs": 6}, runs=copied.parent, report=silent)
    assert len(list((copied.parent / "teachers").iterdir())) == len(made) + 1


def test_evaluating_again_keeps_the_models_and_rewrites_the_results(copied):
    before = weights(copied)
    result = hf_distill.evaluate(copied, ["evaluate.batch_size=8"], report=silent)
    assert result.results["speed"]["batch_size"] == 8
    assert all(torch.equal(value, before[name]) for name, value in weights(copied).items())


@pytest.mark.parametrize("overrides", [["a.b=1 2", "c=3"], {"a.b": "1 2", "c": 3}])
def test_the_command_that_is_told_holds_every_override(overrides):
    assert command_of("run", "r.yaml", overrides) == "hf-distill run r.yaml 'a.b=1 2' c=3"


def test_a_folder_of_another_recipe_is_refused_and_left_as_it_is(finished):
    before = (finished / "recipe.yaml").read_text()
    with pytest.raises(OutputError, match="another recipe"):
        run(tiny.recipe(seed=8), runs=finished.parent, report=silent)
    assert (finished / "recipe.yaml").read_text() == before


def test_changed_data_are_refused(finished):
    recipe = load_recipe(finished / "recipe.yaml")
    with pytest.raises(OutputError, match="other data"):
        flow.RunFolder(finished).claim(recipe, "another fingerprint")


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"no recipe\.yaml"):
        run(tiny.recipe(), runs=tmp_path, report=silent)
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["thesis.tex"]


def test_a_path_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="cannot be written"):
        run(tiny.recipe(), runs=tmp_path / "file", report=silent)


def test_a_teacher_at_chance_stops_the_run_before_training(tmp_path):
    tiny.bert(2, 32, seed=11).save_pretrained(tmp_path / "random")
    tiny.tokenizer().save_pretrained(tmp_path / "random")
    recipe = tiny.recipe(
        teacher={"model": str(tmp_path / "random")}, student={"layers": 1}, objectives=[{"kind": "logits"}]
    )
    with pytest.raises(TeacherError, match="no better than chance"):
        run(recipe, runs=tmp_path / "runs", report=silent)
    assert not (tmp_path / "runs" / "tiny" / "student").exists()


def test_objectives_that_need_a_teacher_are_refused_without_one(tmp_path):
    recipe = tiny.recipe(teacher=None, student={"pretrained": "nobody/nothing"})
    with pytest.raises(RecipeError, match="objective logits"):
        run(recipe, runs=tmp_path, report=silent)
    assert not list(tmp_path.iterdir())


def test_a_push_that_fails_loses_nothing_and_can_be_made_later(copied, monkeypatch):
    pushed = {}

    def refuse(folder, model_id, **options):
        raise HubError("no permission")

    monkeypatch.setattr(flow, "push_folder", refuse)
    with pytest.raises(HubError):
        run(
            tiny.recipe(hub={"push": True, "model_id": "me/student"}),
            ["evaluate.batch_size=8"],
            runs=copied.parent,
            report=silent,
        )
    assert (copied / "student" / "README.md").is_file()
    monkeypatch.setattr(
        flow,
        "push_folder",
        lambda folder, model_id, **options: pushed.update(folder=folder, model_id=model_id, **options),
    )
    hf_distill.push(copied)
    expected = {"folder": copied / "student", "model_id": "me/student", "run": "tiny", "private": True, "force": False}
    assert pushed == expected
    hf_distill.push(copied, "other", private=False, force=True)
    assert pushed == {**expected, "model_id": "other", "private": False, "force": True}


def test_distill_takes_the_keys_of_a_recipe_as_arguments(finished, tmp_path):
    lines: list[str] = []
    keys = {key: value for key, value in tiny.recipe().items() if key != "version"}
    keys |= {
        "name": "larger",
        "evaluate": {"control": False, "resamples": 100},
        "student": {"config": {"num_hidden_layers": 5}},
    }
    keys["objectives"] = [{"kind": "logits"}, {"kind": "hidden", "loss": "cosine"}]
    result = hf_distill.distill(runs=with_teachers(finished, tmp_path), report=lines.append, **keys)
    assert result.comparison["student_minus_control"] is None
    assert result.comparison["gap_closed"] is None
    assert any("larger than its teacher" in line for line in lines)
    assert "control" not in result.results["models"]


@pytest.mark.slow
def test_unlabelled_rows_are_taught_by_the_teacher_alone_and_the_control_takes_as_many_steps(finished, tmp_path):
    extra = tmp_path / "extra.txt"
    extra.write_text("\n".join(tiny.rows(64, 9)["text"]))
    changed = tiny.recipe(name="unlabelled")
    changed["data"] = {**changed["data"], "unlabelled_files": str(extra)}
    result = run(changed, runs=with_teachers(finished, tmp_path), report=silent)
    training = result.results["training"]
    assert result.results["data"]["rows"]["unlabelled"] == 64
    # They teach a teacher nothing: it is the one that was made without them, and its saved recipe runs again.
    teacher = next((tmp_path / "teachers").iterdir())
    assert run(teacher / "recipe.yaml", runs=teacher.parent, report=silent).folder == teacher
    assert sorted(path.name for path in teacher.parent.iterdir()) == [
        path.name for path in (finished.parent / "teachers").iterdir()
    ]
    assert training["student"]["steps"] == training["control"]["steps"] == 32


def test_a_stream_is_trained_on_without_knowing_its_length(tmp_path):
    tiny.rows(96, 0).to_csv(tmp_path / "train.csv")
    tiny.rows(48, 2).to_csv(tmp_path / "test.csv")
    files = {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    changed = tiny.recipe(name="stream", teacher=None, objectives=[{"kind": "labels"}], evaluate={"resamples": 100})
    changed["student"] = tiny.recipe()["teacher"]["recipe"]["student"]
    changed["data"] = {"files": files, "streaming": True, "validation_size": 16}
    with pytest.raises(RecipeError, match="max_steps"):
        run(changed, runs=tmp_path / "runs", report=silent)
    changed["training"] = {"max_steps": 6, "use_cpu": True, "eval_strategy": "no", "save_strategy": "no"}
    result = run(changed, runs=tmp_path / "runs", report=silent)
    assert result.comparison is None
    assert result.results["training"]["student"]["steps"] == 6
