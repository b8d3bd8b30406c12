"""Sizes are counted and speeds measured in turn, after a warm-up, as medians."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hf_distill.errors import ModelError
from hf_distill.evaluation import speed
from hf_distill.evaluation.speed import Batch, disk_bytes, measure_speed, parameters
from hf_distill.models.hardware import best_dtype, machine, multiplies_bfloat16


def batch(rows: int, tokens: int = 4) -> Batch:
    return {"input_ids": torch.zeros(rows, tokens, dtype=torch.long)}


def for_each(models: Iterable[str], batches: Sequence[Batch]) -> dict[str, Sequence[Batch]]:
    return dict.fromkeys(models, batches)


class Clock:
    """A clock that moves only when a model works, so that measurements are exact."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def model(self, name: str, seconds_per_row: float, late: dict[int, float] | None = None) -> Callable[[Batch], None]:
        calls = 0

        def forward(batch: Batch) -> None:
            nonlocal calls
            self.now += (late or {}).get(calls, len(batch["input_ids"]) * seconds_per_row)
            self.log.append(f"{name}{len(batch['input_ids'])}")
            calls += 1

        return forward


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_latency_and_throughput_are_those_of_the_clock(clock: Clock) -> None:
    forwards = {"teacher": clock.model("a", 0.02), "student": clock.model("b", 0.005)}
    singles = for_each(forwards, [batch(1), batch(1)])
    batches = for_each(forwards, [batch(8), batch(4)])
    speeds = measure_speed(forwards, singles, batches, rounds=3)
    assert speeds["teacher"] == pytest.approx({"latency_ms": 20, "samples_per_second": 50})
    assert speeds["student"] == pytest.approx({"latency_ms": 5, "samples_per_second": 200})


def test_models_are_measured_in_turn_with_one_round_more_as_a_warm_up(clock: Clock) -> None:
    forwards = {"a": clock.model("a", 0.1), "b": clock.model("b", 0.1)}
    measure_speed(forwards, for_each(forwards, [batch(1)]), for_each(forwards, [batch(2)]), rounds=2)
    assert clock.log == ["a1", "a2", "b1", "b2"] * 3


def test_a_slow_first_call_and_one_hiccup_change_nothing(clock: Clock) -> None:
    hiccups = {0: 60.0, 1: 60.0, 4: 9.0, 7: 9.0}
    forwards = {"student": clock.model("a", 0.01, late=hiccups)}
    speeds = measure_speed(forwards, {"student": [batch(1)]}, {"student": [batch(10)]}, rounds=5)
    assert speeds["student"] == pytest.approx({"latency_ms": 10, "samples_per_second": 100})


def test_models_are_called_without_recording_gradients() -> None:
    layer = nn.Embedding(3, 2)
    outputs: list[Tensor] = []

    def forward(batch: Batch) -> None:
        outputs.append(layer(batch["input_ids"]))

    measure_speed({"a": forward}, {"a": [batch(1)]}, {"a": [batch(2)]}, rounds=1)
    assert not any(output.requires_grad for output in outputs)


def test_tied_parameters_are_counted_once() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    assert parameters(nn.Sequential(first, second)) == 32
    second.weight = first.weight
    assert parameters(nn.Sequential(first, second)) == 16


def test_only_the_weights_count_on_disk(tmp_path: Path) -> None:
    files = {
        "model-00001-of-00002.safetensors": 100,
        "model-00002-of-00002.safetensors": 50,
        "model.safetensors.index.json": 7,
        "pytorch_model.bin": 150,
        "tokenizer.json": 1000,
        "README.md": 1000,
    }
    for name, size in files.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert disk_bytes(tmp_path) == 157


def test_an_old_teacher_with_bin_weights_only_is_counted_by_them(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x" * 30)
    (tmp_path / "training_args.bin").write_bytes(b"x" * 5)
    assert disk_bytes(tmp_path) == 30


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="found none"):
        disk_bytes(tmp_path)


@pytest.mark.parametrize(
    ("supported", "told"),
    [((), []), (("avx512_bf16",), ["avx512_bf16"]), (("avx512_bf16", "amx_tile"), ["avx512_bf16", "amx_tile"])],
)
def test_a_machine_is_told_with_the_instructions_that_its_cpu_multiplies_by(monkeypatch, supported, told):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for name in ("avx2", "avx512", "avx512_bf16", "amx_tile"):
        monkeypatch.setattr(f"torch.cpu._is_{name}_supported", lambda has=name in supported: has)

    assert machine()["instructions"] == told
    assert multiplies_bfloat16() is bool(told)
    assert best_dtype(torch.device("cpu")) == (torch.bfloat16 if told else torch.float32)


def test_nothing_is_said_of_the_instructions_of_an_unknown_cpu(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")

    assert machine()["instructions"] is None
    assert multiplies_bfloat16() is None
    assert best_dtype(torch.device("cpu")) == torch.float32
