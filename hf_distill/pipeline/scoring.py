"""The models of a run, as they are made and as they are scored: all on the same rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from transformers import set_seed

from hf_distill.data.rows import Data
from hf_distill.errors import TrainingError
from hf_distill.evaluation.predict import Candidate, set_generation
from hf_distill.evaluation.scores import Evaluation, Scoreable, Scores
from hf_distill.logs import prefixed
from hf_distill.models.fingerprints import license_of
from hf_distill.models.loading import load_model, model_folder
from hf_distill.pipeline.checks.made_teachers import making
from hf_distill.pipeline.experiment import Experiment
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.recipe import Recipe
from hf_distill.students import Student, build_student, has_adapters, load_adapters
from hf_distill.tasks import Task
from hf_distill.teachers import Loading, Teacher, teacher_class
from hf_distill.tokenizers.processors import load_processor

logger = logging.getLogger(__name__)


def build(experiment: Experiment, data: Data, teacher: Teacher | None) -> Student:
    """A new student, as the recipe asks for it; what it takes of several teachers, it takes of the first."""
    recipe, task = experiment.recipe, experiment.task
    taken_of, tokenizer = (teacher.model, teacher.tokenizer) if teacher is not None else (None, None)

    def texts() -> Iterable[str]:
        return task.texts(data.train)

    student = build_student(
        recipe.student,
        auto_model=task.auto_model,
        teacher=taken_of,
        teacher_tokenizer=tokenizer,
        texts=texts,
        model_options=task.model_options(),
        auto_processor=task.auto_processor,
    )
    task.prepare_student(student.model, student.tokenizer, taken_of, tokenizer, texts)
    set_generation(student.model, recipe.evaluate.generation)
    return student


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


def trained_candidate(name: str, folder: RunFolder, experiment: Experiment, origin: str) -> Candidate:
    """A model of a run that is trained, as it lies on disk."""
    task, config = experiment.task, experiment.recipe.student
    path = folder.model(name)
    model = load_model(task.auto_model, str(path))
    task.check_model(model)
    start, revision = (config.start.pretrained, config.start.revision) if config.start else (None, None)
    from_hub = start is not None and not Path(start).is_dir()
    facts = {
        "model": f"{folder.path.name}/{name}",
        "hub_id": start if from_hub else None,  # What its weights started from.
        "revision": revision,
        **(license_of(model_folder(start, revision)) if start is not None else {"license": None}),
        "origin": origin,
        "adapters": config.adapters is not None and not config.adapters.merge,
    }
    return Candidate(model=model, tokenizer=load_processor(task.auto_processor, str(path)), folder=path, facts=facts)


class RunScores:
    """Every model of a run, and what it says of the rows that all are scored on."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.teacher: Teacher | None = None
        self.candidates: dict[str, Scoreable] = {}
        self.predictions: dict[str, Scores] = {}

    def add(self, name: str, candidate: Scoreable) -> float:
        """Score a model; gives the metric that decides."""
        experiment = self.experiment
        self.candidates[name] = candidate
        self.predictions[name] = self._scored(candidate)
        value = self.predictions[name].metrics()[experiment.metric]
        rows = f"{len(experiment.rows)} {experiment.recipe.evaluate.split} rows"
        logger.info(f"{name}: {experiment.metric} {value:.4f} on {rows}")
        return value

    def check_teacher(self) -> None:
        """Stop where the teacher gives the labels in another order, or knows nothing of the task."""
        experiment, scored = self.experiment, self.predictions["teacher"]
        if experiment.task.row_labels is not None:
            rows = experiment.data.validation  # Rows that are scored last must choose nothing.
            ordered = scored if rows is experiment.rows else self._scored(self.candidates["teacher"], rows)
            ordered.check_order()
        scored.check_above_chance(experiment.metric)

    def add_trained(self, name: str, facts: dict[str, Any]) -> None:
        """Score what was trained, after each of its stages; the facts of each get the metric that decides."""
        experiment, metric = self.experiment, self.experiment.metric
        *earlier, last = experiment.stages
        for stage in earlier:
            candidate = trained_candidate(name, stage.folder, experiment, facts["origin"])
            value = self._scored(candidate).metrics()[metric]
            facts["stages"][stage.name][metric] = value
            logger.info(f"{name} after {stage.name}: {metric} {value:.4f}")
        value = self.add(name, trained_candidate(name, last.folder, experiment, facts["origin"]))
        if earlier:
            facts["stages"][last.name][metric] = value

    def of_start(self, data: Data) -> dict[str, float] | None:
        """Every metric of the student before it is trained, where the recipe asks; ``data`` is what it is made from."""
        experiment = self.experiment
        if not experiment.recipe.evaluate.start:
            return None
        set_seed(experiment.recipe.seed)
        student = build(experiment, data, self.teacher)
        metrics = self._scored(Candidate(model=student.model, tokenizer=student.tokenizer)).metrics()
        logger.info(f"start: {experiment.metric} {metrics[experiment.metric]:.4f}, before the student is trained")
        return metrics

    def _scored(self, candidate: Scoreable, rows: Dataset | None = None) -> Scores:
        experiment = self.experiment
        evaluation = Evaluation(
            task=experiment.task,
            rows=experiment.rows if rows is None else rows,
            config=experiment.recipe.evaluate,
            reference=self.teacher,
            outside=experiment.outside,
        )
        return candidate.score(evaluation)

    def floor(self) -> dict[str, Any] | None:
        """What a bag of words reaches, where the recipe asks."""
        if not self.experiment.recipe.evaluate.floor:
            return None
        texts, train, rows = self.experiment.task.texts, self.experiment.data.train, self.experiment.rows
        floor = bag_of_words_floor(list(texts(train)), list(train["label"]), list(texts(rows)), list(rows["label"]))
        logger.info(f"floor: {floor['name']}: accuracy {floor['accuracy']:.4f}")
        return floor


Make = Callable[[Recipe, Path, Data], Path]
"""Runs the recipe of a teacher on data that were read, below a folder; gives the folder of what it trained."""


def teacher_of(experiment: Experiment, make: Make, *, writes_only: bool = False) -> Teacher:
    """The teacher of a recipe, verified."""
    recipe, task = experiment.recipe, experiment.task
    assert recipe.teacher is not None
    loading = Loading(task=task, generation=recipe.evaluate.generation, train=lambda own: _made(own, experiment, make))
    teacher = teacher_class(recipe.teacher).load(recipe.teacher, loading)
    teacher.verify(recipe, task, writes_only=writes_only)
    return teacher


def _made(own: Recipe, experiment: Experiment, make: Make) -> Path:
    """What a teacher's own recipe trains, unless it did before."""
    made = making(own, experiment)
    logger.info(f"teacher: {own.name}, from {made.folder}")
    try:
        with prefixed("  "):
            return make(made.recipe, made.runs, made.data)
    except TrainingError as error:
        raise TrainingError(f"teacher {own.name}: {str(error).removeprefix('student: ')}") from error


def bag_of_words_floor(
    train_texts: Sequence[str], train_labels: Sequence[Any], test_texts: Sequence[str], test_labels: Sequence[Any]
) -> dict[str, Any]:
    """A floor under all results: TF-IDF of single words with logistic regression, both as scikit-learn has them."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit(train_texts, train_labels)
    decided = model.predict(test_texts)
    return {
        "name": "bag of words (TF-IDF, logistic regression)",
        "accuracy": float(accuracy_score(test_labels, decided)),
        "f1_macro": float(f1_score(test_labels, decided, average="macro", zero_division=0)),
    }
