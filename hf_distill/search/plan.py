"""A plan: the largest student of a teacher that is as fast, and as small, as it must be.

    runs/<name>-plan/
      plan.json       every student that was measured, the bounds, and the one that was chosen
      student.yaml    the ``student`` block of a recipe for it
      frontier.png    size against speed

Nothing is trained, and no weights are loaded: speed depends on shapes. Sizes are counted without memory for weights;
what is small enough is measured with random weights, in turn with the teacher, on the rows and in the batches that an
evaluation of the recipe measures on. For each width the deepest student within the bounds is found by bisection.
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_distill.artifacts import check_owner, faults_told, write_json, writing_to
from hf_distill.errors import RecipeError, StudentError
from hf_distill.logs import Report, reported
from hf_distill.models.hardware import machine, versions
from hf_distill.pipeline.experiment import stages_of, with_defaults
from hf_distill.pipeline.plans import ModelPlan, planned_teacher
from hf_distill.pipeline.preflight import read_data
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.recipe import Recipe
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.recipe.yaml_text import write_yaml
from hf_distill.report.figures import plan_frontier
from hf_distill.search.plan_bounds import Bounds, read_count
from hf_distill.search.plan_shapes import Column, Sketch, sketch_columns
from hf_distill.search.plan_speed import Measured, Stopwatch
from hf_distill.tasks import make_task

logger = logging.getLogger(__name__)

AS_LARGE = 0.95
"""Students of this share of the largest one's parameters count as large as it; the deepest of them is chosen."""


@dataclass(frozen=True, kw_only=True)
class StudentPlan:
    """What a plan gives.

    Attributes:
        folder: ``runs/<name>-plan``.
        student: The ``student`` block of a recipe.
        results: The content of ``plan.json``.
    """

    folder: Path
    student: Mapping[str, Any]
    results: Mapping[str, Any]


def plan(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    speedup: float | None = None,
    max_latency_ms: float | None = None,
    max_parameters: int | str | None = None,
    runs: str | Path = "runs",
    report: Report = print,
    allow_code: bool = False,
) -> StudentPlan:
    """Find the largest student of a recipe's teacher, by depth and width, within bounds; measured on this machine.

    Of students of nearly as many parameters (95% of the most) the deepest is chosen: layers are taken of the teacher as
    they are, while a narrower layer has lost something.

    Args:
        recipe: As for :func:`hf_distill.run`; its own ``student`` is not looked at.
        overrides: As for :func:`hf_distill.run`.
        speedup: Times the teacher's rows a second, at least: what ``results.json`` calls so.
        max_latency_ms: Of one row, at most.
        max_parameters: At most: a number, or ``"10M"``.
        runs: As for :func:`hf_distill.run`.
        report: Gets lines that tell what happens.
        allow_code: As for :func:`hf_distill.run`.

    Raises:
        StudentError: Where no student keeps to the bounds; the nearest is told.
        HfDistillError: For whatever else the user can mend.
    """
    with reported(report), faults_told(Path(runs)):
        most = read_count(max_parameters) if isinstance(max_parameters, str) else max_parameters
        bounds = Bounds(speedup=speedup, max_latency_ms=max_latency_ms, max_parameters=most)
        command = _command(recipe, overrides, bounds, allow_code)
        recipe = with_defaults(load_recipe(recipe, overrides, allow_code=allow_code))
        folder = Path(runs) / f"{recipe.name}-plan"
        check_owner(folder, "plan.json")
        _check_teacher(recipe)
        task = make_task(recipe.task.name, recipe.task.options)
        data = read_data(recipe, task, stages_of(recipe, RunFolder(folder)))
        teacher = planned_teacher(recipe, task, data)
        assert teacher is not None
        if not task.is_bound:
            task.follow(teacher.model.config)
        columns = _small_enough(sketch_columns(recipe, task, data, teacher), bounds)
        watch = Stopwatch(recipe, task, data.evaluated(recipe.evaluate.split), teacher)
        speeds = _search(columns, bounds, watch)
        teacher_speed, chosen = _confirmed(speeds, columns, bounds, watch)
        content = {
            "name": recipe.name,
            "command": command,
            "bounds": dataclasses.asdict(bounds),
            "teacher": {"parameters": teacher.parameters, **dataclasses.asdict(teacher_speed)},
            "students": _entries(speeds, bounds),
            "chosen": {**_entry(chosen, speeds[chosen], bounds), "student": chosen.student},
            "speed": watch.conditions,
            "machine": machine(),
            "versions": versions(),
        }
        return _written(folder, content, chosen, teacher)


def _check_teacher(recipe: Recipe) -> None:
    """Refuse a recipe without one teacher that is here."""
    if recipe.teacher is None:
        raise RecipeError("recipe.teacher: a plan makes students of a teacher, and the recipe names none; name one")
    if "served" in recipe.teacher.traits:
        raise RecipeError(
            "recipe.teacher.server: a plan measures students in turn with their teacher; use a teacher that is loaded "
            "here (teacher.model)"
        )
    if "several" in recipe.teacher.traits:
        raise RecipeError(
            "recipe.teacher.ensemble: a plan makes students of one teacher, and measures them beside it; name the "
            "member that the student is to be like in teacher.model"
        )


def _small_enough(columns: list[Column], bounds: Bounds) -> list[Column]:
    small = [[sketch for sketch in column if bounds.kept(sketch.parameters) >= 1] for column in columns]
    if not any(small):
        least = min((sketch for column in columns for sketch in column), key=lambda sketch: sketch.parameters)
        raise StudentError(
            f"no student of the teacher's layers has at most {bounds.max_parameters:,} parameters: the smallest, "
            f"{least.name}, has {least.parameters:,}; allow more, or use student.config with a smaller vocabulary"
        )
    return [column for column in small if column]


def _search(columns: list[Column], bounds: Bounds, watch: Stopwatch) -> dict[Sketch, Measured]:
    """Measure both ends of every column, then halve what is between the one that fits and the one that does not."""
    speeds: dict[Sketch, Measured] = {}

    def measure(sketches: Sequence[Sketch]) -> None:
        for sketch, measured in watch.coarse(sketches):
            speeds[sketch] = measured
            logger.info(
                f"measured: {sketch.name}: {sketch.parameters / 1e6:.1f} million parameters, {measured.latency_ms:.2f} "
                f"ms, {measured.speedup:.2f} times the teacher's speed"
            )

    def keeps(sketch: Sketch) -> bool:
        return bounds.kept(sketch.parameters, speeds[sketch]) >= 1

    measure(list(dict.fromkeys(each for column in columns for each in (column[0], column[-1]))))
    between = [(column, 0, len(column) - 1) for column in columns if keeps(column[0]) and not keeps(column[-1])]
    while between := [(column, low, high) for column, low, high in between if high - low > 1]:
        middles = [(low + high) // 2 for _, low, high in between]
        measure([column[middle] for (column, _, _), middle in zip(between, middles, strict=True)])
        between = [
            (column, middle, high) if keeps(column[middle]) else (column, low, middle)
            for (column, low, high), middle in zip(between, middles, strict=True)
        ]
    return speeds


def _confirmed(
    speeds: dict[Sketch, Measured], columns: list[Column], bounds: Bounds, watch: Stopwatch
) -> tuple[Measured, Sketch]:
    """The best student, measured once more as an evaluation measures; the next one where that tells otherwise."""
    while True:
        chosen = _best(speeds, bounds)
        teacher, speeds[chosen] = watch.exact(chosen)
        if bounds.kept(chosen.parameters, speeds[chosen]) >= 1:
            return teacher, chosen
        logger.info(f"{chosen.name} misses the bounds where it is measured longer; the next one")
        (column,) = (column for column in columns if chosen in column)
        shallower = column[max(0, column.index(chosen) - 1)]
        if shallower not in speeds:
            speeds |= dict(watch.coarse([shallower]))


def _best(speeds: Mapping[Sketch, Measured], bounds: Bounds) -> Sketch:
    fitting = [each for each, measured in speeds.items() if bounds.kept(each.parameters, measured) >= 1]
    if not fitting:
        nearest = max(speeds, key=lambda each: bounds.kept(each.parameters, speeds[each]))
        found = speeds[nearest]
        raise StudentError(
            f"no student of the teacher's layers keeps to {bounds}: the nearest, {nearest.name} "
            f"({nearest.parameters / 1e6:.1f} million parameters), takes {found.latency_ms:.2f} ms a row at "
            f"{found.speedup:.2f} times the teacher's speed; ask for less, or use student.config or student.pretrained"
        )
    most = max(each.parameters for each in fitting)
    as_large = [each for each in fitting if each.parameters >= AS_LARGE * most]
    return max(as_large, key=lambda each: (each.depth, each.parameters))


def _entries(speeds: Mapping[Sketch, Measured], bounds: Bounds) -> list[dict[str, Any]]:
    """All that were measured, the largest first; on the frontier is what none is both larger and faster than."""
    ordered = sorted(speeds, key=lambda each: -each.parameters)
    entries, fastest = [], 0.0
    for sketch in ordered:
        measured = speeds[sketch]
        speed = measured.speedup if bounds.max_latency_ms is None else 1 / measured.latency_ms
        entries.append({**_entry(sketch, measured, bounds), "frontier": speed > fastest})
        fastest = max(fastest, speed)
    return entries


def _entry(sketch: Sketch, measured: Measured, bounds: Bounds) -> dict[str, Any]:
    return {
        "name": sketch.name,
        **sketch.student,
        "parameters": sketch.parameters,
        **dataclasses.asdict(measured),
        "keeps_to_bounds": bounds.kept(sketch.parameters, measured) >= 1,
    }


def _written(folder: Path, content: dict[str, Any], chosen: Sketch, teacher: ModelPlan) -> StudentPlan:
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_yaml({"student": chosen.student}, folder / "student.yaml")
    plan_frontier(content, folder / "frontier.png")
    write_json(folder / "plan.json", content)
    share = chosen.parameters / teacher.parameters
    logger.info(f"best: {chosen.name}: {chosen.parameters:,} parameters, {share:.2f} of the teacher's")
    return StudentPlan(folder=folder, student=chosen.student, results=content)


def _command(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any],
    bounds: Bounds,
    allow_code: bool,
) -> str:
    """What is told to do it again."""
    given = {name: value for name, value in dataclasses.asdict(bounds).items() if value is not None}
    if not isinstance(recipe, (str, Path)):
        given |= {"allow_code": True} if allow_code else {}
        return f"hf_distill.plan(recipe, {', '.join(f'{name}={value}' for name, value in given.items())})"
    pairs = [f"{key}={value}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else overrides
    options = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", f"{value}")]
    return shlex.join(["hf-distill", "plan", str(recipe), *pairs, *options, *(["--allow-code"] if allow_code else [])])
