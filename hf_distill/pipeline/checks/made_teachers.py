"""Teachers that recipes of their own make: where they lie, on which data, and what making them takes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_distill.data.rows import Data, load_data
from hf_distill.errors import HfDistillError
from hf_distill.logs import reported
from hf_distill.pipeline.checks.costs import steps_of
from hf_distill.pipeline.experiment import Experiment
from hf_distill.pipeline.run_folder import RunFolder, recipe_hash, training_part
from hf_distill.recipe import Recipe

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Making:
    """How a teacher is made: its recipe under the name of its folder, the folder of all of them, and the data."""

    recipe: Recipe
    runs: Path
    data: Data

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.runs / self.recipe.name


def making(own: Recipe, experiment: Experiment) -> Making:
    """How the run of an experiment makes a teacher."""
    # The experiment's seed splits the data, whatever seed the teacher trains by: the teacher must not have learned from
    # rows that the student is scored on.
    recipe, task = experiment.recipe, experiment.task
    given = experiment.data.labelled()
    if own.data != recipe.data.labelled():
        given = load_data(own.data, task.required, task.optional, task.text_columns, recipe.seed)
    name = recipe_hash(dataclasses.replace(training_part(own), name="teacher"), given.fingerprint)[:12]
    return Making(recipe=dataclasses.replace(own, name=name), runs=experiment.runs / "teachers", data=given)


def check_making(experiment: Experiment, resolve: Callable[[Recipe, Path, str, Data], Experiment]) -> None:
    """Resolve the recipes that make teachers, and report the steps that this takes."""
    teacher = experiment.recipe.teacher
    for config in teacher.models if teacher is not None else ():
        own = config.match(lambda _: None, lambda made: made.recipe)
        if own is None:
            continue
        lines: list[str] = []
        with _of_teacher(own.name), reported(lines.append):
            made = making(own, experiment)
            resolved = resolve(made.recipe, made.runs, "", made.data)
            experiment.task.align(resolved.student.model.config)
        for line in lines:
            if line.startswith("warning"):
                logger.info(f"teacher {own.name}: {line}")
        counts = [steps_of(resolved, stage) for stage in resolved.stages]
        steps = "" if None in counts else f", {sum(count or 0 for count in counts):,} steps"
        rows = f"{resolved.data.counts['train']:,} rows" if "train" in resolved.data.counts else "a stream"
        there = "; it is there" if RunFolder(made.folder).model("student").is_dir() else ""
        logger.info(f"teacher {own.name}: trained first, on {rows}{steps}{there}")


@contextmanager
def _of_teacher(name: str) -> Iterator[None]:
    """Errors that name the teacher's recipe."""
    try:
        yield
    except HfDistillError as error:
        raise type(error)(f"teacher {name}: {error}") from error
