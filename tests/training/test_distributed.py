"""Two processes train the same student as one: losses, weights and projections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def train(folder: Path, processes: int, batch: int, *more: str) -> tuple[dict, dict]:
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [
            sys.executable,
            *launcher,
            str(ROOT / "tests" / "helpers" / "two_processes.py"),
            str(folder),
            str(batch),
            *more,
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return trained(folder, processes)


def trained(folder: Path, processes: int) -> tuple[dict, dict]:
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["world_size"] == processes
    return facts, load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    return train(folder / "one", 1, 8), train(folder / "two", 2, 4), folder


def assert_equal_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-6, rtol=0), name


def test_two_processes_give_the_losses_and_weights_of_one(one_and_two):
    (one, weights), (two, other_weights), _ = one_and_two
    assert len(one["losses"]) == 12
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-6)
    assert one["terms"] == pytest.approx(two["terms"], abs=1e-6)
    assert any(name.startswith("distillation.") for name in weights)
    assert_equal_weights(weights, other_weights)


@pytest.mark.parametrize("task", ["causal-lm", "translation", "image-classification", "speech-recognition-ctc"])
def test_two_processes_train_and_evaluate_a_student_that_writes_as_one(one_and_two, task):
    *_, folder = one_and_two
    (one, weights), (two, other_weights) = trained(folder / "one" / task, 1), trained(folder / "two" / task, 2)
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-6)
    assert one["eval_loss"] == pytest.approx(two["eval_loss"], rel=1e-6, abs=1e-6)
    assert_equal_weights(weights, other_weights)


def test_two_processes_balance_experts_as_one_does_in_two_steps(one_and_two):
    *_, folder = one_and_two
    (one, weights), (two, other_weights) = (trained(folder / n / "experts", i) for n, i in (("one", 1), ("two", 2)))
    assert one["balance"] == pytest.approx(two["balance"], abs=1e-6)
    assert min(one["balance"]) > 1.9  # 2 where all of the two experts of four are used alike.
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-6)
    assert_equal_weights(weights, other_weights)


def test_two_processes_meet_a_teacher_with_other_tokens_as_often_as_one(one_and_two):
    *_, folder = one_and_two
    (one, weights), (two, other_weights) = (
        trained(folder / name / "cross-tokenizer", count) for name, count in (("one", 1), ("two", 2))
    )
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-6)
    assert one["compared"] == pytest.approx(two["compared"])
    assert one["eval_loss"] == pytest.approx(two["eval_loss"], abs=1e-6)
    assert_equal_weights(weights, other_weights)


def test_two_processes_toss_one_coin_and_divide_by_what_both_wrote(one_and_two):
    *_, folder = one_and_two
    (one, weights), (two, other_weights) = (trained(folder / n / "rollout", i) for n, i in (("one", 1), ("two", 2)))
    assert {length is None for length in one["written"]} == {True, False}
    assert one["written"] == [length and pytest.approx(length) for length in two["written"]]
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-6)
    assert_equal_weights(weights, other_weights)


def test_two_processes_train_and_evaluate_vectors_and_their_projection_as_one(one_and_two):
    *_, folder = one_and_two
    (one, weights), (two, other_weights) = (trained(folder / n / "embeddings", i) for n, i in (("one", 1), ("two", 2)))
    assert one["losses"] == pytest.approx(two["losses"], abs=1e-6)
    assert one["eval_loss"] == pytest.approx(two["eval_loss"], abs=1e-6)
    assert "vector_head.layers.0.linear.weight" in weights
    assert_equal_weights(weights, other_weights)


def test_two_processes_evaluate_as_one_though_the_last_batch_is_filled_up(one_and_two):
    (one, _), (two, _), _ = one_and_two
    assert one["eval_loss"] == pytest.approx(two["eval_loss"], abs=1e-6)


def test_two_processes_resume_in_the_middle_of_an_epoch_bit_for_bit(one_and_two):
    _, (_, weights), folder = one_and_two
    shutil.copytree(folder / "two", folder / "again")
    shutil.rmtree(folder / "again" / "checkpoint-12")
    shutil.rmtree(folder / "again" / "checkpoint-10")
    _, resumed = train(folder / "again", 2, 4, "resume")
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
