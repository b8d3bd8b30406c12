"""The teacher of a recipe, loaded; made before where a recipe of its own makes it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from hf_distill.data.load import Data, load_data
from hf_distill.logs import prefixed
from hf_distill.pipeline.experiment import Experiment
from hf_distill.pipeline.run_folder import recipe_hash, training_part
from hf_distill.recipe import Recipe
from hf_distill.teachers import Loading, Teacher, teacher_class

logger = logging.getLogger(__name__)

Make = Callable[[Recipe, Path, Data], Path]
"""Runs the recipe of a teacher on data that were read, below a folder; gives the folder of what it trained."""


def load_teacher(experiment: Experiment, make: Make, *, writes_only: bool = False) -> Teacher:
    """The teacher of a recipe, verified."""
    recipe, task = experiment.recipe, experiment.task
    assert recipe.teacher is not None
    loading = Loading(task=task, generation=recipe.evaluate.generation, train=lambda own: _made(own, experiment, make))
    teacher = teacher_class(recipe.teacher).load(recipe.teacher, loading)
    teacher.verify(recipe, task, writes_only=writes_only)
    return teacher


def _made(own: Recipe, experiment: Experiment, make: Make) -> Path:
    """What a teacher's own recipe trains, unless it did before."""
    folder = experiment.runs / "teachers"
    unnamed = dataclasses.replace(training_part(own), name="teacher")
    given = _data_of_teacher(own, experiment)
    name = recipe_hash(unnamed, given.fingerprint)[:12]
    logger.info(f"teacher: {own.name}, from {folder / name}")
    with prefixed("  "):
        return make(dataclasses.replace(own, name=name), folder, given)


def _data_of_teacher(teacher: Recipe, experiment: Experiment) -> Data:
    """What a teacher's own recipe reads: mostly what was read already.

    The recipe's seed splits it, whatever seed the teacher trains by: rows that the student is scored on must not be
    among those that its teacher learned from.
    """
    recipe, task = experiment.recipe, experiment.task
    if teacher.data == recipe.data.labelled():
        return experiment.data.labelled()
    return load_data(teacher.data, task.required, task.optional, task.text_columns, recipe.seed)
