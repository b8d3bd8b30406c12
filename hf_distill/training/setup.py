"""What DistillationTrainer makes of what a person hands it: names become objects, and both models are seen to fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from hf_distill.errors import LabelError, ObjectiveError
from hf_distill.models.forward import STATES
from hf_distill.models.load import load_model, load_tokenizer
from hf_distill.objectives import Objective, make_objective
from hf_distill.students import frozen_encoder
from hf_distill.tasks import Task, make_task
from hf_distill.teachers import Ensemble, ModelTeacher, Teacher, best_dtype, same_tokenizer, teacher_of
from hf_distill.tokenizers.train import fitted
from hf_distill.types import OF_THE_DATA, TAUGHT_BY, Batch, Need


def with_row_ids(collate: Callable[..., Batch]) -> Callable[..., Batch]:
    """Let batches carry the ids by which a cache knows their rows, and which of several teachers teaches each."""

    def collate_with_ids(rows: list[dict[str, Any]]) -> Batch:
        batch = collate(rows)
        carried = [name for name in ("row_id", TAUGHT_BY) if name in rows[0]]
        return {**batch, **{name: torch.tensor([row[name] for row in rows]) for name in carried}}

    return collate_with_ids


class Encoder:
    """Tokenises a data set with the task, unless that was done already."""

    def __init__(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        self.task, self.tokenizer, self.teacher_tokenizer = task, tokenizer, teacher_tokenizer

    def __call__(self, rows: Any) -> Any:
        """The rows, or each part of a dictionary of rows, as tokens; whatever else it is comes back as it is."""
        if isinstance(rows, dict):
            return {name: self(part) for name, part in rows.items()}
        if not isinstance(rows, (Dataset, IterableDataset)):
            return rows
        columns = rows.column_names or list(next(iter(rows)))
        return rows if "input_ids" in columns else self.task.encode(rows, self.tokenizer, self.teacher_tokenizer)


def bound_task(task: Task | str, student: PreTrainedModel) -> Task:
    """The task, knowing its labels; refused where the student gives them in another order."""
    task = make_task(task) if isinstance(task, str) else task
    if not task.is_bound:
        task.follow(student.config)
    if task.align(student.config) is not None:
        raise LabelError(
            "the student's labels stand in another order than the task's; "
            f"build it with {task.model_options()['id2label']} as its id2label"
        )
    return task


def as_teacher(
    teacher: PreTrainedModel | Teacher | str | None,
    task: Task,
    args: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> Teacher | None:
    """The teacher that a person named by a model, an id or a folder; loaded in the device's best dtype."""
    if teacher is None or isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, str):
        teacher_tokenizer = teacher_tokenizer or load_tokenizer(teacher)
        teacher = load_model(task.auto_model, teacher, dtype=best_dtype(args.device))
    if isinstance(teacher, Ensemble):
        teacher.follow(task)
    order = task.align(teacher.config)
    if tokenizer is None or teacher_tokenizer is None:
        return teacher_of(teacher, None, order)
    return beside(teacher_of(teacher, teacher_tokenizer, order), tokenizer)


def check_objectives(objectives: Mapping[str, Objective], task: Task, args: TrainingArguments) -> None:
    """Refuse objectives that are not defined for a task's outputs, or for the way in which the student runs.

    Raises:
        ObjectiveError: With the way out.
    """
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
    """Refuse what would teach an encoder that does not learn.

    Raises:
        ObjectiveError: With the way out.
    """
    for name, objective in objectives.items():
        if "encoder_states" in objective.needs and frozen_encoder(student) is not None:
            raise ObjectiveError(
                f"objective {name}: side: encoder would teach nothing, since the student's encoder is frozen; remove "
                "it, or student.freeze"
            )


def looked_at(objectives: Mapping[str, Objective]) -> tuple[frozenset[int], frozenset[int]]:
    """The layers, of the student and of the teacher, whose projections objectives look at."""
    maps = [objective.layer_map for objective in objectives.values() if "projections" in objective.needs]
    return frozenset().union(*maps), frozenset().union(*(each.values() for each in maps))


def states_looked_at(
    objectives: Collection[Objective], student: PretrainedConfig, teacher: PretrainedConfig
) -> dict[Need, frozenset[int]]:
    """Which of the teacher's hidden states objectives look at, by what they are called; what is not there: all."""
    looked: dict[Need, frozenset[int]] = {}
    for need in STATES:
        chosen = [o.teacher_layers(student, teacher) for o in objectives if need in o.needs]
        found = [layers for layers in chosen if layers is not None]
        if len(found) == len(chosen):
            looked[need] = frozenset().union(*found)
    return looked


def check_tokens(objectives: Mapping[str, Objective], task: Task) -> None:
    """Refuse what compares token by token, where teacher and student cut a text into different tokens.

    Raises:
        ObjectiveError: With the way out.
        RecipeError: Where the task's settings leave no common bytes.
    """
    asking = [objective for objective in objectives.values() if objective.needs - OF_THE_DATA]
    task.check_tokenizers(by_bytes=bool(asking) and all(objective.cross_tokenizer for objective in asking))
    for name, objective in objectives.items():
        if objective.compares_tokens:
            raise ObjectiveError(
                f"objective {name} compares token by token, but teacher and student cut a text into different tokens; "
                "use logits, or a student with the teacher's tokenizer"
            )


def beside(teacher: ModelTeacher, tokenizer: PreTrainedTokenizerBase) -> ModelTeacher:
    """The teacher of a student with this tokenizer: it reads the student's tokens, or its own where these differ."""
    if teacher.tokenizer is None or same_tokenizer(tokenizer, teacher.tokenizer):
        return teacher_of(teacher.model, None, teacher.label_order)
    return teacher_of(teacher.model, fitted(teacher.tokenizer, teacher.model), teacher.label_order)


def connect_tokenizers(
    objectives: Mapping[str, Objective],
    task: Task,
    student: PreTrainedTokenizerBase | None,
    teacher: PreTrainedTokenizerBase,
) -> list[str]:
    """Fit objectives to a teacher with other tokens than the student's; gives lines that tell what they share.

    Raises:
        ObjectiveError: For objectives that compare token by token.
        ModelError: For tokenizers that cannot be compared.
        RecipeError: Where the task's settings leave no common bytes.
    """
    check_tokens(objectives, task)
    crossing = [objective for objective in objectives.values() if objective.cross_tokenizer]
    if student is None:
        raise ObjectiveError("logits: cross_tokenizer needs the student's tokenizer; pass it as processing_class")
    return [line for objective in crossing for line in objective.connect_tokenizers(student, teacher)]


def chosen_objectives(objectives: Sequence[Objective | str] | None, teacher: Teacher | None) -> list[Objective]:
    """The objectives, made where they are names; ``labels``, and ``logits`` with a teacher, where there are none.

    Raises:
        ObjectiveError: For an empty list.
    """
    if objectives is None:
        objectives = ["labels", "logits"] if teacher is not None else ["labels"]
    if not objectives:
        raise ObjectiveError("objectives: expected at least one, got none; without one there is nothing to train for")
    return [make_objective(o, {}) if isinstance(o, str) else o for o in objectives]
