"""What is asked of a trainer by arguments and rows, and refused before anything is trained where it cannot be done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, Seq2SeqTrainer, TrainingArguments

from hf_distill.errors import DataError, ObjectiveError, StudentError
from hf_distill.tasks import Task
from hf_distill.tasks.encoding import columns_of
from hf_distill.training.step import Step
from hf_distill.types import IGNORED

logger = logging.getLogger(__name__)

LABEL_NAMES = frozenset({"label", "labels", "label_ids", "answers", "start_positions"})

_LOGGED = ("loss", "runtime", "samples_per_second", "steps_per_second")


def check_learner(model: Any, teacher: Any, *, trains: bool) -> None:
    """Refuse a student that cannot learn: compiled before it has its hooks, frozen, or its own teacher."""
    if hasattr(model, "_orig_mod"):
        raise StudentError("model: it is compiled; pass the model itself, and set torch_compile in TrainingArguments")
    if model is not None and model is teacher:
        raise StudentError("teacher: it is the student itself, which would be frozen; load or copy it once more")
    if trains and model is not None and not any(parameter.requires_grad for parameter in model.parameters()):
        raise StudentError("model: none of its parameters learns; set requires_grad of some to True")


def check_arguments(args: Any, model: Any, model_init: Any, compute_loss_func: Any) -> None:
    """Refuse arguments that are no student, no TrainingArguments, or another loss than the objectives'."""
    if not isinstance(args, TrainingArguments):
        raise StudentError(
            f"args: expected TrainingArguments, got {type(args).__name__}: the order is that of Trainer (model, args, "
            "data_collator, ...); pass teacher, task and objectives by name"
        )
    if (model is None) == (model_init is None):
        got = "neither" if model is None else "both"
        raise StudentError(f"expected a student as model, or a model_init that makes one, got {got}; pass one of them")
    if model is not None and getattr(model, "config", None) is None:
        raise StudentError(
            f"model: expected a Transformers model, got {type(model).__name__}, without a config that tells what its "
            "outputs mean; wrap it as a PreTrainedModel"
        )
    told = "would do nothing: the objectives are the loss"
    if args.label_smoothing_factor:
        raise ObjectiveError(
            f"args.label_smoothing_factor {told}; set it to 0, the teacher's logits are the soft labels"
        )
    if compute_loss_func is not None:
        raise ObjectiveError(f"compute_loss_func {told}; remove it, or write it as a subclass of hf_distill.Objective")


def check_predictions(
    task: Task,
    student: PreTrainedModel,
    args: TrainingArguments,
    compute_metrics: Callable[..., Any] | None,
    preprocess: Callable[..., Any] | None,
) -> None:
    """Refuse metrics that would be computed of nothing, and a student that could write or be saved by no file."""
    writes = bool(getattr(args, "predict_with_generate", False))
    if writes and not (student.config.is_encoder_decoder and student.can_generate()):
        raise ObjectiveError(
            f"args.predict_with_generate: expected an encoder-decoder, got {type(student).__name__} ({task.name}), "
            "whose inputs hold the answers; set it to False, and score texts with hf_distill.evaluate"
        )
    if compute_metrics is not None and not task.keeps_logits and preprocess is None and not writes:
        raise ObjectiveError(
            f"compute_metrics: the logits of {task.name} go over a vocabulary and are never held for a whole data set; "
            "pass preprocess_logits_for_metrics, which makes them small (argmax), or remove it"
        )
    if not student.can_generate() or student.generation_config is None:
        return
    given = getattr(args, "generation_config", None)
    if writes and given is not None:
        try:
            student.generation_config = Seq2SeqTrainer.load_generation_config(given)
        except ValueError as error:
            raise StudentError(f"args.generation_config: {error}") from error
    try:
        student.generation_config.validate(strict=True)
    except ValueError as error:
        told = f"{error}; it could not be saved with a checkpoint: correct it before training"
        raise StudentError(f"model.generation_config: {told}") from error


def check_best_metric(args: TrainingArguments, step: Step, evaluated: Any) -> None:
    """Refuse a ``metric_for_best_model`` that no evaluation would log."""
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    asked = args.metric_for_best_model.removeprefix("eval_")
    names = [f"{name}_" for name in evaluated] if isinstance(evaluated, dict) else [""]
    known = [name + each for name in names for each in (*_LOGGED, *(f"loss_{name}" for name in step.objectives))]
    if asked not in known:
        raise ObjectiveError(
            f"args.metric_for_best_model: {asked!r} is not among what evaluations log ({', '.join(known)}): the best "
            "checkpoint could not be told; name one of these, or pass compute_metrics that gives it"
        )
    rows = evaluated.get(asked.removesuffix("_loss")) if isinstance(evaluated, dict) else evaluated
    if {objective.unit for objective in step.objectives.values()} == {"labels"} and _lacks_labels(step.task, rows):
        raise DataError(
            f"args.metric_for_best_model: {asked!r} is not logged for an eval_dataset without labels (its columns are "
            f"{', '.join(columns_of(rows))}); add a column label, or set load_best_model_at_end to False"
        )


def labels_of_training(step: Step, rows: Any, *, answered: bool = True) -> list[str]:
    """Lines that tell what the labels are made of; refused where an objective needs some and there are none.

    ``answered``: whether the rows hold what is learned, and are no prompts alone.
    """
    if answered:
        _check_rows(rows, step.task)
    if "labels" not in step.needs or not isinstance(rows, (Dataset, IterableDataset)):
        return []
    columns = columns_of(rows)
    if _lacks_labels(step.task, rows):
        raise DataError(
            f"train_dataset: no column label or labels among {', '.join(columns)}, which the objective labels needs; "
            "rename the right one, or give objectives that need none (logits)"
        )
    if "input_ids" in columns and "labels" not in columns and step.task.name == "causal-lm":
        line = "labels: rows have none, so every token counts that a completion_mask or assistant_masks leave"
        logger.info(line)
        return [line]
    return []


def _check_rows(rows: Any, task: Task) -> None:
    """Refuse tokenised rows of which nothing can be learned."""
    if not isinstance(rows, Dataset) or not len(rows):
        return
    names = [name for name in ("input_ids", "labels") if name in rows.column_names]
    if "input_ids" not in names:
        return
    plain = rows.with_format(None).select_columns(names)
    for name, value in plain[0].items():
        wrong = name == "input_ids" and any(isinstance(number, float) for number in value or ())
        if value is None or wrong:
            told = "null" if value is None else str(value)[:60]
            raise DataError(f"train_dataset: row 0 has {told} in {name}, where whole numbers are meant; correct it")
    counted = "labels" if isinstance(plain[0].get("labels"), list) else "input_ids"
    # Without labels the tokens are their own, of which the first is nobody's target.
    if counted in names and (counted == "labels" or ("labels" not in names and task.name == "causal-lm")):
        first = 0 if counted == "labels" else 1
        if not any(label != IGNORED for row in plain for label in row[counted][first:]):
            raise DataError(
                f"train_dataset: no token of its {len(rows):,} rows counts (labels of {IGNORED} alone, or rows of one "
                "token), so that nothing would be learned; give labels where something is to be learned"
            )


def _lacks_labels(task: Task, rows: Any) -> bool:
    """Whether rows of a task whose labels stand in a column have no such column."""
    if not isinstance(rows, (Dataset, IterableDataset)) or not LABEL_NAMES & {*task.required}:
        return False
    return not LABEL_NAMES & set(columns_of(rows))
