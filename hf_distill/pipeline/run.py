"""The whole flow, in order: data, teacher, student, control, evaluation, card, push. The file to read first."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import set_seed

from hf_distill.artifacts import faults_told, load_json, locked
from hf_distill.data.rows import Data
from hf_distill.errors import RecipeError
from hf_distill.labelling import TeacherTexts, label_rows
from hf_distill.logs import Report, prefixed, reported
from hf_distill.pipeline.experiment import Experiment, Stage
from hf_distill.pipeline.preflight import command_of, resolve
from hf_distill.pipeline.results import joined, make_results
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.pipeline.scoring import RunScores, build, continued, teacher_of
from hf_distill.pipeline.train import Lesson, lesson_of_control, lesson_of_student, pair, train_model
from hf_distill.recipe import HubConfig, LabelConfig, Recipe
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.report.card_contents import contents
from hf_distill.report.hub import push_folder
from hf_distill.report.write import write_report
from hf_distill.students import Student
from hf_distill.teachers import Teacher

logger = logging.getLogger(__name__)

Source = str | Path | Mapping[str, Any] | Recipe
"""A recipe as a person gives it: a YAML file, a mapping of the same keys, or a loaded recipe."""

Overrides = Sequence[str] | Mapping[str, Any]
"""``["training.learning_rate=3e-5"]`` or ``{"training.learning_rate": 3e-5}``."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run gives.

    Attributes:
        folder: ``runs/<name>``.
        student: The student's folder; ``pipeline`` and ``from_pretrained`` load it.
        results: The content of ``results.json``.
    """

    folder: Path
    student: Path
    results: Mapping[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The student's scores on the evaluated split."""
        return {name: entry["value"] for name, entry in self.results["models"]["student"]["metrics"].items()}

    @property
    def comparison(self) -> Mapping[str, Any] | None:
        """The student against teacher and control; None where the recipe has no teacher."""
        comparison: Mapping[str, Any] | None = self.results.get("comparison")
        return comparison


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
    recipe = load_recipe(_recipe_of(Path(folder)), overrides, allow_code=allow_code)
    RunFolder(Path(folder)).check_models()
    recipe = dataclasses.replace(recipe, hub=dataclasses.replace(recipe.hub, push=False))
    return run(recipe, runs=Path(folder).resolve().parent, report=report, again=True, allow_code=allow_code)


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
        return _push(Path(folder), recipe.name, hub)


def _push(folder: Path, name: str, hub: HubConfig) -> str:
    run_folder = RunFolder(folder)
    student = run_folder.model("student")
    if hub.model_id is None:
        raise RecipeError("where to? name the repository: --model-id user/name, or hub.model_id in the recipe")
    try:
        results = run_folder.whole_results()
    except ValueError as reason:
        raise RecipeError(
            f"{folder} holds no finished student: {reason}; finish it with: hf-distill run {folder}/recipe.yaml"
        ) from None
    logger.info(contents(results))
    return push_folder(student, hub.model_id, run=name, private=hub.private, force=hub.force)


def _recipe_of(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise RecipeError(f"{folder} is no run: it holds no recipe.yaml; name a folder that hf-distill run made")
    return path


def complete(experiment: Experiment, *, again: bool = False, wait: bool = False) -> Result:
    """Train, evaluate and report what is not there yet, and push the student if the recipe says so.

    ``wait`` for another process that works in the folder, instead of refusing.
    """
    folder, hub = experiment.folder, experiment.recipe.hub
    with folder.working(wait=wait):
        folder.claim(experiment.recipe, experiment.data.fingerprint)
        results = None if again else folder.finished(experiment.sha256)
        if again:
            with suppress(ValueError):
                experiment = dataclasses.replace(experiment, command=load_json(folder.results, ["command"])["command"])
        if results is None:
            results = _whole_flow(experiment)
        else:
            logger.info(f"{folder.path} is complete; delete it to train again")
        _discard_checkpoints(experiment.stages)
        if hub.push and PartialState().is_main_process:
            _push(folder.path, experiment.recipe.name, hub)
    return Result(folder=folder.path, student=folder.model("student"), results=results)


def _discard_checkpoints(stages: Sequence[Stage]) -> None:
    """Delete the checkpoints of a complete run, unless its recipe says how many to keep."""
    if PartialState().is_main_process:
        size = sum(
            stage.folder.discard_checkpoints() for stage in stages if "save_total_limit" not in stage.recipe.training
        )
        if size:
            logger.info(
                f"checkpoints: {size / 1e6:,.1f} MB deleted, since the run is complete; "
                "set training.save_total_limit to keep that many"
            )
    PartialState().wait_for_everyone()


def _whole_flow(experiment: Experiment) -> dict[str, Any]:
    recipe, scores, labels = experiment.recipe, RunScores(experiment), None
    if PartialState().is_main_process:
        experiment.folder.complete.unlink(missing_ok=True)
    floor = scores.floor()
    if recipe.teacher is not None:
        scores.teacher = load_teacher(experiment)
        scores.add("teacher", scores.teacher)
        scores.predictions["teacher"].check_above_chance(experiment.metric)
    if recipe.label is not None:
        assert scores.teacher is not None
        labels = write_labels(experiment, scores.teacher)
    start = scores.of_start(labels.beside(experiment.data) if labels else experiment.data)
    training = train_all(experiment, scores.teacher, labels)
    for name, facts in training.items():
        scores.add_trained(name, facts)
    provenance = labels.provenance if labels is not None else None
    results = make_results(experiment, scores, training, floor=floor, start=start, labels=provenance)
    if PartialState().is_main_process:
        histories = {name: each["log_history"] for name, each in training.items()}
        write_report(
            recipe, experiment.task, experiment.data, experiment.folder.path, results, scores.predictions, histories
        )
        experiment.folder.finish()
    PartialState().wait_for_everyone()
    return results


def load_teacher(experiment: Experiment, *, writes_only: bool = False) -> Teacher:
    """The teacher of a recipe, or its several teachers, made before where their own recipes make them.

    ``writes_only`` tells that it is asked for texts, and not what it says of the data's tokens.
    """

    def make(recipe: Recipe, runs: Path, data: Data) -> Path:
        return complete(resolve(recipe, runs, "hf_distill.run(recipe)", data), wait=True).student

    return teacher_of(experiment, make, writes_only=writes_only)


def write_labels(experiment: Experiment, teacher: Teacher) -> TeacherTexts:
    """What the teacher writes for the training rows, unless it did before."""
    folder = experiment.runs / "labels"
    with locked(folder, wait=True):
        return label_rows(experiment.recipe, experiment.task, experiment.data, teacher, folder, experiment.command)


def train_all(
    experiment: Experiment, teacher: Teacher | None, labels: TeacherTexts | None
) -> dict[str, dict[str, Any]]:
    """Train the student, on what the teacher wrote if it did, and its control where there is a teacher to judge."""
    data, stages = experiment.data, experiment.stages
    taught, known = (labels.in_place_of(data), labels.beside(data)) if labels else (data, data)

    def born(name: str, stage: Stage) -> Student:
        student = build(experiment, known, teacher)
        return continued(student, experiment.task, stage.before.model(name)) if stage.before else student

    def train(lesson: Lesson, stage: Stage) -> dict[str, Any]:
        with prefixed(stage.prefix):
            return train_model(experiment, stage, lesson, lambda: born(lesson.name, stage))

    student = [train(lesson_of_student(stage, taught, teacher), stage) for stage in stages]
    trained = {"student": joined(stages, student)}
    if teacher is not None and experiment.recipe.evaluate.control:
        lessons = map(lesson_of_control, [experiment] * len(stages), stages, student)
        trained["control"] = joined(stages, [train(*each) for each in zip(lessons, stages, strict=True)])
    return trained
