"""Resolve a recipe: all that can be known before training. Configs and tokenizers are loaded, weights are not."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_distill.data.routing import with_teachers
from hf_distill.data.rows import Data, load_data
from hf_distill.errors import DataError
from hf_distill.evaluation.metrics import scorer_names
from hf_distill.evaluation.predict import check_generation
from hf_distill.generation.ends import keep_ends
from hf_distill.generation.rollout import Rollout
from hf_distill.labelling import check_label
from hf_distill.logs import Report, prefixed, reported
from hf_distill.models.dropout import layer_rates, layerdrop_note
from hf_distill.models.experts import balance_note
from hf_distill.models.sanity_checks import check_cache
from hf_distill.names import portable
from hf_distill.objectives import Objective, looks_into_layers
from hf_distill.pipeline.checks.costs import check_batches, first_rows, report_costs, report_teaching
from hf_distill.pipeline.checks.machine import check_family, check_modules, try_training
from hf_distill.pipeline.checks.made_teachers import check_making
from hf_distill.pipeline.checks.scored_rows import (
    check_best_metric,
    check_counted_tokens,
    check_floor,
    check_scored_rows,
)
from hf_distill.pipeline.compatibility import (
    check_precision,
    check_prompts,
    check_recipe,
    check_stage,
    prompts_are_enough,
    with_warning,
)
from hf_distill.pipeline.experiment import Experiment, Stage, stages_of, with_defaults
from hf_distill.pipeline.plans import described, planned_student, planned_teacher
from hf_distill.pipeline.run_folder import RunFolder
from hf_distill.pipeline.teacher_cache import scheme_of
from hf_distill.recipe import Recipe
from hf_distill.recipe.load_recipe import load_recipe
from hf_distill.recipe.stages import check_training, in_stage
from hf_distill.tasks import Task, make_task
from hf_distill.teachers import teacher_class
from hf_distill.tokenizers.compare import fitted, reads_alike
from hf_distill.tokenizers.processors import load_tokenizer
from hf_distill.training.setup import check_encoder_learns, check_tokens, connect_tokenizers, fit_readers, named_lookers

logger = logging.getLogger(__name__)


def check(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    report: Report = print,
    allow_code: bool = False,
) -> None:
    """Report what a recipe would do, or raise what is wrong with it.

    Args:
        recipe: See :func:`hf_distill.run`.
        overrides: See :func:`hf_distill.run`.
        report: Gets the lines.
        allow_code: See :func:`hf_distill.run`; a check runs the code, too.

    Raises:
        HfDistillError: For the first thing that is wrong.
    """
    with reported(report):
        experiment = resolve(load_recipe(recipe, overrides, allow_code=allow_code))
        teacher = experiment.recipe.teacher
        if teacher is not None:
            teacher_class(teacher).check(teacher, experiment.recipe, experiment.task)
        logger.info("everything that can be checked before training is in order")


def resolve(recipe: Recipe, runs: str | Path = "runs", command: str = "", data: Data | None = None) -> Experiment:
    """Load the data, and refuse whatever can be refused before a model is loaded and anything is written."""
    recipe = with_defaults(recipe)
    for name, stage in recipe.by_stage().items():
        with in_stage(name):
            check_training(stage.training)
    task = make_task(recipe.task.name, recipe.task.options)
    folder = RunFolder(Path(runs) / recipe.name)
    stages = stages_of(recipe, folder)
    for each in stages:
        with in_stage(each.name):
            try_training(each)
    data = read_data(recipe, task, stages, data)
    teacher = planned_teacher(recipe, task, data)
    student = planned_student(recipe, task, data, teacher)
    readers = student.readers("the student"), teacher.readers("the teacher") if teacher is not None else []
    for line in fit_readers(task, *readers):
        logger.info(line)
    check_precision(stages, task, student.model.config)
    check_cache(student.model)
    experiment = Experiment(
        recipe=recipe,
        task=task,
        data=data,
        runs=Path(runs),
        folder=folder,
        stages=stages,
        teacher=teacher,
        student=student,
        command=command,
    )
    for each in stages:
        with in_stage(each.name):
            check_modules(each, student.model)
            check_best_metric(experiment, each)
            check_batches(experiment, each)
    check_scored_rows(experiment)
    check_floor(experiment)
    _report_student(experiment)
    if not task.is_bound:
        task.follow((teacher or student).model.config)
    for reader in chain(*readers):
        check_family(task, reader.model)
    _report_rows(experiment)
    check_counted_tokens(experiment)
    _check_writing(experiment)
    check_making(experiment, resolve)
    report_teaching(experiment)
    for each in stages:
        with in_stage(each.name), prefixed(each.prefix):
            _report_stage(experiment, each)
    return experiment


def read_data(recipe: Recipe, task: Task, stages: Sequence[Stage], data: Data | None = None) -> Data:
    """The recipe's data as the task needs them; the task learns their labels."""
    if data is None:
        routes, members = (recipe.teacher.columns, recipe.teacher.members) if recipe.teacher else ((), ())
        optional = (*task.optional, *routes)
        prompts = prompts_are_enough(recipe, task)
        data = load_data(
            recipe.data, task.required, optional, task.text_columns, recipe.seed, prompts=prompts, seconds=task.seconds
        )
        check_prompts(recipe, data)
        for route in routes:
            names = [str(member.name) for member in members]
            data = with_teachers(data, route, names, (*task.required, *task.optional))
    data = task.set_aside(with_warning(recipe, data))
    task.read_labels(data.train)
    for split in ("train", "validation", "test"):
        if isinstance(rows := data.splits[split], Dataset):
            task.check_labels(rows, split)
    check_label(recipe.label, task, data)
    task.check_evaluated(data.evaluated(recipe.evaluate.split))
    for stage in stages:
        with in_stage(stage.name):
            check_stage(stage, task)
    check_recipe(recipe, task, data, stages)
    for note in (*data.notes, *task.label_notes(data.train)):
        logger.info(note)
    _report_data(task, data)
    return data


def command_of(
    verb: str,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any],
    *,
    allow_code: bool = False,
) -> str:
    """The command that does the same again, without the folders of this machine."""
    if not isinstance(recipe, (str, Path)):
        return f"hf_distill.{verb}(recipe{', allow_code=True' if allow_code else ''})"
    pairs = [f"{key}={value}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else overrides
    options = ["--allow-code"] if allow_code else []
    return shlex.join(map(portable, ["hf-distill", verb, str(recipe), *pairs, *options]))


def _check_writing(experiment: Experiment) -> None:
    """Refuse settings of ``evaluate.generation`` that do not exist, and rows that are no prompts."""
    evaluate, task = experiment.recipe.evaluate, experiment.task
    if scorer_names(task, evaluate.scorers):
        check_generation(evaluate.generation)
        task.prompts(experiment.data.test.select(range(1)), experiment.student.tokenizer)


def _check_served_tokens(experiment: Experiment, objectives: Mapping[str, Objective]) -> None:
    """Refuse to compare tokens with a served teacher that has others."""
    teacher = experiment.recipe.teacher
    if teacher is None or teacher.endpoint is None or not any("logits" in each.needs for each in objectives.values()):
        return
    if not reads_alike(experiment.student.tokenizer, load_tokenizer(teacher.endpoint.tokenizer_source)):
        check_tokens(objectives, experiment.task)


def _check_kept(experiment: Experiment, stage: Stage) -> None:
    """Refuse to keep in a cache what a vocabulary of this size does not allow."""
    task, config = experiment.task, stage.recipe.teacher
    head = experiment.teacher.model.get_output_embeddings() if experiment.teacher is not None else None
    asked = any("logits" in each.needs for each in stage.objectives.values())
    if config is not None and config.is_cached and asked and not task.keeps_logits and head is not None:
        scheme_of(task, stage.objectives, config.cache_settings, head.weight.shape[0])


def _report_data(task: Task, data: Data) -> None:
    rows = ", ".join(f"{count:,} {name}" for name, count in data.counts.items())
    labels = task.label_set
    logger.info(f"data: {data.source}: {rows}")
    if labels is None:
        return
    names = ", ".join(labels.names[:8]) + (", ..." if len(labels.names) > 8 else "")
    logger.info(f"labels: {task.problem_type}, {len(labels.names)}: {names}")


def _report_student(experiment: Experiment) -> None:
    student, teacher, config = experiment.student, experiment.teacher, experiment.recipe.student
    share = f", {student.parameters / teacher.parameters:.2f} of the teacher's" if teacher else ""
    logger.info(f"student: {described(student)}{share}")
    if config.adapters is not None or config.freeze is not None:
        logger.info(f"student: {student.learning:,} parameters learn, all others stay as they are")
    if config.disable_dropout:
        logger.info("student: learns without dropout")
    if student.dtype != "float32" and (config.adapters is None or config.adapters.merge):
        logger.info(f"student: learns in float32 and is saved in {student.dtype}")
    if (balanced := balance_note(student.model)) is not None:
        logger.info(f"student: {balanced}")
    if teacher is not None and student.parameters > teacher.parameters:
        logger.info("student: larger than its teacher; allowed, but slower")

    for line in keep_ends(student.model, student.tokenizer, experiment.task):
        logger.info(line)


def _report_rows(experiment: Experiment) -> None:
    """Report what becomes of all rows, and refuse those that cannot be read by student or teacher."""
    student, teacher = experiment.student.tokenizer, experiment.teacher
    others = [] if teacher is None or reads_alike(student, teacher.tokenizer) else [teacher.tokenizer]
    for split, rows in experiment.data.splits.items():
        for whose, tokenizer in zip((split, f"{split}, the teacher's tokens"), (student, *others), strict=False):
            try:
                for line in experiment.task.check_rows(rows, tokenizer) if isinstance(rows, Dataset) else ():
                    logger.info(f"{whose}: {line}")
            except DataError as error:
                raise DataError(f"split {split!r}: {error}") from error


def _report_stage(experiment: Experiment, stage: Stage) -> None:
    """Fit the stage's objectives to the pair of models, and report what that makes of them."""
    task, student, teacher = experiment.task, experiment.student, experiment.teacher
    objectives = stage.new_objectives()
    _check_served_tokens(experiment, objectives)
    check_encoder_learns(objectives, student.model)
    task.check_layers(named_lookers(objectives))
    for line in layerdrop_note(layer_rates(student.model)) if looks_into_layers(objectives.values()) else ():
        logger.info(f"student: {line}")
    if teacher is not None and not reads_alike(student.tokenizer, teacher.tokenizer):
        for line in connect_tokenizers(objectives, task, student.tokenizer, teacher.tokenizer, teacher.model):
            logger.info(f"objective {line}")
        rows = (first_rows(experiment.data), experiment.rows)
        for line in task.compare_tokenizers(*rows, student.tokenizer, fitted(teacher.tokenizer, teacher.model)):
            logger.info(line)
    _check_kept(experiment, stage)
    for name, objective in objectives.items():
        lines = objective.connect(student.model.config, teacher.model.config if teacher else None)
        moving = {option: f"{option} {schedule}" for option, schedule in objective.schedules.items()}
        logger.info(f"objective {name}: {', '.join({'weight': f'weight {objective.weight:g}', **moving}.values())}")
        for line in lines:
            logger.info(f"objective {line}")
        if teacher is not None:
            objective.check_models(student.model, teacher.model)
    rollout = stage.recipe.rollout
    if rollout is not None and rollout.share:
        other = teacher.model.config if teacher is not None else None
        logger.info(Rollout(rollout).fit(task, student.tokenizer, student.model, other, stage.new_objectives()))
    report_costs(experiment, stage)
