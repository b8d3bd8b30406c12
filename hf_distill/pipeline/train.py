"""Train one model of a run with DistillationTrainer: settings, resume, what is kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import (
    EvalPrediction,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINING_ARGS_NAME

from hf_distill.artifacts import locked, remove
from hf_distill.data.lost_rows import lost_rows
from hf_distill.data.rows import Data
from hf_distill.errors import TrainingError
from hf_distill.evaluation.predict import decision_scores
from hf_distill.generation.rollout import Rollout
from hf_distill.models.dropout import at_zero, layer_rates, without_dropout
from hf_distill.models.precision import cast_saved
from hf_distill.objectives import Contrastive, Labels, Objective, looks_into_layers
from hf_distill.pipeline.experiment import Experiment, Stage, training_arguments
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.pipeline.teacher_cache import Demand, Source, cached
from hf_distill.recipe import Recipe
from hf_distill.signals import saving_first
from hf_distill.students import Student, has_adapters, learning, merge_adapters
from hf_distill.tasks import Task
from hf_distill.teachers import Teacher
from hf_distill.training.stopping import StopWhenAsked
from hf_distill.training.trainer import DistillationTrainer

logger = logging.getLogger(__name__)

SHUFFLE_BUFFER = 10_000
"""Rows of a stream that are shuffled among each other."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one model of a run learns from; ``name`` is what it is called on disk: ``student`` or ``control``."""

    name: str
    data: Data
    objectives: Mapping[str, Objective]
    teacher: Teacher | None = None
    max_steps: int | None = None


def lesson_of_student(stage: Stage, data: Data, teacher: Teacher | None) -> Lesson:
    """What the student learns from in a stage."""
    return Lesson(name="student", data=data, objectives=stage.new_objectives(), teacher=teacher)


def lesson_of_control(experiment: Experiment, stage: Stage, student: Mapping[str, Any]) -> Lesson:
    """What the control learns from: labelled rows alone, or texts alone where a task has no labels.

    Where the student sees rows that its control does not, so that the control's epochs are shorter, the control takes
    as many steps as the student.
    """
    task, only_the_student = experiment.task, (experiment.data.unlabelled, stage.recipe.label, stage.recipe.rollout)
    return Lesson(
        name="control",
        data=experiment.data,
        objectives=control_objectives(task),
        max_steps=None if all(each is None for each in only_the_student) else student["steps"],
    )


def control_objectives(task: Task) -> dict[str, Objective]:
    """What a control learns from, by name."""
    return {"contrastive": Contrastive()} if task.distribution == "vector" else {"labels": Labels()}


def train_model(
    experiment: Experiment, stage: Stage, lesson: Lesson, build: Callable[[], Student], paired: Pair | None = None
) -> dict[str, Any]:
    """Train a model in one stage and save it whole; what was trained before is kept."""
    name, recipe, folder = lesson.name, stage.recipe, stage.folder
    if (kept := folder.trained(name)) is not None:
        logger.info(f"{name}: trained already, in {folder.model(name)}")
        return kept
    set_seed(recipe.seed)
    student = build()
    total, trained = student.model.num_parameters(), learning(student.model)
    logger.info(
        f"{name}: {student.origin}, {total:,} parameters" + (f", {trained:,} of them learn" * (trained < total))
    )
    paired = paired or pair(experiment, stage, lesson, student)
    trainer = _trainer(experiment, stage, lesson, student, paired)
    resumed = any(folder.checkpoints(name).glob("checkpoint-*"))
    is_without_dropout = _is_without_dropout(recipe, lesson)
    # No layer is left out of the control either where objectives keep its student's.
    rates = layer_rates(student.model) if looks_into_layers(stage.objectives.values()) else []
    undropped = without_dropout(student.model) if is_without_dropout else at_zero(rates)
    with saving_first():
        with _named(stage, name), undropped:
            output = trainer.train(resume_from_checkpoint=True)
        if recipe.student.adapters is not None and recipe.student.adapters.merge:
            merge_adapters(student.model)
        padding = [entry["padding"] for entry in trainer.state.log_history if "padding" in entry]
        facts = {
            "origin": student.origin,
            **({"kept": student.report} if student.report is not None else {}),
            "trainable_parameters": trained,
            "some_are_frozen": trained < total,
            **({"without_dropout": True} if is_without_dropout else {}),
            "seconds": None if resumed else round(output.metrics["train_runtime"], 1),
            "steps": trainer.state.global_step,
            "padding": round(float(np.mean(padding or [0.0])), 4),
            "log_history": trainer.state.log_history,
        }
        # A stage that goes on with it goes on in float32.
        whole = stage is experiment.stages[-1] and not has_adapters(student.model)
        dtype = student.dtype if whole and student.dtype is not None else torch.float32
        facts = _keep(trainer, folder, name, facts, dtype)
    return facts


def _trainer(
    experiment: Experiment, stage: Stage, lesson: Lesson, student: Student, paired: Pair
) -> DistillationTrainer:
    name, recipe = lesson.name, stage.recipe
    if name == "student":
        _report_lost(experiment.task, lesson.data, paired.train)
    length = {} if lesson.max_steps is None else {"max_steps": lesson.max_steps}
    trainer = DistillationTrainer(
        model=student.model,
        teacher=paired.teacher,
        task=experiment.task,
        objectives=list(lesson.objectives.values()),
        args=training_arguments(recipe, str(stage.folder.checkpoints(name)), **length),
        train_dataset=paired.train,
        eval_dataset=paired.validation,
        processing_class=student.tokenizer,
        rollout=Rollout(recipe.rollout) if recipe.rollout is not None and paired.teacher is not None else None,
        compute_metrics=_metrics_of(experiment.task),
        training_guard=recipe.training_guard,
        callbacks=[_Lines(name), StopWhenAsked()],
    )
    trainer.remove_callback(PrinterCallback)
    for line in trainer.connection_notes:
        logger.info(f"{name}: {line}")
    return trainer


@contextmanager
def _named(stage: Stage, name: str) -> Iterator[None]:
    """Errors of a training that name the stage and what is trained."""
    try:
        yield
    except TrainingError as error:
        raise TrainingError(f"{stage.prefix}{name}: {error}") from error


def _is_without_dropout(recipe: Recipe, lesson: Lesson) -> bool:
    """As the recipe says, unless a control has nothing else to learn from."""
    views = lesson.name == "control" and any("pairs" in objective.needs for objective in lesson.objectives.values())
    if recipe.student.disable_dropout and views:
        logger.info("control: keeps its dropout, which makes the two views of a text that it learns from")
    return recipe.student.disable_dropout and not views


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a student learns from: its teacher, live or cached, and the encoded rows."""

    teacher: Teacher | None
    train: Dataset | IterableDataset
    validation: Dataset | IterableDataset


def pair(experiment: Experiment, stage: Stage, lesson: Lesson, student: Student, others: Sequence[Demand] = ()) -> Pair:
    """Bring a student and its teacher together: the teacher, live or cached, and the encoded rows."""
    task, data, recipe = experiment.task, lesson.data, stage.recipe
    teacher = lesson.teacher.beside(student.tokenizer) if lesson.teacher is not None else None
    if any("pairs" in objective.needs for objective in lesson.objectives.values()):
        task = task.with_pairs()
    train = _training_rows(task, data, student, teacher, recipe.seed)
    validation = task.encode(data.validation, student.tokenizer, teacher.tokenizer if teacher else None)
    if teacher is None or recipe.teacher is None or not recipe.teacher.is_cached:
        return Pair(teacher=teacher, train=train, validation=validation)
    assert isinstance(train, Dataset)
    assert isinstance(validation, Dataset)
    teacher.to(PartialState().device)
    source = Source(
        teacher=teacher,
        task=task,
        tokenizer=student.tokenizer,
        student=student.model.config,
        data_fingerprint=data.fingerprint,
        seed=recipe.seed,
    )
    config = recipe.teacher.cache_settings
    batch_size = teacher.rows_at_once(stage.arguments.per_device_eval_batch_size)
    folder = stage.folder.caches
    with locked(folder, wait=True):
        reader, train, validation = cached(
            source, train, validation, lesson.objectives, config, folder, batch_size, others
        )
    teacher.to(torch.device("cpu"))  # Its room on the device is the student's now.
    return Pair(teacher=reader, train=train, validation=validation)


def _training_rows(
    task: Task, data: Data, student: Student, teacher: Teacher | None, seed: int
) -> Dataset | IterableDataset:
    if isinstance(data.train, IterableDataset):
        return data.train.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
    other = teacher.tokenizer if teacher is not None else None
    train = task.encode(data.train, student.tokenizer, other)
    if teacher is None or data.unlabelled is None:  # Nobody else teaches on rows without a label.
        return train
    extra = task.encode(data.unlabelled, student.tokenizer, other)
    return concatenate_datasets([train, extra.cast(train.features)])


def _report_lost(task: Task, data: Data, encoded: Dataset | IterableDataset) -> None:
    """Report training rows that are gone or shorter than they were."""
    if not isinstance(encoded, Dataset) or not isinstance(data.train, Dataset) or "cut" not in encoded.column_names:
        return
    for line in lost_rows(encoded, len(data.train) + len(data.unlabelled or ()), task.length_limit):
        logger.info(f"student: {line}")


def _metrics_of(task: Task) -> Callable[[EvalPrediction], dict[str, float]] | None:
    labels = task.row_labels
    if labels is None:
        return None  # The terms of the loss are what is watched.

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits, given = np.asarray(prediction.predictions, dtype=np.float32), np.asarray(prediction.label_ids)
        return decision_scores(logits, given, labels.problem_type, labels.names).metrics()

    return metrics


def _keep(
    trainer: DistillationTrainer, folder: RunFolder, name: str, facts: dict[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """Save under another name on every process that must, cast what lies there, then rename; the facts with that."""
    partial = folder.model(f"{name}.partial")
    state = PartialState()
    if state.is_main_process:
        remove(partial)
    state.wait_for_everyone()
    try:
        trainer.save_model(str(partial))
        state.wait_for_everyone()
        if state.is_main_process:
            (partial / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # Pickled, and names this machine's folders.
            facts = {**facts, "dtype": str(cast_saved(partial, dtype)).removeprefix("torch.")}
            if facts["dtype"] != "float32":
                logger.info(f"{name}: saved in {facts['dtype']}, and scored as it is saved")
            folder.keep(name, partial, facts)
    except BaseException:
        if state.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    state.wait_for_everyone()
    return facts


class _Lines(TrainerCallback):
    """One short line at every log, where there is no progress bar."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not args.disable_tqdm or not logs:
            return
        shown, left_out = ("loss", "eval_", "rollout_"), ("_runtime", "_per_second", "_macro", "_weighted")
        kept = {key: value for key, value in logs.items() if key.startswith(shown) and not key.endswith(left_out)}
        values = ", ".join(f"{key} {value:.4f}" for key, value in kept.items())
        if values:
            logger.info(f"{self.name}: step {state.global_step} of {state.max_steps}: {values}")
