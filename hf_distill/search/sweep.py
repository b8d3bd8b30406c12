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
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import set_seed

from hf_distill.artifacts import faults_told, read_json, remove, write_json
from hf_distill.errors import ModelError, OutputError, RecipeError, TeacherError, TrainingError
from hf_distill.evaluation.metrics import AGAINST_TEACHER
from hf_distill.logs import Report, prefixed, reported, silenced
from hf_distill.pipeline.compatibility import cache_temperatures
from hf_distill.pipeline.experiment import Experiment
from hf_distill.pipeline.flow import load_teacher
from hf_distill.pipeline.preflight import resolve
from hf_distill.pipeline.run_folder import RunFolder, recipe_hash, training_part
from hf_distill.pipeline.scoring import RunScores, build
from hf_distill.pipeline.teacher_cache import Demand
from hf_distill.pipeline.train import Pair, lesson_of_student, pair, train_model
from hf_distill.recipe import Recipe
from hf_distill.recipe.load_recipe import check_code, load_recipe
from hf_distill.search.sweep_grid import read_grid
from hf_distill.search.sweep_state import Sweep, SweepState, command_of, told
from hf_distill.search.sweep_teacher import Counted, score_teacher
from hf_distill.tokenizers.processors import processor_mark

logger = logging.getLogger(__name__)

_PASS_EACH = "each way needs another pass of the teacher over the rows, and a sweep makes one"


def sweep(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    grid: Sequence[str] | Mapping[str, Sequence[Any]],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
    allow_code: bool = False,
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
        allow_code: As for :func:`hf_distill.run`.

    Raises:
        HfDistillError: For anything that the user can mend; what was finished before stays.
    """
    with reported(report), faults_told(Path(runs)):
        read = read_grid(grid, overrides)
        whole = load_recipe(recipe, read.overrides, allow_code=True)
        _check_whole(whole)
        recipes = [load_recipe(whole, values, allow_code=True) for values in read.combinations()]
        check_code([whole, *recipes], allow_code)  # What any of them names, before one of them runs it.
        folder = Path(runs) / f"{whole.name}-sweep"
        if whole.teacher is not None and not whole.teacher.is_cached:
            logger.info("teacher: set to cached, so that it reads every row once for all students")
        experiments = _resolved(recipes, folder, Path(runs))
        demands = _check_shared(experiments)
        axes = " x ".join(f"{len(values)} {key}" for key, values in read.axes.items())
        logger.info(f"sweep: {len(experiments)} students: {axes}")
        state = SweepState(folder, read, command_of(recipe, read, allow_code), experiments[0])
        state.claim()
        scores, paired = _shared(experiments[0], demands, state)
        for number, (values, experiment) in enumerate(zip(read.combinations(), experiments, strict=True)):
            logger.info(f"sweep: {number + 1} of {len(experiments)}: {told(values)}")
            with prefixed("  "):
                facts = _trained(experiment, scores, paired)
            state.add(values, experiment.folder.path.name, facts)
        return state.finish(_cached(whole))


def _check_whole(recipe: Recipe) -> None:
    """Refuse what a sweep does not do, whatever its grid is."""
    if recipe.label is not None:
        raise RecipeError(
            "recipe.label: a sweep's teacher reads the rows once and writes nothing; write first (hf-distill label), "
            "name its datasets folder in data.path, and remove label"
        )
    if recipe.stages:
        raise RecipeError(
            "recipe.stages: a sweep compares students of a single training; remove them, and sweep what one stage does"
        )
    if recipe.teacher is not None and "served" in recipe.teacher.traits:
        raise RecipeError(
            "recipe.teacher.server: a sweep counts and scores what its teacher reads; use a teacher that is loaded "
            "here (teacher.model)"
        )


def _resolved(recipes: Sequence[Recipe], folder: Path, runs: Path) -> list[Experiment]:
    """An experiment for each combination, in a folder named by what decides its weights."""
    experiments: list[Experiment] = []
    for recipe in map(_cached, recipes):
        recipe = dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, split="validation"))
        if not experiments:
            experiment = resolve(recipe, runs)
        else:
            with reported(silenced):  # The lines about the data were reported with the first one.
                experiment = resolve(recipe, runs, data=experiments[0].data.whole)
        unnamed = dataclasses.replace(training_part(experiment.recipe), name="combination")
        name = recipe_hash(unnamed, experiment.data.fingerprint)[:12]
        experiments.append(experiment.renamed(name, RunFolder(folder / name, runs)))
    return experiments


def _cached(recipe: Recipe) -> Recipe:
    """The recipe with a cached teacher."""
    if recipe.rollout is not None:
        raise RecipeError(
            "recipe.rollout: a sweep asks its teacher about the data once, and never about what students write; remove "
            "it, or run the recipes one by one"
        )
    if recipe.teacher is None:
        return recipe
    return dataclasses.replace(recipe, teacher=recipe.teacher.as_cached())


def _check_shared(experiments: Sequence[Experiment]) -> list[Demand]:
    """Refuse, before anything is loaded, students that one pass of the teacher cannot serve; what each asks of it."""
    first = experiments[0]
    if first.metric in AGAINST_TEACHER:
        raise RecipeError(
            f"recipe.evaluate.metric: {first.metric} asks the live teacher about every student, and a sweep asks it "
            "once; choose another for the sweep (evaluate.metric=loss)"
        )
    ways = {processor_mark([each.student.tokenizer]) for each in experiments}
    if len(ways) > 1:
        raise RecipeError(
            f"recipe.student: the students of this grid cut texts in {len(ways)} ways: {_PASS_EACH}; give them one "
            "tokenizer, or sweep once for each, under a name of its own (name=...)"
        )
    demands = [Demand(each.stages[0].new_objectives(), each.student.model.config) for each in experiments]
    if len({any("pairs" in objective.needs for objective in each.objectives.values()) for each in demands}) > 1:
        raise RecipeError(
            f"recipe.objectives: some students of this grid read rows in pairs and others do not: {_PASS_EACH}; sweep "
            "once for each, under a name of its own (name=...)"
        )
    temperatures = {value: None for each in experiments for value in cache_temperatures(each)}
    if len(temperatures) > 1:
        raise TeacherError(
            f"a cache of some of a vocabulary is made at one temperature, and the students ask for "
            f"{', '.join(f'{value:g}' for value in temperatures)}: the teacher would read all rows {len(temperatures)} "
            "times; sweep once for each, under a name of its own (name=...)"
        )
    return demands


def _shared(first: Experiment, demands: Sequence[Demand], state: SweepState) -> tuple[RunScores, Pair]:
    """Let the teacher read all rows, once, for all students, and score it."""
    scores = RunScores(first)
    teacher = load_teacher(first) if first.recipe.teacher is not None else None
    set_seed(first.recipe.seed)
    student = build(first, first.data, teacher)
    lesson = lesson_of_student(first.stages[0], first.data, teacher)
    with Counted(teacher.models if teacher else ()) as counted:
        paired = pair(first, first.stages[0], lesson, student, demands[1:])
    if teacher is not None:
        scores.teacher = teacher
        facts = score_teacher(first, teacher, paired, student.tokenizer)
        state.teacher({**facts, "rows_read": counted.rows})
    return scores, paired


def _trained(experiment: Experiment, shared: RunScores, paired: Pair) -> dict[str, Any]:
    """Train and score one student, unless that was done before."""
    experiment.folder.claim(experiment.recipe, experiment.data.fingerprint)
    metric = experiment.metric
    try:
        stage, data, teacher = experiment.stages[0], experiment.data, shared.teacher
        lesson = lesson_of_student(stage, data, teacher)
        training = train_model(experiment, stage, lesson, lambda: build(experiment, data, teacher), paired)
        metrics = _scores(experiment, training)
    except (ModelError, TrainingError) as error:  # A rate too high is a finding, not the end of the sweep.
        reason = str(error).removeprefix("student: ")
        logger.info(f"student: {reason}")
        return {"error": reason}
    value = metrics[metric]
    if not math.isfinite(value):
        return {"error": f"its {metric} is {value}"}
    return {"value": value, "metrics": metrics, "seconds": training["seconds"], "steps": training["steps"]}


def _scores(experiment: Experiment, training: dict[str, Any]) -> dict[str, float]:
    """Every metric on the validation rows, kept for a sweep that goes on."""
    path = experiment.folder.path / "validation.json"
    asked = json.loads(json.dumps(dataclasses.asdict(experiment.recipe.evaluate)))
    kept = _scores_before(path, experiment.metric) if path.is_file() else {}
    if kept.get("evaluate") == asked:
        metrics: dict[str, float] = kept["metrics"]
        value = metrics[experiment.metric]
        logger.info(f"student: {experiment.metric} {value:.4f} on {len(experiment.rows)} validation rows")
        return metrics
    scores = RunScores(experiment)
    scores.add_trained("student", training)
    metrics = scores.predictions["student"].metrics()
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        write_json(path, {"evaluate": asked, "metrics": metrics})
        remove(experiment.folder.checkpoints("student"))  # A finished student goes on from nothing.
    return metrics


def _scores_before(path: Path, metric: str) -> dict[str, Any]:
    """What an earlier call reached; nothing where the file is damaged."""
    try:
        kept = read_json(path, OutputError, "the scores of a student", ["evaluate", "metrics"])
        if isinstance(kept["metrics"], dict) and type(kept["metrics"].get(metric)) in (int, float):
            return kept
    except OutputError:
        pass
    logger.info(f"warning: {path} is damaged; the student is scored again")
    return {}
