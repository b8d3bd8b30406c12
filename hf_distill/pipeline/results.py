"""results.json: everything that was measured, and on what."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from hf_distill.data.rows import Data
from hf_distill.evaluation.bootstrap import compare, model_metrics
from hf_distill.evaluation.metrics import JUDGES
from hf_distill.evaluation.speed import sizes_and_speeds
from hf_distill.models.hardware import machine, versions
from hf_distill.objectives import make_objective
from hf_distill.pipeline.experiment import Experiment, Stage
from hf_distill.pipeline.scoring import RunScores
from hf_distill.recipe import Recipe
from hf_distill.report.card_contents import portable_facts
from hf_distill.tasks import Task


def make_results(
    experiment: Experiment,
    scores: RunScores,
    training: Mapping[str, Mapping[str, Any]],
    *,
    floor: Mapping[str, Any] | None,
    start: Mapping[str, float] | None,
    labels: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure sizes and speeds, draw the intervals, compare; the content of ``results.json``."""
    recipe, task, data, rows = experiment.recipe, experiment.task, experiment.data, experiment.rows
    candidates, predictions, metric = scores.candidates, scores.predictions, experiment.metric
    here = {name: each for name, each in candidates.items() if each.models}
    facts, conditions = sizes_and_speeds(here, task, rows, recipe.evaluate.batch_size)
    metrics = model_metrics(predictions, recipe.evaluate.resamples, recipe.seed)
    models = {
        name: {**candidate.facts, **facts.get(name, {}), "metrics": metrics[name]}
        for name, candidate in candidates.items()
    }
    for name, each in predictions.items():
        if (error := each.calibration_error) is not None:
            models[name]["calibration_error"] = error
    results: dict[str, Any] = {
        "name": recipe.name,
        "task": recipe.task.name,
        "pipeline_tag": task.pipeline_tag,
        "problem_type": task.problem_type,
        "command": experiment.command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": recipe.seed,
        "recipe_sha256": experiment.sha256,
        "models": models,
    }
    if "teacher" in candidates:
        results["comparison"] = compare(predictions, facts, metric, recipe.evaluate.resamples, recipe.seed)
    else:
        results["primary_metric"] = metric
    results |= {
        "speed": conditions,
        "data": _data_facts(recipe, data, task),
        **(_stages(recipe) if recipe.stages else _learned_from(recipe)),
        "training": {
            name: {key: value for key, value in each.items() if key != "log_history"} for name, each in training.items()
        },
        "versions": versions(JUDGES if recipe.evaluate.scorers or task.scorers else ()),
        "machine": machine(),
    }
    results |= {"floor": dict(floor)} if floor else {}
    results |= {"start": dict(start)} if start else {}
    results |= {"labels": dict(labels)} if labels else {}
    # As the file gives it back, so that a run and its repetition tell the same.
    plain: dict[str, Any] = portable_facts(json.loads(json.dumps(results)))
    return plain


def _stages(recipe: Recipe) -> dict[str, Any]:
    own = {stage.name: {"training": stage.training} for stage in recipe.stages}
    return {"stages": {name: {**_learned_from(each), **own[name]} for name, each in recipe.by_stage().items()}}


def _learned_from(recipe: Recipe) -> dict[str, Any]:
    objectives = [
        {
            **dataclasses.asdict(each),
            "paper": make_objective(each.kind, {"weight": each.weight, **each.options}).paper,
        }
        for each in recipe.objectives
    ]
    rollout = {"rollout": dataclasses.asdict(recipe.rollout)} if recipe.rollout is not None else {}
    return {"objectives": objectives, **rollout}


def _data_facts(recipe: Recipe, data: Data, task: Task) -> dict[str, Any]:
    outside = data.outside.get(recipe.evaluate.split)
    return {
        "source": data.source,
        "dataset_id": data.dataset_id,
        "fingerprint": data.fingerprint,
        "rows": data.counts,
        **({"labelled_rows": dict(data.labelled_rows)} if data.labelled_rows else {}),
        **({"warnings": list(data.warnings)} if data.warnings else {}),
        "evaluated_split": recipe.evaluate.split,
        "labels": list(task.label_set.names) if task.label_set else [],
        **({"out_of_scope": {"label": task.out_of_scope, "rows": len(outside)}} if outside is not None else {}),
    }


def joined(stages: Sequence[Stage], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``train_model`` told of one model in each stage, as of a single training; each stage's under ``stages``."""
    if len(stages) == 1:
        return dict(facts[0])
    steps, seconds = ([each[key] for each in facts] for key in ("steps", "seconds"))
    done = list(accumulate(steps, initial=0))
    return {
        **facts[0],
        **{name: value for name, value in facts[-1].items() if name == "dtype"},
        "steps": done[-1],
        "seconds": None if None in seconds else round(sum(seconds), 1),
        "padding": round(sum(each["padding"] * each["steps"] for each in facts) / done[-1], 4),
        "log_history": [
            {**entry, "step": entry["step"] + before}
            for each, before in zip(facts, done, strict=False)
            for entry in each["log_history"]
        ],
        "stages": {
            stage.name: {"steps": each["steps"], "seconds": each["seconds"]}
            for stage, each in zip(stages, facts, strict=True)
        },
    }
