"""How well do students write that learned from data or from what their teacher wrote, greedily and with beams?

Each student of some runs, the control of the first, and their teacher write the test rows, one token after another (the
likeliest each time) and with beams. Differences are to that control, paired, with 95% intervals of a bootstrap over the
rows. All runs have one task, one teacher and one test split.

    python -m benchmarks.experiments.sequence_level --runs runs/a runs/b --teacher FOLDER --beams 5 --out sequence.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import interval, write_json
from hf_distill.evaluation.bootstrap import resample_counts
from hf_distill.evaluation.language_modeling import Written
from hf_distill.evaluation.predict import write_and_score
from hf_distill.logs import reported, silenced
from hf_distill.models.loading import load_model
from hf_distill.pipeline.preflight import resolve
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.tokenizers.processors import load_tokenizer

RESAMPLES = 1000
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="folders that hf-distill run made")
    parser.add_argument("--teacher", type=Path, required=True, help="its folder")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_json(options.out, list(measured(options.runs, options.teacher, options.beams)))


def measured(runs: list[Path], teacher: Path, beams: int) -> Iterator[dict[str, Any]]:
    """A row for the teacher, for the first run's control, and for every student."""
    results = {run: json.loads((run / "results.json").read_text()) for run in runs}
    control = written_by(runs[0], runs[0] / "control", beams)
    for run, name in [(runs[0], "teacher"), (runs[0], "control"), *((run, "student") for run in runs)]:
        folder = teacher if name == "teacher" else run / name
        written = control if name == "control" else written_by(run, folder, beams)
        yield {
            "run": results[run]["name"],
            "model": name,
            "command": results[run]["command"],
            **({} if name == "teacher" else learned_from(results[run], name)),
            **{how: scores(each, control[how]) for how, each in written.items()},
        }


def written_by(run: Path, folder: Path, beams: int) -> dict[str, Written]:
    """What the model of a folder writes on the test rows of a run: ``greedy``, and with ``beams``."""
    with reported(silenced):
        experiment = resolve(load_recipe(run / "recipe.yaml"))
    recipe, task, data = experiment.recipe, experiment.task, experiment.data
    model, tokenizer = load_model(task.auto_model, str(folder)), load_tokenizer(str(folder))
    length = {"max_new_tokens": recipe.evaluate.generation["max_new_tokens"]}
    return {
        how: write_and_score(model, task, tokenizer, data.test, task.scorers, {**length, "num_beams": width}, BATCH)
        for how, width in (("greedy", 1), ("beams", beams))
    }


def scores(written: Written, control: Written) -> dict[str, Any]:
    """Each metric, and how far it is from the control's."""
    rows = len(written.texts)
    whole = np.ones((1, rows), dtype=int)
    counts = np.concatenate(list(resample_counts(rows, RESAMPLES, seed=0)))
    value, draws, of_control = written.score(whole), written.score(counts), control.score(counts)
    found: dict[str, Any] = {metric: interval(float(value[metric][0]), draws[metric]) for metric in draws}
    if written is not control:
        differences = {
            name: (value[name] - control.score(whole)[name], draws[name] - of_control[name]) for name in draws
        }
        found["minus_control"] = {name: interval(float(d[0]), each) for name, (d, each) in differences.items()}
    return found


def learned_from(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Whose texts, which filters, by which objectives, how many rows and steps."""
    labels = results.get("labels") if name == "student" else None
    objectives = ["labels"] if name == "control" else [each["kind"] for each in results["objectives"]]
    filters = {key: bound for key, bound in labels["label"]["filters"].items() if bound is not None} if labels else {}
    return {
        "texts": "teacher" if labels else "data",
        "filters": filters,
        "objectives": objectives,
        "rows": labels["rows"]["kept"] if labels else results["data"]["rows"]["train"],
        "steps": results["training"][name]["steps"],
    }


if __name__ == "__main__":
    main()
