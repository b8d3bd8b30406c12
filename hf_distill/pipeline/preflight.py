"""Everything that can be known before training. Configs and tokenizers are loaded, weights are not."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel

from hf_distill.data.load import Data, load_data
from hf_distill.errors import RecipeError
from hf_distill.evaluation.language_modeling import AGAINST_TEACHER
from hf_distill.evaluation.metrics import primary_metric
from hf_distill.evaluation.written import check_generation, scorer_names
from hf_distill.generation.rollout import Rollout
from hf_distill.labelling import check_label
from hf_distill.logs import Report, prefixed, reported
from hf_distill.models.load import load_config, load_tokenizer
from hf_distill.objectives import Objective, make_objective
from hf_distill.pipeline.compatibility import check_cache
from hf_distill.pipeline.estimates import Plan, first_rows, tell_costs
from hf_distill.pipeline.results import evaluated_rows
from hf_distill.pipeline.routing import asked_columns, check_one_tokenizer, check_several, with_teachers
from hf_distill.pipeline.served import check_asked, check_served_recipe, check_served_tokens
from hf_distill.pipeline.train import training_arguments, with_defaults
from hf_distill.pipeline.verify_server import check_server, served_teacher
from hf_distill.recipe import CacheConfig, MemberConfig, Recipe, StudentConfig, TeacherConfig
from hf_distill.recipe.load import check_training, load_recipe
from hf_distill.recipe.stages import in_stage
from hf_distill.students import Order, Student, build_student, limit_learning, parts_of, quantized
from hf_distill.tasks import Task, make_task
from hf_distill.teachers import same_tokenizer
from hf_distill.tokenizers.train import fitted
from hf_distill.training.setup import check_encoder_learns, check_objectives, connect_tokenizers, tell_meetings
from hf_distill.types import OF_THE_DATA

logger = logging.getLogger(__name__)


def check(
    recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = (), *, report: Report = print
) -> None:
    """Report what a recipe would do, or raise what is wrong with it.

    Args:
        recipe: See :func:`hf_distill.run`.
        overrides: See :func:`hf_distill.run`.
        report: Gets the lines.

    Raises:
        HfDistillError: For the first thing that is wrong.
    """
    with reported(report):
        loaded = with_defaults(load_recipe(recipe, overrides))
        task, _ = prepare(loaded)
        if loaded.teacher is not None and loaded.teacher.server is not None:
            check_server(served_teacher(loaded.teacher.server), loaded, task)
        logger.info("everything that can be checked before training is in order")


def prepare(recipe: Recipe, data: Data | None = None) -> tuple[Task, Data]:
    """Load the data, and refuse whatever can be refused before a model is loaded and anything is written.

    Args:
        recipe: With its defaults filled in.
        data: What the recipe's data are, where they were read already.

    Returns:
        The task, bound to the data, and the data.

    Raises:
        HfDistillError: For the first thing that is wrong.
    """
    for name, stage in recipe.by_stage().items():
        with in_stage(name):
            check_training(stage.training)
            training_arguments(stage, "unused")
    task, data = read_data(recipe, data)
    _tell_data(task, data)
    _plan_student(recipe, task, data, planned_teacher(recipe, task, data))
    return task, data


def prepare_alike(recipe: Recipe, task: Task, data: Data, teacher: Plan | None) -> Plan:
    """As :func:`prepare`, for a recipe that has task, data and teacher in common with one that was prepared.

    Returns:
        The student that it asks for.
    """
    check_training(recipe.training)
    training_arguments(recipe, "unused")
    _check_objectives(recipe, task)
    _check_views(recipe, data)
    return _plan_student(recipe, task, data, teacher)


def _plan_student(recipe: Recipe, task: Task, data: Data, teacher: Plan | None) -> Plan:
    student = planned_student(recipe, task, data, teacher)
    if recipe.teacher is not None and recipe.teacher.server is not None:
        for stage in recipe.by_stage().values():
            check_served_tokens(recipe.teacher.server, student.tokenizer, make_objectives(stage), task)
    share = f", {student.parameters / teacher.parameters:.2f} of the teacher's" if teacher else ""
    logger.info(f"student: {_described(student)}{share}")
    if recipe.student.lora is not None or recipe.student.freeze is not None:
        logger.info(f"student: {student.learning:,} parameters learn, all others stay as they are")
    if recipe.student.disable_dropout:
        logger.info("student: learns without dropout")
    if teacher is not None and student.parameters > teacher.parameters:
        logger.info("student: larger than its teacher; allowed, but slower")
    if not task.is_bound:
        task.follow((teacher or student).model.config)
    _check_writing(recipe, task, data, student)
    for name, stage in recipe.by_stage().items():
        with in_stage(name), prefixed(stage_prefix(name)):
            _tell_stage(stage, task, data, teacher, student)
    return student


def stage_prefix(stage: str) -> str:
    """What lines about a stage begin with; empty for a recipe without stages."""
    return f"stage {stage}: " if stage else ""


def _tell_stage(recipe: Recipe, task: Task, data: Data, teacher: Plan | None, student: Plan) -> None:
    _tell_objectives(recipe, task, data, teacher, student)
    if recipe.rollout is not None and recipe.rollout.share:
        rollout, objectives = Rollout(recipe.rollout), make_objectives(recipe)
        other = teacher.model.config if teacher is not None else None
        logger.info(rollout.fit(task, student.tokenizer, student.model, other, objectives))
    tell_costs(recipe, task, data, teacher, student)


def make_objectives(recipe: Recipe) -> dict[str, Objective]:
    """The recipe's objectives, new, by kind; a second one of a kind is called ``kind_2``."""
    named: dict[str, Objective] = {}
    for config in recipe.objectives:
        count = sum(name == config.kind or name.startswith(f"{config.kind}_") for name in named)
        name = f"{config.kind}_{count + 1}" if count else config.kind
        named[name] = make_objective(config.kind, {"weight": config.weight, **config.options})
    return named


def read_data(recipe: Recipe, data: Data | None = None) -> tuple[Task, Data]:
    """Task, objectives, columns, rows and labels."""
    task = make_task(recipe.task.name, recipe.task.options)
    for name, stage in recipe.by_stage().items():
        with in_stage(name):
            make_objectives(stage)  # Refuses wrong options before any row is read.
    if data is None:
        optional = (*task.optional, *asked_columns(recipe.teacher))
        data = load_data(recipe.data, task.required, optional, task.text_columns, recipe.seed)
        data = with_teachers(data, recipe.teacher, task)
    data = task.set_aside(data)
    _check_outside(recipe, task, data)
    task.read_labels(data.train)
    check_label(recipe.label, task, data)
    task.check_evaluated(evaluated_rows(recipe, data))
    for name, stage in recipe.by_stage().items():
        with in_stage(name):
            _check_objectives(stage, task)
            _check_views(stage, data)
    if recipe.teacher is not None and recipe.teacher.server is not None:
        check_asked(recipe, [each for stage in recipe.by_stage().values() for each in make_objectives(stage).values()])
    for note in data.notes:
        logger.info(note)
    return task, data


def _check_objectives(recipe: Recipe, task: Task) -> None:
    """Refuse what task, teacher and objectives cannot do for each other."""
    objectives = make_objectives(recipe)
    metric = primary_metric(task, recipe.evaluate)
    if recipe.teacher is None and task.has_vocabulary and metric in AGAINST_TEACHER:
        raise RecipeError(f"recipe.evaluate.metric: {metric} compares with a teacher, and the recipe names none")
    check_objectives(objectives, task, training_arguments(recipe, "unused"))
    for name, objective in objectives.items():
        if recipe.teacher is None and objective.needs - OF_THE_DATA:
            raise RecipeError(
                f"objective {name} needs a teacher, but the recipe names none; add teacher.model, or teacher.recipe"
            )
    check_several(recipe, task, objectives, scorer_names(task, recipe.evaluate.scorers))
    if recipe.teacher is not None and recipe.teacher.server is not None:
        check_served_recipe(recipe, task, objectives)
    elif recipe.teacher is not None and recipe.teacher.kind == "cached":
        if not task.same_classes:
            raise RecipeError(
                f"recipe.teacher.kind: a cache keeps one number for each class, but in {task.name} every row has its "
                "own; set it to live"
            )
        check_cache(objectives, recipe.teacher.cache or CacheConfig(), task.has_vocabulary)


def _check_views(recipe: Recipe, data: Data) -> None:
    """Refuse to tell apart two views of a text that nothing makes different."""
    paired = "text_pair" in (data.train.column_names or ["text_pair"])
    for name, objective in make_objectives(recipe).items():
        if recipe.student.disable_dropout and "pairs" in objective.needs and not paired:
            raise RecipeError(
                f"recipe.student.disable_dropout: objective {name} reads a text that stands alone twice, and without "
                "dropout both views are the same; set it to false, remove the objective, or name text pairs in "
                "data.columns"
            )


def _check_outside(recipe: Recipe, task: Task, data: Data) -> None:
    """Refuse to look for rows out of scope where there are none."""
    split = recipe.evaluate.split
    if task.out_of_scope is not None and not len(data.outside[split]):
        elsewhere = [name for name, rows in data.outside.items() if len(rows)]
        raise RecipeError(
            f"task.out_of_scope: no {split} row is labelled {task.out_of_scope!r}, so nothing can be told from rows in "
            f"scope; {f'set evaluate.split to {elsewhere[0]}' if elsewhere else 'add such rows'}, or remove it"
        )


def _check_writing(recipe: Recipe, task: Task, data: Data, student: Plan) -> None:
    """Refuse ways of writing that do nothing or do not exist."""
    settings = recipe.evaluate.generation
    if not scorer_names(task, recipe.evaluate.scorers):
        if settings:
            raise RecipeError(
                f"recipe.evaluate.generation: nothing is written in {task.name} unless recipe.evaluate.scorers says "
                "what judges it; add some, or remove the settings"
            )
        return
    check_generation(settings)
    task.prompts(data.test.select(range(1)), student.tokenizer)


def _tell_data(task: Task, data: Data) -> None:
    sizes = {"train": data.train, "validation": data.validation, "test": data.test, "unlabelled": data.unlabelled}
    rows = ", ".join(f"{len(part):,} {name}" for name, part in sizes.items() if isinstance(part, Dataset))
    labels = task.label_set
    logger.info(f"data: {data.source}: {rows}")
    if labels is None:
        return
    names = ", ".join(labels.names[:8]) + (", ..." if len(labels.names) > 8 else "")
    logger.info(f"labels: {task.problem_type}, {len(labels.names)}: {names}")


def planned_teacher(recipe: Recipe, task: Task, data: Data) -> Plan | None:
    """The teacher's shape and tokenizer, also where its own recipe is still to make it; None where there is none."""
    config = recipe.teacher
    if config is None:
        return None
    if config.server is not None:
        logger.info(f"teacher: served as {config.server.model}")
        return None
    if config.ensemble is None:
        return _planned(config, task, data)
    first, *others = (_planned(member, task, data) for member in config.ensemble)
    names = [member.called(number) for number, member in enumerate(config.ensemble)]
    check_one_tokenizer({name: each.tokenizer for name, each in zip(names, (first, *others), strict=True)})
    how = f"one a row, by column {config.route}" if config.route else "mixed by their weights"
    logger.info(f"teacher: {len(names)}, {how}; what the student takes of a teacher, it takes of {names[0]}")
    return dataclasses.replace(first, others=tuple(others))


def _planned(config: TeacherConfig | MemberConfig, task: Task, data: Data) -> Plan:
    """One teacher's shape and tokenizer."""
    if isinstance(config.recipe, Recipe):
        plan = planned_student(config.recipe, task, data, None)
        logger.info(f"teacher: made first, by the recipe {config.recipe.name}: {_described(plan)}")
        return dataclasses.replace(plan, dtype=config.dtype)
    assert config.model is not None
    loaded = load_config(config.model, config.revision)
    order = task.align(loaded, config.labels)
    how = "the same order" if order is None else "another order; aligned by name"
    logger.info(f"labels: the teacher's stand in {how}")
    tokenizer = load_tokenizer(config.model, config.revision)
    plan = Plan(model=_on_meta(task, loaded), tokenizer=tokenizer, dtype=config.dtype)
    logger.info(f"teacher: {config.model}: {_described(plan)}")
    return plan


def planned_student(recipe: Recipe, task: Task, data: Data, teacher: Plan | None) -> Plan:
    """The student's shape and tokenizer."""
    asked = recipe.student
    if asked.pretrained is not None:
        config = load_config(asked.pretrained, asked.revision)
        for name, value in task.model_options().items():
            setattr(config, name, value)
        named = asked.tokenizer if isinstance(asked.tokenizer, str) else None
        tokenizer = load_tokenizer(named) if named else load_tokenizer(asked.pretrained, asked.revision)
        whole = Student(model=_on_meta(task, config), tokenizer=tokenizer, origin=asked.pretrained)
        quantized(asked.lora)
        with torch.device("meta"):
            student = parts_of(whole, _order(task, data, asked)) if asked.parts else whole
            limit_learning(student.model, asked)
        return Plan(model=student.model, tokenizer=student.tokenizer)
    with torch.device("meta"):
        student = build_student(
            asked,
            auto_model=task.auto_model,
            teacher=teacher.model if teacher else None,
            teacher_tokenizer=teacher.tokenizer if teacher else None,
            texts=lambda: task.texts(data.train),
            model_options=task.model_options(),
        )
    return Plan(model=student.model, tokenizer=student.tokenizer)


def _order(task: Task, data: Data, asked: StudentConfig) -> Order:
    """What parts of something pretrained are made by."""
    return Order(
        config=asked,
        auto_model=task.auto_model,
        teacher=None,
        teacher_tokenizer=None,
        texts=lambda: task.texts(data.train),
        model_options=task.model_options(),
    )


def _on_meta(task: Task, config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = task.auto_model.from_config(config)
    return model


def _tell_objectives(recipe: Recipe, task: Task, data: Data, teacher: Plan | None, student: Plan) -> None:
    objectives = make_objectives(recipe)
    check_encoder_learns(objectives, student.model)
    if teacher is not None and not same_tokenizer(student.tokenizer, teacher.tokenizer):
        for line in connect_tokenizers(objectives, task, student.tokenizer, teacher.tokenizer):
            logger.info(f"objective {line}")
        rows = (first_rows(data), evaluated_rows(recipe, data))
        for line in tell_meetings(task, *rows, student.tokenizer, fitted(teacher.tokenizer, teacher.model)):
            logger.info(line)
    for name, objective in objectives.items():
        lines = objective.connect(student.model.config, teacher.model.config if teacher else None)
        moving = {option: f"{option} {schedule}" for option, schedule in objective.schedules.items()}
        logger.info(f"objective {name}: {', '.join({'weight': f'weight {objective.weight:g}', **moving}.values())}")
        for line in lines:
            logger.info(f"objective {line}")
        if teacher is not None:
            objective.check_models(student.model, teacher.model)


def _described(plan: Plan) -> str:
    return f"{plan.model.config.model_type}, {plan.parameters / 1e6:.1f} million parameters"
