"""A training that runs away stops before anything of it is saved, and says what ran away, where, and what to try."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_distill import Hidden, Labels, Logits
from hf_distill.errors import TrainingError
from hf_distill.objectives import Objective
from hf_distill.training.guard import EVERY, SKIPPED, STEPS, Guard
from tests.helpers import tiny
from tests.helpers.broken import Broken, Scripted
from tests.helpers.trainers import trained, trainer

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")


def stopped(one) -> str:
    """The line of a training that stops."""
    with pytest.raises(TrainingError) as raised:
        one.train()
    message = str(raised.value)
    assert "\n" not in message
    assert "training_guard" in message
    return message


def saved(folder) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


EACH_STEP = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6}


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_first_term_that_is_not_finite_stops_it_before_a_save(value, accumulation, tmp_path):
    one = trainer(
        tmp_path,
        [Labels(), Scripted({2 * accumulation: value})],
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        **EACH_STEP,
    )
    message = stopped(one)
    assert "the loss of scripted is not finite at step 3" in message
    assert "labels" not in message.partition(";")[0]
    assert saved(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_without_a_log_or_a_save_it_stops_within_a_few_steps(tmp_path):
    one = trainer(tmp_path, [Scripted({3: NAN})], max_steps=200, logging_steps=500)
    assert "at step 4;" in stopped(one)
    assert one.state.global_step <= 4 + EVERY


def test_the_last_step_is_looked_at_though_nothing_is_logged_or_saved(tmp_path):
    one = trainer(tmp_path, [Scripted({3: NAN})], max_steps=4, logging_steps=500)
    assert "at step 4;" in stopped(one)


def test_several_terms_that_break_at_once_are_all_named_and_a_weight_of_0_hides_none(tmp_path):
    objectives: list[Objective] = [Scripted({1: NAN}), Labels(), Scripted({1: INF}, weight=0.0)]
    assert "the loss of scripted, scripted_2 is not finite at step 2" in stopped(trainer(tmp_path, objectives))


def test_a_sum_of_finite_terms_that_is_not_is_told_as_such(tmp_path):
    one = trainer(tmp_path, [Scripted({1: 2e37}), Scripted({1: 2e37}, weight=1e3)])
    assert "the sum of all terms is not finite at step 2" in stopped(one)


@pytest.mark.parametrize("clip", [0.0, 1.0], ids=["not clipped", "clipped"])
def test_a_gradient_that_is_not_finite_stops_it_though_the_loss_is(clip, tmp_path):
    one = trainer(tmp_path, [Scripted(infinite_slope=(2,))], max_grad_norm=clip, **EACH_STEP)
    assert "the gradient is not finite at step 3, though each loss is (scripted)" in stopped(one)
    assert saved(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_a_teacher_that_gives_nan_is_named_where_the_own_loss_is_finite(tmp_path):
    one = trainer(tmp_path, [Labels(), Logits()], teacher=Broken(since=2), **EACH_STEP)
    message = stopped(one)
    assert "the loss of logits is not finite at step 3" in message
    assert "that of labels is, so look at the teacher" in message
    assert saved(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def with_nan(model, name: str):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_parameter(name).view(-1)[0] = NAN
    return broken


def test_a_weight_of_the_teacher_that_is_nan_is_named(tmp_path):
    teacher = with_nan(tiny.bert(4, 48, seed=2), "classifier.bias")
    assert "the teacher's weight classifier.bias is not finite" in stopped(trainer(tmp_path, None, teacher=teacher))


def test_a_student_with_a_weight_that_is_nan_is_refused_before_the_first_step(tmp_path):
    name = "bert.encoder.layer.1.output.dense.weight"
    one = trainer(tmp_path, [Labels()], student=with_nan(tiny.bert(2, 32, seed=1), name), **EACH_STEP)
    assert f"weight {name} is not finite before the first step" in stopped(one)
    assert saved(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e6, 1e30, 1e38])
@pytest.mark.parametrize("objectives", [[Labels, Logits, Hidden], [Labels]], ids=["three terms", "labels"])
def test_a_learning_rate_that_is_far_too_high_stops_it_and_is_told(rate, objectives, tmp_path):
    one = trainer(tmp_path, [kind() for kind in objectives], learning_rate=rate, max_steps=40, optim="sgd")
    message = stopped(one)
    assert f"lower learning_rate (it is {rate:g})" in message


def test_weights_that_the_last_step_made_infinite_are_not_saved(tmp_path):
    one = trainer(tmp_path, [Scripted({0: 1e10})], learning_rate=1e30, optim="sgd", max_grad_norm=0.0, **EACH_STEP)
    assert "the student's weight" in stopped(one)
    assert saved(tmp_path) == []


def test_an_evaluation_whose_loss_is_nan_is_refused_before_a_save(tmp_path):
    one = trainer(
        tmp_path,
        [Scripted({2: NAN})],  # Its third call is the evaluation's.
        eval_dataset=tiny.rows(8, 1),
        eval_strategy="steps",
        eval_steps=2,
        **{**EACH_STEP, "save_steps": 2},
    )
    assert "the evaluation's loss of scripted is not finite after step 2" in stopped(one)
    assert saved(tmp_path) == []


# A loss that grows.


def growing(steps: int, after: int, factor: float, weight=1.0) -> Scripted:
    """As large as ever until a step, and that many times as large from it on."""
    return Scripted(dict.fromkeys(range(after, steps), factor), weight=weight)


def trains(one) -> None:
    """Train to the last step."""
    one.train()
    assert one.state.global_step == one.args.max_steps


def run_of(folder, *objectives: Objective, steps: int = 40, **options):
    return trainer(folder, list(objectives), max_steps=steps, learning_rate=0.0, **options)


@pytest.mark.parametrize("after", [1, 5, 25])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_stays_a_hundred_times_above_its_best_stops_it(after, accumulation, tmp_path):
    one = run_of(
        tmp_path,
        growing(80, after * accumulation, 500.0),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulation,
    )
    message = stopped(one)
    assert f"over 100 times its best for {STEPS} steps at step {after + STEPS}" in message
    assert "learning_rate" in message


def test_a_loss_that_grew_less_or_for_a_moment_does_not(tmp_path):
    trains(run_of(tmp_path, growing(40, 5, 60.0)))
    spikes = dict.fromkeys((*range(12, 12 + STEPS - 1), *range(30, 34)), 1e6)
    trains(run_of(tmp_path, Scripted(spikes)))


def test_a_loss_next_to_0_may_grow_as_it_likes_until_it_is_one(tmp_path):
    tiny_then = dict.fromkeys(range(15), 1e-09) | dict.fromkeys(range(15, 40), 0.01)
    trains(run_of(tmp_path, Scripted(tiny_then)))
    lucky = {0: 1e-9}  # The first batch, by chance.
    trains(run_of(tmp_path, Scripted(lucky)))


def test_a_weight_that_a_schedule_moves_is_no_growth_of_the_loss(tmp_path):
    trains(run_of(tmp_path, Scripted(weight={"from": 1e-4, "to": 1e4})))
    weight = {"from": 1e4, "to": 1e-4}
    assert "times its best" in stopped(run_of(tmp_path, growing(40, 5, 1e4, weight=weight)))


def test_a_temperature_that_a_schedule_moves_is_not_compared(tmp_path):
    term = Logits(temperature={"from": 1.0, "to": 4.0})
    term.weight = 1e9  # Far above the floors, were it compared with a best next to 0.
    trains(run_of(tmp_path, term, Labels()))


# Turned off, fp16, and a healthy training.


def test_turned_off_it_trains_on_and_says_so_once(tmp_path, caplog):
    one = trainer(tmp_path, [Scripted({1: NAN})], training_guard=False, **EACH_STEP)
    one.train()
    assert len(saved(tmp_path)) == 6
    told = [record.getMessage() for record in caplog.records if "training_guard is false" in record.getMessage()]
    assert len(told) == 1
    assert "scripted is not finite at step 2" in told[0]
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    assert losses[1] != losses[1]  # Not shown as 0.


@pytest.mark.parametrize(("broken", "stops"), [(SKIPPED, False), (SKIPPED + 1, True)])
def test_steps_that_the_scaler_of_fp16_skips_are_normal_until_they_are_too_many(broken, stops, tmp_path):
    one = trainer(tmp_path, [Scripted(infinite_slope=tuple(range(2, 2 + broken)))], max_steps=SKIPPED + 4)
    one.accelerator.scaler = torch.amp.GradScaler("cpu", growth_interval=1)
    if stops:
        assert f"the gradient is not finite at step {2 + broken}" in stopped(one)
    else:
        one.train()
        assert all(bool(torch.isfinite(weight).all()) for weight in one.model.parameters())


def test_a_loss_that_is_not_finite_stops_it_in_fp16_too(tmp_path):
    one = trainer(tmp_path, [Scripted({1: NAN})])
    one.accelerator.scaler = torch.amp.GradScaler("cpu")
    assert "scripted is not finite at step 2" in stopped(one)


def test_a_healthy_training_is_the_same_to_the_last_digit(tmp_path, monkeypatch):
    options = {"rows": tiny.rows(64), "max_steps": 12, "gradient_accumulation_steps": 2}
    guarded = trained(tmp_path, [Labels(), Logits(), Hidden()], **options)
    monkeypatch.setattr("hf_distill.training.guard.Guard.add", lambda self, means: None)
    plain = trained(tmp_path, [Labels(), Logits(), Hidden()], **options)
    assert guarded[0] == plain[0]
    assert all(torch.equal(value, plain[1][name]) for name, value in guarded[1].items())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "infinite", "gradient", "growth"])
def test_two_processes_stop_together_with_the_same_line_though_one_alone_is_broken(what, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "tests" / "helpers" / "broken_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, script, str(tmp_path), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    told = {"gradient": "the gradient is not finite at step 3", "growth": "times its best"}
    assert told.get(what, "the loss of scripted is not finite at step 3") in first
    assert saved(tmp_path) == (["checkpoint-10"] if what == "growth" else ["checkpoint-2"])


class NoWaiting(TorchDispatchMode):
    """Refuses what would wait for the device, or copy to it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.__name__.split(".")[0] not in ("_local_scalar_dense", "lift_fresh", "_to_copy", "nonzero")
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device():
    guard = Guard({"a": Scripted(), "b": Scripted(weight={"from": 1.0, "to": 0.0})})
    for step in range(1, 30):
        means, norm = {"a": torch.tensor(0.5), "b": torch.tensor(2.0)}, torch.tensor(1.0)
        with NoWaiting() if step > 1 else nullcontext():
            guard.add(means)
            guard.add(means)
            guard.end_step(step, norm, 1)
    assert guard.first_bad(lambda tensor: tensor) is None


def test_a_second_training_of_a_trainer_begins_anew(tmp_path):
    one = trainer(tmp_path, [Scripted({1: NAN})])
    stopped(one)
    one.optimizer = None
    one.model.load_state_dict(tiny.bert(2, 32, seed=1).state_dict())
    trains(one)
