"""A sweep: the students of a grid of recipes, trained from one pass of their teacher, and the best of them.

    runs/<name>-sweep/
      sweep.json      every combination, its score on the validation rows and its seconds; rewritten after each of them
      best.yaml       the recipe with the best combination
      scores.png      the scores along each axis
      <hash>/         one combination: recipe.yaml, student/, validation.json

The test rows are not looked at: what was chosen by them could not be judged by them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import set_seed

from hf_distill.data.load import Data
from hf_distill.errors import ModelError, RecipeError, TeacherError
from hf_distill.evaluation.language_modeling import AGAINST_TEACHER
from hf_distill.evaluation.metrics import compute_metrics, primary_metric
from hf_distill.evaluation.predict import Candidate, predict
from hf_distill.evaluation.served import Served
from hf_distill.logs import Report, prefixed, reported, silenced
from hf_distill.models.fingerprints import tokenizer_mark
from hf_distill.pipeline.compatibility import check_cache
from hf_distill.pipeline.estimates import Plan
from hf_distill.pipeline.preflight import make_objectives, planned_teacher, prepare, prepare_alike
from hf_distill.pipeline.run import live_teacher, load_teacher
from hf_distill.pipeline.scoring import build, trained_candidate
from hf_distill.pipeline.served import refuse_served
from hf_distill.pipeline.teacher_cache import Demand
from hf_distill.pipeline.train import Lessons, pair, train_model, with_defaults
from hf_distill.recipe import CacheConfig, Recipe
from hf_distill.recipe.load import load_recipe
from hf_distill.run_folder import RunFolder, recipe_hash, remove, training_part, write_json
from hf_distill.search.sweep_grid import Grid, read_grid
from hf_distill.search.sweep_state import Combination, Sweep, SweepState, command_of, told
from hf_distill.search.sweep_teacher import Counted, score_teacher
from hf_distill.tasks import Task

logger = logging.getLogger(__name__)


_PASS_EACH = "each way needs another pass of the teacher over the rows, and a sweep makes one"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all students of a sweep share."""

    task: Task
    data: Data
    teacher: Candidate | None
    lessons: Lessons
    metric: str


def sweep(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    grid: Sequence[str] | Mapping[str, Sequence[Any]],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
) -> Sweep:
    """Train a student for every combination of a grid from one pass of the teacher; choose by the validation rows.

    A call that was broken off goes on: what is trained is kept, also by a larger grid under the same name.

    Args:
        recipe: As for :func:`hf_distill.run`. Its teacher is cached, whether it says so or not.
        grid: ``["objectives.0.temperature=1,2,4", "seed=7"]``, where a comma outside of brackets makes an axis, or
            ``{"objectives.0.temperature": [1, 2, 4]}``.
        overrides: As for :func:`hf_distill.run`.
        runs: As for :func:`hf_distill.run`.
        report: Gets lines that tell what happens.

    Raises:
        HfDistillError: For anything that the user can mend; what was finished before stays.
    """
    with reported(report):
        read = read_grid(grid, overrides)
        source = recipe.to_dict() if isinstance(recipe, Recipe) else recipe
        whole = load_recipe(source, read.overrides)
        if whole.label is not None:
            raise RecipeError(
                "recipe.label: a sweep's teacher reads the rows once and writes nothing; write first (hf-distill "
                "label), name its datasets folder in data.path, and remove label"
            )
        if whole.stages:
            raise RecipeError(
                "recipe.stages: a sweep compares students of a single training; remove them, and sweep what one "
                "stage does"
            )
        refuse_served(whole, "a sweep counts and scores what its teacher reads")
        folder = Path(runs) / f"{whole.name}-sweep"
        recipes = [_cached(load_recipe(source, {**read.overrides, **values})) for values in read.combinations()]
        if whole.teacher is not None and whole.teacher.kind == "live":
            logger.info("teacher: set to cached, so that it reads every row once for all students")
        task, data = prepare(recipes[0])
        demands = _check_shared(recipes, task, data)
        logger.info(f"sweep: {len(recipes)} students: {_shown(read)}")
        named = [_named(each, data) for each in recipes]
        combinations = [
            Combination(values=values, recipe=each, folder=RunFolder(folder / each.name, Path(runs)))
            for values, each in zip(read.combinations(), named, strict=True)
        ]
        state = SweepState(
            folder, read, command_of(recipe, read), primary_metric(task, recipes[0].evaluate), whole, data
        )
        state.claim()
        setting = _shared(combinations, task, data, demands, Path(runs), state)
        for number, combination in enumerate(combinations):
            logger.info(f"sweep: {number + 1} of {len(combinations)}: {told(combination.values)}")
            state.add(combination, _trained(combination, setting))
        return state.finish(_cached(whole, fill=False))


def _cached(recipe: Recipe, fill: bool = True) -> Recipe:
    """The recipe with a cached teacher; complete, and scored by its validation rows, where it is to be trained."""
    if recipe.rollout is not None:
        raise RecipeError(
            "recipe.rollout: a sweep asks its teacher about the data once, and never about what students write; remove "
            "it, or run the recipes one by one"
        )
    if recipe.teacher is not None:
        recipe = dataclasses.replace(recipe, teacher=dataclasses.replace(recipe.teacher, kind="cached"))
    if not fill:
        return recipe
    return with_defaults(dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, split="validation")))


def _named(recipe: Recipe, data: Data) -> Recipe:
    unnamed = dataclasses.replace(training_part(recipe), name="combination")
    return dataclasses.replace(recipe, name=recipe_hash(unnamed, data.fingerprint)[:12])


def _check_shared(recipes: Sequence[Recipe], task: Task, data: Data) -> list[Demand]:
    """Refuse, before anything is loaded, students that one pass of the teacher cannot serve; what each asks of it."""
    first = recipes[0]
    metric = primary_metric(task, first.evaluate)
    if task.has_vocabulary and metric in AGAINST_TEACHER:
        raise RecipeError(
            f"recipe.evaluate.metric: {metric} asks the live teacher about every student, and a sweep asks it once; "
            "choose another for the sweep (evaluate.metric=loss)"
        )
    with reported(silenced):  # Their lines were reported for the first student already.
        teacher = planned_teacher(first, task, data)
        students = [prepare_alike(each, task, data, teacher) for each in recipes]
    _check_tokenizers(students)
    demands = [Demand(make_objectives(e), s.model.config) for e, s in zip(recipes, students, strict=True)]
    if len({_pairs(each) for each in demands}) > 1:
        raise RecipeError(
            f"recipe.objectives: some students of this grid read rows in pairs and others do not: {_PASS_EACH}; sweep "
            "once for each, under a name of its own (name=...)"
        )
    if first.teacher is not None:
        config = first.teacher.cache or CacheConfig()
        asked = {check_cache(each.objectives, config, task.has_vocabulary): None for each in demands}
        temperatures = [value for value in asked if value is not None]
        if len(temperatures) > 1:
            raise TeacherError(
                f"a cache of some of a vocabulary is made at one temperature, and the students ask for "
                f"{', '.join(f'{value:g}' for value in temperatures)}: the teacher would read all rows "
                f"{len(temperatures)} times; sweep once for each, under a name of its own (name=...)"
            )
    return demands


def _pairs(demand: Demand) -> bool:
    return any("pairs" in objective.needs for objective in demand.objectives.values())


def _check_tokenizers(students: Sequence[Plan]) -> None:
    marks = {tokenizer_mark([student.tokenizer]) for student in students}
    if len(marks) > 1:
        raise RecipeError(
            f"recipe.student: the students of this grid cut texts in {len(marks)} ways: {_PASS_EACH}; give them one "
            "tokenizer, or sweep once for each, under a name of its own (name=...)"
        )


def _shared(
    combinations: Sequence[Combination],
    task: Task,
    data: Data,
    demands: Sequence[Demand],
    runs: Path,
    state: SweepState,
) -> Setting:
    """Let the teacher read all rows, once, for all students, and score it."""
    first = combinations[0].recipe
    teacher = load_teacher(first, task, data, runs) if first.teacher is not None else None
    assert not isinstance(teacher, Served)
    live = live_teacher(teacher) if teacher else None
    set_seed(first.seed)
    student = build(first, task, data, teacher)
    with Counted(teacher.model if teacher else None) as counted:
        lessons = pair(
            first,
            task,
            data,
            student,
            demands[0].objectives,
            live,
            teacher.folders if teacher else (),
            RunFolder(state.folder, runs),
            demands[1:],
        )
    if teacher is not None:
        facts = score_teacher(teacher, lessons, task, data, first.evaluate, student.tokenizer)
        state.teacher({**facts, "rows_read": counted.rows})
    return Setting(task=task, data=data, teacher=teacher, lessons=lessons, metric=state.metric)


def _trained(combination: Combination, setting: Setting) -> dict[str, Any]:
    """Train and score one student, unless that was done before."""
    folder, recipe, task, data = combination.folder, combination.recipe, setting.task, setting.data
    folder.claim(recipe, data.fingerprint)
    try:
        with prefixed("  "):
            training = train_model(
                "student",
                recipe=recipe,
                task=task,
                data=data,
                build=lambda: build(recipe, task, data, setting.teacher),
                objectives=make_objectives(recipe),
                teacher=live_teacher(setting.teacher) if setting.teacher else None,
                teacher_folders=setting.teacher.folders if setting.teacher else (),
                folder=folder,
                lessons=setting.lessons,
            )
        metrics = _scores(combination, training["origin"], setting)
    except ModelError as error:  # A rate too high is a finding, not the end of the sweep.
        logger.info(f"  student: {error}")
        return {"error": str(error)}
    value = metrics[setting.metric]
    if not math.isfinite(value):
        return {"error": f"its {setting.metric} is {value}"}
    logger.info(f"  student: {setting.metric} {value:.4f} on {len(data.validation)} validation rows")
    return {"value": value, "metrics": metrics, "seconds": training["seconds"], "steps": training["steps"]}


def _scores(combination: Combination, origin: str, setting: Setting) -> dict[str, float]:
    """Every metric on the validation rows, kept for a sweep that goes on."""
    path, config = combination.folder.path / "validation.json", combination.recipe.evaluate
    asked = json.loads(json.dumps(dataclasses.asdict(config)))
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("evaluate") == asked:
        metrics: dict[str, float] = kept["metrics"]
        return metrics
    candidate = trained_candidate("student", combination.folder, setting.task, combination.recipe.student, origin)
    data = setting.data
    metrics = compute_metrics(
        predict(candidate, setting.task, data.validation, None, config, outside=data.outside.get("validation"))
    )
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        write_json(path, {"evaluate": asked, "metrics": metrics})
        remove(combination.folder.checkpoints("student"))  # A finished student goes on from nothing.
    return metrics


def _shown(grid: Grid) -> str:
    return " x ".join(f"{len(values)} {key}" for key, values in grid.axes.items())
