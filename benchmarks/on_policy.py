"""Whole on-policy steps of a language model: ours, and TRL's DistillationTrainer; and ours on rows of the data.

    python -m benchmarks.on_policy [--device cuda] [--rounds 5] [--bf16]

In each step the student (a Llama with random weights) writes after the same prompts, at temperature 1 and among all
tokens, and learns by the reverse KL from what it wrote; such a student hardly ever writes the end token, so all write
the same number of tokens. Both write with ``generate`` of Transformers. TRL's settings are its own where it runs "as it
comes" (gradient checkpointing, mixed precision, a float32 teacher), else as ours: those of Transformers, and a teacher
in bfloat16 where the device has it in hardware. What a step is, how turns are taken and how memory is measured: see
``lm_step.py``.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, PrinterCallback, Trainer, TrainingArguments

from benchmarks import lm_step
from benchmarks.common import goal, in_a_process, in_turn, peak_memory, run_of_steps
from benchmarks.language import llama
from hf_distill import DistillationTrainer, Logits, Rollout, RolloutConfig
from hf_distill.models.hardware import best_dtype
from hf_distill.teachers import ModelTeacher
from hf_distill.types import IGNORED

PEERS = ("trl, as it comes", "trl, settings as ours")

FASTER = 1.2
"""How many times the written tokens a second of each peer ours shall have; at least."""

MEMORY = 1.0
"""The share of each peer's peak memory that ours may take."""


@dataclass(frozen=True, kw_only=True)
class Setting(lm_step.Setting):
    """What all train.

    Attributes:
        tokens: Of a prompt and what is written after it.
        prompt: Of these, the prompt's.
    """

    tokens: int = 192
    prompt: int = 64

    @property
    def new(self) -> int:
        return self.tokens - self.prompt

    @property
    def prompts(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        size = (self.batch * (self.steps + 1), self.prompt)
        return torch.randint(2, self.vocabulary, size, generator=generator).tolist()


def numbers_tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """One that reads a token's number as that token, for a trainer that takes texts."""
    words = {"[PAD]": 0, "[END]": 1, **{str(i): i for i in range(2, vocabulary)}}
    made = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", eos_token="[END]", padding_side="left", model_max_length=1_000_000
    )


def teacher_dtype(setting: Setting) -> torch.dtype:
    """As ``teacher.dtype: auto`` of a recipe."""
    return best_dtype(torch.device(setting.device))


def ours(setting: Setting, share: float = 1.0) -> Trainer:
    given = [[*ids, *([2] * (setting.new - 1)), 1] for ids in setting.prompts]
    labels = [[IGNORED] * setting.prompt + ids[setting.prompt :] for ids in given]
    tokenizer = numbers_tokenizer(setting.vocabulary)
    return DistillationTrainer(
        model=llama(*setting.student, setting.vocabulary),
        teacher=ModelTeacher(setting.teacher_model(teacher_dtype(setting))),
        task=setting.task,
        objectives=[Logits(divergence="reverse_kl", temperature=1.0)],
        args=setting.arguments(TrainingArguments),
        train_dataset=Dataset.from_dict({"input_ids": given, "labels": labels}),
        processing_class=tokenizer,
        rollout=Rollout(RolloutConfig(share=share, max_new_tokens=setting.new)),
    )


def of_the_data(setting: Setting) -> Trainer:
    """What a step costs where nothing is written."""
    return ours(setting, share=0.0)


def trl(setting: Setting, dtype: torch.dtype, **more: Any) -> Trainer:
    from trl import DistillationConfig
    from trl import DistillationTrainer as Peer

    options = {"max_completion_length": setting.new, "beta": 1.0, "temperature": 1.0}
    trainer: Trainer = Peer(
        model=llama(*setting.student, setting.vocabulary),
        teacher_model=setting.teacher_model(dtype),
        args=setting.arguments(DistillationConfig, **{**options, **more}),
        train_dataset=Dataset.from_dict({"prompt": [" ".join(map(str, ids)) for ids in setting.prompts]}),
        processing_class=numbers_tokenizer(setting.vocabulary),
    )
    return trainer


def trl_as_it_comes(setting: Setting) -> Trainer:
    """With its own defaults of checkpointing, mixed precision and the teacher's dtype."""
    return trl(setting, torch.float32, gradient_checkpointing=True, bf16=None)


def trl_as_ours(setting: Setting) -> Trainer:
    return trl(setting, teacher_dtype(setting), gradient_checkpointing=False)


VARIANTS: dict[str, Callable[[Setting], Trainer]] = {
    "ours": ours,
    "ours, of the data": of_the_data,
    "trl, as it comes": trl_as_it_comes,
    "trl, settings as ours": trl_as_ours,
}


def compared() -> list[str]:
    """What can be run here."""
    there = importlib.util.find_spec("trl") is not None
    return [name for name in VARIANTS if there or not name.startswith("trl")]


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


def goals_of(seconds: dict[str, list[float]], steps: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    found = []
    for peer in PEERS:
        times = zip(seconds[peer], seconds["ours"], strict=True) if peer in seconds else None
        value = None if times is None else median(theirs / own for theirs, own in times)
        found.append(goal(f"ours: written tokens a second / {peer}'s, at least", value, FASTER, at_least=True))
    for peer in PEERS:
        share = steps["ours"]["peak_megabytes"] / steps[peer]["peak_megabytes"] if peer in steps else None
        found.append(goal(f"ours: peak memory / {peer}'s", share, MEMORY))
    return found


def measure(
    setting: Setting,
    rounds: int,
    two_steps_of: Callable[[str, Setting], dict[str, float]] = two_steps_in_a_process,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals."""
    names = compared()
    steps = {name: two_steps_of(name, setting) for name in names}
    seconds = in_turn({name: lm_step.stepper(VARIANTS[name](setting), setting.device) for name in names}, rounds)
    rows = [
        {
            "name": name,
            "seconds_a_step": round(median(seconds[name]), 5),
            "written_tokens_a_second": (
                0.0 if name == "ours, of the data" else round(setting.batch * setting.new / median(seconds[name]), 1)
            ),
            "peak_megabytes": round(steps[name]["peak_megabytes"], 1),
            "loss": round(steps[name]["loss"], 5),
        }
        for name in names
    ]
    return rows, goals_of(seconds, steps)


def main() -> None:
    run_of_steps("on_policy", Setting, measure, two_steps)


if __name__ == "__main__":
    main()
