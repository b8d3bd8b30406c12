"""Steps of a Whisper whose frozen encoder runs once for student and teacher, and once for each of them.

    python -m benchmarks.speech [--device cuda] [--rounds 7]

The teacher has Whisper-tiny's shape and random weights; the student has its encoder, frozen, and the first and the last
layer of its decoder, and learns from labels and logits, as Distil-Whisper does (Gandhi et al. 2023). Both kinds of step
run in turn in one process (A B, A B, ...), through the same trainer class, on the same batches, whose features are
there already; the ratio is the median of the rounds' ratios.

Beside it stands the share of a training that waits for data, where recordings are read and their features computed as
it goes: by the process that trains, and by one worker beside it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # Before torch: a worker beside it takes one of its cores.

import numpy as np
import soundfile
import torch
from datasets import Dataset
from transformers import (
    PrinterCallback,
    TrainingArguments,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from benchmarks.common import goal, in_turn, seconds_of, write_results
from hf_distill import DistillationTrainer, Labels, Logits
from hf_distill.students import chosen_cuts
from hf_distill.students.freezing import freeze
from hf_distill.students.layers import cut
from hf_distill.tasks import SpeechRecognition
from hf_distill.tasks.encoding import MEDIA
from hf_distill.tasks.speech.hearing import features_of
from hf_distill.types import Batch

SHARED = 0.65
"""How much of a step that runs the encoder twice one may take that runs it once."""

WAITING = 0.1
"""The share of a training that may wait for data, where a worker reads them."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained.

    Attributes:
        folder: For what the trainer writes.
        shape: Settings of the teacher's config, beside those of Whisper-tiny.
        seconds: That the models hear.
        spoken: Seconds of each recording, which is stored at 44.1 kHz.
        tokens: Of a text.
        rows: Of a batch.
        steps: Of a round, and of the training that may wait.
    """

    folder: str
    device: str = "cpu"
    shape: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: int = 30
    spoken: float = 12.0
    tokens: int = 40
    rows: int = 4
    steps: int = 2


def recordings(setting: Setting) -> Dataset:
    """Noise, with random tokens as its texts."""
    generator, rate = np.random.default_rng(0), 44_100
    vocabulary = WhisperConfig(**setting.shape).vocab_size
    made = []
    for _ in range(setting.rows * setting.steps):
        file = io.BytesIO()
        noise = 0.1 * generator.standard_normal(int(setting.spoken * rate))
        soundfile.write(file, noise, rate, format="WAV", subtype="PCM_16")
        ids = generator.integers(0, vocabulary, setting.tokens).tolist()
        cell = {"bytes": file.getvalue(), "path": None}
        made.append({MEDIA: cell, "decoder_input_ids": ids[:-1], "labels": ids[1:]})
    return Dataset.from_list(made)


def collator(setting: Setting) -> Callable[[list[Mapping[str, Any]]], Batch]:
    """As the task's own, of texts that are tokens already and of one length."""
    bins = WhisperConfig(**setting.shape).num_mel_bins
    ears = SimpleNamespace(feature_extractor=WhisperFeatureExtractor(bins, chunk_length=setting.seconds))

    def collate(rows: list[Mapping[str, Any]]) -> Batch:
        read = {name: torch.tensor([row[name] for row in rows]) for name in ("decoder_input_ids", "labels")}
        return {**features_of(ears, [row[MEDIA] for row in rows]), **read}

    return collate


def trainer_of(setting: Setting, rows: Dataset, workers: int = 0) -> DistillationTrainer:
    """A trainer of a student that shares its teacher's encoder."""
    torch.manual_seed(0)
    shape = {"max_source_positions": 50 * setting.seconds, **setting.shape}
    teacher = WhisperForConditionalGeneration(WhisperConfig(**shape)).to(setting.device)
    student = cut(teacher, chosen_cuts(teacher, {"decoder": [0, -1]}))
    freeze(student, ["encoder"])
    task = SpeechRecognition()
    task.follow(teacher.config)
    made = DistillationTrainer(
        model=student,
        teacher=teacher,
        task=task,
        objectives=[Labels(), Logits(temperature=2.0)],
        args=TrainingArguments(
            setting.folder,
            use_cpu=setting.device == "cpu",
            max_steps=setting.steps,
            per_device_train_batch_size=setting.rows,
            dataloader_num_workers=workers,
            dataloader_persistent_workers=workers > 0,
            dataloader_pin_memory=setting.device == "cuda",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=collator(setting),
    )
    made.remove_callback(PrinterCallback)
    return made


def stepper(setting: Setting, rows: Dataset, shares: bool) -> Callable[[Batch], None]:
    """What does one optimizer step on a batch."""
    trainer = trainer_of(setting, rows)
    trainer.step.shares_encoder = shares
    trainer.create_optimizer_and_scheduler(1000)
    wrapped, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.optimizer, trainer.current_gradient_accumulation_steps = optimizer, 1

    def step(batch: Batch) -> None:
        counts = trainer._get_num_items_in_batch([batch], trainer.args.device)
        trainer.training_step(wrapped, dict(batch), counts)
        optimizer.step()
        optimizer.zero_grad()

    return step


def steps(setting: Setting, rows: Dataset, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each kind, in turn."""
    collate, listed = collator(setting), list(rows)
    given = [collate(listed[start : start + setting.rows]) for start in range(0, len(listed), setting.rows)]
    kinds = {"shared": stepper(setting, rows, True), "twice": stepper(setting, rows, False)}

    def seconds(step: Callable[[Batch], None]) -> float:
        return seconds_of(lambda: [step(copy.copy(batch)) for batch in given], setting.device) / len(given)

    return in_turn({name: partial(seconds, each) for name, each in kinds.items()}, rounds)


def waiting(setting: Setting, rows: Dataset, workers: int) -> float:
    """The share of a training, its start left out, in which it waits for batches."""
    longer = dataclasses.replace(setting, steps=4 * setting.steps)
    trainer, waited, ends = trainer_of(longer, rows, workers), list[float](), list[float]()
    fetch = trainer.get_batch_samples

    def timed(*arguments: Any, **more: Any) -> Any:
        start = time.perf_counter()
        found = fetch(*arguments, **more)
        ends.append(time.perf_counter())
        waited.append(ends[-1] - start)
        return found

    trainer.get_batch_samples = timed  # type: ignore[method-assign]
    trainer.train()
    return sum(waited[1:]) / (time.perf_counter() - ends[0])


def measure(setting: Setting, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals."""
    rows = recordings(setting)
    times = steps(setting, rows, rounds)
    shares = {workers: waiting(setting, rows, workers) for workers in (0, 1)}
    found: list[dict[str, Any]] = [
        {"name": f"encoder {name}", "milliseconds": 1000 * median(values)} for name, values in times.items()
    ]
    found += [{"name": f"waiting for data, {n} workers", "share": share} for n, share in shares.items()]
    ratio = median(a / b for a, b in zip(times["shared"], times["twice"], strict=True))
    goals = [
        goal("step with a shared encoder / step that runs it twice", ratio, SHARED),
        goal("share of a training that waits for data, 1 worker", shares[1], WAITING),
    ]
    return found, goals


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(folder=folder, device=options.device)
        rows, goals = measure(setting, options.rounds)
    shown = {name: value for name, value in dataclasses.asdict(setting).items() if name not in ("folder", "device")}
    write_results("speech", rows, goals, options.device, {"rounds": options.rounds, **shown})


if __name__ == "__main__":
    main()
