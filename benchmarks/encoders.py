"""Encoders: a classifier beside TextBrewer, sentence vectors beside sentence-transformers, relations beside states.

    python -m benchmarks.encoders --classifier FOLDER --rows TRAIN.csv --test TEST.csv
        --embedder FOLDER --sentences ROWS.jsonl --pairs PAIRS.jsonl [--device cuda] [--rounds 3] [--count 2500]

The classifier's teacher is fine-tuned on the rows (columns ``text`` and ``category``); its student has every second
layer, and learns from logits and three hidden states for four epochs, as the recipe of banking77. Ours asks the teacher
in every step, or caches what it says, which is counted. TextBrewer trains it as its examples do (every row padded to
128 tokens, float32), and with batches and precision as ours (rows of one length together, bfloat16 where the device has
it in hardware). The embedder's student has half of its layers and learns the teacher's vectors by mean squared error
for two epochs, as the recipes of MiniLM; the teacher's part is counted, for both once. All take turns, on the same
rows; each ratio is the median of the rounds' ratios, and peak memory is of a short round in a process of its own. How
good the students of the last round are is told beside: accuracy, Spearman on scored pairs. The peers come with
``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from transformers import PreTrainedModel

from benchmarks.common import goal, in_a_process, in_turn, peak_memory, write_results
from benchmarks.encoder_trainers import CLASSIFIERS, EMBEDDERS, Setting, Train, accuracy, compared, padding, spearman
from benchmarks.step_overhead import batches, model, stepper
from hf_distill import Hidden, Logits
from hf_distill.objectives import Relation

FASTER = {"textbrewer, as its examples run": 4.0, "textbrewer, batches as ours": 1.5}
"""How many times the rows a second of each ours shall have, live and cached; at least."""

EPOCHS = {"classifier": 4, "vectors": 2}

VECTORS_FASTER = 2.0
"""The same of sentence-transformers."""

RELATION = 1.15
"""How many times a step with hidden states one with relations may take."""

PADDING = 0.05
"""The share of padding in batches of rows of one length, of all rows."""

MORE = 2
"""Sentences for each row of a classifier: they are read faster."""

SHORT = 256
"""Rows of the round whose memory is told."""


@dataclass
class Timed:
    """One trainer's rounds."""

    prepare: Callable[[Setting], Train]
    setting: Setting
    student: PreTrainedModel | None = None
    """Of the last round."""

    def __call__(self) -> float:
        train = self.prepare(self.setting)
        start = time.perf_counter()
        self.student = train()
        return time.perf_counter() - start


def round_in_a_process(name: str, setting: Setting) -> float:
    found: float = in_a_process(__spec__.name, "--round-of", json.dumps([name, dataclasses.asdict(setting)]))
    return found


def one_round(name: str, setting: Setting) -> float:
    """Megabytes that a round takes at most, beyond the models."""
    return peak_memory({**CLASSIFIERS, **EMBEDDERS}[name](setting), setting.device) / 1e6


def rows_of(
    trainers: dict[str, Callable[[Setting], Train]],
    setting: Setting,
    rounds: int,
    quality: Callable[[PreTrainedModel, Setting], dict[str, float]],
    memory: Callable[[str, Setting], float],
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
    """What each trainer takes and reaches, and its seconds a round."""
    there = {name: Timed(prepare, setting) for name, prepare in trainers.items() if name in compared()}
    short = dataclasses.replace(setting, count=SHORT, epochs=1)
    peaks = {name: memory(name, short) for name in there}
    seconds = in_turn(there, rounds)
    rows = []
    for name, each in there.items():
        assert each.student is not None
        row = {
            "name": name,
            "rows_a_second": round(setting.count * setting.epochs / median(seconds[name]), 1),
            "peak_megabytes": round(peaks[name], 1),
        }
        rows.append({**row, **{key: round(value, 4) for key, value in quality(each.student, setting).items()}})
    return rows, seconds


def faster(seconds: dict[str, list[float]], ours: str, theirs: str) -> float | None:
    if theirs not in seconds:
        return None
    return median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))


def relation_ratio(rounds: int, cpu: bool, folder: str) -> float:
    """A step with relations against one with hidden states, both with logits."""
    teacher = model(6, 384)
    steps = {
        name: stepper([Logits(), objective], teacher, cpu, folder)
        for name, objective in (("relation", Relation()), ("hidden", Hidden()))
    }
    given = batches(next(iter(steps.values()))[0].args.device)

    def seconds(step: Callable[[Any], None]) -> Callable[[], float]:
        def spent() -> float:
            start = time.perf_counter()
            for batch in given:
                step(batch)
            return time.perf_counter() - start

        return spent

    found = in_turn({name: seconds(step) for name, (_, step) in steps.items()}, rounds)
    return median(a / b for a, b in zip(found["relation"], found["hidden"], strict=True))


def measure(
    setting: Setting, rounds: int, memory: Callable[[str, Setting], float] = round_in_a_process
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and goals."""
    classified = dataclasses.replace(setting, epochs=EPOCHS["classifier"])
    embedded = dataclasses.replace(setting, count=MORE * setting.count, epochs=EPOCHS["vectors"])
    classifiers, seconds = rows_of(CLASSIFIERS, classified, rounds, accuracy, memory)
    on_cpu = setting.device == "cpu"
    vectors, spent = rows_of(EMBEDDERS, embedded, rounds, spearman, memory)
    goals = [
        *(
            goal(f"{ours}: rows a second / {peer}'s, at least", faster(seconds, ours, peer), bound, at_least=True)
            for ours in ("ours, live", "ours, cached")
            for peer, bound in FASTER.items()
        ),
        goal(
            "ours, vectors: rows a second / sentence-transformers', at least",
            faster(spent, "ours, vectors", "sentence-transformers"),
            VECTORS_FASTER,
            at_least=True,
        ),
        goal(
            "a step with relations / with hidden states",
            relation_ratio(3 * max(rounds, 1), on_cpu, setting.folder),
            RELATION,
        ),
        goal("padding with rows of one length together", padding(setting), PADDING),
    ]
    return [*classifiers, *vectors], goals


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("classifier", "rows", "test", "embedder", "sentences", "pairs"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=3, help="that are kept; one more comes first, unless it is 0")
    parser.add_argument("--count", type=int, default=2500, help="rows that a classifier learns from")
    parser.add_argument("--round-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round_of:
        name, given = json.loads(options.round_of)
        print(json.dumps(one_round(name, Setting(**given))))
        return
    files = {name: getattr(options, name) for name in ("classifier", "rows", "test", "embedder", "sentences", "pairs")}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(folder=folder, count=options.count, device=options.device, **files)
        rows, goals = measure(setting, options.rounds)
    shown = {name: Path(str(path)).name for name, path in files.items()}
    settings = {
        "rounds": max(options.rounds, 1),
        "count": options.count,
        "count_of_sentences": MORE * options.count,
        **shown,
    }
    write_results("encoders", rows, goals, options.device, {**settings, "batch": setting.batch})


if __name__ == "__main__":
    main()
