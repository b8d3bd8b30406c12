"""Runs that are damaged, locked, stopped, or out of room: told in one line, and whole again with the same call."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hf_distill
from hf_distill import run
from hf_distill.artifacts import faults_told, locked
from hf_distill.errors import OutputError, RecipeError, ResourceError
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.recipe.load_recipe import load_recipe
from tests.helpers import tiny
from tests.helpers.command_line import ROOT, call, process
from tests.helpers.damages import braces, cut, empty, flip, gone


def calls(folder: Path, **changes) -> list[str]:
    """Run the recipe of a folder again; its lines."""
    lines: list[str] = []
    run(tiny.recipe(**changes), runs=folder.parent, report=lines.append)
    return lines


def same_student(one: Path, two: Path) -> bool:
    first, second = (load_file(each / "student" / "model.safetensors") for each in (one, two))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def labels_only(**changes) -> dict:
    """A recipe that needs no teacher and a second or two."""
    made = tiny.recipe(teacher=None, objectives=[{"kind": "labels"}], evaluate={"resamples": 100}, **changes)
    made["student"] = tiny.recipe()["teacher"]["recipe"]["student"]
    made["training"] |= {"num_train_epochs": 1, "eval_strategy": "no"}
    del made["training"]["eval_steps"]
    return made


# --- a complete run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("student/model.safetensors", flip),
        ("student/model.safetensors", cut),
        ("student/config.json", braces),
        ("student/tokenizer.json", gone),
        ("student", gone),
        ("control", gone),
        ("control/model.safetensors", cut),
        ("checkpoints/student.json", empty),
        ("checkpoints/control.json", braces),
        ("results.json", cut),
        ("results.json", braces),
        ("analysis.json", empty),
        ("figures/training.png", flip),
        ("student/README.md", empty),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_run_of_which_a_file_is_damaged_is_not_complete(file, harm, finished, tmp_path, caplog):
    folder = shutil.copytree(finished, tmp_path / "tiny")
    sha256 = json.loads((folder / "results.json").read_text())["recipe_sha256"]
    assert RunFolder(folder).finished(sha256) is not None
    harm(folder / file, random.Random(0))
    assert RunFolder(folder).finished(sha256) is None
    (told,) = [record.getMessage() for record in caplog.records]
    assert "was complete, but" in told
    assert file.rpartition("/")[2] in told
    with pytest.raises(RecipeError, match="holds no finished student"):
        hf_distill.push(folder, "me/student")


@pytest.mark.parametrize(
    ("file", "harm"),
    [("student/model.safetensors", flip), ("control/config.json", braces), ("checkpoints/student.json", empty)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_damaged_model_is_not_evaluated(file, harm, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "tiny")
    harm(folder / file, random.Random(0))
    with pytest.raises(OutputError, match="make it whole again with: hf-distill run"):
        hf_distill.evaluate(folder, report=lambda line: None)


def test_a_run_whose_folder_was_renamed_is_not_trained_again_by_an_evaluation(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "best")
    with pytest.raises(RecipeError, match=r"holds the run tiny.*rename it to tiny"):
        hf_distill.evaluate(folder, report=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("place", [lambda path: path.write_text("x"), lambda path: path.symlink_to(path.name)])
def test_what_stands_in_the_place_of_a_student_is_put_aside(place, finished, tmp_path):
    folder = RunFolder(shutil.copytree(finished, tmp_path / "tiny"))
    shutil.rmtree(folder.model("student"))
    place(folder.model("student"))
    assert folder.trained("student") is None
    assert not os.path.lexists(folder.model("student"))


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", ["kept", "gone"])
def test_a_damaged_student_is_trained_anew_to_the_same_student(checkpoints, copied, finished):
    flip(copied / "student" / "model.safetensors", random.Random(0))
    if checkpoints == "gone":
        shutil.rmtree(copied / "checkpoints" / "student")
    lines = calls(copied)
    assert same_student(copied, finished)
    assert any("student.damaged" in line for line in lines)
    assert not any(f"{copied} is complete" in line for line in lines)
    assert any(f"{copied} is complete" in line for line in calls(copied))


@pytest.mark.slow
def test_a_damaged_teacher_is_made_anew(copied, finished):
    (teacher,) = (copied.parent / "teachers").iterdir()
    cut(teacher / "student" / "model.safetensors", random.Random(0))
    shutil.rmtree(copied)
    lines = calls(copied)
    assert same_student(copied, finished)
    assert any("was complete, but student/model.safetensors" in line for line in lines)


@pytest.mark.parametrize("harm", [cut, empty, braces])
def test_a_damaged_recipe_is_written_again_by_the_recipe_that_made_the_run(harm, copied, caplog):
    before = (copied / "recipe.yaml").read_text()
    harm(copied / "recipe.yaml", random.Random(1))
    assert any("is written again" in line for line in calls(copied))
    assert (copied / "recipe.yaml").read_text() == before
    empty(copied / "recipe.yaml", random.Random(0))
    with pytest.raises(OutputError, match="another recipe"):
        calls(copied, seed=8)


@pytest.mark.parametrize("harm", [cut, empty, braces])
def test_a_run_of_which_nothing_says_what_it_was_made_of_is_refused_with_the_way_out(harm, copied):
    stamp = copied / "checkpoints" / "made_of.json"
    harm(stamp, random.Random(0))
    with pytest.raises(OutputError, match="delete that file if the data are what they were"):
        calls(copied)
    stamp.unlink()
    assert any("the data are taken to be" in line for line in calls(copied))


def test_checkpoints_go_when_the_run_is_complete_unless_the_recipe_says_how_many_stay(tmp_path):
    lines: list[str] = []
    made = labels_only()
    del made["training"]["save_total_limit"]
    folder = run(made, runs=tmp_path, report=lines.append).folder
    assert not list(folder.rglob("checkpoint-*"))
    assert any(line.startswith("checkpoints: ") and "deleted" in line for line in lines)
    assert (folder / "checkpoints" / "student.json").is_file()
    hf_distill.evaluate(folder, report=lines.append)
    kept = run(labels_only(name="kept"), runs=tmp_path, report=lambda line: None).folder
    assert len(list(kept.rglob("checkpoint-*"))) == 2


# --- two runs in one folder ------------------------------------------------------------------------------------------


HOLD = "import sys, time; from pathlib import Path; from hf_distill.artifacts import locked\n" + (
    "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(copied):
    """Another process that works in the run's folder."""
    started = subprocess.Popen([sys.executable, "-c", HOLD, str(copied)], stdout=subprocess.PIPE, cwd=ROOT)
    assert started.stdout.readline() == b"held\n"
    yield started
    started.kill()
    started.wait()


def test_a_second_run_of_a_name_is_refused_until_the_first_is_gone_however_it_ends(holder, copied):
    with pytest.raises(OutputError, match=rf"in use by process {holder.pid} on .*, since 20") as raised:
        calls(copied)
    assert raised.value.exit_code == 2
    holder.kill()
    holder.wait()
    assert any("is complete" in line for line in calls(copied))
    assert not (copied / ".lock.json").exists()


def test_a_lock_that_is_waited_for_is_taken_when_it_is_free(holder, copied, caplog):
    holder.send_signal(signal.SIGKILL)
    with locked(copied, wait=True):
        assert json.loads((copied / ".lock.json").read_text())["process"] == os.getpid()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def none(self, **options) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with locked(tmp_path):
        pass
    assert "has no locks" in caplog.text


# --- room ------------------------------------------------------------------------------------------------------------

FAULTS = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota"),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), "read-only"),
    "safetensors": (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "full"),
    "torch's file": (RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 128 vs 22"), "its end"),
    "C++'s file": (RuntimeError("basic_ios::clear: iostream error"), "its end"),
    "wrapped": (OutputError("cannot be written (No space left on device)"), "disk is full"),
    "Python's memory": (MemoryError(), "memory is used up"),
    "no fork": (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory is used up"),
    "torch's memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "gradient_acc"),
    "no thread": (RuntimeError("can't start new thread"), "memory is used up"),
    "oneDNN": (RuntimeError("could not create a primitive"), "gradient_accumulation_steps"),
    "CUDA": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "per_device_train_batch_size"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_full_disk_and_used_up_memory_are_one_line_that_says_what_to_do(name, tmp_path):
    error, part = FAULTS[name]
    with pytest.raises(ResourceError, match=part) as raised, faults_told(tmp_path):
        raise error
    assert raised.value.exit_code == 2
    assert "the same command goes on" in str(raised.value)


@pytest.mark.parametrize("error", [ValueError("no"), OSError(errno.ENOENT, "no file"), RuntimeError("shapes differ")])
def test_other_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as raised, faults_told(tmp_path):
        raise error
    assert raised.value is error


@pytest.mark.slow
def test_a_run_on_a_full_disk_is_told_and_ends_with_the_same_student_on_a_larger_one(tmp_path):
    expected = run(labels_only(), runs=tmp_path / "runs", report=lambda line: None).folder
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1300k", "none", disk], capture_output=True).returncode:
        pytest.skip("mount is not permitted here, so that there is no disk of 1.3 MB")
    try:
        with pytest.raises(ResourceError, match=r"is full|to its end") as raised:
            run(labels_only(), runs=disk, report=lambda line: None)
        assert "MB are free there" in str(raised.value)
        assert not list(disk.rglob("*.partial"))
        for checkpoint in disk.rglob("checkpoint-*"):
            assert (checkpoint / "checksums.json").is_file()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert same_student(run(labels_only(), runs=disk, report=lambda line: None).folder, expected)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # Weights that were read are still mapped.


# --- signals ---------------------------------------------------------------------------------------------------------


def asks_at(monkeypatch, part: str) -> list[str]:
    """Send SIGTERM to this process at the first line that holds a part; the lines that were shown."""
    lines: list[str] = []

    def show(line: str) -> None:
        if part in line and not any(part in each for each in lines):
            os.kill(os.getpid(), signal.SIGTERM)
        lines.append(line)

    monkeypatch.setattr("hf_distill.cli._line", show)
    return lines


@pytest.mark.slow
def test_sigterm_saves_a_checkpoint_and_the_same_command_ends_with_the_same_student(tmp_path, monkeypatch, capfd):
    from hf_distill.recipe.load_recipe import dump_recipe, load_recipe

    expected = run(labels_only(), runs=tmp_path / "whole", report=lambda line: None).folder
    dump_recipe(load_recipe(labels_only()), tmp_path / "recipe.yaml")
    asks_at(monkeypatch, "student: step 8 of")
    before = signal.getsignal(signal.SIGTERM)
    assert call("run", tmp_path / "recipe.yaml", "--runs", tmp_path / "runs") == 143
    assert signal.getsignal(signal.SIGTERM) is before
    told = capfd.readouterr().err
    assert "a checkpoint is saved" in told
    assert "stopped by SIGTERM; the same command goes on" in told
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints" / "student"
    assert max(int(path.name.split("-")[1]) for path in checkpoints.iterdir()) in (8, 9)  # Which is no multiple of 5.
    monkeypatch.undo()
    assert call("run", tmp_path / "recipe.yaml", "--runs", tmp_path / "runs") == 0
    assert same_student(tmp_path / "runs" / "tiny", expected)


@pytest.mark.slow
def test_two_processes_stop_together_at_sigterm_and_end_with_the_same_student(tmp_path):
    from hf_distill.recipe.load_recipe import dump_recipe, load_recipe

    made = labels_only()
    made["training"] |= {"max_steps": 60, "save_steps": 1000}
    dump_recipe(load_recipe(made), tmp_path / "recipe.yaml")

    def start(runs: str) -> subprocess.Popen[str]:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command = ["-m", "hf_distill", "run", str(tmp_path / "recipe.yaml"), "--allow-code"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [*launcher, *command, "--runs", str(tmp_path / runs)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(of_all: bool) -> str:
        process, told = start("broken"), ""
        assert process.stdout is not None
        for line in process.stdout:
            told += line
            if re.search("student: step .*8 of 60", line) and "stopped by" not in told:
                children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
                os.kill(process.pid if of_all else int(children.split()[-1]), signal.SIGTERM)
        assert process.wait(60) != 0
        return told

    assert start("whole").wait(200) == 0
    first, second = stop(of_all=True), stop(of_all=False)
    assert all(told.count("stopped by SIGTERM; the same command goes on") == 2 for told in (first, second))
    assert "training goes on from checkpoint-" in second
    ended, _ = (process := start("broken")).communicate(timeout=200)
    assert process.returncode == 0, ended[-3000:]
    assert "training goes on from checkpoint-" in ended
    assert same_student(tmp_path / "broken" / "tiny", tmp_path / "whole" / "tiny")


@pytest.mark.slow
def test_sigterm_while_a_model_is_scored_stops_at_once(copied, monkeypatch, capfd):
    asks_at(monkeypatch, "teacher: accuracy")
    assert call("evaluate", copied, "evaluate.batch_size=8") == 143
    assert "stopped by SIGTERM" in capfd.readouterr().err
    assert not (copied / "checkpoints" / "complete.json").exists()
    monkeypatch.undo()
    assert any("student: accuracy" in line for line in calls(copied))


@pytest.mark.slow
def test_runs_that_are_killed_anywhere_end_with_the_same_weights():
    done = process("-m", "tests.survival", "--kills", "4", "--damages", "0", "--finished", "0", timeout=560)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("number", range(4))
def test_a_folder_is_taken_again_whatever_a_kill_left_of_taking_it(number, tmp_path, monkeypatch):
    recipe, folder, replaced = load_recipe(tiny.recipe()), RunFolder(tmp_path / "runs" / "tiny"), []

    def killed(source: Path, target: Path) -> None:
        """A kill leaves the files as they are, also the one that is being written."""
        if len(replaced) == number // 2:
            if number % 2:
                shutil.copy(source, target)
            shutil.copy(source, f"{target}.kept")
            raise KeyboardInterrupt
        replaced.append(target)
        shutil.move(source, target)

    monkeypatch.setattr("hf_distill.artifacts.files.os.replace", killed)
    with folder.working(), pytest.raises(KeyboardInterrupt):
        folder.claim(recipe, "data")
    monkeypatch.undo()
    for kept in folder.path.rglob("*.kept"):
        kept.rename(kept.with_name(kept.name.removesuffix(".kept") + ".partial"))
    with folder.working():
        folder.claim(recipe, "data")
    assert load_recipe(folder.recipe) == recipe
