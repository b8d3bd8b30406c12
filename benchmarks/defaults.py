"""Which objectives help: the same student of a recipe, trained with each set of them, scored on the validation rows.

    python benchmarks/defaults.py RECIPE [KEY=VALUE ...] [--runs runs] [--only NAME ...]

One call measures one recipe, and adds its rows to those of other recipes in ``results/defaults.json``; what is there
already is not run again. What ``hf-distill init`` writes rests on these rows. The teacher is made, or its answers are
kept, once for all students.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from common import conditions, results_path, write_json

from hf_distill import run
from hf_distill.recipe import Recipe
from hf_distill.recipe_file import load_recipe

LABELS, HIDDEN, RELATION = {"kind": "labels"}, {"kind": "hidden"}, {"kind": "relation"}


def logits(temperature: float = 2.0) -> dict[str, Any]:
    return {"kind": "logits", "temperature": temperature}


SETS: dict[str, list[dict[str, Any]]] = {
    "labels": [LABELS],
    "labels + logits": [LABELS, logits()],
    "labels + logits, T 1": [LABELS, logits(1.0)],
    "labels + logits, T 4": [LABELS, logits(4.0)],
    "logits": [logits()],
    "labels + hidden": [LABELS, HIDDEN],
    "labels + logits + hidden": [LABELS, logits(), HIDDEN],
    "labels + logits + hidden x10": [LABELS, logits(), {**HIDDEN, "weight": 10.0}],
    "labels + relation": [LABELS, RELATION],
    "labels + logits + relation": [LABELS, logits(), RELATION],
    "labels + logits + hidden x10 + relation": [LABELS, logits(), {**HIDDEN, "weight": 10.0}, RELATION],
}
"""What a student learns from, by the name that the table shows."""


def measure(recipe: Recipe, objectives: list[dict[str, Any]], name: str, runs: str) -> dict[str, Any]:
    """How good the student is on the validation rows, and its teacher."""
    slug = "".join(letter if letter.isalnum() else "-" for letter in name)
    changes = {
        "name": f"{recipe.name}-{slug}",
        "objectives": objectives,
        "evaluate.split": "validation",
        "evaluate.control": False,
    }
    results = run(load_recipe(recipe.to_dict(), changes), runs=runs).results
    metric = results["comparison"]["primary_metric"]
    return {
        "recipe": recipe.name,
        "objectives": name,
        "metric": metric,
        "student": results["models"]["student"]["metrics"][metric],
        "teacher": results["models"]["teacher"]["metrics"][metric]["value"],
        "steps": results["training"]["student"]["steps"],
        "rows": results["data"]["rows"],
    }


def measured(path: Path) -> dict[str, Any]:
    """What stands in the file so far."""
    return json.loads(path.read_text()) if path.is_file() else {"commands": {}, "rows": []}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--only", nargs="*", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    path = results_path("defaults", "cpu")
    for name in options.only:
        if any((row["recipe"], row["objectives"]) == (recipe.name, name) for row in measured(path)["rows"]):
            continue
        row = measure(recipe, SETS[name], name, options.runs)
        print(row)
        content = measured(path)  # Anew: a call for another recipe may have written meanwhile.
        content["rows"].append(row)
        command = ["python", "benchmarks/defaults.py", options.recipe, *options.overrides]
        content["commands"][recipe.name] = shlex.join(command)
        write_json(path, {**content, **conditions("cpu")})


if __name__ == "__main__":
    main()
