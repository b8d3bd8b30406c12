"""The teacher of a sweep: how many rows it reads, and how good it is on the validation rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_distill.evaluation.predict import decision_scores
from hf_distill.evaluation.scores import Evaluation, Scores
from hf_distill.pipeline.experiment import Experiment
from hf_distill.pipeline.train import Pair
from hf_distill.tasks import Task
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.teachers import Teacher

logger = logging.getLogger(__name__)

BATCH = 64
"""Rows that are looked up at a time."""


class Counted:
    """Counts the rows that enter a model's forward, of all processes, while the context lasts.

    Args:
        models: None where there is nothing to count; where there are several, each reads a row once.
    """

    rows = 0

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models

    def __enter__(self) -> Counted:
        self._hooks = [model.register_forward_pre_hook(self._count, with_kwargs=True) for model in self.models[:1]]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if self.models and error[0] is None:
            self.rows = sum(gather_object([self.rows]))

    def _count(self, model: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self.rows += len(next(value for value in named.values() if isinstance(value, Tensor)))


def score_teacher(
    experiment: Experiment, teacher: Teacher, paired: Pair, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """How good the teacher is on the validation rows: from what the cache holds, where that is one decision a row."""
    task, outside, cached, validation = experiment.task, experiment.outside, paired.teacher, paired.validation
    plan = cached.plan if cached is not None else None
    assert cached is not None
    assert plan is not None
    assert isinstance(validation, Dataset)
    is_kept = task.row_labels is not None and not outside and "logits" in cached.provides
    scored: Scores
    if is_kept:
        scored = _from_cache(cached, task, validation, tokenizer)
    else:
        config = experiment.recipe.evaluate
        scored = teacher.score(Evaluation(task=task, rows=experiment.rows, config=config, outside=outside))
        teacher.to(torch.device("cpu"))  # Its room on the device is the students' now.
    metric, metrics = experiment.metric, scored.metrics()
    value = metrics[metric]
    logger.info(f"teacher: {metric} {value:.4f} on {len(experiment.rows)} validation rows")
    scored.check_order()
    scored.check_above_chance(metric)
    return {
        "model": teacher.facts["model"],
        "value": value,
        "metrics": metrics,
        "cache": str(plan.folder),
        "rows_kept": plan.rows,
        "scored_from": "cache" if is_kept else "the validation rows, read once more",
    }


def _from_cache(cached: Teacher, task: Task, validation: Dataset, tokenizer: PreTrainedTokenizerBase) -> Scores:
    """What the teacher said of the rows when it read them."""
    collate = with_row_ids(task.collator(tokenizer, cached.tokenizer))
    found = []
    for start in range(0, len(validation), BATCH):
        batch = collate(list(validation.select(range(start, min(start + BATCH, len(validation))))))
        logits = cached.targets(task, batch, frozenset({"logits"})).logits
        assert isinstance(logits, Tensor)
        found.append(logits)
    labels = task.label_set
    assert labels is not None
    everything = torch.cat(found).float().numpy()
    return decision_scores(everything, np.asarray(validation["labels"]), labels.problem_type, labels.names)
