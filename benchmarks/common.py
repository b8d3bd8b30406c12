"""What every benchmark writes: ``results/NAME.json`` with the machine, versions, command, rows and goals."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from hf_distill.evaluation.candidates import machine
from hf_distill.evaluation.results import versions

RESULTS = Path(__file__).parent / "results"


def write_results(
    name: str, rows: list[dict[str, Any]], goals: list[dict[str, Any]], device: str, settings: dict[str, Any]
) -> None:
    """Write and print; results of a GPU stand beside those of the CPU."""
    content = {
        "command": "python " + " ".join(sys.argv),
        "machine": {**machine(), "device": device, "threads": torch.get_num_threads()},
        "versions": versions(),
        "settings": settings,
        "rows": rows,
        "goals": goals,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / (f"{name}.json" if device == "cpu" else f"{name}.{device}.json")
    path.write_text(json.dumps(content, indent=2) + "\n")
    for row in rows:
        print(row)
    for goal in goals:
        print(f"{'met ' if goal['met'] else 'MISSED'} {goal['name']}: {goal['value']} (bound {goal['bound']})")
