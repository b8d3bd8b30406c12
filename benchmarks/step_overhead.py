"""What a live distillation step costs beyond its parts: a supervised step of the student and one teacher forward.

    python benchmarks/step_overhead.py [--device cuda] [--rounds 9]

All kinds of step run in turn in one process (A B C D, A B C D, ...), through the same trainer class, on the same
batches; medians over the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from common import write_results
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

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
    objectives: list[Objective], teacher: Any, cpu: bool
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
        args=TrainingArguments("/tmp/step_overhead", use_cpu=cpu, report_to="none", max_steps=1000),
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


def seconds(work: Callable[[Batch], Any], given: list[Batch]) -> float:
    if given[0]["input_ids"].is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for batch in given:
        work(batch)
    if given[0]["input_ids"].is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(given)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    cpu = options.device == "cpu"
    teacher = model(6, 384)
    _, supervised = stepper([Labels()], None, cpu)
    trainer, with_logits = stepper([Labels(), Logits()], teacher, cpu)
    _, with_hidden = stepper([Labels(), Logits(), Hidden()], teacher, cpu)
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
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(options.rounds + 1):
        for name, each in work.items():
            spent = seconds(each, given)
            if round_number:
                times[name].append(spent)
    parts = [a + b for a, b in zip(times["supervised"], times["teacher_forward"], strict=True)]
    rows = [{"name": name, "milliseconds": 1000 * median(values)} for name, values in times.items()]
    goals = []
    for name in ("logits", "logits_and_hidden"):
        ratio = median(step / part for step, part in zip(times[name], parts, strict=True))
        goals.append(
            {
                "name": f"{name}: step / (supervised step + teacher forward)",
                "value": round(ratio, 4),
                "bound": BOUND,
                "met": ratio <= BOUND,
            }
        )
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
