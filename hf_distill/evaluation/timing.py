"""Sizes and speeds of several models on the same rows, measured in turn."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from hf_distill.evaluation.scores import Scoreable
from hf_distill.evaluation.speed import Batch, Forward, disk_bytes, measure_speed, parameters
from hf_distill.generation.generate import generate
from hf_distill.models.forward import accepted_inputs
from hf_distill.models.hardware import best_dtype
from hf_distill.tasks import Task
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.types import TAUGHT_BY

TIMED_ROWS = 64
"""Rows of the evaluated split that latency and throughput are measured on."""

TIMED_TEXTS = 16
"""The same where a text is written for each, token by token."""

ROUNDS = 5
"""How often each model is measured, in turn."""

TimedCalls = tuple[Mapping[str, Forward], Mapping[str, Sequence[Batch]], Mapping[str, Sequence[Batch]]]
"""Arguments of ``measure_speed``."""


def sizes_and_speeds(
    candidates: Mapping[str, Scoreable], task: Task, rows: Dataset, batch_size: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Each model's parameters, bytes, latency and throughput, all in the same precision; and the conditions.

    Precision is what the device computes best, for all models alike; outputs are not compared here.
    """
    before = [(model, model.dtype) for candidate in candidates.values() for model in candidate.models]
    calls, conditions = timed_calls(candidates, task, rows, batch_size)
    speeds = measure_speed(*calls, ROUNDS)
    facts = {
        name: {
            "parameters": sum(map(parameters, candidate.models)),
            "disk_bytes": sum(map(disk_bytes, candidate.folders)),
            **speeds[name],
        }
        for name, candidate in candidates.items()
    }
    for model, dtype in before:
        _cast(model, dtype)
    return facts, conditions


def timed_calls(
    candidates: Mapping[str, Scoreable], task: Task, rows: Dataset, batch_size: int
) -> tuple[TimedCalls, dict[str, Any]]:
    """What is measured of each model, by name: forwards, single rows and batches; and the conditions.

    The models are left in the precision that they are measured in.
    """
    models = [model for candidate in candidates.values() for model in candidate.models]
    device = models[0].device
    dtype = best_dtype(device)
    generates = task.timed_as == "generate"
    count = TIMED_TEXTS if generates else TIMED_ROWS
    step = max(1, len(rows) // count)
    timed = task.timed(rows.select(range(0, len(rows), step)[:count]))
    for model in models:
        model.eval()
        _cast(model, dtype)
    singles = {name: _batches(candidate, task, timed, 1) for name, candidate in candidates.items()}
    batches = {name: _batches(candidate, task, timed, batch_size) for name, candidate in candidates.items()}
    tokens = _written_tokens(batches) if generates else 0
    forwards = {
        name: functools.partial(_generate, candidate.models[0], tokens)
        if generates
        else functools.partial(candidate.run, has_vocabulary=False)
        for name, candidate in candidates.items()
    }
    conditions = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "rounds": ROUNDS,
        "rows": len(timed),
        **({"written_tokens": tokens} if generates else {}),
    }
    return (forwards, singles, batches), conditions


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    model.to(dtype=dtype)


def _generate(model: PreTrainedModel, tokens: int, batch: Batch) -> Any:
    """The likeliest text of so many tokens: as long for all models, whatever they have to say."""
    inputs = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
    return generate(model, inputs, {"do_sample": False, "num_beams": 1, **length})


def _written_tokens(batches: Mapping[str, Sequence[Batch]]) -> int:
    """The usual length of a batch's longest target."""
    lengths = [batch["decoder_input_ids"].shape[1] for batch in next(iter(batches.values()))]
    return int(np.median(lengths))


def _batches(candidate: Scoreable, task: Task, rows: Dataset, size: int) -> Sequence[Batch]:
    assert candidate.tokenizer is not None
    encoded = task.encode(rows, candidate.tokenizer)
    assert isinstance(encoded, Dataset)
    collate = with_row_ids(task.collator(candidate.tokenizer))
    listed = list(encoded.sort("length"))
    device = candidate.models[0].device
    collated = [task.student_inputs(collate(listed[i : i + size])) for i in range(0, len(listed), size)]
    # What none of its models reads is left out, but for the teacher of each row.
    names = {TAUGHT_BY, *(name for model in candidate.models for name in accepted_inputs(model, collated[0]))}
    return [{name: value.to(device) for name, value in batch.items() if name in names} for batch in collated]
