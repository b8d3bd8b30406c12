"""Where a cache pulls the student: the angle between its gradient and that of the teacher's whole distribution.

    python -m benchmarks.gradient_angles --teacher FOLDER --texts FILE [--student FOLDER | --layers 0 2 4]
        [--steps 0 100] [--tokens 256 1024 3072] [--draws 12 50 200] [--k 12 50 300] [--seeds 5]

The gradient is that of the forward KL in all parameters of the student, added up over the tokens of the texts. An angle
depends on two things more, so it is taken at several values of each. The number of tokens: what is drawn by chance
averages out as they grow, what is left out for good does not. And how near the student has come: as the gradient
itself gets smaller, everything amiss weighs more, so it is taken before and after some steps of live distillation on
the same texts. Of the drawn caches each seed's angle is taken, and that of the seeds' mean gradient, which falls
towards 0 where nothing but chance is amiss. Teacher and student are float32, so that angles are not those of rounding.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from benchmarks.common import goal, write_results
from benchmarks.language import bytes_of, keep, text_rows
from hf_distill import DistillationTrainer, Logits
from hf_distill.models.loading import load_model
from hf_distill.recipe import CacheConfig, FromParts
from hf_distill.students import build_student
from hf_distill.tasks import CausalLanguageModeling
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.teachers import ModelTeacher, Teacher
from hf_distill.tokenizers.processors import load_tokenizer
from hf_distill.types import UNITS, Batch

BOUND = 10.0
"""Degrees, of the mean over the seeds, at 50 draws and the largest number of tokens."""

LEARNING_RATE = 1e-3
"""Of the steps that bring the student nearer."""

JUDGED = CacheConfig(scheme="sampled", draws=50)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is distilled.

    Attributes:
        teacher: Live.
        student: Whose gradient is taken.
        tokenizer: Of both.
        task: How the texts become rows.
        rows: Encoded; a row at a time goes through the student.
        sizes: Ascending numbers of tokens: a gradient is looked at when that many have been added up.
        temperature: At which they are compared.
        folder: For caches.
    """

    teacher: ModelTeacher
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: CausalLanguageModeling
    rows: Any
    sizes: Sequence[int]
    temperature: float
    folder: Path
    device: str


def gradients(pair: Pair, teacher: Teacher, rows: Any) -> list[tuple[int, Tensor]]:
    """How many tokens were added up, and the gradient in all parameters as one vector; one a size."""
    trainer = DistillationTrainer(
        model=pair.student,
        teacher=teacher,
        task=pair.task,
        objectives=[Logits(temperature=pair.temperature)],
        args=TrainingArguments(str(pair.folder), use_cpu=pair.device == "cpu", report_to="none"),
    )
    collate = with_row_ids(pair.task.collator(pair.tokenizer))
    one = torch.ones((), device=pair.device)
    pair.student.eval().zero_grad()
    found: list[tuple[int, Tensor]] = []
    tokens = 0
    for row in rows:
        batch: Batch = {name: value.to(pair.device) for name, value in collate([row]).items()}
        # Divided by 1: gradients are sums over tokens, whose length no angle knows.
        loss = trainer.compute_loss(pair.student, batch, num_items_in_batch=dict.fromkeys(UNITS, one))
        assert isinstance(loss, Tensor)
        loss.backward()
        tokens += int(pair.task.masks(batch)["positions"].sum())
        if tokens >= pair.sizes[len(found)]:
            found.append((tokens, flat(pair.student)))
        if len(found) == len(pair.sizes):
            return found
    raise SystemExit(f"the texts hold {tokens} tokens, {pair.sizes[-1]} are asked for; name a longer file")


def flat(model: PreTrainedModel) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def degrees(first: Tensor, second: Tensor) -> float:
    """The angle between two vectors; exact for small ones too."""
    one, other = (vector.double() / vector.double().norm() for vector in (first, second))
    return math.degrees(2 * math.atan2(float((one - other).norm()), float((one + other).norm())))


def count_tokens(pair: Pair, rows: Any) -> int:
    collate = pair.task.collator(pair.tokenizer)
    return sum(int(pair.task.masks(collate([row]))["positions"].sum()) for row in rows)


def cached_gradients(pair: Pair, config: CacheConfig, seed: int) -> tuple[list[Tensor], float]:
    """The gradients that a cache gives, one a size; and the bytes that it keeps of a token."""
    with tempfile.TemporaryDirectory(dir=pair.folder) as folder:
        teacher, rows = keep(
            pair.teacher,
            pair.task,
            pair.tokenizer,
            pair.rows,
            config,
            Path(folder),
            objectives={"logits": Logits(temperature=pair.temperature)},
            seed=seed,
        )
        found = gradients(pair, teacher, rows)
        return [vector for _, vector in found], bytes_of(teacher.plan.folder) / count_tokens(pair, rows)


def angles(
    pair: Pair, config: CacheConfig, seeds: int, whole: Sequence[tuple[int, Tensor]]
) -> Iterator[dict[str, Any]]:
    """One row of the results a size."""
    drawn = [cached_gradients(pair, config, seed) for seed in range(seeds if config.scheme == "sampled" else 1)]
    for number, (tokens, expected) in enumerate(whole):
        vectors = [found[number] for found, _ in drawn]
        of_seeds = [degrees(vector, expected) for vector in vectors]
        row: dict[str, Any] = {
            "scheme": config.scheme,
            **({"draws": config.draws} if config.draws is not None else {"k": config.k}),
            "bytes_a_token": round(mean(size for _, size in drawn), 2),
            "tokens": tokens,
            "degrees": round(mean(of_seeds), 3),
        }
        if len(vectors) > 1:
            of_mean = degrees(torch.stack(vectors).mean(0), expected)
            row |= {"degrees_of_seeds": [round(each, 3) for each in of_seeds], "degrees_of_mean": round(of_mean, 3)}
        yield row


def train(pair: Pair, steps: int) -> None:
    """Bring the student nearer to its teacher."""
    args = TrainingArguments(
        str(pair.folder),
        max_steps=steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        use_cpu=pair.device == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = DistillationTrainer(
        model=pair.student,
        teacher=pair.teacher,
        task=pair.task,
        objectives=[Logits(temperature=pair.temperature)],
        args=args,
        train_dataset=pair.rows,
        processing_class=pair.tokenizer,
    )
    trainer.train()


def measure(
    pair: Pair, configs: Sequence[CacheConfig], seeds: int, steps: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals."""
    rows: list[dict[str, Any]] = []
    done = 0
    for until in sorted(steps):
        if until > done:
            train(pair, until - done)
        done = until
        whole = gradients(pair, pair.teacher, pair.rows)
        for config in configs:
            rows += [{"steps": until, **row} for row in angles(pair, config, seeds, whole)]
    return rows, goals_of(rows)


def goals_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One after each number of steps."""
    judged = [row for row in rows if (row["scheme"], row.get("draws")) == (JUDGED.scheme, JUDGED.draws)]
    last = {row["steps"]: row for row in judged}.values()
    named = f"{JUDGED.scheme}, {JUDGED.draws} draws"
    return [
        goal(f"{named}, {row['tokens']} tokens, after {row['steps']} steps: degrees", row["degrees"], BOUND)
        for row in last
    ] or [goal(f"{named}: degrees", None, BOUND)]


def schemes(draws: Sequence[int], k: Sequence[int], vocabulary: int) -> list[CacheConfig]:
    """All that are compared; more tokens than there are cannot be kept."""
    of_k = itertools.product(("top_k", "naive_top_k"), (each for each in k if each <= vocabulary))
    return [
        *(CacheConfig(scheme="sampled", draws=each) for each in draws),
        *(CacheConfig(scheme=scheme, k=each) for scheme, each in of_k),  # type: ignore[arg-type]
    ]


def load(options: argparse.Namespace, folder: Path) -> Pair:
    device = torch.device(options.device)
    teacher = ModelTeacher(load_model(AutoModelForCausalLM, str(options.teacher)))
    tokenizer = load_tokenizer(str(options.teacher))
    task = CausalLanguageModeling(max_length=options.length)
    if options.student is not None:
        student = load_model(AutoModelForCausalLM, str(options.student))
    else:
        student = build_student(
            FromParts(layers=options.layers),
            auto_model=AutoModelForCausalLM,
            teacher=teacher.model,
            teacher_tokenizer=tokenizer,
            texts=lambda: [],
            model_options={},
        ).model.requires_grad_(True)
    teacher.to(device)
    student.to(device)  # type: ignore[arg-type]
    return Pair(
        teacher=teacher,
        student=student,
        tokenizer=tokenizer,
        task=task,
        rows=text_rows(options.texts, options.separator, task, tokenizer),
        sizes=sorted(options.tokens),
        temperature=options.temperature,
        folder=folder,
        device=options.device,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--teacher", type=Path, required=True, help="the folder of a language model and its tokenizer")
    parser.add_argument("--texts", type=Path, required=True, help="a text file")
    parser.add_argument("--separator", default="\n\n", help="what stands between two texts")
    parser.add_argument("--student", type=Path, help="a folder; made of the teacher's layers unless given")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2, 4], help="of the teacher, for the student")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[0, 100], help="of distillation before angles are taken"
    )
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024, 3072], help="that gradients are taken of")
    parser.add_argument("--draws", type=int, nargs="+", default=[12, 50, 200])
    parser.add_argument("--k", type=int, nargs="+", default=[12, 50, 300])
    parser.add_argument("--seeds", type=int, default=5, help="of the drawn caches")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pair = load(options, Path(folder))
        configs = schemes(options.draws, options.k, pair.teacher.outputs)
        rows, goals = measure(pair, configs, options.seeds, options.steps)
    settings = {
        "teacher": "/".join(options.teacher.resolve().parts[-2:]),
        "student": f"layers {options.layers} of it" if options.student is None else options.student.name,
        "vocabulary": pair.teacher.outputs,
        "texts": options.texts.name,
        "length": options.length,
        "temperature": options.temperature,
        "seeds": options.seeds,
        "learning_rate": LEARNING_RATE,
    }
    write_results("gradient_angles", rows, goals, options.device, settings)


if __name__ == "__main__":
    main()
