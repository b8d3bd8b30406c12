"""Stages of a training: what one goes on from, and what all come to together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from hf_distill.models.load import load_model
from hf_distill.pipeline.experiment import Stage
from hf_distill.students import Student, has_adapters, load_adapters
from hf_distill.tasks import Task


def continued(student: Student, task: Task, left: Path) -> Student:
    """A new student with the weights that a stage left of it.

    What an objective learned beside it (projections) is not among them: it belongs to its stage.
    """
    if has_adapters(student.model):
        load_adapters(student.model, left)
    else:
        # Not strict: what a task keeps beside a model (a projection of vectors) lies in files of its own.
        student.model.load_state_dict(load_model(task.auto_model, str(left)).state_dict(), strict=False)
    task.load_beside(student.model, left)
    return student


def joined(stages: Sequence[Stage], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What ``train_model`` told of one model in each stage, as of a single training; each stage's under ``stages``."""
    if len(stages) == 1:
        return dict(facts[0])
    steps, seconds = ([each[key] for each in facts] for key in ("steps", "seconds"))
    done = list(accumulate(steps, initial=0))
    return {
        **facts[0],
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
