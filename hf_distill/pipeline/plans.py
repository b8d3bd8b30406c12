"""Teacher and student before their weights are loaded: shapes on the meta device, and tokenizers."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import torch
from accelerate import PartialState
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.data.rows import Data
from hf_distill.errors import TeacherError
from hf_distill.models.hardware import chosen_dtype
from hf_distill.models.loading import adapter_of, check_weights, empty_model, load_config, load_generation
from hf_distill.models.precision import dtype_to_save, runnable_dtype, trouble
from hf_distill.names import are_generic, shortened
from hf_distill.recipe import FromParts, LocalTeacher, Recipe, SingleTeacher, TrainedTeacher
from hf_distill.students import (
    Student,
    StudentRequest,
    build_student,
    learning,
    limit_learning,
    of_adapters,
    parts_of,
    quantized,
)
from hf_distill.tasks import Task
from hf_distill.teachers.ensemble import check_one_tokenizer
from hf_distill.tokenizers.processors import load_processor, tokens_known
from hf_distill.tokenizers.readers import Reader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """A model that is not there yet.

    Attributes:
        model: On the meta device: shapes without weights.
        tokenizer: Its own.
        others: Further teachers of the same student.
        dtype: As a recipe names it: in which a teacher runs, and a student is saved.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    others: tuple[ModelPlan, ...] = ()
    dtype: str = "float32"

    def readers(self, name: str) -> list[Reader]:
        """The models that it will be, all of which read its tokens."""
        own = Reader(name=name, model=self.model, tokenizer=self.tokenizer)
        return [own, *(dataclasses.replace(own, model=other.model) for other in self.others)]

    @property
    def parameters(self) -> int:
        """How many it will have."""
        return int(self.model.num_parameters()) + sum(other.parameters for other in self.others)

    @property
    def bytes(self) -> int:
        """What its weights take where they only answer."""
        itemsize = chosen_dtype(self.dtype, PartialState().device).itemsize
        return int(self.model.num_parameters()) * itemsize + sum(other.bytes for other in self.others)

    @property
    def learning(self) -> int:
        """How many of them will learn."""
        return learning(self.model)


def planned_teacher(recipe: Recipe, task: Task, data: Data) -> ModelPlan | None:
    """The teacher's shape and tokenizer, also where its own recipe is still to make it; None where there is none."""
    config = recipe.teacher
    if config is None:
        return None
    if config.endpoint is not None:
        logger.info(f"teacher: served as {config.endpoint.model}")
        return None
    if not config.models:
        logger.info(f"teacher: made by {config.kind_name}")
        return None
    first, *others = (_planned(each, task, data) for each in config.models)
    if not config.members:
        return first
    names = [member.called(number) for number, member in enumerate(config.members)]
    check_one_tokenizer({name: each.tokenizer for name, each in zip(names, (first, *others), strict=True)})
    how = f"one a row, by column {config.columns[0]}" if config.columns else "mixed by their weights"
    logger.info(f"teacher: {len(names)}, {how}; what the student takes of a teacher, it takes of {names[0]}")
    fewest = min((each.tokenizer for each in (first, *others)), key=tokens_known)  # What it reads, all of them read.
    return dataclasses.replace(first, tokenizer=fewest, others=tuple(others))


def _planned(config: SingleTeacher, task: Task, data: Data) -> ModelPlan:
    """One teacher's shape and tokenizer."""

    def trained(config: TrainedTeacher) -> ModelPlan:
        plan = planned_student(config.recipe, task, data, None)
        logger.info(f"teacher: made first, by the recipe {config.recipe.name}: {described(plan)}")
        plan.model.stored_dtype = getattr(torch, plan.dtype)
        return dataclasses.replace(plan, dtype=config.dtype)

    def local(config: LocalTeacher) -> ModelPlan:
        loaded = load_config(config.model, config.revision)
        check_weights(task.auto_model, config.model, loaded)
        order = task.align(loaded, config.labels)
        _report_order(task, loaded, config.labels, order)
        tokenizer = load_processor(task.auto_processor, config.model, config.revision)
        runs_in = runnable_dtype(config.dtype, PartialState().device, task.tried, loaded)
        if reason := trouble(task.tried, loaded, runs_in):
            told = f"{loaded.model_type} does not compute in {config.dtype} ({reason}); set it to float32"
            raise TeacherError(f"teacher.dtype: {told}")
        model = _on_meta(task, loaded, config.model, config.revision)
        plan = ModelPlan(model=model, tokenizer=tokenizer, dtype=_shown(runs_in))
        logger.info(f"teacher: {config.model}: {described(plan)}")
        return plan

    return config.match(local, trained)


def _report_order(task: Task, config: PretrainedConfig, names: list[str] | None, order: list[int] | None) -> None:
    """Report in which order a teacher gives the labels, where it has labels."""
    labels = task.label_set
    if labels is None or labels.problem_type == "regression":
        return
    if names is None and are_generic([str(name) for name in (config.id2label or {}).values()]):
        logger.info(
            f"labels: the teacher's outputs are called LABEL_0, LABEL_1, ...: their order is not verified, and taken "
            f"for {shortened(labels.names)}; name them in teacher.labels"
        )
        return
    how = "the same order" if order is None else "another order; aligned by name"
    logger.info(f"labels: the teacher's stand in {how}")


def planned_student(recipe: Recipe, task: Task, data: Data, teacher: ModelPlan | None) -> ModelPlan:
    """The student's shape and tokenizer."""
    asked = recipe.student
    _check_whole(recipe)
    if (start := asked.start) is not None:
        config = load_config(start.pretrained, start.revision)
        check_weights(task.auto_model, start.pretrained, config, new_head=True, **task.model_options())
        for name, value in task.model_options().items():
            setattr(config, name, value)
        named = start.tokenizer if isinstance(start.tokenizer, str) else None
        of, at = (named, None) if named else (start.pretrained, start.revision)
        tokenizer = load_processor(task.auto_processor, of, at)
        whole = Student(
            model=_on_meta(task, config, start.pretrained, start.revision), tokenizer=tokenizer, origin=start.pretrained
        )
        quantized(asked.adapters)
        with torch.device("meta"):
            student = parts_of(whole, _request(task, data, asked.cut)) if asked.cut is not None else whole
            limit_learning(student.model, asked)
        return ModelPlan(
            model=student.model,
            tokenizer=student.tokenizer,
            dtype=_shown(dtype_to_save(asked.dtype, whole.model.dtype)),
        )
    with torch.device("meta"):
        student = build_student(
            asked,
            auto_model=task.auto_model,
            teacher=teacher.model if teacher else None,
            teacher_tokenizer=teacher.tokenizer if teacher else None,
            texts=lambda: task.texts(data.train),
            model_options=task.model_options(),
            auto_processor=task.auto_processor,
        )
    assert student.dtype is not None
    return ModelPlan(model=student.model, tokenizer=student.tokenizer, dtype=_shown(student.dtype))


def _check_whole(recipe: Recipe) -> None:
    """Refuse to start from a model with adapters."""
    start, cut = recipe.student.start, recipe.student.cut
    teachers = recipe.teacher.models if recipe.teacher is not None else ()
    if start is not None and adapter_of(start.pretrained, start.revision) is not None:
        raise of_adapters("student.pretrained", start.pretrained)
    if start is not None or cut is None or not teachers:
        return
    if teachers[0].match(lambda local: adapter_of(local.model, local.revision), lambda _: None) is not None:
        raise of_adapters(f"student.{cut.parts[0]}", "the teacher")


def _shown(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _request(task: Task, data: Data, cut: FromParts) -> StudentRequest[FromParts]:
    """What parts of something pretrained are made by."""
    return StudentRequest(
        config=cut,
        auto_model=task.auto_model,
        teacher=None,
        teacher_tokenizer=None,
        texts=lambda: task.texts(data.train),
        model_options=task.model_options(),
        auto_processor=task.auto_processor,
    )


def _on_meta(task: Task, config: PretrainedConfig, name: str, revision: str | None) -> PreTrainedModel:
    model = empty_model(task.auto_model, config, name, revision)
    if model.can_generate() and (own := load_generation(name, revision)) is not None:
        model.generation_config = own
    return model


def described(plan: ModelPlan) -> str:
    """Its kind and size, for people."""
    return f"{plan.model.config.model_type}, {plan.parameters / 1e6:.1f} million parameters"
