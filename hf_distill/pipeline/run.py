"""The whole flow, in order: data, teacher, student, control, evaluation, card, push. The file to read first."""

from __future__ import annotations

import dataclasses
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import set_seed

from hf_distill.data.load import Data
from hf_distill.errors import RecipeError
from hf_distill.evaluation.predict import Candidate, check_above_chance
from hf_distill.evaluation.served import Served
from hf_distill.labelling import TeacherTexts, label_rows
from hf_distill.logs import Report, prefixed, reported
from hf_distill.objectives import Contrastive, Labels, Objective
from hf_distill.pipeline import load_teacher as loading
from hf_distill.pipeline.hub import push_folder
from hf_distill.pipeline.preflight import make_objectives, prepare, stage_prefix
from hf_distill.pipeline.results import make_results
from hf_distill.pipeline.scoring import Scores, build, score_start
from hf_distill.pipeline.stages import Stage, continued, joined, stages_of
from hf_distill.pipeline.train import pair, train_model, with_defaults
from hf_distill.recipe import LabelConfig, Recipe
from hf_distill.recipe.load import load_recipe
from hf_distill.report.write import measure_floor, write_report
from hf_distill.run_folder import RunFolder, recipe_hash
from hf_distill.students import Student
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher, ModelTeacher, ServerTeacher, teacher_of

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


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
    again: bool = False,
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

    Raises:
        HfDistillError: For anything that the user can mend; what was finished before stays.
    """
    with reported(report):
        command = _command(recipe, overrides)
        recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
        return _run(with_defaults(recipe), Path(runs), command, again=again)


def _run(recipe: Recipe, runs: Path, command: str, *, again: bool = False, data: Data | None = None) -> Result:
    """A run of a complete recipe; ``data`` where another recipe has read the same already."""
    task, data = prepare(recipe, data)
    folder = RunFolder(runs / recipe.name)
    folder.claim(recipe, data.fingerprint)
    sha256 = recipe_hash(dataclasses.replace(recipe, hub=type(recipe.hub)()), data.fingerprint)
    results = None if again else folder.finished(sha256)
    if again and folder.results.is_file():
        command = json.loads(folder.results.read_text())["command"]
    if results is None:
        results = _whole_flow(recipe, sha256, task, data, folder, runs, command)
    else:
        logger.info(f"{folder.path} is complete; delete it to train again")
    if recipe.hub.push:
        logger.info(f"pushed: {push(folder.path, recipe.hub.model_id, private=recipe.hub.private)}")
    return Result(folder=folder.path, student=folder.model("student"), results=results)


def distill(*, runs: str | Path = "runs", report: Report = print, **recipe: Any) -> Result:
    """Run a recipe given as keyword arguments, named as its keys: ``distill(name=..., data={...}, student={...})``."""
    return run({"version": 1, **recipe}, runs=runs, report=report)


def evaluate(
    folder: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), *, report: Report = print
) -> Result:
    """Evaluate a run again, perhaps with other ``evaluate`` keys, and write its results, analysis and card anew."""
    recipe = load_recipe(_recipe_of(Path(folder)), overrides)
    recipe = dataclasses.replace(recipe, hub=dataclasses.replace(recipe.hub, push=False))
    return run(recipe, runs=Path(folder).resolve().parent, report=report, again=True)


def cache(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
) -> Path:
    """Take a cached teacher's targets for all rows of a recipe, and train nothing; :func:`run` then finds them.

    A call that was broken off goes on where it stopped; several processes (torchrun) share the rows.

    Args:
        recipe: As for :func:`run`, with ``teacher.kind: cached``.
        overrides: As for :func:`run`.
        runs: As for :func:`run`.
        report: Gets lines that tell what happens.

    Returns:
        The folder of the cache; of the last one, where stages ask for several.
    """
    with reported(report):
        recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
        if recipe.teacher is None or recipe.teacher.kind != "cached":
            raise RecipeError("recipe.teacher.kind: there is nothing to cache for a live teacher; set it to cached")
        recipe = with_defaults(recipe)
        task, data = prepare(recipe)
        teacher = load_teacher(recipe, task, data, Path(runs))
        set_seed(recipe.seed)
        student = build(recipe, task, data, teacher)
        folder = RunFolder(Path(runs) / recipe.name)
        for stage in stages_of(recipe, folder):  # Each finds what an earlier one has kept.
            objectives, live = make_objectives(stage.recipe), live_teacher(teacher)
            paired, *_ = pair(stage.recipe, task, data, student, objectives, live, teacher.folders, folder)
        assert isinstance(paired, CachedTeacher)
        size = sum(path.stat().st_size for path in paired.plan.folder.iterdir())
        logger.info(f"cache: {paired.plan.folder}, {paired.plan.rows:,} rows, {size / 1e6:,.1f} MB")
        return paired.plan.folder


def label(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    runs: str | Path = "runs",
    report: Report = print,
) -> Path:
    """Let a recipe's teacher write for all training rows, and train nothing; a data set that trains like any other.

    A call that was broken off goes on where it stopped; several processes (torchrun) share the rows. :func:`run` finds
    the texts again, where its recipe has a ``label``.

    Args:
        recipe: As for :func:`run`; without ``label`` the teacher searches with 5 beams and nothing is dropped.
        overrides: As for :func:`run`.
        runs: As for :func:`run`.
        report: Gets lines that tell what happens.

    Returns:
        A folder with ``provenance.json`` and with ``datasets``, which ``data.path`` of another recipe may name.
    """
    with reported(report):
        command = _command(recipe, overrides, "label")
        recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
        recipe = with_defaults(dataclasses.replace(recipe, label=recipe.label or LabelConfig()))
        task, data = prepare(recipe)
        teacher = load_teacher(recipe, task, data, Path(runs), writes_only=True)
        labels = label_rows(recipe, task, data, teacher, Path(runs) / "labels", command)
        logger.info(f"labels: train on them with data.path={labels.datasets}")
        return labels.folder


def push(folder: str | Path, model_id: str | None = None, *, private: bool | None = None) -> str:
    """Push the student of a run to the Hub, with its card, in one commit.

    Args:
        folder: ``runs/<name>``.
        model_id: ``user/name``; the recipe's ``hub.model_id`` unless given.
        private: The recipe's ``hub.private`` unless given, which is true unless it says no.

    Returns:
        Where it can be seen.
    """
    hub = load_recipe(_recipe_of(Path(folder))).hub
    model_id = model_id or hub.model_id
    student = RunFolder(Path(folder)).model("student")
    if model_id is None:
        raise RecipeError("where to? name the repository: --model-id user/name, or hub.model_id in the recipe")
    if not (student / "README.md").is_file():
        raise RecipeError(f"{folder} holds no finished student; finish it with: hf-distill run {folder}/recipe.yaml")
    return push_folder(student, model_id, private=hub.private if private is None else private)


def _command(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any], verb: str = "run"
) -> str:
    """What is told to do it again."""
    if not isinstance(recipe, (str, Path)):
        return f"hf_distill.{verb}(recipe)"
    pairs = [f"{key}={value}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else overrides
    return shlex.join(["hf-distill", verb, str(recipe), *pairs])


def _whole_flow(
    recipe: Recipe,
    sha256: str,
    task: Task,
    data: Data,
    folder: RunFolder,
    runs: Path,
    command: str,
) -> dict[str, Any]:
    scores = Scores(recipe, task, data)
    floor = measure_floor(recipe, task, data)
    if recipe.teacher is not None:
        value = scores.add("teacher", load_teacher(recipe, task, data, runs))
        check_above_chance(scores.predictions["teacher"], value, scores.metric)
    labels = None
    if recipe.label is not None:
        labels = label_rows(recipe, task, data, scores.candidates["teacher"], runs / "labels", command)
    start = score_start(recipe, task, labels.beside(data) if labels else data, scores.teacher)
    training = _train_all(recipe, task, data, labels, scores.teacher, folder)
    for name, facts in training.items():
        scores.add_trained(name, facts, folder)
    results = make_results(
        recipe=recipe,
        recipe_sha256=sha256,
        task=task,
        data=data,
        candidates=scores.candidates,
        predictions=scores.predictions,
        training=training,
        floor=floor,
        start=start,
        labels=labels.provenance if labels is not None else None,
        command=command,
    )
    if PartialState().is_main_process:
        write_report(
            recipe,
            task,
            data,
            folder,
            results,
            scores.predictions,
            {name: facts["log_history"] for name, facts in training.items()},
        )
    PartialState().wait_for_everyone()
    return results


def load_teacher(
    recipe: Recipe, task: Task, data: Data, runs: Path, *, writes_only: bool = False
) -> Candidate | Served:
    """The teacher of a recipe, or its several teachers, made before where their own recipes make them.

    ``writes_only`` tells that it is asked for texts, and not what it says of the data's tokens.
    """

    def make(own: Recipe, folder: Path, given: Data) -> Path:
        return _run(own, folder, "hf_distill.run(recipe)", data=given).student

    return loading.load_teacher(recipe, task, data, runs, make, writes_only=writes_only)


def _train_all(
    recipe: Recipe,
    task: Task,
    data: Data,
    labels: TeacherTexts | None,
    teacher: Candidate | Served | None,
    folder: RunFolder,
) -> dict[str, dict[str, Any]]:
    """Train the student, on what the teacher wrote if it did, and its control where there is a teacher to judge."""
    lessons, known = (labels.in_place_of(data), labels.beside(data)) if labels else (data, data)

    stages, live = stages_of(recipe, folder), live_teacher(teacher) if teacher else None

    def born(name: str, stage: Stage) -> Student:
        student = build(recipe, task, known, teacher)
        return continued(student, task, stage.before.model(name)) if stage.before else student

    def train(name: str, stage: Stage, given: Data) -> dict[str, Any]:
        taught = name == "student"
        with prefixed(stage_prefix(stage.name)):
            return train_model(
                name,
                recipe=stage.recipe,
                task=task,
                data=given,
                build=lambda: born(name, stage),
                objectives=make_objectives(stage.recipe) if taught else without_teacher(task),
                teacher=live if taught else None,
                teacher_folders=teacher.folders if teacher else (),
                folder=stage.folder,
            )

    trained = {"student": joined(stages, [train("student", stage, lessons) for stage in stages])}
    if teacher is not None and recipe.evaluate.control:
        trained["control"] = joined(stages, [train("control", stage, data) for stage in stages])
    return trained


def without_teacher(task: Task) -> dict[str, Objective]:
    """What a control learns from: the labels, or texts alone where a task has no labels."""
    return {"contrastive": Contrastive()} if task.distribution == "vector" else {"labels": Labels()}


def live_teacher(teacher: Candidate | Served) -> ModelTeacher | ServerTeacher:
    """What gives the teacher's targets of a batch."""
    if isinstance(teacher, Served):
        return teacher.teacher
    return teacher_of(teacher.model, teacher.tokenizer, teacher.label_order)


def _recipe_of(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise RecipeError(f"{folder} is no run: it holds no recipe.yaml; name a folder that hf-distill run made")
    return path
