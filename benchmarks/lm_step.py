"""Whole training steps of a language model: ours with a live and a cached teacher, TRL's GKD trainer, no teacher.

    python -m benchmarks.lm_step [--device cuda] [--rounds 5] [--bf16]

A step is what a trainer does from the end of one optimizer step to the end of the next: loading, forward, backward,
clipping, update. All train the same student (a Llama with random weights) on the same rows with the same settings;
TRL's are its own where it runs "as it comes" (gradient checkpointing, mixed precision), else set to those of
Transformers (no checkpointing, no mixed precision unless ``--bf16``), and its loss is the forward KL on the rows as
they are (``lmbda=0``, ``beta=0``). Its teacher is float32, as ``from_pretrained`` loads such a checkpoint, or bfloat16,
as ours is. The teacher is as peaked as a pretrained one.

The trainers take turns in one process; each ratio is the median of the rounds' ratios. Peak memory is what two steps
take beyond what is there before training, in a process of its own for each. TRL comes with
``pip install -e '.[bench]'``; the goals are listed as not measured where it is not there.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.common import goal, in_a_process, in_turn, peak_memory, run_of_steps, synchronise
from benchmarks.language import keep, llama, random_rows, stand_in_tokenizer
from hf_distill import DistillationTrainer, Logits
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import CausalLanguageModeling
from hf_distill.teachers import CachedTeacher, ModelTeacher

FASTER = {"trl, as it comes": 6.0, "trl, bfloat16 teacher": 3.0}
"""How many times the tokens a second of each ours, live, shall have; at least."""

MEMORY = 0.4
"""The share of TRL's peak memory that ours, live, may take."""

CACHED = 1.10
"""How many times a supervised step a cached one may take."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all train.

    Attributes:
        folder: For what trainers write, and for the cache.
        vocabulary: Tokens that both models know.
        teacher: Layers and width.
        student: Layers and width.
        batch: Rows of a step.
        tokens: Of a row.
        steps: Of one round; one more comes before them and is not counted.
        device: ``cpu`` or ``cuda``.
        bf16: Whether the student trains in mixed precision.
    """

    folder: str
    vocabulary: int = 32_000
    teacher: tuple[int, int] = (6, 512)
    student: tuple[int, int] = (3, 256)
    batch: int = 8
    tokens: int = 217
    steps: int = 2
    device: str = "cpu"
    bf16: bool = False

    @property
    def task(self) -> CausalLanguageModeling:
        return CausalLanguageModeling(max_length=self.tokens, packing=False)

    def arguments(self, kind: type[TrainingArguments], **more: Any) -> Any:
        """The same for every trainer, but for what is said in ``more``."""
        shared = {
            "output_dir": self.folder,
            "max_steps": self.steps + 1,
            "per_device_train_batch_size": self.batch,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "bf16": self.bf16,
            "use_cpu": self.device == "cpu",
            "dataloader_pin_memory": self.device == "cuda",
            "logging_steps": 1_000_000,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        return kind(**{**shared, **more})

    def common(self) -> dict[str, Any]:
        """Student, rows and collator, as every trainer takes them."""
        tokenizer = stand_in_tokenizer()
        return {
            "model": llama(*self.student, self.vocabulary),
            "train_dataset": random_rows(self.batch * (self.steps + 1), self.tokens, self.vocabulary),
            "data_collator": self.task.collator(tokenizer),
            "processing_class": tokenizer,
        }

    def teacher_model(self, dtype: torch.dtype) -> Any:
        model: Any = llama(*self.teacher, self.vocabulary, peaked=True)
        return model.to(device=self.device, dtype=dtype)


def distillation(setting: Setting, teacher: ModelTeacher | CachedTeacher, **more: Any) -> Trainer:
    return DistillationTrainer(
        **{**setting.common(), **more},
        teacher=teacher,
        task=setting.task,
        objectives=[Logits(temperature=1.0)],
        args=setting.arguments(TrainingArguments),
    )


def ours_live(setting: Setting) -> Trainer:
    return distillation(setting, ModelTeacher(setting.teacher_model(torch.bfloat16)))


def ours_cached(setting: Setting, kind: type[CachedTeacher] = CachedTeacher) -> Trainer:
    given = setting.common()
    live = ModelTeacher(setting.teacher_model(torch.bfloat16))
    folder = Path(tempfile.mkdtemp(dir=setting.folder))
    tokenizer, config = given["processing_class"], CacheConfig(scheme="sampled")
    made, rows = keep(live, setting.task, tokenizer, given["train_dataset"], config, folder)
    teacher = kind(made.plan, made.teacher)
    return distillation(setting, teacher, train_dataset=rows, data_collator=None)


def trl(setting: Setting, dtype: torch.dtype = torch.float32, **more: Any) -> Trainer:
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    arguments = setting.arguments(GKDConfig, lmbda=0.0, beta=0.0, **{"gradient_checkpointing": False, **more})
    trainer: Trainer = GKDTrainer(**setting.common(), teacher_model=setting.teacher_model(dtype), args=arguments)
    return trainer


def trl_as_it_comes(setting: Setting) -> Trainer:
    """With its own defaults of checkpointing and mixed precision."""
    return trl(setting, gradient_checkpointing=True, bf16=None)


def trl_bfloat16(setting: Setting) -> Trainer:
    return trl(setting, torch.bfloat16)


def supervised(setting: Setting) -> Trainer:
    return Trainer(**setting.common(), args=setting.arguments(TrainingArguments))


VARIANTS: dict[str, Callable[[Setting], Trainer]] = {
    "ours, live": ours_live,
    "ours, cached": ours_cached,
    "supervised": supervised,
    "trl, as it comes": trl_as_it_comes,
    "trl": trl,
    "trl, bfloat16 teacher": trl_bfloat16,
}


class StepClock(TrainerCallback):
    """When each optimizer step ended."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        synchronise(self.device)
        self.ends.append(time.perf_counter())


def stepper(trainer: Trainer, device: str) -> Callable[[], float]:
    """What trains for a round, and gives the seconds of a step: all but the first count."""
    clock = StepClock(device)
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)

    def seconds() -> float:
        clock.ends.clear()
        trainer.train()
        return (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1)

    return seconds


def two_steps(name: str, setting: Setting) -> dict[str, float]:
    """What they take at most beyond what is there before training; and their loss, which tells what was computed."""
    trainer = VARIANTS[name](dataclasses.replace(setting, steps=1))
    trainer.remove_callback(PrinterCallback)
    peak = peak_memory(trainer.train, setting.device)
    return {"peak_megabytes": peak / 1e6, "loss": trainer.state.log_history[-1]["train_loss"]}


def two_steps_in_a_process(name: str, setting: Setting) -> dict[str, float]:
    found: dict[str, float] = in_a_process(
        __spec__.name, "--two-steps-of", json.dumps([name, dataclasses.asdict(setting)])
    )
    return found


def compared() -> list[str]:
    """What can be run here."""
    there = importlib.util.find_spec("trl") is not None
    return [name for name in VARIANTS if there or not name.startswith("trl")]


def goals_of(seconds: dict[str, list[float]], steps: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    def ratio(first: str, second: str) -> float | None:
        if second not in seconds:
            return None
        return median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))

    found = []
    for peer, bound in FASTER.items():
        slower = ratio("ours, live", peer)
        value = None if slower is None else 1 / slower
        found.append(goal(f"ours, live: tokens a second / {peer}'s, at least", value, bound, at_least=True))
    for peer in FASTER:
        share = steps["ours, live"]["peak_megabytes"] / steps[peer]["peak_megabytes"] if peer in steps else None
        found.append(goal(f"ours, live: peak memory / {peer}'s", share, MEMORY))
    found.append(goal("ours, cached: step / supervised step", ratio("ours, cached", "supervised"), CACHED))
    return found


def measure(
    setting: Setting,
    rounds: int,
    two_steps_of: Callable[[str, Setting], dict[str, float]] = two_steps_in_a_process,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals."""
    names = compared()
    steps = {name: two_steps_of(name, setting) for name in names}
    seconds = in_turn({name: stepper(VARIANTS[name](setting), setting.device) for name in names}, rounds)
    each = setting.batch * setting.tokens
    rows = [
        {
            "name": name,
            "seconds_a_step": round(median(seconds[name]), 5),
            "tokens_a_second": round(each / median(seconds[name]), 1),
            "peak_megabytes": round(steps[name]["peak_megabytes"], 1),
            "loss": round(steps[name]["loss"], 5),
        }
        for name in names
    ]
    return rows, goals_of(seconds, steps)


def main() -> None:
    run_of_steps("lm_step", Setting, measure, two_steps)


if __name__ == "__main__":
    main()
