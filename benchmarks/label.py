"""Texts a second that a teacher writes for a recipe's rows: ours, and ``generate`` as it comes.

    python -m benchmarks.label [--device cuda] [--rounds 5]

The teacher is a Marian of opus-mt's size with random weights, as peaked as a pretrained one, whose text ends when it is
as long as its source, as translations do; it searches with 5 beams. Ours does what ``hf-distill label`` does: batches
of about the same length, how likely, long and repetitive each text is, and shards on disk. Beside it stand ``generate``
in batches of prompts sorted by length, which is the best that it can be, and in the order of the data, which is what a
loop over a DataLoader does. Tokenising is in none of them.

They take turns in one process; each ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from benchmarks.common import goal, in_turn, seconds_of, write_results
from benchmarks.language import SPREAD, stand_in_tokenizer
from hf_distill.generation.generate import writer_inputs
from hf_distill.generation.hypotheses import ModelWriter, writing_settings
from hf_distill.labelling.shards import write_all
from hf_distill.recipe import LabelConfig
from hf_distill.tasks import Summarization
from hf_distill.tasks.rollout_batches import Prompts

FASTER = {"generate, sorted": 1.0, "generate, as the data come": 1.5}
"""How many times the texts a second of each ours shall have; at least."""

SURE = 1e4
"""A logit that leaves nothing to others."""


class AsLongAsItsSource(MarianMTModel):
    """A text of it ends after as many tokens as its source has."""

    def forward(self, *arguments: Any, attention_mask: Tensor, past_key_values: Any, **more: Any) -> Any:
        written = past_key_values.get_seq_length()
        output = super().forward(*arguments, attention_mask=attention_mask, past_key_values=past_key_values, **more)
        ends = attention_mask.sum(1) <= written
        output.logits[:, -1, self.config.pad_token_id] = -SURE
        output.logits[:, -1, self.config.eos_token_id] = torch.where(ends, SURE, -SURE).to(output.logits)
        return output


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all write.

    Attributes:
        count: Sources.
        batch: Sources of a batch.
        beams: Of each.
        longest: Tokens of a source, and of its text, at most; a tenth of it at least.
        vocabulary: Tokens that the teacher knows.
        layers: Of its encoder, and of its decoder.
        width: Of its hidden states.
        device: ``cpu`` or ``cuda``.
    """

    count: int = 96
    batch: int = 16
    beams: int = 5
    longest: int = 40
    vocabulary: int = 32_000
    layers: int = 6
    width: int = 512
    device: str = "cpu"

    def teacher(self) -> AsLongAsItsSource:
        torch.manual_seed(0)
        sides = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in {
                "layers": self.layers,
                "attention_heads": max(1, self.width // 64),
                "ffn_dim": 4 * self.width,
            }.items()
        }
        ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": None}
        model = AsLongAsItsSource(MarianConfig(vocab_size=self.vocabulary, d_model=self.width, **sides, **ids))
        model.lm_head.weight.data.normal_(0.0, SPREAD / self.width**0.5)
        return model.to(self.device).eval()

    def prompts(self) -> Prompts:
        draw = random.Random(0)
        lengths = [draw.randint(max(1, self.longest // 10), self.longest) for _ in range(self.count)]
        ids = [[draw.randrange(2, self.vocabulary) for _ in range(length)] for length in lengths]
        return Prompts(input_ids=ids, references=[""] * self.count, row_ids=list(range(self.count)))

    @property
    def config(self) -> LabelConfig:
        generation = {"num_beams": self.beams, "max_new_tokens": self.longest + 2}
        return LabelConfig(generation=generation, batch_size=self.batch)


def writers(setting: Setting) -> dict[str, Callable[[], Any]]:
    """What writes all texts, by name."""
    model, tokenizer, prompts, config = setting.teacher(), stand_in_tokenizer(), setting.prompts(), setting.config
    settings = writing_settings(config, setting.longest, {})
    own = model.generation_config
    writer = ModelWriter(model, tokenizer, config, own=own, task=Summarization(max_length=setting.longest), options={})

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            write_all(Path(folder), {}, writer, prompts, 0)

    def generate(rows: list[list[int]]) -> list[str]:
        texts: list[str] = []
        with torch.inference_mode():
            for start in range(0, len(rows), setting.batch):
                inputs = writer_inputs(model, tokenizer, rows[start : start + setting.batch])
                texts += tokenizer.batch_decode(model.generate(**inputs, **settings), skip_special_tokens=True)
        return texts

    return {
        "ours": ours,
        "generate, sorted": lambda: generate(sorted(prompts.input_ids, key=len)),
        "generate, as the data come": lambda: generate(prompts.input_ids),
    }


def measure(setting: Setting, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals."""
    clocks = {
        name: (lambda work=work: seconds_of(work, setting.device))  # type: ignore[misc]
        for name, work in writers(setting).items()
    }
    seconds = in_turn(clocks, rounds)
    rows = [
        {"name": name, "texts_a_second": round(setting.count / median(values), 3), "seconds": round(median(values), 3)}
        for name, values in seconds.items()
    ]
    goals = [
        goal(
            f"ours: texts a second / those of {name}, at least",
            median(theirs / own for own, theirs in zip(seconds["ours"], seconds[name], strict=True)),
            bound,
            at_least=True,
        )
        for name, bound in FASTER.items()
    ]
    return rows, goals


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    setting = Setting(device=options.device)
    rows, goals = measure(setting, options.rounds)
    shown = {name: value for name, value in dataclasses.asdict(setting).items() if name != "device"}
    write_results("label", rows, goals, options.device, {"rounds": options.rounds, **shown})


if __name__ == "__main__":
    main()
