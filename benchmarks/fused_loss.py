"""What the loss over a vocabulary costs: ours, all logits at once, TRL's chunked divergence, Liger's fused linear JSD.

    python benchmarks/fused_loss.py [--device cuda] [--rounds 5] [--vocabulary 49152] [--positions 1024]

Times are those of a forward and a backward, taken in turn in one process (A B C D, A B C D, ...), medians over the
rounds; ``products`` is the four bare matrix products that no way of doing it can be without. Peak memory is what a
second step takes beyond the inputs, in a process of its own for each (on a CPU from Linux's /proc). Errors are those of
loss and gradients on a few positions against all logits in float64, made from the same (rounded) inputs. The peers come
with ``pip install -e '.[bench]'``; the goals of one that is not there are listed as not measured.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from common import write_results
from torch import Tensor

from hf_distill.objectives.divergences import DIVERGENCES
from hf_distill.objectives.fused import FusedTerm, fused_loss
from hf_distill.views import Head

STUDENT_WIDTH, TEACHER_WIDTH = 576, 960
ERROR_POSITIONS = 32
BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
"""TRL and Liger name divergences by a number."""

TIME_BOUNDS = {
    "float32": {"trl": 0.5, "liger": 0.8, "products": 1.2},
    "bfloat16": {"trl": 0.35, "liger": 1.0},
}
MEMORY_BOUNDS = {"trl": 0.25, "liger": 0.7}


class Inputs(NamedTuple):
    """Hidden states and heads: normal numbers that make logits of a spread of about 3, as trained models' are."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor


class Cell(NamedTuple):
    divergence: str
    dtype: str
    vocabulary: int
    positions: int


Loss = Callable[[Inputs, str], Tensor]


def make_inputs(cell: Cell, device: str, positions: int) -> Inputs:
    torch.manual_seed(0)
    dtype = getattr(torch, cell.dtype)

    def draw(rows: int, width: int, size: float) -> Tensor:
        return torch.empty(rows, width, dtype=dtype, device=device).normal_(0.0, size)

    return Inputs(
        draw(positions, STUDENT_WIDTH, 1.0).requires_grad_(),
        draw(cell.vocabulary, STUDENT_WIDTH, 3.0 / STUDENT_WIDTH**0.5).requires_grad_(),
        draw(positions, TEACHER_WIDTH, 1.0),
        draw(cell.vocabulary, TEACHER_WIDTH, 3.0 / TEACHER_WIDTH**0.5),
    )


def ours(given: Inputs, divergence: str) -> Tensor:
    mask = torch.ones(len(given.hidden), dtype=torch.bool, device=given.hidden.device)
    term = FusedTerm(divergence=divergence, factor=1.0 / len(mask), mask=mask, options={})
    return fused_loss(
        given.hidden,
        Head(weight=given.weight),
        [term],
        teacher_hidden=given.teacher_hidden,
        teacher_head=Head(weight=given.teacher_weight),
    )[0]


def plain(given: Inputs, divergence: str) -> Tensor:
    student, teacher = given.hidden @ given.weight.T, given.teacher_hidden @ given.teacher_weight.T
    return DIVERGENCES[divergence](student, teacher).mean()


def products(given: Inputs, divergence: str) -> Tensor:
    with torch.no_grad():
        student = given.hidden @ given.weight.T
        given.teacher_hidden @ given.teacher_weight.T
        given.hidden.grad, given.weight.grad = student @ given.weight, student.T @ given.hidden
    return torch.zeros(())


def losses() -> tuple[dict[str, Loss], dict[str, str]]:
    """What is compared, and why a peer is not."""
    found: dict[str, Loss] = {"ours": ours, "plain": plain}
    missing = {}
    try:
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    except ImportError as error:
        missing["trl"] = str(error)
    else:

        def trl(given: Inputs, divergence: str) -> Tensor:
            student, teacher = (given.hidden, given.weight, None), (given.teacher_hidden, given.teacher_weight, None)
            return ChunkedDivergenceFunction.apply(*student, *teacher, BETAS[divergence])[0].mean()

        found["trl"] = trl
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    except ImportError as error:
        missing["liger"] = str(error)
    else:
        modules = {
            name: LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta)
            for name, beta in BETAS.items()
        }

        def liger(given: Inputs, divergence: str) -> Tensor:
            labels = torch.zeros(len(given.hidden), dtype=torch.long, device=given.hidden.device)
            return modules[divergence](*given, labels)

        found["liger"] = liger
    return {**found, "products": products}, missing


def step(loss: Loss, given: Inputs, divergence: str) -> float:
    """Seconds of a forward and a backward."""
    given.hidden.grad = given.weight.grad = None
    if given.hidden.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    value = loss(given, divergence)
    if value.requires_grad:
        value.backward()
    if given.hidden.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def times(compared: dict[str, Loss], cell: Cell, device: str, rounds: int) -> dict[str, float]:
    given = make_inputs(cell, device, cell.positions)
    spent: dict[str, list[float]] = {name: [] for name in compared}
    for round_number in range(rounds + 1):
        for name, loss in compared.items():
            seconds = step(loss, given, cell.divergence)
            if round_number:
                spent[name].append(seconds)
    return {name: median(values) for name, values in spent.items()}


def errors(compared: dict[str, Loss], cell: Cell, device: str) -> dict[str, dict[str, float]]:
    """Relative errors of the loss and of the two gradients, the larger of which counts."""
    given = make_inputs(cell, device, ERROR_POSITIONS)
    exact = Inputs(*(tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in given))
    expected = plain(exact, cell.divergence)
    expected.backward()
    found = {}
    for name, loss in compared.items():
        given.hidden.grad = given.weight.grad = None
        value = loss(given, cell.divergence)
        value.backward()
        gradients = [
            ((ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()).item()
            for ours, theirs in ((given.hidden, exact.hidden), (given.weight, exact.weight))
        ]
        found[name] = {
            "loss": abs(value.double() - expected).item() / expected.item(),
            "gradient": max(gradients),
        }
    return found


def status(field: str) -> int:
    """A size from Linux's /proc, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(loss: Loss, cell: Cell, device: str) -> int:
    """Bytes that a step takes beyond its inputs, the gradients included."""
    given = make_inputs(cell, device, cell.positions)
    step(loss, given, cell.divergence)  # Libraries are loaded and kernels compiled once: that is not the step's.
    given.hidden.grad = given.weight.grad = None
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(loss, given, cell.divergence)
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # The high-water mark falls to what is in use now.
    before = status("VmRSS")
    step(loss, given, cell.divergence)
    return status("VmHWM") - before


def peak_in_a_process(name: str, cell: Cell, device: str) -> int:
    command = [sys.executable, __file__, "--device", device, "--only-memory-of", json.dumps([name, *cell])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(result.stdout.splitlines()[-1])


def goal(cell: Cell, what: str, peer: str, value: float | None, bound: float) -> dict[str, Any]:
    name = f"{' '.join(map(str, cell))}: {what} / {peer}'s"
    if value is None:
        return {"name": name, "value": "not measured", "bound": bound, "met": False}
    return {"name": name, "value": round(value, 3), "bound": bound, "met": value <= bound}


def goals_of(cell: Cell, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    def ratio(column: str, peer: str) -> float | None:
        return rows["ours"][column] / rows[peer][column] if peer in rows else None

    found = [goal(cell, "time", peer, ratio("seconds", peer), b) for peer, b in TIME_BOUNDS[cell.dtype].items()]
    found += [goal(cell, "memory", peer, ratio("megabytes", peer), b) for peer, b in MEMORY_BOUNDS.items()]
    for what in ("loss", "gradient"):
        found += [goal(cell, f"error of the {what}", p, ratio(f"{what}_error", p), 1.0) for p in ("trl", "liger")]
    return found


def measure(cell: Cell, compared: dict[str, Loss], device: str, rounds: int) -> dict[str, dict[str, Any]]:
    seconds = times(compared, cell, device, rounds)
    wrong = errors({name: loss for name, loss in compared.items() if name != "products"}, cell, device)
    rows: dict[str, dict[str, Any]] = {}
    for name in compared:
        rows[name] = {"name": name, **cell._asdict(), "seconds": round(seconds[name], 5)}
        if name in wrong:
            rows[name]["megabytes"] = round(peak_in_a_process(name, cell, device) / 1e6, 1)
            rows[name] |= {f"{what}_error": value for what, value in wrong[name].items()}
    print(f"measured: {' '.join(map(str, cell))}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--divergence", nargs="+", default=list(BETAS), choices=list(BETAS))
    parser.add_argument("--dtype", nargs="+", default=list(TIME_BOUNDS), choices=list(TIME_BOUNDS))
    parser.add_argument("--vocabulary", nargs="+", type=int, default=[32000, 49152, 151936])
    parser.add_argument("--positions", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    compared, missing = losses()
    if options.only_memory_of:
        name, *cell = json.loads(options.only_memory_of)
        print(peak(compared[name], Cell(*cell), options.device))
        return
    for name, reason in missing.items():
        print(f"{name} is not measured: {reason}", flush=True)
    rows, goals = [], []
    grid = itertools.product(options.divergence, options.dtype, options.vocabulary, options.positions)
    for cell in (Cell(*each) for each in grid):
        measured = measure(cell, compared, options.device, options.rounds)
        rows += measured.values()
        goals += goals_of(cell, measured)
    settings = {
        "rounds": options.rounds,
        "widths": {"student": STUDENT_WIDTH, "teacher": TEACHER_WIDTH},
        "error_positions": ERROR_POSITIONS,
        "not_measured": missing,
    }
    write_results("fused_loss", rows, goals, options.device, settings)


if __name__ == "__main__":
    main()
