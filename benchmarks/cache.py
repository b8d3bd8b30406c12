"""What a teacher cache costs: bytes a token, rows a second written and read, and its part of a training step.

    python -m benchmarks.cache [--teacher FOLDER --texts FILE] [--device cuda]

The real teacher that is named reads the texts of a file, and its bytes a token are held to the goal. Beside it stands a
Llama with random weights that is as peaked as pretrained ones are (``language.SPREAD``): a stand-in for the shape of
``lm_step.py``, whose bytes prove nothing. Writing includes the teacher's own forward passes. Reading is what a batch's
targets take, rows in random order, the file in the system's cache as in any epoch but the first. The last row tells its
share of whole training steps, those of ``lm_step.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Trainer

from benchmarks.common import goal, seconds_of, synchronise, write_results
from benchmarks.language import bytes_of, keep, random_rows, stand_in_tokenizer, text_rows
from benchmarks.lm_step import Setting, ours_cached, stepper
from hf_distill.models.hardware import best_dtype
from hf_distill.models.loading import load_model
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import CausalLanguageModeling, Task
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.teachers import CachedTeacher, ModelTeacher
from hf_distill.teachers.cache_store import Reader
from hf_distill.tokenizers.processors import load_tokenizer
from hf_distill.types import Batch, Need, Targets

BYTES = 40
"""At most, of a token of a real teacher's that is drawn 50 times."""

READING = 0.05
"""The share of a training step that reading its targets may take."""

STAND_IN = "a stand-in with random weights"

SCHEMES = (CacheConfig(scheme="sampled"), CacheConfig(scheme="top_k"), CacheConfig(scheme="top_k", k=12))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A teacher, and rows that it looks at."""

    name: str
    teacher: ModelTeacher
    tokenizer: PreTrainedTokenizerBase
    task: CausalLanguageModeling
    rows: Dataset
    batch: int = 8


def stand_in(setting: Setting, count: int) -> Subject:
    return Subject(
        name=STAND_IN,
        teacher=ModelTeacher(setting.teacher_model(torch.bfloat16)),
        tokenizer=stand_in_tokenizer(),
        task=setting.task,
        rows=random_rows(count, setting.tokens, setting.vocabulary),
        batch=setting.batch,
    )


def real(folder: Path, texts: Path, separator: str, count: int, length: int, device: str) -> Subject:
    tokenizer = load_tokenizer(str(folder))
    task = CausalLanguageModeling(max_length=length)
    teacher = ModelTeacher(load_model(AutoModelForCausalLM, str(folder), dtype=best_dtype(torch.device(device))))
    teacher.to(torch.device(device))
    rows = text_rows(texts, separator, task, tokenizer)
    rows = rows.select(range(min(count, len(rows))))
    return Subject(
        name="/".join(folder.resolve().parts[-2:]), teacher=teacher, tokenizer=tokenizer, task=task, rows=rows
    )


def reading_seconds(subject: Subject, teacher: CachedTeacher, rows: Dataset, device: str) -> float:
    """Of all rows once, in random order."""
    collate = with_row_ids(subject.task.collator(subject.tokenizer))
    listed = list(rows.shuffle(seed=0))
    batches = [collate(listed[start : start + subject.batch]) for start in range(0, len(listed), subject.batch)]
    batches = [{name: value.to(device) for name, value in batch.items()} for batch in batches]

    def read() -> None:
        for batch in batches:
            teacher.targets(subject.task, batch, frozenset({"logits"}))

    read()  # A shard's checksum is looked at when it is first read.
    return median(seconds_of(read, device) for _ in range(5))


def size_of(subject: Subject, teacher: CachedTeacher) -> dict[str, float]:
    """What is kept of a token that counts; its entropy in nats, where that is kept."""
    collate = subject.task.collator(subject.tokenizer)
    tokens = sum(int(subject.task.masks(collate([row]))["positions"].sum()) for row in subject.rows)
    kept = Reader(teacher.plan).rows(range(teacher.plan.rows))
    distinct = sum(len(row["entries"]["tokens"]) for row in kept) / tokens
    found = {"tokens": tokens, "distinct": round(distinct, 2)}
    if "entropy" in kept[0]["positions"]:
        entropy = sum(float(row["positions"]["entropy"].sum(dtype=float)) for row in kept) / tokens
        found["entropy"] = round(entropy, 3)
    return {**found, "bytes_a_token": round(bytes_of(teacher.plan.folder) / tokens, 2)}


def kept_by(subject: Subject, config: CacheConfig, folder: Path, device: str) -> dict[str, Any]:
    """A row of the results: one scheme on one teacher."""
    start = time.perf_counter()
    teacher, rows = keep(
        subject.teacher, subject.task, subject.tokenizer, subject.rows, config, folder, batch_size=subject.batch
    )
    written = time.perf_counter() - start
    scheme: Any = teacher.plan.scheme
    return {
        "teacher": subject.name,
        "layers": subject.teacher.config.num_hidden_layers,
        "width": subject.teacher.config.hidden_size,
        "vocabulary": subject.teacher.outputs,
        "scheme": scheme.name,
        **scheme.settings,
        **size_of(subject, teacher),
        "rows_a_second_written": round(len(rows) / written, 2),
        "rows_a_second_read": round(len(rows) / reading_seconds(subject, teacher, rows, device), 1),
    }


class TimedTeacher(CachedTeacher):
    """Knows how long each batch's targets took to read."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.seconds: list[float] = []

    def targets(self, task: Task, batch: Batch, needs: frozenset[Need], *more: Any, **named: Any) -> Targets:
        device = batch["row_id"].device.type
        synchronise(device)
        start = time.perf_counter()
        found = super().targets(task, batch, needs, *more, **named)
        synchronise(device)
        self.seconds.append(time.perf_counter() - start)
        return found


def share_of_a_step(setting: Setting) -> dict[str, Any]:
    """How much of a training step reading takes."""
    trainer: Trainer = ours_cached(setting, TimedTeacher)
    step = stepper(trainer, setting.device)
    step()
    teacher: Any = trainer.teacher  # type: ignore[attr-defined]
    teacher.seconds.clear()
    whole, read = step(), median(teacher.seconds[1:])
    return {
        "student": f"{'x'.join(map(str, setting.student))}, {setting.batch} rows of {setting.tokens} tokens",
        "seconds_a_step": round(whole, 5),
        "seconds_reading": round(read, 5),
        "reading": round(read / whole, 5),
    }


def goals_of(rows: list[dict[str, Any]], step: dict[str, Any]) -> list[dict[str, Any]]:
    sampled = [row for row in rows if row["scheme"] == "sampled" and row["teacher"] != STAND_IN]
    found = [
        goal(f"{row['teacher']}: bytes a token at {row['draws']} draws", row["bytes_a_token"], BYTES) for row in sampled
    ] or [goal("a real teacher: bytes a token", None, BYTES)]
    return [*found, goal("reading / whole training step", step["reading"], READING)]


def measure(
    subjects: list[Subject], setting: Setting, configs: Sequence[CacheConfig] = SCHEMES
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals."""
    rows = [
        kept_by(subject, config, Path(tempfile.mkdtemp(dir=setting.folder)), setting.device)
        for subject in subjects
        for config in configs
    ]
    step = share_of_a_step(setting)
    return [*rows, step], goals_of(rows, step)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=64, help="that each teacher looks at, at most")
    parser.add_argument("--steps", type=int, default=8, help="that reading's share is taken of")
    parser.add_argument("--teacher", type=Path, help="the folder of a language model and its tokenizer")
    parser.add_argument("--texts", type=Path, help="a text file that the teacher reads")
    parser.add_argument("--separator", default="\n\n", help="what stands between two texts")
    parser.add_argument("--length", type=int, default=256, help="tokens of a row of text")
    options = parser.parse_args()
    if (options.teacher is None) != (options.texts is None):
        parser.error("--teacher and --texts go together")
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(folder=folder, steps=options.steps, device=options.device)
        subjects = [stand_in(setting, options.rows)]
        if options.teacher is not None:
            given = (options.teacher, options.texts, options.separator, options.rows, options.length, options.device)
            subjects.append(real(*given))
        rows, goals = measure(subjects, setting)
    write_results("cache", rows, goals, options.device, {"rows": options.rows, "steps": options.steps})


if __name__ == "__main__":
    main()
