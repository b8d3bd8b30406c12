"""Which objectives, layers and starts help: a student trained in each way, scored on the validation rows.

    python -m benchmarks.experiments.defaults RECIPE [KEY=VALUE ...] [--runs runs] [--only NAME ...]

One call measures one recipe, and adds its rows to those of other recipes in ``results/defaults.json``; what is there
already is not run again. What ``hf-distill init`` writes rests on these rows. The teacher is made, or its answers are
kept, once for all students of a recipe; where a call goes on on another machine it is made again, and may come out a
little better or worse: each row says how good its teacher is, and where it was measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from benchmarks.common import conditions, results_path, write_json
from hf_distill import run
from hf_distill.recipe import Recipe
from hf_distill.recipe.load_recipe import load_recipe

LABELS, HIDDEN, RELATION = {"kind": "labels"}, {"kind": "hidden"}, {"kind": "relation"}


def logits(temperature: float = 2.0) -> dict[str, Any]:
    return {"kind": "logits", "temperature": temperature}


def ten(**options: Any) -> dict[str, Any]:
    """Hidden states at the weight that templates give them."""
    return {**HIDDEN, "weight": 10.0, **options}


ALL = [LABELS, logits(), ten()]
UNDROPPED = {"student.disable_dropout": True}

WAYS: dict[str, dict[str, Any]] = {
    "labels": {"objectives": [LABELS]},
    "logits": {"objectives": [logits()]},
    "labels + logits": {"objectives": [LABELS, logits()]},
    "labels + logits, T 1": {"objectives": [LABELS, logits(1.0)]},
    "labels + logits, T 4": {"objectives": [LABELS, logits(4.0)]},
    "labels + relation": {"objectives": [LABELS, RELATION]},
    "labels + logits + relation": {"objectives": [LABELS, logits(), RELATION]},
    "hidden x10": {"objectives": [ten()]},
    "labels + hidden": {"objectives": [LABELS, HIDDEN]},
    "labels + hidden x10": {"objectives": [LABELS, ten()]},
    "labels + logits + hidden": {"objectives": [LABELS, logits(), HIDDEN]},
    "labels + logits + hidden x10": {"objectives": ALL},
    "labels + logits + hidden x100": {"objectives": [LABELS, logits(), ten(weight=100.0)]},
    "labels + logits + hidden x10 + relation": {"objectives": [*ALL, RELATION]},
    "labels + logits + hidden x10, last layer alone": {"objectives": [LABELS, logits(), ten(layers={-1: -1})]},
    "labels + logits + hidden x10, pretrained layers 0, 1, 2": {"objectives": ALL, "student.layers": [0, 1, 2]},
    "labels, without dropout": {"objectives": [LABELS], **UNDROPPED},
    "labels + logits, without dropout": {"objectives": [LABELS, logits()], **UNDROPPED},
    "labels + relation, without dropout": {"objectives": [LABELS, RELATION], **UNDROPPED},
    "labels + logits + hidden x10, without dropout": {"objectives": ALL, **UNDROPPED},
    "labels + logits + hidden x100, without dropout": {
        "objectives": [LABELS, logits(), ten(weight=100.0)],
        **UNDROPPED,
    },
    "labels + logits + hidden x10, the teacher's layers": {"objectives": ALL, "student.pretrained": None},
}
"""How a student is trained, as keys of its recipe, by the name that the table shows."""


def measure(recipe: Recipe, name: str, runs: str) -> dict[str, Any]:
    """How good the student is on the validation rows, and its teacher."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in name)
    changes = {
        "name": f"{recipe.name}-{slug}",
        "evaluate.split": "validation",
        "evaluate.control": False,
        **WAYS[name],
    }
    results = run(load_recipe(recipe.to_dict(), changes), runs=runs).results
    metric = results["comparison"]["primary_metric"]
    return {
        "recipe": recipe.name,
        "name": name,
        "metric": metric,
        "student": results["models"]["student"]["metrics"][metric],
        "teacher": results["models"]["teacher"]["metrics"][metric]["value"],
        "steps": results["training"]["student"]["steps"],
        "rows": results["data"]["rows"],
        "machine": conditions("cpu")["machine"],
    }


def measured(path: Path) -> dict[str, Any]:
    """What stands in the file so far."""
    return json.loads(path.read_text()) if path.is_file() else {"commands": {}, "rows": []}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--only", nargs="*", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    path = results_path("defaults", "cpu")
    for name in options.only:
        if any((row["recipe"], row["name"]) == (recipe.name, name) for row in measured(path)["rows"]):
            continue
        row = measure(recipe, name, options.runs)
        print(row)
        content = measured(path)  # Anew: a call for another recipe may have written meanwhile.
        content["rows"].append(row)
        command = ["python", "-m", "benchmarks.experiments.defaults", options.recipe, *options.overrides]
        content["commands"][recipe.name] = shlex.join(command)
        write_json(path, {**content, "versions": conditions("cpu")["versions"]})


if __name__ == "__main__":
    main()
