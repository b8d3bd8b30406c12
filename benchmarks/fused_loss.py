"""What the loss over a vocabulary costs: ours, all logits at once, TRL's chunked divergence, Liger's fused linear JSD.

    python -m benchmarks.fused_loss [--device cuda] [--again] [--rounds 5] [--seconds 120] [--no-times]
        [--divergence forward_kl] [--dtype float32] [--vocabulary 49152] [--positions 1024]

The grid has a cell for each divergence, dtype, vocabulary and number of positions; the last four options choose some of
them. Each cell is written to the results when it is done, and is not run again unless ``--again`` says so: a call that
was broken off goes on with the same command. Results of another machine or of other versions are not mixed in. Memory
and errors do not mind what else runs: ``--no-times`` takes them alone, and a call without it adds the times.

Times are those of a forward and a backward, taken in turn in one process (A B C D, A B C D, ...), medians over the
rounds, of which none is begun once ``--seconds`` have gone by; ``products`` is the four bare matrix products that no
way of doing it can be without. Peak memory is what a step takes beyond the inputs, in a process of its own for each
(on a CPU from Linux's /proc); what does not fit into the memory that is left is not timed either. Errors are those of
loss and gradients on a few positions against all logits in float64, made from the same (rounded) inputs. The peers
come with ``pip install -e '.[bench]'``; the goals of one that is not there are listed as not measured.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from statistics import median
from typing import Any

from torch import Tensor

from benchmarks.common import (
    conditions,
    goal,
    in_a_process,
    in_turn,
    limit_memory,
    peak_memory,
    print_goals,
    results_path,
    save_results,
    seconds_of,
)
from benchmarks.losses import (
    BETAS,
    LOSSES,
    STUDENT_WIDTH,
    TEACHER_WIDTH,
    Cell,
    Inputs,
    Loss,
    losses,
    make_inputs,
    plain,
    step,
)

ERROR_POSITIONS = 32

TIME_BOUNDS = {
    "float32": {"trl": 0.5, "liger": 0.8, "products": 1.2},
    "bfloat16": {"trl": 0.35, "liger": 1.0},
}
MEMORY_BOUNDS = {"trl": 0.25, "liger": 0.7}


def times(compared: dict[str, Loss], cell: Cell, device: str, rounds: int, budget: float) -> dict[str, list[float]]:
    """Seconds of a step, one a round."""
    given = make_inputs(cell, device, cell.positions)
    steps = {name: functools.partial(step, loss, given, cell.divergence) for name, loss in compared.items()}
    return in_turn({name: functools.partial(seconds_of, each, device) for name, each in steps.items()}, rounds, budget)


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
        gradients = [relative_error(given.hidden.grad, exact.hidden.grad)]
        gradients += [relative_error(given.weight.grad, exact.weight.grad)]
        found[name] = {
            "loss": abs(value.double() - expected).item() / expected.item(),
            "gradient": max(gradients),
        }
    return found


def relative_error(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return ((found.double() - expected).norm() / expected.norm()).item()


def peak(loss: Loss, cell: Cell, device: str) -> int | None:
    """Bytes that a step takes beyond its inputs, the gradients included; None where there are not so many."""
    # Libraries are loaded and kernels compiled once: that is not the step's.
    step(loss, make_inputs(cell, device, ERROR_POSITIONS), cell.divergence)
    if device == "cpu":
        limit_memory()
    try:
        given = make_inputs(cell, device, cell.positions)
        return peak_memory(functools.partial(step, loss, given, cell.divergence), device)
    except (RuntimeError, MemoryError) as error:
        if "memory" in str(error) or isinstance(error, MemoryError):
            return None
        raise


def peak_in_a_process(name: str, cell: Cell, device: str) -> int | None:
    found: int | None = in_a_process(__spec__.name, "--device", device, "--only-memory-of", json.dumps([name, *cell]))
    return found


def goals_of(cell: Cell, rows: Rows) -> list[dict[str, Any]]:
    def compare(what: str, column: str, peer: str, bound: float) -> dict[str, Any]:
        own, other = (rows.get(name, {}).get(column) for name in ("ours", peer))
        value = own / other if own is not None and other is not None else None
        return goal(f"{' '.join(map(str, cell))}: {what} / {peer}", value, bound)

    found = [compare("time", "seconds", peer, bound) for peer, bound in TIME_BOUNDS[cell.dtype].items()]
    found += [compare("memory", "megabytes", peer, bound) for peer, bound in MEMORY_BOUNDS.items()]
    for what in ("loss", "gradient"):
        found += [compare(f"error of the {what}", f"{what}_error", peer, 1.0) for peer in MEMORY_BOUNDS]
    return found


Rows = dict[str, dict[str, Any]]
"""Those of a cell, by what is compared."""


def measure(cell: Cell, compared: dict[str, Loss], device: str) -> Rows:
    """Memory and errors of what is compared."""
    names = [name for name in compared if name != "products"]
    rows: Rows = {name: {"name": name, **cell._asdict()} for name in compared}
    wrong = errors({name: compared[name] for name in names}, cell, device)
    for name in names:
        size = peak_in_a_process(name, cell, device)
        rows[name]["megabytes"] = None if size is None else round(size / 1e6, 1)
        rows[name] |= {f"{what}_error": value for what, value in wrong[name].items()}
    return rows


def add_times(rows: Rows, cell: Cell, compared: dict[str, Loss], device: str, rounds: int, budget: float) -> None:
    """Times of what fits into memory."""
    fits = {name: loss for name, loss in compared.items() if rows[name].get("megabytes", 0) is not None}
    for name, seconds in times(fits, cell, device, rounds, budget).items():
        rows[name] |= {"seconds": round(median(seconds), 5), "rounds": len(seconds)}


def has_times(rows: Rows) -> bool:
    """Whether a cell's times were taken, of those that fit."""
    return "seconds" in rows["products"]


Cells = dict[Cell, Rows]
"""All that was measured."""


def measured_before(device: str, *, again: bool) -> Cells:
    """The cells of the results that are there.

    Args:
        device: Whose results.
        again: Whether results of another machine or other versions are given up; else they are refused.

    Raises:
        SystemExit: Where they were measured on something else.
    """
    path = results_path("fused_loss", device)
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    now = json.loads(json.dumps(conditions(device)))
    different = [name for name, value in now.items() if content[name] != value]
    if different and not again:
        raise SystemExit(f"{path} was measured on another {' and '.join(different)}; --again gives its cells up")
    cells: Cells = {}
    for row in [] if different else content["rows"]:
        cells.setdefault(Cell(*(row[field] for field in Cell._fields)), {})[row["name"]] = row
    return cells


def save(cells: Cells, device: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Write all cells; their goals."""
    goals = [each for cell, rows in cells.items() for each in goals_of(cell, rows)]
    save_results("fused_loss", [row for rows in cells.values() for row in rows.values()], goals, device, settings)
    return goals


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--divergence", nargs="+", default=list(BETAS), choices=list(BETAS))
    parser.add_argument("--dtype", nargs="+", default=list(TIME_BOUNDS), choices=list(TIME_BOUNDS))
    parser.add_argument("--vocabulary", nargs="+", type=int, default=[32000, 49152, 151936])
    parser.add_argument("--positions", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--rounds", type=int, default=5, help="of a cell, at most")
    parser.add_argument("--seconds", type=float, default=120.0, help="after which no round of a cell is begun")
    parser.add_argument("--again", action="store_true", help="measure cells that are there already")
    parser.add_argument("--no-times", action="store_true", help="memory and errors alone")
    parser.add_argument("--only-memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_memory_of:
        name, *cell = json.loads(options.only_memory_of)
        print(json.dumps(peak(LOSSES[name](), Cell(*cell), options.device)))
        return
    run(options)


def run(options: argparse.Namespace) -> None:
    """Measure the cells that are asked for and not there."""
    cells = measured_before(options.device, again=options.again)
    compared, missing = losses()
    for name, reason in missing.items():
        print(f"{name} is not measured: {reason}", flush=True)
    settings = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "widths": {"student": STUDENT_WIDTH, "teacher": TEACHER_WIDTH},
        "error_positions": ERROR_POSITIONS,
        "not_measured": missing,
    }
    grid = itertools.product(options.divergence, options.dtype, options.vocabulary, options.positions)
    for cell in (Cell(*each) for each in grid):
        if options.again or cell not in cells:
            cells[cell] = measure(cell, compared, options.device)
        elif has_times(cells[cell]):
            continue
        if not options.no_times:
            add_times(cells[cell], cell, compared, options.device, options.rounds, options.seconds)
        save(cells, options.device, settings)
        print_goals(goals_of(cell, cells[cell]))
    goals = save(cells, options.device, settings)
    print(f"{sum(each['met'] for each in goals)} of {len(goals)} goals are met, over {len(cells)} cells")


if __name__ == "__main__":
    main()
