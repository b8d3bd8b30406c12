"""What a run will cost: steps, memory, and what its teacher is asked; estimates from shapes and from the first rows."""

from __future__ import annotations

import logging

from accelerate import PartialState
from datasets import Dataset

from hf_distill.data.rows import Data
from hf_distill.errors import RecipeError
from hf_distill.models.hardware import multiplies_bfloat16
from hf_distill.models.sizes import sizes_of
from hf_distill.pipeline.experiment import Experiment, Stage

logger = logging.getLogger(__name__)

SAMPLE = 200
"""Rows that are tokenised to learn how long rows are."""


def report_costs(experiment: Experiment, stage: Stage) -> None:
    """Report estimates: steps from the rows; memory from weights, gradients, Adam's moments and rough activations."""
    task, student, teacher = experiment.task, experiment.student, experiment.teacher
    args = stage.arguments
    tokens = task.max_length
    sample = first_rows(experiment.data)
    if sample is not None:
        encoded = task.encode(sample, student.tokenizer)
        tokens, line = task.row_sizes(sorted(encoded["length"]))
        logger.info(line)
    if (steps := steps_of(experiment, stage)) is not None:
        control = ", and as many for the control" if teacher and experiment.recipe.evaluate.control else ""
        logger.info(f"steps: {steps:,} of {_window(stage)} rows{control}")
    weights = 4 * student.parameters + 12 * student.learning + (teacher.bytes if teacher else 0)
    # About 34 half-precision values a token, layer and unit of width (Korthikanti et al. 2022, 4.1), in float32.
    sizes, batch = sizes_of(student.model.config), args.per_device_train_batch_size
    width, layers = getattr(sizes, "hidden_size", 0), getattr(sizes, "num_hidden_layers", 0)
    activations = 2 * 34 * batch * tokens * width * layers if isinstance(width * layers, int) else 0
    logger.info(
        f"memory: about {(weights + activations) / 2**30:.1f} GiB to train "
        f"(an estimate; longest rows of {tokens} positions)"
    )
    if args.bf16 and args.device.type == "cpu" and multiplies_bfloat16() is False:
        logger.info(
            "bf16: this CPU has no instructions that multiply bfloat16, so that float32 is several times as fast here; "
            "set training.bf16: false"
        )


def report_teaching(experiment: Experiment) -> None:
    """Report what the teacher does once before the student learns: texts that it writes, rows that a cache keeps."""
    recipe, data = experiment.recipe, experiment.data
    if recipe.teacher is None or not isinstance(data.train, Dataset):
        return
    rows = _taught_rows(experiment)
    if (label := recipe.label) is not None:
        several = f", {label.hypotheses} each" if label.hypotheses > 1 else ""
        logger.info(f"label: the teacher writes texts for {rows:,} rows{several}, before the student learns")
    if recipe.teacher.is_cached:
        logger.info(f"cache: the teacher reads {rows + len(data.validation):,} rows once, before the student learns")


def steps_of(experiment: Experiment, stage: Stage) -> int | None:
    """How many steps a stage takes; None where nobody can tell, of a stream."""
    data, args = experiment.data, stage.arguments
    if args.max_steps > 0 or not isinstance(data.train, Dataset):
        return args.max_steps if args.max_steps > 0 else None
    return int(args.num_train_epochs * -(-_taught_rows(experiment) // _window(stage)))


def check_batches(experiment: Experiment, stage: Stage) -> None:
    """Refuse a training of no batch: an incomplete one is dropped, and there are too few rows for another."""
    args, rows = stage.arguments, _taught_rows(experiment)
    batch = args.per_device_train_batch_size * PartialState().num_processes
    if args.dataloader_drop_last and 0 < rows < batch:
        raise RecipeError(
            f"recipe.training.dataloader_drop_last: {rows:,} training rows make no batch of {batch:,}, so that nothing "
            "would be learned; set it to false, or lower per_device_train_batch_size"
        )


def _taught_rows(experiment: Experiment) -> int:
    """Rows that a student learns from; 0 of a stream."""
    data = experiment.data
    unlabelled = data.unlabelled if experiment.recipe.teacher is not None else None
    return len(data.train) + len(unlabelled or ()) if isinstance(data.train, Dataset) else 0


def first_rows(data: Data) -> Dataset | None:
    """The first training rows; None of a stream."""
    return data.train.select(range(min(SAMPLE, len(data.train)))) if isinstance(data.train, Dataset) else None


def _window(stage: Stage) -> int:
    """How many rows a step sees."""
    args = stage.arguments
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * PartialState().num_processes
