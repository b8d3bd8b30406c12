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

from hf_distill.artifacts import load_json, locked
from hf_distill.data.rows import Data
from hf_distill.errors import RecipeError
from hf_distill.labelling import TeacherTexts, label_rows
from hf_distill.logs import prefixed
from hf_distill.pipeline.experiment import Experiment, Stage
from hf_distill.pipeline.preflight import resolve
from hf_distill.pipeline.results import joined, make_results
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.pipeline.scoring import RunScores, build, continued, teacher_of
from hf_distill.pipeline.train import Lesson, lesson_of_control, lesson_of_student, train_model
from hf_distill.recipe import HubConfig, Recipe
from hf_distill.report.card_contents import contents
from hf_distill.report.hub import push_folder
from hf_distill.report.write import write_report
from hf_distill.students import Student
from hf_distill.teachers import Teacher

logger = logging.getLogger(__name__)


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
            push_student(folder.path, experiment.recipe.name, hub)
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
        scores.check_teacher()
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


def push_student(folder: Path, name: str, hub: HubConfig) -> str:
    """Push the student of a complete run, after a line on what of the data its card holds."""
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
