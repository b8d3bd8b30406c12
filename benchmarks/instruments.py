"""Do our instruments measure what they should? The command line's start, the peak of memory, the speed of a model.

    python -m benchmarks.instruments [--rounds 5]

``hf-distill --help`` is timed in seconds of the processor, so that other work on the machine decides little. Memory is
that of 64 MiB, taken and given back. A model of many times the work of another must be measured slower.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.common import goal, peak_memory, write_results
from hf_distill.evaluation.speed import measure_speed

TAKEN = 64 * 2**20


def seconds_of_help() -> float:
    before = os.times()
    subprocess.run([sys.executable, "-m", "hf_distill", "--help"], capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def latencies(rounds: int) -> dict[str, float]:
    """Milliseconds of a small and of a large model."""
    small, large = nn.Linear(8, 8), nn.Sequential(*[nn.Linear(512, 512) for _ in range(8)])
    forwards = {
        "small": lambda batch: small(torch.zeros(len(batch["input_ids"]), 8)),
        "large": lambda batch: large(torch.zeros(len(batch["input_ids"]), 512)),
    }
    single, many = ({"input_ids": torch.zeros(count, 4, dtype=torch.long)} for count in (1, 64))
    speeds = measure_speed(forwards, {name: [single] for name in forwards}, {name: [many] for name in forwards}, rounds)
    return {name: speed["latency_ms"] for name, speed in speeds.items()}


def measure(rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    start = median(seconds_of_help() for _ in range(rounds))
    memory = median(peak_memory(lambda: bytearray(TAKEN).count(1), "cpu") / TAKEN for _ in range(rounds))
    milliseconds = latencies(rounds)
    ratio = milliseconds["large"] / milliseconds["small"]
    rows = [
        {"name": "hf-distill --help", "seconds": round(start, 3)},
        {"name": "64 MiB", "measured_share": round(memory, 4)},
        *({"name": f"{name} model", "latency_ms": round(spent, 4)} for name, spent in milliseconds.items()),
    ]
    goals = [
        goal("seconds of hf-distill --help", start, 0.5),
        goal("64 MiB: measured / taken", memory, 1.5),
        goal("64 MiB: measured / taken, at least", memory, 0.9, at_least=True),
        goal("latency of a large model / of a small one, at least", ratio, 4.0, at_least=True),
    ]
    return rows, goals


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows, goals = measure(options.rounds)
    write_results("instruments", rows, goals, "cpu", {"rounds": options.rounds})


if __name__ == "__main__":
    main()
