"""How far are the students of several runs from that of the first, on the test rows that all are scored on?

Differences are paired, with 95% intervals of a bootstrap over the rows; the first run's is also told from its teacher's
and its control's in its own ``results.json``. All runs have one task and one test split.

    python -m benchmarks.experiments.paired --runs runs/a runs/b --metric accuracy --out paired.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import interval, write_json
from hf_distill.evaluation.bootstrap import bootstrap
from hf_distill.evaluation.scores import Evaluation, Scores
from hf_distill.logs import reported, silenced
from hf_distill.pipeline.preflight import resolve
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.pipeline.scoring import trained_candidate
from hf_distill.recipe.load_recipe import load_recipe

RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="folders that hf-distill run made")
    parser.add_argument("--metric", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_json(options.out, list(measured(options.runs, options.metric)))


def measured(runs: list[Path], metric: str) -> Iterator[dict[str, Any]]:
    """A row a run."""
    predictions = {str(run): scored(run) for run in runs}
    values = {name: each.metrics()[metric] for name, each in predictions.items()}
    draws = {name: each[metric] for name, each in bootstrap(predictions, RESAMPLES, seed=0).items()}
    first = str(runs[0])
    for run in runs:
        name, told = str(run), json.loads((run / "results.json").read_text())
        yield {
            "run": told["name"],
            "command": told["command"],
            "teacher": told["models"]["teacher"]["metrics"][metric],
            "student": interval(values[name], draws[name]),
            "first_minus_this": interval(values[first] - values[name], draws[first] - draws[name]),
        }


def scored(run: Path) -> Scores:
    """What a run's student says of the test rows."""
    with reported(silenced):
        experiment = resolve(load_recipe(run / "recipe.yaml"))
    student = trained_candidate("student", RunFolder(run), experiment, "as trained")
    return student.score(Evaluation(task=experiment.task, rows=experiment.rows, config=experiment.recipe.evaluate))


if __name__ == "__main__":
    main()
