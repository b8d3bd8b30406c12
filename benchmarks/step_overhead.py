"""What a live distillation step costs beyond its parts: a supervised step of the student and one teacher forward.

    python -m benchmarks.step_overhead [--device cuda] [--rounds 9]

All kinds of step run in turn in one process (A B C D, A B C D, ...), through the same trainer class, on the same
batches; medians over the rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from benchmarks.common import goal, in_turn, seconds_of, write_results
from hf_distill import DistillationTrainer, Hidden, Labels, Logits
from hf_distill.objectives import Objective
from hf_distill.tasks import TextClassification
from hf_distill.types import Batch

BOUND = 1.08
ROWS, TOKENS, STEPS = 32, 32, 4


def model(layers: int, hidden: int) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=hidden // 32,
        intermediate_size=4 * hidden,
        num_labels=77,
    )
    return BertForSequenceClassification(config)


def batches(device: torch.device) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(STEPS):
        ids = torch.randint(5, 30000, (ROWS, TOKENS), generator=generator)
        labels = torch.randint(0, 77, (ROWS,), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        made.append({name: value.to(device) for name, value in batch.items()})
    return made


def stepper(
    objectives: list[Objective], teacher: Any, cpu: bool, folder: str
) -> tuple[DistillationTrainer, Callable[[Batch], None]]:
    """A trainer set up as for training, and what does one optimizer step on a batch."""
    student = model(3, 384)
    task = TextClassification()
    task.follow(student.config)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        task=task,
        objectives=objectives,
        args=TrainingArguments(folder, use_cpu=cpu, report_to="none", max_steps=1000),
        train_dataset=Dataset.from_dict({"input_ids": [[1]], "labels": [0]}),
    )
    trainer.create_optimizer_and_scheduler(1000)
    wrapped, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.optimizer = optimizer
    trainer.current_gradient_accumulation_steps = 1

    def step(batch: Batch) -> None:
        counts = trainer._get_num_items_in_batch([batch], trainer.args.device)
        trainer.training_step(wrapped, dict(batch), counts)
        optimizer.step()
        optimizer.zero_grad()

    return trainer, step


def measure(rounds: int, device: str, folder: str) -> dict[str, list[float]]:
    """Seconds a step of each kind, in turn."""
    cpu, teacher = device == "cpu", model(6, 384)
    _, supervised = stepper([Labels()], None, cpu, folder)
    trainer, with_logits = stepper([Labels(), Logits()], teacher, cpu, folder)
    _, with_hidden = stepper([Labels(), Logits(), Hidden()], teacher, cpu, folder)
    given = batches(trainer.args.device)

    def teacher_forward(batch: Batch) -> None:
        with torch.inference_mode():
            trainer.teacher.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    work = {
        "supervised": supervised,
        "teacher_forward": teacher_forward,
        "logits": with_logits,
        "logits_and_hidden": with_hidden,
    }

    def seconds(step: Callable[[Batch], Any]) -> float:
        return seconds_of(lambda: [step(batch) for batch in given], device) / len(given)

    return in_turn({name: partial(seconds, each) for name, each in work.items()}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = measure(options.rounds, options.device, folder)
    parts = [a + b for a, b in zip(times["supervised"], times["teacher_forward"], strict=True)]
    rows = [{"name": name, "milliseconds": 1000 * median(values)} for name, values in times.items()]
    goals = []
    for name in ("logits", "logits_and_hidden"):
        ratio = median(step / part for step, part in zip(times[name], parts, strict=True))
        goals.append(goal(f"{name}: step / (supervised step + teacher forward)", ratio, BOUND))
    shape = {
        "rows": ROWS,
        "tokens": TOKENS,
        "steps": STEPS,
        "rounds": options.rounds,
        "student": "3x384",
        "teacher": "6x384",
    }
    write_results("step_overhead", rows, goals, options.device, shape)


if __name__ == "__main__":
    main()
