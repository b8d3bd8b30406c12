"""Word and character error rates of transcripts, from the errors of each clip, and which errors they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from typing_extensions import override

from hf_distill.errors import LabelError
from hf_distill.evaluation.analysis import (
    NAMED,
    Evaluated,
    beside_control,
    compare_confusions,
    compare_control,
    compare_lengths,
    length_buckets,
    length_entries,
    rounded,
    short,
)
from hf_distill.evaluation.metrics import MEASURED
from hf_distill.evaluation.scores import Chance, Evaluation, Scoreable, Scores, by_row, ratio
from hf_distill.evaluation.transcripts.edits import NOTHING, Edits, edits_of
from hf_distill.evaluation.transcripts.normalizers import normalized
from hf_distill.types import Batch


@dataclass(frozen=True, eq=False, kw_only=True)
class TranscriptScores(Scores):
    """What one model wrote down of every clip of a split.

    Attributes:
        texts: Its transcripts.
        references: What is said.
        unit: What errors are counted in: ``words``, or ``characters`` where there are no blanks between words.
        normalizer: The name of what makes texts alike before they are compared a second time, see ``NORMALIZERS``.
    """

    texts: Sequence[str]
    references: Sequence[str]
    unit: str = "words"
    normalizer: str = "basic"

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        if not any(reference.strip() for reference in self.references):
            raise LabelError("the evaluated split has no text to compare transcripts with; check its column text")

    @property
    def rate(self) -> str:
        """The metric that decides."""
        return MEASURED[f"transcribed {self.unit}"][0]

    @cached_property
    def edits(self) -> dict[str, Edits]:
        """The errors behind every metric, by its name."""
        alike = [normalized(texts, self.normalizer) for texts in (self.references, self.texts)]
        found = {}
        for name in MEASURED[f"transcribed {self.unit}"]:
            references, texts = alike if name.endswith("_normalized") else (self.references, self.texts)
            found[name] = edits_of(references, texts, characters=name.startswith("cer"))
        return found

    @property
    @override
    def rows(self) -> np.ndarray:
        return np.array(self.references, dtype=object)

    @override
    def chance(self, metric: str) -> Chance:
        # A vocabulary of capital letters alone is wrong in every word of other texts, and may still have heard them.
        return Chance(f"{self.rate}_normalized", 1.0, "writing nothing")

    @override
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        weights = counts.astype(np.float64)
        return {name: ratio(weights @ each.wrong, weights @ each.said) for name, each in self.edits.items()}

    @override
    def agreement(self, teacher: TranscriptScores) -> float:
        own, other = (normalized(each.texts, self.normalizer) for each in (self, teacher))
        return float(np.mean([text == heard for text, heard in zip(own, other, strict=True)]))

    @override
    def analysis(
        self, models: Mapping[str, TranscriptScores], evaluated: Evaluated, examples: int = 5
    ) -> dict[str, Any]:
        rates = {name: each.edits[self.rate].rates for name, each in models.items()}
        metrics = {name: each.metrics() for name, each in models.items()}
        # Of errors that are more than case and punctuation.
        found = {name: each.edits[f"{self.rate}_normalized"].confusions() for name, each in models.items()}
        buckets = length_buckets(evaluated.lengths)
        lost = rates["student"] - rates["teacher"]
        worst = np.argsort(-lost, kind="stable")[:examples]
        confusions = _confusions(found["student"], found["teacher"], examples)
        return {
            "summary": [
                *self._compare(metrics),
                *compare_confusions(confusions),
                *_one_sided(found["student"], found["teacher"]),
                compare_lengths(
                    lost, buckets, lambda share: f"{share:.1%} of the {self.unit}", evaluated.task.length_unit
                ),
            ],
            "measure": {"rows": self.rate, "lengths": self.rate},
            "lengths": length_entries(rates, buckets),
            "confusions": confusions,
            "rows": [
                {"text": short(self.references[row]), **rounded({name: each[row] for name, each in rates.items()})}
                for row in worst
            ],
            "written": [
                {
                    "text": _clip(evaluated, int(row)),
                    "reference": short(self.references[row]),
                    **{name: short(each.texts[row]) for name, each in models.items()},
                }
                for row in worst
            ],
        }

    def _compare(self, metrics: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
        raw, alike = (
            {name: each[f"{self.rate}{end}"] for name, each in metrics.items()} for end in ("", "_normalized")
        )
        said = int(self.edits[self.rate].said.sum())
        first, second = (
            f"{each['student']:.1%}, the teacher {each['teacher']:.1%}{beside_control(each, ' {:.1%}')}"
            for each in (raw, alike)
        )
        yield (
            f"Of {said:,} {self.unit} in {len(self.texts):,} clips the student gets wrong ({self.rate.upper()}) "
            f"{first}; without case and punctuation {second}."
        )
        if alike["student"] < raw["student"] / 2:
            yield (
                "Most of its errors are of case and punctuation alone: train on texts that are written as they are to "
                f"be read, or compare by {self.rate}_normalized."
            )
        yield from compare_control({name: -value for name, value in raw.items()})


def transcript_scores(task: Any, rows: Dataset, texts: Sequence[str]) -> TranscriptScores:
    """The scores of transcripts, one a row, of a task that says in what ``unit`` and by what ``normalizer``."""
    return TranscriptScores(
        texts=texts,
        references=list(rows["text"]),
        unit=task.unit,
        normalizer=task.normalizer,
    )


def score_transcripts(candidate: Scoreable, evaluation: Evaluation) -> TranscriptScores:
    """What a model hears in every clip in one forward pass, in the order of the rows."""
    task, rows, processor = evaluation.task, evaluation.rows, candidate.tokenizer
    task.check_evaluated(rows)

    def read(batch: Batch) -> list[str]:
        logits: Any = candidate.run(task.student_inputs(batch), False)
        written: list[str] = task.written(logits, batch, candidate.models[0], processor)
        return written

    few = max(1, evaluation.batch_size // 8)
    texts = by_row(candidate.models, task, processor, task.encode(rows, processor), few, read)
    return transcript_scores(task, rows, texts)


def _confusions(own: Counter[tuple[str, str]], teachers: Mapping[tuple[str, str], int], count: int) -> list[dict]:
    """The words that are taken for others most often."""
    ordered = [(pair, times) for pair, times in own.most_common() if NOTHING not in pair][:count]
    return [
        {"label": said, "predicted": written, "count": times, "teacher_count": teachers[said, written]}
        for (said, written), times in ordered
    ]


def _one_sided(own: Counter[tuple[str, str]], teachers: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """Name what is most often left out, and what is most often written though nobody said it."""
    for side, told in ((1, "left out"), (0, "written though it is not said")):
        found = [(pair, times) for pair, times in own.most_common() if pair[side] == NOTHING]
        if found:
            named = ", ".join(
                f"{pair[1 - side]} ({times} times, by the teacher {teachers[pair]})" for pair, times in found[:NAMED]
            )
            yield f"Most often {told}: {named}, of {sum(times for _, times in found)} in all."


def _clip(evaluated: Evaluated, number: int) -> str:
    """The name of a clip's file, where it has one, and how long it is."""
    cell = evaluated.rows[number].get("audio")
    path = cell.get("path") if isinstance(cell, Mapping) else None
    return (
        f"{Path(path).name if path else f'row {number}'} ({evaluated.lengths[number]:,} {evaluated.task.length_unit})"
    )
