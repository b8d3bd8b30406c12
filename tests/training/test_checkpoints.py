"""Checkpoints are believed only whole: training goes on from the last one that is, and ends with the same student."""

from __future__ import annotations

import errno
import json
import logging
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_distill import DistillationTrainer, Hidden, Labels
from hf_distill.errors import OutputError
from hf_distill.objectives import Objective
from hf_distill.training import saving
from tests.helpers import tiny
from tests.helpers.damages import CHECKPOINT, braces, cut, flip, gone
from tests.helpers.thinned import thinned

STEPS = 5


def settings(folder: Path, **changes) -> TrainingArguments:
    options = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",  # Not of how many steps there will be.
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        **changes,
    }
    return TrainingArguments(**options)


def trainer(folder: Path, objectives: Sequence[Objective] = (), **changes) -> DistillationTrainer:
    """A student with dropout, so that the state of the random numbers matters, and a projection."""
    return DistillationTrainer(
        model=tiny.bert(1, 16, seed=1, hidden_dropout_prob=0.1),
        teacher=tiny.bert(2, 32, seed=2),
        objectives=objectives or [Labels(), Hidden()],
        args=settings(folder, **changes),
        train_dataset=tiny.rows(16),
        eval_dataset=tiny.rows(8, 1),
        processing_class=tiny.tokenizer(),
    )


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder with checkpoints 2 and 4, and the weights in the end."""
    folder = tmp_path_factory.mktemp("unbroken")
    made = trainer(folder, max_steps=4)
    made.train()
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    whole = trainer(folder / "elsewhere", save_strategy="no")
    whole.train()
    return folder, weights(whole)


@pytest.fixture
def run(unbroken, tmp_path) -> Path:
    """A run whose files lie where those of a recipe's run lie."""
    shutil.copytree(unbroken[0], tmp_path / "checkpoints" / "student")
    return tmp_path


@pytest.mark.parametrize("kind", thinned(CHECKPOINT))
def test_a_damaged_checkpoint_is_passed_over_and_the_student_is_the_same(kind, run, unbroken, caplog):
    named = CHECKPOINT[kind].apply(run, random.Random(kind))
    again = trainer(run / "checkpoints" / "student", save_strategy="no")
    with caplog.at_level(logging.WARNING, "hf_distill"):
        again.train(resume_from_checkpoint=True)
    assert_same(weights(again), unbroken[1])
    assert again.state.global_step == STEPS
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("hf_distill")]
    assert len(lines) == (1 if named else 0)
    assert all(named in line for line in lines)


def test_a_whole_checkpoint_is_gone_on_from_without_a_word(run, unbroken, caplog):
    again = trainer(run / "checkpoints" / "student")
    again.train(resume_from_checkpoint=True)
    assert_same(weights(again), unbroken[1])
    assert not [record for record in caplog.records if record.name.startswith("hf_distill")]


def test_from_the_last_checkpoint_no_step_is_taken_though_it_lies_within_an_epoch(tmp_path):
    made = trainer(tmp_path, save_steps=STEPS)
    made.train()
    again = trainer(tmp_path, save_steps=STEPS)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == STEPS
    assert_same(weights(again), weights(made))


@pytest.mark.parametrize("harm", [flip, cut, gone])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_damaged_checkpoint_that_is_named_is_refused(file, harm, run):
    checkpoint = run / "checkpoints" / "student" / "checkpoint-4"
    harm(checkpoint / file, random.Random(0))
    with pytest.raises(OutputError, match=file):
        trainer(run / "checkpoints" / "student").train(resume_from_checkpoint=str(checkpoint))


def test_a_whole_checkpoint_may_be_named_wherever_it_lies(run, unbroken):
    moved = shutil.copytree(run / "checkpoints" / "student" / "checkpoint-4", run / "kept")
    again = trainer(run / "other", save_strategy="no")
    again.train(resume_from_checkpoint=str(moved))
    assert_same(weights(again), unbroken[1])


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """A checkpoint of the stock Trainer."""
    folder = tmp_path_factory.mktemp("stock")
    rows = tiny.rows(16).map(lambda row: tiny.tokenizer()(row["text"], padding="max_length", max_length=20))
    model = tiny.bert(1, 16, seed=1, hidden_dropout_prob=0.1)
    Trainer(model, settings(folder, max_steps=2), train_dataset=rows.rename_column("label", "labels")).train()
    return folder / "checkpoint-2"


def test_a_checkpoint_of_the_stock_trainer_that_is_named_is_taken_and_told(stock, tmp_path, caplog):
    again = trainer(tmp_path, [Labels()])
    again.train(resume_from_checkpoint=str(stock))
    assert again.state.global_step == STEPS
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("hf_distill")]
    assert "whether it is whole cannot be known" in told


def test_one_that_lacks_what_the_objectives_learn_is_refused(stock, tmp_path):
    with pytest.raises(OutputError, match=r"distillation\.safetensors is missing"):
        trainer(tmp_path).train(resume_from_checkpoint=str(stock))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        *((name, cut) for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json")),
        ("trainer_state.json", braces),
        ("trainer_state.json", gone),
        ("optimizer.pt", flip),  # An archive knows its checksum; safetensors do not.
    ],
)
def test_a_damaged_checkpoint_of_the_stock_trainer_is_refused(file, harm, stock, tmp_path):
    checkpoint = shutil.copytree(stock, tmp_path / "checkpoint-2")
    harm(checkpoint / file, random.Random(0))
    with pytest.raises(OutputError, match=file):
        trainer(tmp_path / "other", [Labels()]).train(resume_from_checkpoint=str(checkpoint))


# --- the best checkpoint ----------------------------------------------------------------------------------------------

BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
RISING = {"learning_rate": 0.3, **BEST}  # So large that the loss rises after a while: the best is not the last.


def test_training_goes_back_before_a_best_checkpoint_that_is_damaged(tmp_path, caplog):
    whole = trainer(tmp_path / "whole", **RISING)
    whole.train()
    best = Path(whole.state.best_model_checkpoint).name
    half = trainer(tmp_path / "half", **RISING)
    half.train()
    assert best != f"checkpoint-{STEPS}"
    flip(tmp_path / "half" / best / "model.safetensors", random.Random(0))
    again = trainer(tmp_path / "half", **RISING)
    again.train(resume_from_checkpoint=True)
    assert_same(weights(again), weights(whole))
    assert f"its best model is in {best}" in caplog.text


def test_the_best_checkpoint_is_found_again_where_the_folder_was_moved(tmp_path):
    whole = trainer(tmp_path / "whole", **RISING)
    whole.train()
    shutil.move(tmp_path / "whole", tmp_path / "moved")
    last = tmp_path / "moved" / f"checkpoint-{STEPS}"
    again = trainer(tmp_path / "moved", **RISING)
    again.train(resume_from_checkpoint=str(last))
    assert_same(weights(again), weights(whole))


def test_training_does_not_end_with_a_best_model_that_is_damaged(tmp_path, monkeypatch):
    made = trainer(tmp_path, **RISING)
    load = DistillationTrainer._load_best_model

    def damaged_before(self) -> None:
        flip(Path(self.state.best_model_checkpoint) / "model.safetensors", random.Random(0))
        load(self)

    monkeypatch.setattr(DistillationTrainer, "_load_best_model", damaged_before)
    with pytest.raises(OutputError, match="holds the best model, but is not whole"):
        made.train()


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, None])
def test_older_checkpoints_go_only_when_the_new_one_is_sealed(limit, tmp_path, monkeypatch):
    there: list[list[str]] = []
    seal = saving.seal

    def watched(checkpoint: Path) -> None:
        seal(checkpoint)
        there.append(sorted(path.parent.name for path in checkpoint.parent.glob("*/checksums.json")))

    monkeypatch.setattr(saving, "seal", watched)
    trainer(tmp_path, save_steps=1, save_total_limit=limit).train()
    kept = limit or STEPS
    names = [f"checkpoint-{step}" for step in range(1, STEPS + 1)]
    assert there == [names[max(step - kept, 0) : step + 1] for step in range(STEPS)]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == names[-kept:]
    saved = torch.load(tmp_path / names[-1] / "training_args.bin", weights_only=False)
    assert saved.save_total_limit == limit


@pytest.mark.parametrize("what", ["_save_optimizer_and_scheduler", "_save_rng_state", "save_model"])
def test_a_checkpoint_that_cannot_be_written_to_its_end_is_removed_and_those_before_stay(what, tmp_path, monkeypatch):
    made = trainer(tmp_path, save_total_limit=1)
    real = getattr(Trainer, what)

    def full(self, output_dir, *args, **kwargs) -> None:
        if Path(output_dir).name == "checkpoint-4":
            raise OSError(errno.ENOSPC, "No space left on device", output_dir)
        real(self, output_dir, *args, **kwargs)

    monkeypatch.setattr(Trainer, what, full)
    with pytest.raises(OSError, match="No space left"):
        made.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    seal = json.loads((tmp_path / "checkpoint-2" / "checksums.json").read_text())
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"} < seal["files"].keys()


def test_checkpoints_without_an_optimizer_are_not_gone_on_from(tmp_path, caplog):
    made = trainer(tmp_path, save_only_model=True)
    made.train()
    again = trainer(tmp_path, save_only_model=True)
    again.train(resume_from_checkpoint=True)
    assert_same(weights(again), weights(made))
    assert "save_only_model" in caplog.text
