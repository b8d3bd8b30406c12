"""Teacher, student and control on the same rows: predictions, sizes, speeds and the results that come of them."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from hf_distill.evaluation.classification import ClassScores, LabelSetScores
from hf_distill.evaluation.language_modeling import score_tokens
from hf_distill.evaluation.question_answering import score_answers
from hf_distill.evaluation.regression import RealScores, SimilarityScores
from hf_distill.evaluation.retrieval import score_vectors
from hf_distill.evaluation.scores import DecisionScores, Scores
from hf_distill.evaluation.served import Served, score_served
from hf_distill.evaluation.speed import Batch, Forward, disk_bytes, measure_speed, parameters
from hf_distill.evaluation.text_metrics import make_scorers, scorer_names
from hf_distill.evaluation.token_classification import score_tags
from hf_distill.evaluation.written import write_and_score
from hf_distill.generation.generate import generate
from hf_distill.models.forward import accepted_inputs
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import Task
from hf_distill.teachers import best_dtype, same_tokenizer
from hf_distill.training.setup import with_row_ids

TIMED_ROWS = 64
"""Rows of the evaluated split that latency and throughput are measured on."""

TIMED_TEXTS = 16
"""The same where a text is written for each, token by token."""

ROUNDS = 5
"""How often each model is measured, in turn."""


DECISIONS: Mapping[str, type[DecisionScores]] = {
    "single_label_classification": ClassScores,
    "multi_label_classification": LabelSetScores,
    "regression": RealScores,
    "similarity": SimilarityScores,
}
"""What scores one decision a row, by problem type."""

TimedCalls = tuple[Mapping[str, Forward], Mapping[str, Sequence[Batch]], Mapping[str, Sequence[Batch]]]
"""Arguments of ``measure_speed``."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that is evaluated.

    Attributes:
        model: With the task's head.
        tokenizer: Its own.
        folder: Where its weights lie.
        facts: What the card tells of it: ``model``, ``hub_id``, ``revision``, ``license``, ``origin``.
        label_order: For each label of the data the index of the model's output, see ``Task.align``.
        members: Where the model is an ensemble, what it is made of.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    facts: Mapping[str, Any]
    label_order: list[int] | None = None
    members: tuple[Candidate, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its weights lie, each member's."""
        return tuple(each.folder for each in self.members) or (self.folder,)


def predict(
    candidate: Candidate | Served,
    task: Task,
    rows: Dataset,
    teacher: Candidate | Served | None = None,
    config: EvaluateConfig | None = None,
    batch_size: int = 64,
    outside: Dataset | None = None,
) -> Scores:
    """What a model gives on labelled rows, in the order of the rows and of the data's labels.

    Args:
        candidate: The model.
        task: Bound to the data.
        rows: With the task's columns.
        teacher: What it is compared with token by token, where tokens are scored.
        config: How and by what texts are written and judged, where the task or the recipe asks for some.
        batch_size: Rows of a forward pass; an eighth of them where a row is as long as the model reads.
        outside: Rows that are of none of the classes, where the task has such.
    """
    if isinstance(candidate, Served):
        return score_served(candidate, task, rows, config or EvaluateConfig())
    asked = _Asked(candidate, task, rows, teacher, config, batch_size, outside)
    return SCORE_FUNCTIONS[task.scored_as](asked)


class _Asked(NamedTuple):
    """The arguments of :func:`predict` for a model that is here."""

    candidate: Candidate
    task: Any
    rows: Dataset
    teacher: Candidate | Served | None
    config: EvaluateConfig | None
    batch_size: int
    outside: Dataset | None

    @property
    def place(self) -> tuple[PreTrainedModel, Any, PreTrainedTokenizerBase]:
        return self.candidate.model, self.task, self.candidate.tokenizer

    @property
    def encoded(self) -> Dataset:
        encoded: Dataset = self.task.encode(self.rows, self.candidate.tokenizer)
        return encoded


def _token_scores(asked: _Asked) -> Scores:
    task, tokenizer, config = asked.task, asked.candidate.tokenizer, asked.config
    alike = asked.teacher is not None and same_tokenizer(tokenizer, asked.teacher.tokenizer)
    other = asked.teacher.model if asked.teacher is not None and alike else None
    few, sizes = max(1, asked.batch_size // 8), [len(text.encode()) for text in task.texts(asked.rows)]
    scores = score_tokens(*asked.place, asked.encoded, other, few, sizes)
    names = scorer_names(task, config.scorers if config is not None else ())
    if not names:
        return scores
    settings = config.generation if config is not None else {}
    size = config.batch_size if config is not None else few
    written = write_and_score(*asked.place, asked.rows, names, settings, size)
    return dataclasses.replace(scores, written=written)


def _decisions(asked: _Asked) -> DecisionScores:
    candidate, task, encoded, labels = asked.candidate, asked.task, asked.encoded, asked.task.row_labels
    outside = task.encode(asked.outside, candidate.tokenizer) if asked.outside else None
    return decision_scores(
        _logits(candidate, task, encoded, asked.batch_size),
        np.asarray(encoded["labels"]),
        labels.problem_type,
        labels.names,
        _logits(candidate, task, outside, asked.batch_size) if outside is not None else None,
        make_scorers(asked.config.scorers) if asked.config is not None else (),
    )


def decision_scores(logits: np.ndarray, labels: np.ndarray, problem_type: str, *more: Any) -> DecisionScores:
    """Scores of one decision a row, of the kind that the labels are."""
    return DECISIONS[problem_type](logits, labels, problem_type, *more)


SCORE_FUNCTIONS: dict[str, Callable[[_Asked], Scores]] = {
    "decisions": _decisions,
    "tags": lambda asked: score_tags(*asked.place, asked.encoded, asked.candidate.label_order, asked.batch_size),
    "answers": lambda asked: score_answers(*asked.place, asked.rows, asked.batch_size),
    "vectors": lambda asked: score_vectors(*asked.place, asked.rows, asked.batch_size),
    "tokens": _token_scores,
}
"""What scores a model, by a task's ``scored_as``."""


def _logits(candidate: Candidate, task: Task, encoded: Any, batch_size: int) -> np.ndarray:
    """What a model gives for every encoded row, in the order of the data's labels."""
    order = np.argsort(encoded["length"], kind="stable")
    collate = with_row_ids(task.collator(candidate.tokenizer))
    with tempfile.TemporaryDirectory() as scratch:
        args = TrainingArguments(
            scratch,
            per_device_eval_batch_size=batch_size,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=candidate.model, args=args, data_collator=lambda rows: task.student_inputs(collate(rows))
        )
        sorted_logits = trainer.predict(encoded.select(order)).predictions
    logits = np.empty_like(sorted_logits, dtype=np.float32)
    logits[order] = sorted_logits
    if candidate.label_order is not None:
        logits = logits[:, candidate.label_order]
    return logits


def sizes_and_speeds(
    candidates: Mapping[str, Candidate], task: Task, rows: Dataset, batch_size: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Each model's parameters, bytes, latency and throughput, all in the same precision; and the conditions.

    Precision is what the device computes best, for all models alike; outputs are not compared here.
    """
    before = {name: candidate.model.dtype for name, candidate in candidates.items()}
    calls, conditions = timed_calls(candidates, task, rows, batch_size)
    speeds = measure_speed(*calls, ROUNDS)
    facts = {
        name: {
            "parameters": parameters(candidate.model),
            "disk_bytes": sum(map(disk_bytes, candidate.folders)),
            **speeds[name],
        }
        for name, candidate in candidates.items()
    }
    for name, candidate in candidates.items():
        _cast(candidate.model, before[name])
    return facts, conditions


def timed_calls(
    candidates: Mapping[str, Candidate], task: Task, rows: Dataset, batch_size: int
) -> tuple[TimedCalls, dict[str, Any]]:
    """What is measured of each model, by name: forwards, single rows and batches; and the conditions.

    The models are left in the precision that they are measured in.
    """
    device = next(iter(candidates.values())).model.device
    dtype = best_dtype(device)
    generates = task.timed_as == "generate"
    count = TIMED_TEXTS if generates else TIMED_ROWS
    step = max(1, len(rows) // count)
    timed = task.timed(rows.select(range(0, len(rows), step)[:count]))
    for candidate in candidates.values():
        candidate.model.eval()
        _cast(candidate.model, dtype)
    singles = {name: _batches(candidate, task, timed, 1) for name, candidate in candidates.items()}
    batches = {name: _batches(candidate, task, timed, batch_size) for name, candidate in candidates.items()}
    tokens = _written_tokens(batches) if generates else 0
    forwards = {
        name: functools.partial(_generate, candidate.model, tokens)
        if generates
        else functools.partial(_forward, candidate.model)
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


def _forward(model: PreTrainedModel, batch: Batch) -> Any:
    return model(**batch)


def _generate(model: PreTrainedModel, tokens: int, batch: Batch) -> Any:
    """The likeliest text of so many tokens: as long for all models, whatever they have to say."""
    inputs = {name: value for name, value in batch.items() if not name.startswith("decoder_")}
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
    return generate(model, inputs, {"do_sample": False, "num_beams": 1, **length})


def _written_tokens(batches: Mapping[str, Sequence[Batch]]) -> int:
    """The usual length of a batch's longest target."""
    lengths = [batch["decoder_input_ids"].shape[1] for batch in next(iter(batches.values()))]
    return int(np.median(lengths))


def _batches(candidate: Candidate, task: Task, rows: Dataset, size: int) -> Sequence[Batch]:
    encoded = task.encode(rows, candidate.tokenizer)
    assert isinstance(encoded, Dataset)
    collate = with_row_ids(task.collator(candidate.tokenizer))
    listed = list(encoded.sort("length"))
    collated = [task.student_inputs(collate(listed[i : i + size])) for i in range(0, len(listed), size)]
    return [
        {name: value.to(candidate.model.device) for name, value in accepted_inputs(candidate.model, batch).items()}
        for batch in collated
    ]
