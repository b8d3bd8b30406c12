"""The models of a run, as they are made and as they are scored: all on the same rows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import set_seed

from hf_distill.data.load import Data
from hf_distill.evaluation.metrics import Scored, compute_metrics, primary_metric
from hf_distill.evaluation.predict import Candidate, predict
from hf_distill.evaluation.served import Served
from hf_distill.evaluation.written import set_generation
from hf_distill.models.forward import members_of
from hf_distill.models.load import license_of, load_model, load_tokenizer, model_folder
from hf_distill.pipeline.results import evaluated_rows
from hf_distill.pipeline.stages import stages_of
from hf_distill.recipe import Recipe, StudentConfig
from hf_distill.run_folder import RunFolder
from hf_distill.students import Student, build_student
from hf_distill.tasks import Task

logger = logging.getLogger(__name__)


def build(recipe: Recipe, task: Task, data: Data, teacher: Candidate | Served | None) -> Student:
    """A new student, as the recipe asks for it; what it takes of several teachers, it takes of the first."""
    taken_of = members_of(teacher.model)[0] if teacher and teacher.model is not None else None
    student = build_student(
        recipe.student,
        auto_model=task.auto_model,
        teacher=taken_of,
        teacher_tokenizer=teacher.tokenizer if teacher else None,
        texts=lambda: task.texts(data.train),
        model_options=task.model_options(),
    )
    task.prepare_student(
        student.model,
        student.tokenizer,
        taken_of,
        teacher.tokenizer if teacher else None,
        lambda: task.texts(data.train),
    )
    set_generation(student.model, recipe.evaluate.generation)
    return student


def trained_candidate(name: str, folder: RunFolder, task: Task, config: StudentConfig, origin: str) -> Candidate:
    """A model of a run that is trained, as it lies on disk."""
    path = folder.model(name)
    model = load_model(task.auto_model, str(path))
    task.check_model(model)
    start, named = config.pretrained, f"{folder.path.name}/{name}"
    from_hub = start is not None and not Path(start).is_dir()
    facts = {
        "model": named,
        "hub_id": start if from_hub else None,  # What its weights started from.
        "revision": config.revision,
        "license": license_of(model_folder(start, config.revision)) if start is not None else None,
        "origin": origin,
        "adapters": config.lora is not None and not config.lora.merge,
    }
    return Candidate(model=model, tokenizer=load_tokenizer(str(path)), folder=path, facts=facts)


class Scores:
    """Every model of a run, and what it says of the rows that all are scored on."""

    def __init__(self, recipe: Recipe, task: Task, data: Data) -> None:
        self.recipe, self.task, self.data = recipe, task, data
        self.metric = primary_metric(task, recipe.evaluate)
        self.candidates: dict[str, Candidate | Served] = {}
        self.predictions: dict[str, Scored] = {}

    @property
    def teacher(self) -> Candidate | Served | None:
        """Once it was added; None where there is none."""
        return self.candidates.get("teacher")

    def add(self, name: str, candidate: Candidate | Served) -> float:
        """Score a model; gives the metric that decides."""
        rows, split = evaluated_rows(self.recipe, self.data), self.recipe.evaluate.split
        outside = self.data.outside.get(split)
        self.candidates[name] = candidate
        scored = predict(candidate, self.task, rows, self.teacher, self.recipe.evaluate, outside=outside)
        self.predictions[name] = scored
        value = compute_metrics(scored)[self.metric]
        logger.info(f"{name}: {self.metric} {value:.4f} on {len(rows)} {split} rows")
        return value

    def add_trained(self, name: str, facts: dict[str, Any], folder: RunFolder) -> None:
        """Score what was trained, after each of its stages; the facts of each get the metric that decides."""
        recipe, task, student = self.recipe, self.task, self.recipe.student
        *earlier, last = stages_of(recipe, folder)
        for stage in earlier:
            candidate = trained_candidate(name, stage.folder, task, student, facts["origin"])
            value = _metrics(recipe, task, self.data, candidate, self.teacher)[self.metric]
            facts["stages"][stage.name][self.metric] = value
            logger.info(f"{name} after {stage.name}: {self.metric} {value:.4f}")
        value = self.add(name, trained_candidate(name, folder, task, student, facts["origin"]))
        if earlier:
            facts["stages"][last.name][self.metric] = value


def score_start(recipe: Recipe, task: Task, data: Data, teacher: Candidate | Served | None) -> dict[str, float] | None:
    """Every metric of the student before it is trained, where the recipe asks."""
    if not recipe.evaluate.start:
        return None
    set_seed(recipe.seed)
    born = build(recipe, task, data, teacher)
    candidate = Candidate(model=born.model, tokenizer=born.tokenizer, folder=Path(), facts={})
    metrics = _metrics(recipe, task, data, candidate, teacher)
    metric = primary_metric(task, recipe.evaluate)
    logger.info(f"start: {metric} {metrics[metric]:.4f}, before the student is trained")
    return metrics


def _metrics(
    recipe: Recipe, task: Task, data: Data, candidate: Candidate, teacher: Candidate | Served | None
) -> dict[str, float]:
    rows, outside = evaluated_rows(recipe, data), data.outside.get(recipe.evaluate.split)
    return compute_metrics(predict(candidate, task, rows, teacher, recipe.evaluate, outside=outside))
