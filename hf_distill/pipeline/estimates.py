"""What a recipe would take, told before anything is trained: steps, memory, and a dtype that is slow here."""

from __future__ import annotations

import logging

from accelerate import PartialState
from datasets import Dataset

from hf_distill.data.load import Data
from hf_distill.models.hardware import multiplies_bfloat16
from hf_distill.pipeline.experiment import Experiment, Stage

logger = logging.getLogger(__name__)


SAMPLE = 200
"""Rows that are tokenised to learn how long rows are."""


def report_costs(experiment: Experiment, stage: Stage) -> None:
    """Report estimates: steps from the rows; memory from weights, gradients, Adam's moments and rough activations."""
    task, data, student, teacher = experiment.task, experiment.data, experiment.student, experiment.teacher
    args = stage.arguments
    batch = args.per_device_train_batch_size
    tokens = task.max_length
    sample = first_rows(data)
    if sample is not None:
        encoded = task.encode(sample, student.tokenizer)
        lengths = sorted(encoded["length"])
        tokens = lengths[-1]
        logger.info(
            f"tokens a row: median {lengths[len(lengths) // 2]}, longest {tokens} in {len(lengths)} rows "
            f"(cut at {task.max_length})"
        )
    if isinstance(data.train, Dataset):
        rows = len(data.train) + (len(data.unlabelled) if teacher and data.unlabelled is not None else 0)
        window = batch * args.gradient_accumulation_steps * PartialState().num_processes
        steps = args.max_steps if args.max_steps > 0 else int(args.num_train_epochs * -(-rows // window))
        logger.info(
            f"steps: {steps:,} of {window} rows"
            + (", and as many for the control" if teacher and experiment.recipe.evaluate.control else "")
        )
    weights = 4 * student.parameters + 12 * student.learning + (teacher.bytes if teacher else 0)
    # About 34 half-precision values a token, layer and unit of width (Korthikanti et al. 2022, 4.1), in float32.
    activations = 2 * 34 * batch * tokens * student.model.config.hidden_size * student.model.config.num_hidden_layers
    logger.info(
        f"memory: about {(weights + activations) / 2**30:.1f} GiB to train "
        f"(an estimate; longest rows of {tokens} tokens)"
    )
    if args.bf16 and args.device.type == "cpu" and multiplies_bfloat16() is False:
        logger.info(
            "bf16: this CPU has no instructions that multiply bfloat16, so that float32 is several times as fast here; "
            "set training.bf16: false"
        )


def first_rows(data: Data) -> Dataset | None:
    """The first training rows; None of a stream."""
    return data.train.select(range(min(SAMPLE, len(data.train)))) if isinstance(data.train, Dataset) else None
