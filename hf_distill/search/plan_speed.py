"""How fast students would be: random weights in the shapes of a plan, measured in turn with the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from hf_distill.evaluation.predict import Candidate, set_generation
from hf_distill.evaluation.speed import ROUNDS, Timings, measure_calls, timed_calls
from hf_distill.models.hardware import best_dtype, place
from hf_distill.pipeline.plans import ModelPlan
from hf_distill.recipe import LocalTeacher, Recipe
from hf_distill.search.plan_shapes import Sketch
from hf_distill.tasks import Task

TOGETHER = 5
"""Students that are measured in turn with the teacher; more would need more memory."""

COARSE_ROUNDS, COARSE_ROWS = 3, 16
"""While it is searched: rounds, and rows (a whole batch at least); what is chosen is measured as an evaluation does."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How fast a model is: medians, and the quartiles around them.

    Attributes:
        latency_ms: Of one row.
        latency_quartiles: Of all calls.
        samples_per_second: In batches.
        throughput_quartiles: Of all rounds.
        speedup: Times the throughput of the teacher, measured in turn; 1 for itself.
    """

    latency_ms: float
    latency_quartiles: tuple[float, float]
    samples_per_second: float
    throughput_quartiles: tuple[float, float]
    speedup: float


class Stopwatch:
    """Measures sketches beside the teacher.

    Args:
        recipe: Whose evaluation this foretells.
        task: Bound to the data.
        rows: That are evaluated.
        teacher: Without weights.
    """

    def __init__(self, recipe: Recipe, task: Task, rows: Dataset, teacher: ModelPlan) -> None:
        self.recipe, self.task, self.rows, self.teacher = recipe, task, rows, teacher
        self.conditions: dict[str, Any] = {}
        self._writes = _generation_config(recipe) if teacher.model.can_generate() else None

    def coarse(self, sketches: Sequence[Sketch]) -> Iterator[tuple[Sketch, Measured]]:
        """Few rounds on few rows."""
        count = max(COARSE_ROWS, self.recipe.evaluate.batch_size)
        step = max(1, len(self.rows) // count)
        few = self.rows.select(range(0, len(self.rows), step)[:count])
        for start in range(0, len(sketches), TOGETHER):
            group = sketches[start : start + TOGETHER]
            yield from zip(group, self._measure(group, few, COARSE_ROUNDS)[1:], strict=True)

    def exact(self, sketch: Sketch) -> tuple[Measured, Measured]:
        """The teacher and one student, on the rows and in the rounds of an evaluation."""
        teacher, student = self._measure([sketch], self.rows, ROUNDS)
        return teacher, student

    def _measure(self, sketches: Sequence[Sketch], rows: Dataset, rounds: int) -> list[Measured]:
        configs = {"teacher": self.teacher.model.config, **{sketch.name: sketch.config for sketch in sketches}}
        candidates = {name: self._candidate(config) for name, config in configs.items()}
        calls, conditions = timed_calls(candidates, self.task, rows, self.recipe.evaluate.batch_size)
        self.conditions = {**conditions, "rounds": rounds}
        timings = measure_calls(*calls, rounds)
        return [_measured(each, timings["teacher"]) for each in timings.values()]

    def _candidate(self, config: PretrainedConfig) -> Candidate:
        device = PartialState().device
        model: PreTrainedModel = self.task.auto_model.from_config(config, dtype=best_dtype(device))
        place(model, device)
        if self._writes is not None:
            model.generation_config = self._writes
        set_generation(model, self.recipe.evaluate.generation)
        return Candidate(model=model, tokenizer=self.teacher.tokenizer)


def _measured(timings: Timings, teacher: Timings) -> Measured:
    latency, throughput = np.median(timings.latencies_ms), np.median(timings.throughputs)
    return Measured(
        latency_ms=float(latency),
        latency_quartiles=_quartiles(timings.latencies_ms),
        samples_per_second=float(throughput),
        throughput_quartiles=_quartiles(timings.throughputs),
        speedup=float(throughput / np.median(teacher.throughputs)),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.25, 0.75))
    return float(low), float(high)


def _generation_config(recipe: Recipe) -> GenerationConfig | None:
    """How the teacher writes, where a file tells it."""
    assert recipe.teacher is not None
    (model,) = recipe.teacher.models

    def read(teacher: LocalTeacher) -> GenerationConfig | None:
        with suppress(OSError):
            return GenerationConfig.from_pretrained(teacher.model, revision=teacher.revision or "main")
        return None

    return model.match(read, lambda _: None)
