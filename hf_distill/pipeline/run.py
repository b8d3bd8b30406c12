"""What can be done with a recipe or a run, as functions: run, evaluate, cache, label, push."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from hf_distill.artifacts import faults_told
from hf_distill.errors import RecipeError
from hf_distill.logs import Report, reported
from hf_distill.pipeline.flow import Result, complete, load_teacher, push_student, write_labels
from hf_distill.pipeline.preflight import command_of, resolve
from hf_distill.pipeline.run_folder import RunFolder, training_part
from hf_distill.pipeline.scoring import build
from hf_distill.pipeline.train import lesson_of_student, pair
from hf_distill.recipe import LabelConfig, Recipe
from hf_distill.recipe.load_recipe import load_recipe

logger = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Any] | Recipe
"""A recipe as a person gives it: a YAML file, a mapping of the same keys, or a loaded recipe."""

Overrides = Sequence[str] | Mapping[str, Any]
"""``["training.learning_rate=3e-5"]`` or ``{"training.learning_rate": 3e-5}``."""


def run(
    recipe: Source,
    overrides: Overrides = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
    again: bool = False,
    allow_code: bool = False,
) -> Result:
    """Run a recipe from the data to the card, and push the student if it says so.

    What an earlier, interrupted call has finished is kept; training goes on from its last complete checkpoint. A call
    for a run that is complete gives its result again.

    Args:
        recipe: A YAML file, a mapping of the same keys, or a loaded recipe.
        overrides: ``["training.learning_rate=3e-5"]`` or ``{"training.learning_rate": 3e-5}``.
        runs: The folder that holds ``<name>/``.
        report: Gets lines that tell what happens.
        again: Evaluate a complete run once more instead of giving its earlier result.
        allow_code: Let code run that the recipe names, as ``package.module:name``; a recipe that names some is refused
            unless this is true.

    Raises:
        HfDistillError: For anything that the user can mend; what was finished before stays.
    """
    with reported(report), faults_told(Path(runs)):
        command = command_of("run", recipe, overrides, allow_code=allow_code)
        return complete(resolve(load_recipe(recipe, overrides, allow_code=allow_code), runs, command), again=again)


def distill(*, runs: str | Path = "runs", report: Report = print, allow_code: bool = False, **recipe: Any) -> Result:
    """Run a recipe given as keyword arguments, named as its keys: ``distill(name=..., data={...}, student={...})``."""
    return run({"version": 1, **recipe}, runs=runs, report=report, allow_code=allow_code)


def evaluate(
    folder: str | Path, overrides: Overrides = (), *, report: Report = print, allow_code: bool = False
) -> Result:
    """Evaluate a run again, perhaps with other ``evaluate`` keys, and write its results, analysis and card anew."""
    recipe, made_with = (load_recipe(_recipe_of(Path(folder)), o, allow_code=allow_code) for o in (overrides, ()))
    if recipe.name != made_with.name or training_part(recipe) != training_part(made_with):
        raise RecipeError(
            "overrides: a run that is there is evaluated again, so only keys of evaluate may change "
            "(evaluate.split=...); for another student give another name to: hf-distill run"
        )
    there = Path(folder).resolve()
    if there.name != recipe.name:
        raise RecipeError(
            f"{folder} holds the run {recipe.name}, which is found by its name; rename it to {recipe.name}"
        )
    RunFolder(there).check_models()
    recipe = dataclasses.replace(recipe, hub=dataclasses.replace(recipe.hub, push=False))
    return run(recipe, runs=there.parent, report=report, again=True, allow_code=allow_code)


def cache(
    recipe: Source,
    overrides: Overrides = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
    allow_code: bool = False,
) -> Path:
    """Take a cached teacher's targets for all rows of a recipe, and train nothing; :func:`run` then finds them.

    A call that was broken off goes on where it stopped; several processes (torchrun) share the rows.

    Args:
        recipe: As for :func:`run`, with ``teacher.kind: cached``.
        overrides: As for :func:`run`.
        runs: As for :func:`run`.
        report: Gets lines that tell what happens.
        allow_code: As for :func:`run`.

    Returns:
        The folder of the cache; of the last one, where stages ask for several.
    """
    with reported(report), faults_told(Path(runs)):
        recipe = load_recipe(recipe, overrides, allow_code=allow_code)
        if recipe.teacher is None or not recipe.teacher.is_cached:
            raise RecipeError("recipe.teacher.kind: there is nothing to cache for a live teacher; set it to cached")
        experiment = resolve(recipe, runs)
        teacher = load_teacher(experiment)
        set_seed(recipe.seed)
        student = build(experiment, experiment.data, teacher)
        for stage in experiment.stages:  # Each finds what an earlier one has kept.
            paired = pair(experiment, stage, lesson_of_student(stage, experiment.data, teacher), student).teacher
        plan = paired.plan if paired is not None else None
        assert plan is not None
        size = sum(path.stat().st_size for path in plan.folder.iterdir())
        logger.info(f"cache: {plan.folder}, {plan.rows:,} rows, {size / 1e6:,.1f} MB")
        return plan.folder


def label(
    recipe: Source,
    overrides: Overrides = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
    allow_code: bool = False,
) -> Path:
    """Let a recipe's teacher write for all training rows, and train nothing; a data set that trains like any other.

    A call that was broken off goes on where it stopped; several processes (torchrun) share the rows. :func:`run` finds
    the texts again, where its recipe has a ``label``.

    Args:
        recipe: As for :func:`run`; without ``label`` the teacher searches with 5 beams and nothing is dropped.
        overrides: As for :func:`run`.
        runs: As for :func:`run`.
        report: Gets lines that tell what happens.
        allow_code: As for :func:`run`.

    Returns:
        A folder with ``provenance.json`` and with ``datasets``, which ``data.path`` of another recipe may name.
    """
    with reported(report), faults_told(Path(runs)):
        command = command_of("label", recipe, overrides, allow_code=allow_code)
        recipe = load_recipe(recipe, overrides, allow_code=allow_code)
        experiment = resolve(dataclasses.replace(recipe, label=recipe.label or LabelConfig()), runs, command)
        labels = write_labels(experiment, load_teacher(experiment, writes_only=True))
        logger.info(f"labels: train on them with data.path={labels.datasets}")
        return labels.folder


def push(
    folder: str | Path,
    model_id: str | None = None,
    *,
    private: bool | None = None,
    force: bool | None = None,
    report: Report = print,
    allow_code: bool = False,
) -> str:
    """Push the student of a run to the Hub, with its card, in one commit.

    Args:
        folder: ``runs/<name>``.
        model_id: ``user/name``; the recipe's ``hub.model_id`` unless given.
        private: The recipe's ``hub.private`` unless given, which is true unless it says no. A public repository is
            refused where the student is to be private.
        force: The recipe's ``hub.force`` unless given: whether the student takes the place of what others than this
            run put into the repository.
        report: Gets lines that tell what happens.
        allow_code: As for :func:`run`, of the recipe that lies in the folder.

    Returns:
        Where it can be seen.

    Raises:
        HubError: Where the push is refused, by us or by the Hub.
    """
    given: dict[str, Any] = {"model_id": model_id, "private": private, "force": force}
    with reported(report):
        recipe = load_recipe(_recipe_of(Path(folder)), allow_code=allow_code)
        hub = dataclasses.replace(recipe.hub, **{key: value for key, value in given.items() if value is not None})
        return push_student(Path(folder), recipe.name, hub)


def _recipe_of(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise RecipeError(f"{folder} is no run: it holds no recipe.yaml; name a folder that hf-distill run made")
    return path
