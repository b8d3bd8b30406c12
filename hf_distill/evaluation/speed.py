"""How large and how fast models are: parameters, bytes on disk, latency and throughput, measured in turn."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill.errors import ModelError
from hf_distill.evaluation.scores import Scoreable
from hf_distill.generation.generate import generate
from hf_distill.models.forward import accepted_inputs
from hf_distill.models.loading import stored_dtype
from hf_distill.models.precision import common_dtype
from hf_distill.tasks import Task
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.types import TAUGHT_BY

TIMED_ROWS = 64
"""Rows of the evaluated split that latency and throughput are measured on."""

TIMED_TEXTS = 16
"""The same where a text is written for each, token by token."""

ROUNDS = 5
"""How often each model is measured, in turn."""

Batch = Mapping[str, Tensor]
"""A batch as the model takes it, on the model's device; each tensor is ``[B, ...]``."""

Batches = Mapping[str, Sequence[Batch]]
"""By the name of the model."""

Forward = Callable[[Batch], Any]


@dataclass(frozen=True)
class Timings:
    """Latencies of every call on one row of a model, and rows a second of every round of batches."""

    latencies_ms: Sequence[float]
    throughputs: Sequence[float]


def parameters(model: nn.Module) -> int:
    """Count the parameters of a model, tied ones once."""
    return sum(each.numel() for each in model.parameters())


def disk_bytes(folder: Path) -> int:
    """Sum the bytes of the weights in a model folder and their index; of ``pytorch_model*.bin`` where that is all."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*_Dense/*.safetensors")] or list(
        folder.glob("pytorch_model*.bin")
    )
    if not weights:
        raise ModelError(f"expected *.safetensors in {folder}, found none; save the model with save_pretrained first")
    return sum(each.stat().st_size for each in [*weights, *folder.glob("*.safetensors.index.json")])


def _disk_dtype(folders: Sequence[Path]) -> str | None:
    """In which dtype all of them are; None where they differ, are no safetensors, or there are none."""
    found = {str(stored_dtype(str(folder))).removeprefix("torch.") for folder in folders} - {"None"}
    return found.pop() if len(found) == 1 else None


def measure_speed(
    forwards: Mapping[str, Forward], singles: Batches, batches: Batches, rounds: int = ROUNDS
) -> dict[str, dict[str, float]]:
    """The medians of :func:`measure_calls`."""
    return {
        name: {"latency_ms": median(each.latencies_ms), "samples_per_second": median(each.throughputs)}
        for name, each in measure_calls(forwards, singles, batches, rounds).items()
    }


def measure_calls(
    forwards: Mapping[str, Forward], singles: Batches, batches: Batches, rounds: int = ROUNDS
) -> dict[str, Timings]:
    """Measure all models in turn (A B C, A B C, ...), so that a machine that slows down slows all of them.

    One round more is run first, as a warm-up, and not counted.
    """
    calls: dict[str, list[float]] = {name: [] for name in forwards}
    throughputs: dict[str, list[float]] = {name: [] for name in forwards}
    with torch.inference_mode():
        for round_number in range(rounds + 1):
            for name, forward in forwards.items():
                call_seconds = [_seconds(forward, batch) for batch in singles[name]]
                batch_seconds = sum(_seconds(forward, batch) for batch in batches[name])
                if round_number > 0:
                    calls[name] += call_seconds
                    throughputs[name].append(sum(len(_first(batch)) for batch in batches[name]) / batch_seconds)
    return {name: Timings([1000 * each for each in calls[name]], throughputs[name]) for name in forwards}


def _first(batch: Batch) -> Tensor:
    """One of its tensors: all have one row for each text, picture or sound, and are on one device."""
    return next(iter(batch.values()))


def _seconds(forward: Forward, batch: Batch) -> float:
    def now() -> float:
        # CUDA returns before the work is done.
        if (read := _first(batch)).is_cuda:
            torch.cuda.synchronize(read.device)
        return time.perf_counter()

    start = now()
    forward(batch)
    return now() - start


TimedCalls = tuple[Mapping[str, Forward], Batches, Batches]
"""Arguments of ``measure_speed``."""


def sizes_and_speeds(
    candidates: Mapping[str, Scoreable], task: Task, rows: Dataset, batch_size: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Each model's parameters, bytes, latency and throughput, all in the same precision; and the conditions.

    Of rows of sound further the real-time factor in batches: seconds of work for one second that is heard.

    Precision is what the device computes best, for all models alike; outputs are not compared here.
    """
    models: list[Any] = [model for candidate in candidates.values() for model in candidate.models]
    before = [model.dtype for model in models]
    calls, conditions = timed_calls(candidates, task, rows, batch_size)
    speeds = measure_speed(*calls, ROUNDS)
    if (seconds := conditions.get("seconds_of_sound")) is not None:
        for speed in speeds.values():
            speed["real_time_factor"] = conditions["rows"] / seconds / speed["samples_per_second"]
    facts = {
        name: {
            "parameters": sum(map(parameters, candidate.models)),
            "disk_bytes": sum(map(disk_bytes, candidate.folders)),
            "disk_dtype": _disk_dtype(candidate.folders),
            **speeds[name],
        }
        for name, candidate in candidates.items()
    }
    for model, dtype in zip(models, before, strict=True):
        model.to(dtype=dtype)
    return facts, conditions


def timed_calls(
    candidates: Mapping[str, Scoreable], task: Task, rows: Dataset, batch_size: int
) -> tuple[TimedCalls, dict[str, Any]]:
    """What is measured of each model, which is left in the precision for it; and the conditions."""
    models: list[Any] = [model for candidate in candidates.values() for model in candidate.models]
    device = models[0].device
    dtype = common_dtype(device, models if task.keeps_logits else [])
    generates = task.timed_as == "generate"
    count = TIMED_TEXTS if generates else TIMED_ROWS
    step = max(1, len(rows) // count)
    timed = task.timed(rows.select(range(0, len(rows), step)[:count]))
    for model in models:
        model.eval().to(dtype=dtype)
    singles = {name: _batches(candidate, task, timed, 1) for name, candidate in candidates.items()}
    batches = {name: _batches(candidate, task, timed, batch_size) for name, candidate in candidates.items()}
    first = next(iter(batches.values()))
    # The usual length of a batch's longest target.
    tokens = int(np.median([each["decoder_input_ids"].shape[1] for each in first])) if generates else 0
    forwards = {
        name: functools.partial(_generate, task, candidate.models[0], tokens)
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
        **({"seconds_of_sound": round(seconds, 2)} if (seconds := task.seconds_of(timed)) else {}),
    }
    return (forwards, singles, batches), conditions


def _generate(task: Task, model: PreTrainedModel, tokens: int, batch: Batch) -> Any:
    """The likeliest text of so many tokens: as long for all models, whatever they have to say."""
    begun = task.begun(batch)
    inputs = {**{name: value for name, value in batch.items() if not name.startswith("decoder_")}, **begun}
    more = max(1, tokens - max((given.shape[1] for given in begun.values()), default=0))
    settings = {"do_sample": False, "num_beams": 1, "min_new_tokens": more, "max_new_tokens": more}
    return generate(model, inputs, settings)


def _batches(candidate: Scoreable, task: Task, rows: Dataset, size: int) -> Sequence[Batch]:
    assert candidate.tokenizer is not None
    collate = with_row_ids(task.collator(candidate.tokenizer))
    encoded: Any = task.encode(rows, candidate.tokenizer)
    listed = list(encoded.sort("length"))
    device = candidate.models[0].device
    collated = [task.student_inputs(collate(listed[i : i + size])) for i in range(0, len(listed), size)]
    # What none of its models reads is left out, but for the teacher of each row.
    names = {TAUGHT_BY, *(name for model in candidate.models for name in accepted_inputs(model, collated[0]))}
    return [{name: value.to(device) for name, value in batch.items() if name in names} for batch in collated]
