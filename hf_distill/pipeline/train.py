"""Train one model of a run with DistillationTrainer: settings, resume, what is kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

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

from hf_distill.data.load import Data
from hf_distill.errors import RecipeError
from hf_distill.evaluation.language_modeling import BITS_PER_BYTE, METRICS
from hf_distill.evaluation.metrics import Predictions, compute_metrics
from hf_distill.generation.rollout import Rollout
from hf_distill.models.dropout import without_dropout
from hf_distill.models.fingerprints import weights_mark
from hf_distill.objectives import Objective
from hf_distill.pipeline.teacher_cache import Demand, Source, cached
from hf_distill.recipe import CacheConfig, MemberConfig, Recipe, TeacherConfig
from hf_distill.recipe.stages import replaced_by_all
from hf_distill.run_folder import RunFolder, remove, write_json
from hf_distill.students import Student, learning, merge_adapters
from hf_distill.tasks import TASKS, Task
from hf_distill.teachers import ModelTeacher, ServerTeacher, Teacher
from hf_distill.training.setup import beside
from hf_distill.training.trainer import DistillationTrainer

logger = logging.getLogger(__name__)


Report = Callable[[str], None]
"""Where lines for the person at the terminal go."""

Lessons = tuple[Teacher | None, Dataset | IterableDataset, Dataset | IterableDataset]
"""A teacher, and the encoded rows of training and validation."""

Made = TypeVar("Made", TeacherConfig, MemberConfig)

DEFAULTS: dict[str, Any] = {
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "logging_steps": 50,
}
"""What a recipe's ``training`` holds unless it says otherwise; all else is TrainingArguments' own default."""

SHUFFLE_BUFFER = 10_000
"""Rows of a stream that are shuffled among each other."""


def with_defaults(recipe: Recipe) -> Recipe:
    """The recipe with the defaults of ``training`` filled in, its teacher's recipe too.

    Raises:
        RecipeError: For streamed data without ``training.max_steps``: a stream has no length to count epochs by.
    """
    recipe = _with_metric(recipe)
    training = {**DEFAULTS, **recipe.training}
    if recipe.data.streaming:
        training = {**DEFAULTS, "eval_strategy": "steps", "save_strategy": "steps", **recipe.training}
        training["train_sampling_strategy"] = recipe.training.get("train_sampling_strategy", "random")
        if not all(stage.training.get("max_steps") for stage in recipe.by_stage().values()):
            raise RecipeError("recipe.training.max_steps: required with data.streaming, a stream has no known length")
        if recipe.data.unlabelled_split or recipe.data.unlabelled_files:
            raise RecipeError("recipe.data: unlabelled rows cannot be mixed into a stream; set data.streaming to false")
        if recipe.teacher is not None and recipe.teacher.kind == "cached":
            raise RecipeError("recipe.teacher.kind: a stream's rows have no ids to be found by; set it to live")
    # A default that every stage replaces would do nothing.
    training = {key: value for key, value in training.items() if not replaced_by_all(key, recipe.stages)}
    teacher = recipe.teacher
    if teacher is not None:
        members = teacher.ensemble and tuple(map(_made_with_defaults, teacher.ensemble))
        teacher = dataclasses.replace(_made_with_defaults(teacher), ensemble=members)
    return dataclasses.replace(recipe, training=training, teacher=teacher)


def _made_with_defaults(teacher: Made) -> Made:
    """A teacher with the defaults of its own recipe, where it has one, filled in."""
    made = teacher.recipe
    return dataclasses.replace(teacher, recipe=with_defaults(made)) if isinstance(made, Recipe) else teacher


def _with_metric(recipe: Recipe) -> Recipe:
    """Models with different tokens are compared by bits a byte: a loss a token depends on how long tokens are.

    Raises:
        RecipeError: Where the recipe asks for another metric of tokens.
    """
    crosses = recipe.task.name in TASKS and TASKS[recipe.task.name].crosses_tokenizers
    objectives = [objective for stage in recipe.by_stage().values() for objective in stage.objectives]
    if not crosses or not any(objective.options.get("cross_tokenizer") is True for objective in objectives):
        return recipe
    metric = recipe.evaluate.metric or BITS_PER_BYTE
    if metric in METRICS:
        raise RecipeError(
            f"recipe.evaluate.metric: {metric} is a figure of each model's own tokens and says nothing across "
            f"tokenizers; remove it, or set it to {BITS_PER_BYTE}"
        )
    return dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, metric=metric))


def training_arguments(recipe: Recipe, output_dir: str, **more: Any) -> TrainingArguments:
    """``training`` as TrainingArguments.

    Raises:
        RecipeError: For values that TrainingArguments refuses.
    """
    machine = {"disable_tqdm": not sys.stderr.isatty(), "dataloader_pin_memory": torch.cuda.is_available()}
    settings = {**machine, **recipe.training, **more}
    try:
        return TrainingArguments(output_dir=output_dir, seed=recipe.seed, **settings)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"recipe.training: {error}") from error


def train_model(
    name: str,
    *,
    recipe: Recipe,
    task: Task,
    data: Data,
    build: Callable[[], Student],
    objectives: Mapping[str, Objective],
    teacher: ModelTeacher | ServerTeacher | None,
    teacher_folders: Sequence[Path],
    folder: RunFolder,
    lessons: Lessons | None = None,
) -> dict[str, Any]:
    """Train ``student`` or ``control`` and save it whole; what was trained before is kept.

    The control sees labelled rows only, for as many steps as the student. ``lessons`` are what :func:`pair` gave
    already, for another student that learns from the same.

    Returns:
        ``origin``, ``kept`` (where parts were taken of a model), ``trainable_parameters``, ``some_are_frozen``,
        ``steps``, ``seconds`` (None where it was interrupted), ``padding`` and Trainer's ``log_history``.
    """
    if folder.model(name).is_dir():
        logger.info(f"{name}: trained already, in {folder.model(name)}")
        facts: dict[str, Any] = json.loads(folder.history(name).read_text())
        return facts
    set_seed(recipe.seed)
    student = build()
    total, trained = student.model.num_parameters(), learning(student.model)
    logger.info(
        f"{name}: {student.origin}, {total:,} parameters" + (f", {trained:,} of them learn" * (trained < total))
    )
    lessons = lessons or pair(recipe, task, data, student, objectives, teacher, teacher_folders, folder)
    paired, train, validation = lessons
    if name == "student":
        for line in _lost(task, data, train):
            logger.info(f"{name}: {line}")
    trainer = DistillationTrainer(
        model=student.model,
        teacher=paired,
        task=task,
        objectives=list(objectives.values()),
        args=training_arguments(recipe, str(folder.checkpoints(name)), **_length(name, recipe, data, folder)),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=student.tokenizer,
        rollout=Rollout(recipe.rollout) if recipe.rollout is not None and paired is not None else None,
        compute_metrics=_metrics_of(task),
        callbacks=[_Lines(name)],
    )
    trainer.remove_callback(PrinterCallback)
    for line in trainer.connection_notes:
        logger.info(f"{name}: {line}")
    resumed = any(folder.checkpoints(name).glob("checkpoint-*"))
    undropped = _is_without_dropout(name, recipe, objectives)
    with without_dropout(student.model) if undropped else nullcontext():
        output = trainer.train(resume_from_checkpoint=True)
    if recipe.student.lora is not None and recipe.student.lora.merge:
        merge_adapters(student.model)
    facts = {
        "origin": student.origin,
        **({"kept": student.report} if student.report is not None else {}),
        "trainable_parameters": trained,
        "some_are_frozen": trained < total,
        **({"without_dropout": True} if undropped else {}),
        "seconds": None if resumed else round(output.metrics["train_runtime"], 1),
        **_course(trainer.state),
    }
    _keep(trainer, folder, name, facts)
    return facts


def _length(name: str, recipe: Recipe, data: Data, folder: RunFolder) -> dict[str, Any]:
    """A control that does not see all the student's rows, so that its epochs are shorter, takes as many steps."""
    only_the_student = (data.unlabelled, recipe.label, recipe.rollout)
    if name != "control" or all(rows is None for rows in only_the_student):
        return {}
    return {"max_steps": json.loads(folder.history("student").read_text())["steps"]}


def _course(state: TrainerState) -> dict[str, Any]:
    """How a training went: its steps, the mean share of padding, the log."""
    padding = [entry["padding"] for entry in state.log_history if "padding" in entry]
    return {
        "steps": state.global_step,
        "padding": round(float(np.mean(padding or [0.0])), 4),
        "log_history": state.log_history,
    }


def _is_without_dropout(name: str, recipe: Recipe, objectives: Mapping[str, Objective]) -> bool:
    """As the recipe says, unless a control has nothing else to learn from."""
    views = name == "control" and any("pairs" in objective.needs for objective in objectives.values())
    if recipe.student.disable_dropout and views:
        logger.info("control: keeps its dropout, which makes the two views of a text that it learns from")
    return recipe.student.disable_dropout and not views


def pair(
    recipe: Recipe,
    task: Task,
    data: Data,
    student: Student,
    objectives: Mapping[str, Objective],
    teacher: ModelTeacher | ServerTeacher | None,
    teacher_folders: Sequence[Path],
    folder: RunFolder,
    others: Sequence[Demand] = (),
) -> Lessons:
    """What the student learns from: its teacher, live or cached as the recipe says, and the encoded rows.

    ``teacher_folders`` hold its weights, of several teachers those of each. ``others`` are students that the cache is
    to serve, too.

    Returns:
        The teacher, the training rows and the validation rows.
    """
    if isinstance(teacher, ModelTeacher):
        teacher = beside(teacher, student.tokenizer, task)
    if any("pairs" in objective.needs for objective in objectives.values()):
        task = task.with_pairs()
    train = _training_rows(task, data, student, teacher, recipe.seed)
    validation = task.encode(data.validation, student.tokenizer, teacher.tokenizer if teacher else None)
    if teacher is None or recipe.teacher is None or recipe.teacher.kind == "live":
        return teacher, train, validation
    assert isinstance(train, Dataset)
    assert isinstance(validation, Dataset)
    teacher.to(PartialState().device)
    source = Source(
        teacher=teacher,
        weights="+".join(map(weights_mark, teacher_folders)) or f"served as {teacher.name}",
        task=task,
        tokenizer=student.tokenizer,
        student=student.model.config,
        data_fingerprint=data.fingerprint,
        seed=recipe.seed,
    )
    config = recipe.teacher.cache or CacheConfig()
    batch_size = training_arguments(recipe, "unused").per_device_eval_batch_size
    if isinstance(teacher, ServerTeacher):
        batch_size = 2 * teacher.client.config.concurrency  # Where one batch ends, few requests are under way.
    reader, train, validation = cached(source, train, validation, objectives, config, folder.caches, batch_size, others)
    teacher.to(torch.device("cpu"))  # Its room on the device is the student's now.
    return reader, train, validation


def _training_rows(
    task: Task, data: Data, student: Student, teacher: ModelTeacher | ServerTeacher | None, seed: int
) -> Dataset | IterableDataset:
    if isinstance(data.train, IterableDataset):
        return data.train.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER)
    other = teacher.tokenizer if teacher is not None else None
    train = task.encode(data.train, student.tokenizer, other)
    if teacher is None or data.unlabelled is None:  # Nobody else teaches on rows without a label.
        return train
    extra = task.encode(data.unlabelled, student.tokenizer, other)
    return concatenate_datasets([train, extra.cast(train.features)])


def _lost(task: Task, data: Data, encoded: Dataset | IterableDataset) -> Iterator[str]:
    """Tell of training rows that are gone or shorter than they were."""
    if not isinstance(encoded, Dataset) or not isinstance(data.train, Dataset) or "cut" not in encoded.column_names:
        return
    given = len(data.train)
    limit = f"longer than task.max_length ({task.max_length} tokens)"
    if len(encoded) < given:
        yield f"{given - len(encoded):,} of {given:,} rows are dropped: their prompts are {limit}"
    cut = sum(encoded["cut"])
    if cut:
        target = f" or task.max_target_length ({task.longest_text})" if task.generates else ""
        yield f"{cut:,} of {len(encoded):,} rows are cut: they are {limit}{target}"


def _metrics_of(task: Task) -> Callable[[EvalPrediction], dict[str, float]] | None:
    labels = task.label_set
    if labels is None or task.by_token:
        return None  # The terms of the loss are what is watched.

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        return compute_metrics(
            Predictions(
                logits=np.asarray(prediction.predictions, dtype=np.float32),
                labels=np.asarray(prediction.label_ids),
                problem_type=labels.problem_type,
                label_names=labels.names,
            )
        )

    return metrics


def _keep(trainer: DistillationTrainer, folder: RunFolder, name: str, facts: dict[str, Any]) -> None:
    """Save under another name on every process that must, then rename: a student folder is whole or not there."""
    final = folder.model(name)
    partial = final.with_name(name + ".partial")
    state = PartialState()
    if state.is_main_process:
        remove(partial)
        write_json(folder.history(name), facts)
    state.wait_for_everyone()
    trainer.save_model(str(partial))
    state.wait_for_everyone()
    if state.is_main_process:
        os.replace(partial, final)
    state.wait_for_everyone()


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
        shown = {
            key: value for key, value in logs.items() if key.startswith(("loss", "eval_", "rollout_")) and _is_told(key)
        }
        if shown:
            values = ", ".join(f"{key} {value:.4f}" for key, value in shown.items())
            logger.info(f"{self.name}: step {state.global_step} of {state.max_steps}: {values}")


def _is_told(key: str) -> bool:
    return not key.endswith(("_runtime", "_per_second", "_macro", "_weighted"))
