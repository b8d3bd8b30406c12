"""How large and how fast models are: parameters, bytes on disk, latency and throughput, measured in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.errors import ModelError

Batch = Mapping[str, Tensor]
"""A batch as the model takes it, on the model's device; ``input_ids`` is ``[B, T]``."""

Forward = Callable[[Batch], Any]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """What was measured of one model.

    Attributes:
        latencies_ms: Of every call on one row.
        throughputs: Rows a second, of every round of batches.
    """

    latencies_ms: Sequence[float]
    throughputs: Sequence[float]


def parameters(model: nn.Module) -> int:
    """Count the parameters of a model, tied ones once."""
    return sum(each.numel() for each in model.parameters())


def disk_bytes(folder: Path) -> int:
    """Sum the bytes of the weights in a model folder: its safetensors files and their index.

    A teacher from the Hub may come as ``pytorch_model*.bin`` only; then these are counted.
    """
    weights = [*folder.glob("*.safetensors"), *folder.glob("*_Dense/*.safetensors")] or list(
        folder.glob("pytorch_model*.bin")
    )
    if not weights:
        raise ModelError(f"expected *.safetensors in {folder}, found none; save the model with save_pretrained first")
    return sum(each.stat().st_size for each in [*weights, *folder.glob("*.safetensors.index.json")])


def measure_speed(
    forwards: Mapping[str, Forward],
    singles: Mapping[str, Sequence[Batch]],
    batches: Mapping[str, Sequence[Batch]],
    rounds: int = 5,
) -> dict[str, dict[str, float]]:
    """The medians of :func:`measure_calls`."""
    return {
        name: {"latency_ms": median(each.latencies_ms), "samples_per_second": median(each.throughputs)}
        for name, each in measure_calls(forwards, singles, batches, rounds).items()
    }


def measure_calls(
    forwards: Mapping[str, Forward],
    singles: Mapping[str, Sequence[Batch]],
    batches: Mapping[str, Sequence[Batch]],
    rounds: int = 5,
) -> dict[str, Timings]:
    """Measure all models in turn (A B C, A B C, ...), so that a machine that slows down slows all of them.

    One round more is run first, as a warm-up, and not counted.
    """
    calls: dict[str, list[float]] = {name: [] for name in forwards}
    throughputs: dict[str, list[float]] = {name: [] for name in forwards}
    with torch.inference_mode():
        for round_number in range(rounds + 1):
            for name, forward in forwards.items():
                call_seconds = [_seconds(forward, batch) for batch in singles[name]]
                batch_seconds = sum(_seconds(forward, batch) for batch in batches[name])
                if round_number > 0:
                    calls[name] += call_seconds
                    throughputs[name].append(sum(len(batch["input_ids"]) for batch in batches[name]) / batch_seconds)
    return {
        name: Timings(latencies_ms=[1000 * each for each in calls[name]], throughputs=throughputs[name])
        for name in forwards
    }


def _seconds(forward: Forward, batch: Batch) -> float:
    device = batch["input_ids"].device
    _synchronise(device)
    start = time.perf_counter()
    forward(batch)
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    # CUDA returns before the work is done
    if device.type == "cuda":
        torch.cuda.synchronize(device)
