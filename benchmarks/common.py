"""What the benchmarks share: turns, memory, goals, and ``results/NAME.json`` with what was measured and on what."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import importlib.metadata
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # Nothing here needs the Hub, or tells anybody that it runs.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
PEERS = ("trl", "liger-kernel", "textbrewer", "sentence-transformers")
"""Packages that we are compared with."""


# --- time and memory --------------------------------------------------------------------------------------------------


def synchronise(device: str) -> None:
    """Wait for what a GPU has still to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """How long a piece of work takes."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def in_turn(
    measures: Mapping[str, Callable[[], float]], rounds: int, budget: float = float("inf")
) -> dict[str, list[float]]:
    """What each measure gives, in turn (A B C, A B C, ...), so that a machine that slows down slows all of them.

    Args:
        measures: By name.
        rounds: How many are kept, at most; one more comes first, as a warm-up.
        budget: Seconds after which no round is begun. Where it leaves time for one round only, that one is kept.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    start = time.perf_counter()
    for number in range(rounds + 1):
        if number and time.perf_counter() - start > budget:
            break
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: values[1:] or values for name, values in found.items()}


def peak_memory(work: Callable[[], Any], device: str) -> int:
    """Bytes that a piece of work takes at most, beyond what is there before it; on a CPU from Linux's /proc."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # The high-water mark falls to what is in use now.
    before = _kilobytes("/proc/self/status", "VmRSS")
    work()
    return 1024 * (_kilobytes("/proc/self/status", "VmHWM") - before)


def limit_memory() -> None:
    """Let this process have what memory the machine has left, and no more; Linux only.

    What does not fit then fails by itself, before the system ends some process to make room.
    """
    left = _kilobytes("/proc/self/status", "VmData") + _kilobytes("/proc/meminfo", "MemAvailable")
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * left, resource.RLIM_INFINITY))


def in_a_process(module: str, *arguments: str) -> Any:
    """The JSON of the last line that a module prints, run in a process of its own.

    Raises:
        RuntimeError: Where it fails, with the end of what it said.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join([module, *arguments])} failed ({done.returncode}): {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _kilobytes(path: str, field: str) -> int:
    return next(int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.startswith(field))


# --- results ----------------------------------------------------------------------------------------------------------


def goal(name: str, value: float | None, bound: float, *, at_least: bool = False) -> dict[str, Any]:
    """A value that shall be at most, or at least, a bound; not met where it was not measured."""
    if value is None:
        return {"name": name, "value": "not measured", "bound": bound, "met": False}
    return {
        "name": name,
        "value": round(value, 4),
        "bound": bound,
        "met": value >= bound if at_least else value <= bound,
    }


def interval(value: float, draws: Any) -> dict[str, float]:
    """A value with the 95% interval of what resampled rows give."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def results_path(name: str, device: str) -> Path:
    """Results of a GPU stand beside those of the CPU."""
    return RESULTS / (f"{name}.json" if device == "cpu" else f"{name}.{device}.json")


def conditions(device: str) -> dict[str, Any]:
    """What was measured on: the machine, and the versions of what was installed."""
    from hf_distill.models.hardware import (
        machine,
        versions,  # A process that only looks at its memory does without.
    )

    peers = {}
    for name in PEERS:
        try:
            peers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            peers[name] = "not installed"
    return {
        "machine": {**machine(), "device": device, "threads": torch.get_num_threads()},
        "versions": {**versions(), **peers},
    }


def write_json(path: Path, content: Any) -> None:
    """A file that is whole, or not there."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def save_results(
    name: str, rows: list[dict[str, Any]], goals: list[dict[str, Any]], device: str, settings: dict[str, Any]
) -> None:
    """Write ``results/NAME.json``."""
    content = {
        "command": shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        **conditions(device),
        "settings": settings,
        "rows": rows,
        "goals": goals,
    }
    write_json(results_path(name, device), content)


def write_results(
    name: str, rows: list[dict[str, Any]], goals: list[dict[str, Any]], device: str, settings: dict[str, Any]
) -> None:
    """Write ``results/NAME.json``, and print what is in it."""
    save_results(name, rows, goals, device, settings)
    for row in rows:
        print(row)
    print_goals(goals)


def run_of_steps(
    name: str, setting: Any, measure: Callable[..., Any], two_steps: Callable[[str, Any], dict[str, float]]
) -> None:
    """The command line of a benchmark that times training steps of several trainers.

    Args:
        name: Of the results; those in mixed precision stand beside them, as ``NAME_bf16``.
        setting: The dataclass that says what all train; ``folder``, ``device`` and ``bf16`` are given here.
        measure: From a setting and a number of rounds to rows and goals.
        two_steps: What a trainer takes at most, in the process of its own that is started for it.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="train the student in mixed precision")
    parser.add_argument("--two-steps-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.two_steps_of:
        trainer, given = json.loads(options.two_steps_of)
        print(json.dumps(two_steps(trainer, setting(**given))))
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen = setting(folder=folder, device=options.device, bf16=options.bf16)
        rows, goals = measure(chosen, options.rounds)
    shown = {key: value for key, value in dataclasses.asdict(chosen).items() if key not in ("folder", "device")}
    results = f"{name}_bf16" if options.bf16 else name
    write_results(results, rows, goals, options.device, {"rounds": options.rounds, **shown})


def print_goals(goals: list[dict[str, Any]]) -> None:
    """One line a goal."""
    for each in goals:
        print(f"{'met ' if each['met'] else 'MISSED'} {each['name']}: {each['value']} (bound {each['bound']})")
