"""Set-up of DistillationTrainer: names become objects; teacher, student and task are seen to fit each other."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from hf_distill.errors import LabelError, ObjectiveError, StudentError, TeacherError
from hf_distill.models.dropout import layer_rates, layerdrop_note
from hf_distill.models.experts import balance_note, balances_experts
from hf_distill.models.forward import STATES
from hf_distill.models.loading import load_config, load_model
from hf_distill.models.precision import runnable_dtype
from hf_distill.models.sanity_checks import check_cache
from hf_distill.models.sizes import token_rows
from hf_distill.objectives import Objective, Router, looks_into_layers, make_objective, named_objectives
from hf_distill.students import frozen_encoder
from hf_distill.tasks import Task, check_class, make_task, task_of
from hf_distill.teachers import ModelTeacher, Teacher
from hf_distill.tokenizers.compare import lacking, reads_alike, same_tokenizer
from hf_distill.tokenizers.processors import load_processor
from hf_distill.tokenizers.readers import Reader, check_tokens_fit, named
from hf_distill.training.step import Step
from hf_distill.types import OF_THE_DATA, Tokenizer


def set_up(
    student: PreTrainedModel,
    given: PreTrainedModel | Teacher | str | None,
    task: Task | str | None,
    objectives: Sequence[Objective | str] | None,
    args: TrainingArguments,
    tokenizer: Tokenizer | None,
    teacher_tokenizer: Tokenizer | None,
) -> Step:
    """Fit what a person hands to DistillationTrainer to each other, see there."""
    task = bound_task(task, student)
    teacher = make_teacher(given, task, args, tokenizer, teacher_tokenizer)
    if objectives is None:
        objectives = ["labels", "logits"] if teacher is not None else ["labels"]
    check_given(objectives)
    made = [make_objective(o, {}) if isinstance(o, str) else o for o in objectives]
    made += [Router()] if balances_experts(student) else []
    step = Step(task=task, teacher=teacher, objectives=named_objectives(made))
    if "pairs" in step.needs:
        step.task = task.with_pairs()
    check_objectives(step.objectives, step.task, args)
    check_provided(step.objectives, teacher)
    if teacher is not None and teacher.tokenizer is not None:
        step.notes += connect_tokenizers(step.objectives, step.task, tokenizer, teacher.tokenizer, teacher.model)
    step.notes += fit_readers(step.task, *readers_of(student, teacher, tokenizer))
    step.task.check_layers(named_lookers(step.objectives))
    for model in (student, *(teacher.models if teacher is not None else ())):
        check_cache(model)
        step.task.check_model(model)
    connect(step, student, args.seed)
    step.notes += layerdrop_note(step.layer_rates)
    step.notes += [str(balance_note(student))] if balances_experts(student) else []
    check_encoder_learns(step.objectives, student)
    if frozen_encoder(student) is not None:
        step.shares_encoder = teacher is not None and teacher.shares_encoder(student)
        whose = "student's and teacher's alike" if step.shares_encoder else "the student's"
        step.notes.append(f"encoder: {whose}, frozen: run once a step, without dropout")
    return step


def connect(step: Step, student: PreTrainedModel, seed: int) -> None:
    """Fit the objectives to the pair, and gather the weights that they bring, new, drawn from the seed alone."""
    teacher, objectives = step.teacher, step.objectives
    step.layer_rates = layer_rates(student) if looks_into_layers(objectives.values()) else []
    for objective in objectives.values():
        objective.module = None
    config = teacher.config if teacher is not None else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        step.notes += [line for objective in objectives.values() for line in objective.connect(student.config, config)]
    if teacher is not None and teacher.model is not None:
        for objective in objectives.values():
            objective.check_models(student, teacher.model)
    maps = [objective.layer_map for objective in objectives.values() if "projections" in objective.needs]
    step.layers = frozenset().union(*maps), frozenset().union(*(each.values() for each in maps))
    for need in STATES:
        asking = [o for o in objectives.values() if need in o.needs]
        chosen = [o.teacher_layers(student.config, config) for o in asking] if config is not None else [None]
        if None not in chosen:
            step.states[need] = frozenset().union(*(layers or () for layers in chosen))
    step.weights = nn.ModuleDict({name: o.module for name, o in objectives.items() if o.module is not None})


def check_provided(objectives: Mapping[str, Objective], teacher: Teacher | None) -> None:
    """Refuse objectives that ask for what the teacher, or the absence of one, cannot give."""
    for name, objective in objectives.items():
        missing = objective.needs - OF_THE_DATA - (teacher.provides if teacher is not None else frozenset())
        if missing:
            whose = "the teacher cannot give them" if teacher is not None else "there is no teacher"
            raise TeacherError(
                f"objective {name} needs {' and '.join(sorted(missing))} of a teacher, but {whose}; name a teacher "
                "that can, or remove the objective"
            )


def bound_task(task: Task | str | None, student: PreTrainedModel) -> Task:
    """The task, knowing its labels; refused where the student has another head, or gives them in another order."""
    task = task_of(student) if task is None else task
    task = make_task(task) if isinstance(task, str) else task
    check_class(task, student)
    if not task.is_bound:
        task.follow(student.config)
    if task.align(student.config) is not None:
        raise LabelError(
            "the student's labels stand in another order than the task's; "
            f"build it with {task.model_options()['id2label']} as its id2label"
        )
    return task


def make_teacher(
    given: Any,
    task: Task,
    args: TrainingArguments,
    tokenizer: Tokenizer | None,
    teacher_tokenizer: Tokenizer | None,
) -> Teacher | None:
    """The teacher that a person gave: one, a model, or an id or folder, loaded in the device's best dtype."""
    if isinstance(given, str | os.PathLike):
        given = os.fspath(given)
        teacher_tokenizer = teacher_tokenizer or load_processor(task.auto_processor, given)
        best = runnable_dtype("auto", args.device, task.tried, load_config(given))
        given = load_model(task.auto_model, given, dtype=best)
    if isinstance(given, PreTrainedModel):
        check_class(task, given)
        made = ModelTeacher(given, teacher_tokenizer if tokenizer is not None else None)
        given = made.beside(tokenizer) if tokenizer is not None else made
    if not isinstance(given, Teacher | None):
        way = "several models are one EnsembleTeacher" if isinstance(given, list | tuple) else "merge adapters first"
        raise TeacherError(
            f"teacher: expected a model, a Teacher, a folder or a Hub id, got {type(given).__name__}; {way}"
        )
    if given is not None:
        given.follow(task)
    return given


def check_given(objectives: Any) -> None:
    """Refuse what is no list of objectives."""
    if isinstance(objectives, (str, Objective)):
        raise ObjectiveError(f"objectives: expected a list, got {objectives!r} alone; put it into one")
    if not objectives:
        raise ObjectiveError("objectives: expected at least one, got none; without one there is nothing to train for")
    if (odd := next((each for each in objectives if not isinstance(each, (str, Objective))), None)) is not None:
        raise ObjectiveError(f"objectives: expected names or objectives, such as Logits(temperature=2.0), got {odd!r}")


def check_objectives(objectives: Mapping[str, Objective], task: Task, args: TrainingArguments) -> None:
    """Refuse objectives that are not defined for a task's outputs, or for the way in which the student runs."""
    for name, objective in objectives.items():
        objective.check(task.distribution)
        if objective.cross_tokenizer and task.metric_across_tokenizers is None:
            raise ObjectiveError(
                f"objective {name}: cross_tokenizer is for causal-lm, whose texts can be compared byte by byte, and "
                f"does nothing for {task.name}; remove it"
            )
        if not task.keeps_logits and not objective.vocabularies:
            raise ObjectiveError(
                f"objective {name} is for tasks of a few classes, but {task.name} has a vocabulary, whose logits are "
                "never held whole; use logits"
            )
        if args.torch_compile and objective.needs & {"projections", "attentions"}:
            raise ObjectiveError(
                f"objective {name} looks into the student's attention while it runs, which a compiled model does not "
                "let it do; set training.torch_compile to false, or use hidden"
            )


def check_encoder_learns(objectives: Mapping[str, Objective], student: PreTrainedModel) -> None:
    """Refuse what would teach an encoder that does not learn."""
    if frozen_encoder(student) is not None and balances_experts(student):
        raise StudentError(
            "student.freeze: its config asks to balance the experts of the encoder, too (output_router_logits), and "
            "these do not learn; set that to false, or remove student.freeze"
        )
    for name, objective in objectives.items():
        if "encoder_states" in objective.needs and frozen_encoder(student) is not None:
            raise ObjectiveError(
                f"objective {name}: side: encoder would teach nothing, since the student's encoder is frozen; remove "
                "it, or student.freeze"
            )


def named_lookers(objectives: Mapping[str, Objective]) -> list[str]:
    """The names of objectives that look into layers."""
    return [name for name, objective in objectives.items() if looks_into_layers([objective])]


def check_tokens(objectives: Mapping[str, Objective], task: Task) -> None:
    """Refuse what compares token by token, where teacher and student cut a text into different tokens."""
    asking = [objective for objective in objectives.values() if objective.needs - OF_THE_DATA]
    task.check_tokenizers(by_bytes=bool(asking) and all(objective.cross_tokenizer for objective in asking))
    for name, objective in objectives.items():
        if objective.compares_tokens:
            raise ObjectiveError(
                f"objective {name} compares token by token, but teacher and student cut a text into different tokens; "
                "use logits, or a student with the teacher's tokenizer"
            )


def readers_of(
    student: PreTrainedModel, teacher: Teacher | None, tokenizer: Tokenizer | None
) -> tuple[list[Reader], list[Reader]]:
    """The student and the models of its teacher, with the tokenizers that make what they read."""
    read = tokenizer if teacher is None or teacher.tokenizer is None else teacher.tokenizer
    models = teacher.models if teacher is not None else ()
    return (
        [Reader(name="the student", model=student, tokenizer=tokenizer)],
        [Reader(name="the teacher", model=model, tokenizer=read) for model in models],
    )


def fit_readers(task: Task, students: Sequence[Reader], teachers: Sequence[Reader]) -> list[str]:
    """Cut rows where the first of all models ends, which the lines tell; refuse tokens that one cannot read.

    A teacher that reads a student's tokens is seen to read all of them.
    """
    lines = list(task.fit_lengths([*students, *teachers]))
    (student,) = students
    shared = [dataclasses.replace(each, tokenizer=student.tokenizer) for each in teachers]
    alike = [a if reads_alike(a.tokenizer, b.tokenizer) else b for a, b in zip(shared, teachers, strict=True)]
    check_tokens_fit([student, *alike])
    return lines


def connect_tokenizers(
    objectives: Mapping[str, Objective],
    task: Task,
    student: Tokenizer | None,
    teacher: Tokenizer,
    model: PreTrainedModel | None = None,
) -> list[str]:
    """Fit objectives to a teacher with other tokens than the student's; gives lines that tell what they share.

    ``model``: The teacher's, whose table of tokens an error names.
    """
    try:
        check_tokens(objectives, task)
    except ObjectiveError as error:
        if student is None or not same_tokenizer(student, teacher):
            raise
        rows = f", whose table of tokens has {token_rows(model)[0]:,} rows" if model is not None else ""
        raise ObjectiveError(
            f"the student's tokenizer has tokens that the teacher's lacks{rows}: {named(lacking(teacher, student))}; "
            "add them to a copy of the teacher (its tokenizer, resize_token_embeddings, some training), remove them "
            f"from the student's tokenizer, or: {error}"
        ) from error
    if student is None:
        raise ObjectiveError("logits: cross_tokenizer needs the student's tokenizer; pass it as processing_class")
    crossing = [objective for objective in objectives.values() if objective.cross_tokenizer]
    return [line for objective in crossing for line in objective.connect_tokenizers(student, teacher)]
