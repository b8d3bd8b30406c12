"""Which of a row's texts is taken, and which rows are dropped, each with what dropped it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

from hf_distill.evaluation.metrics import LOWER_IS_BETTER, Bleu, Scorer, make_scorers
from hf_distill.generation.writer import Hypothesis
from hf_distill.labelling.shards import WrittenRow
from hf_distill.recipe import LabelConfig, LabelFilters


class SentenceBleu(Bleu):
    """BLEU of one sentence: of n-grams that a short text can have."""

    metric = BLEU(effective_order=True)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is taken for a row."""

    row_id: int
    source_tokens: int  # Of what it was written after.
    hypothesis: Hypothesis
    score: float | None  # Against the reference; None where nothing is judged.


def choose(
    written: Sequence[WrittenRow], references: Mapping[int, str], config: LabelConfig, scorer: str | None
) -> list[Choice]:
    """One text a row; references, by row id, are read only where a scorer judges the texts."""
    unjudged = [[None] * len(row.hypotheses) for row in written]
    scores = unjudged if scorer is None else _scores(written, references, scorer)
    chosen = []
    for row, judged in zip(written, scores, strict=True):
        likely = [hypothesis.mean_log_probability for hypothesis in row.hypotheses]
        # What beams find likeliest comes first.
        measure = judged if config.choose == "best" else likely if config.draws else [0.0]
        values = np.array(measure, dtype=float)
        best = int(np.argmin(values) if config.choose == "best" and counts_errors(scorer) else np.argmax(values))
        hypothesis, score = row.hypotheses[best], judged[best]
        chosen.append(Choice(row_id=row.row_id, source_tokens=row.source_tokens, hypothesis=hypothesis, score=score))
    return chosen


def keep(choices: Sequence[Choice], filters: LabelFilters, scorer: str | None) -> tuple[list[Choice], dict[str, int]]:
    """The rows that nothing drops, and how many each filter dropped; a row counts for the first that does."""
    tests = {"empty": lambda row: not row.hypothesis.text.strip(), **_tests(filters, counts_errors(scorer))}
    faults = [next((name for name, test in tests.items() if test(choice)), None) for choice in choices]
    kept = [choice for choice, fault in zip(choices, faults, strict=True) if fault is None]
    return kept, {name: faults.count(name) for name in tests}


def sentence_scorer(name: str) -> Scorer:
    """A scorer whose figures mean something for a single text."""
    return SentenceBleu() if name == "bleu" else make_scorers([name], "recipe.label.scorer")[0]


def counts_errors(name: str | None) -> bool:
    """Whether the figure of a scorer is the better, the lower it is."""
    return name is not None and sentence_scorer(name).names[-1] in LOWER_IS_BETTER


def compression_ratio(text: str) -> float:
    """How many times shorter zlib makes a text, as Whisper tells texts that go in circles."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _scores(written: Sequence[WrittenRow], references: Mapping[int, str], name: str) -> list[list[Any]]:
    scorer = sentence_scorer(name)
    texts = [each.text for row in written for each in row.hypotheses]
    wanted = [references[row.row_id] for row in written for _ in row.hypotheses]
    # Of ROUGE, the last is ROUGE-L.
    found = scorer.scores(scorer.statistics(texts, wanted), np.ones(len(texts)))[scorer.names[-1]]
    values = iter(np.round(found, 5).tolist())
    return [[next(values) for _ in row.hypotheses] for row in written]


def _tests(filters: LabelFilters, errors: bool) -> dict[str, Callable[[Choice], bool]]:
    """What tells, by the name of a filter that is set, whether a row is dropped."""
    low, high = filters.length_ratio or (0.0, float("inf"))
    bound = {name: float("nan") if value is None else value for name, value in vars(filters).items()}
    least, sign = bound["mean_log_probability"], -1 if errors else 1
    tests: dict[str, Callable[[Choice], bool]] = {
        "length_ratio": lambda row: not low <= row.hypothesis.tokens / max(1, row.source_tokens) <= high,
        "repetition": lambda row: row.hypothesis.repetition > bound["repetition"],
        "compression_ratio": lambda row: compression_ratio(row.hypothesis.text) > bound["compression_ratio"],
        "mean_log_probability": lambda row: (row.hypothesis.mean_log_probability or 0.0) < least,
        "reference_score": lambda row: row.score is None or sign * row.score < sign * bound["reference_score"],
    }
    return {name: test for name, test in tests.items() if getattr(filters, name) is not None}
