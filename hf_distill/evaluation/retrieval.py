"""How well a model's vectors tell what texts mean: scored pairs in the right order, the right text found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from typing_extensions import override

from hf_distill.evaluation.analysis import Evaluated, beside_control, compare_control, short
from hf_distill.evaluation.regression import SimilarityScores
from hf_distill.evaluation.scores import Chance, Evaluation, Scoreable, Scores, by_row
from hf_distill.types import Batch

DEPTHS = (1, 10)
"""How many of the nearest texts are looked at."""


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalScores(Scores):
    """What one model found for every query of a split.

    Attributes:
        queries: ``[N]`` texts.
        ranks: For each query, at which places (from 0, ascending) the texts that belong to it were found.
        nearest: ``[N]``, the text that was found first, of so many ``passages``.
    """

    queries: np.ndarray
    ranks: Sequence[np.ndarray]
    nearest: np.ndarray
    passages: int

    @property
    @override
    def rows(self) -> np.ndarray:
        return self.queries

    @override
    def chance(self, metric: str) -> Chance:
        return Chance(f"recall@{DEPTHS[-1]}", min(1.0, DEPTHS[-1] / self.passages), "naming any texts")

    @cached_property
    def by_query(self) -> dict[str, np.ndarray]:
        """Every metric of each query, ``[N]``."""
        found = [_of_query(ranks) for ranks in self.ranks]
        return {name: np.array([each[name] for each in found]) for name in found[0]}

    @override
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        total = counts.sum(1)
        return {name: counts @ values / total for name, values in self.by_query.items()}

    @override
    def agreement(self, teacher: RetrievalScores) -> float:
        return float((self.nearest == teacher.nearest).mean())

    @override
    def analysis(
        self, models: Mapping[str, RetrievalScores], evaluated: Evaluated, examples: int = 5
    ) -> dict[str, Any]:
        passages, teacher = list(dict.fromkeys(evaluated.rows["text_pair"])), models["teacher"]
        metrics = {name: each.metrics() for name, each in models.items()}
        recall = {name: each["recall@1"] for name, each in metrics.items()}
        first = {name: np.array([ranks[0] == 0 for ranks in each.ranks]) for name, each in models.items()}
        lost, won = first["teacher"] & ~first["student"], first["student"] & ~first["teacher"]
        return {
            "summary": [
                f"It finds a text that belongs first for {recall['student']:.1%} of the queries (recall), the teacher "
                f"for {recall['teacher']:.1%}{beside_control(recall, ' {:.1%}')}.",
                *compare_control({name: each["ndcg@10"] for name, each in metrics.items()}),
                f"{lost.sum()} queries are lost against the teacher, {won.sum()} are won.",
            ],
            "measure": {},
            "examples": [
                {
                    "text": short(str(self.queries[row])),
                    "label": short(passages[teacher.nearest[row]]),
                    "student": short(passages[self.nearest[row]]),
                    "teacher": short(passages[teacher.nearest[row]]),
                }
                for row in np.flatnonzero(lost)[:examples]
            ],
        }


def score_vectors(candidate: Scoreable, evaluation: Evaluation) -> SimilarityScores | RetrievalScores:
    """What a model's vectors say of pairs, in the order of the rows."""
    task, rows, batch_size = evaluation.task, evaluation.rows, evaluation.batch_size
    if task.evaluation == "similarity":
        pairs = rows.select_columns(["text", "text_pair"])
        vectors = np.stack(_vectors(candidate, task, pairs, batch_size))
        return SimilarityScores(
            logits=(vectors[:, 0] * vectors[:, 1]).sum(-1, keepdims=True),
            labels=np.asarray(rows["score"], dtype=np.float64),
            problem_type="similarity",
            label_names=("score",),
        )
    queries, passages = (list(dict.fromkeys(rows[name])) for name in ("text", "text_pair"))
    place = {text: i for i, text in enumerate(passages)}
    belong: dict[str, list[int]] = {query: [] for query in queries}
    for query, passage in zip(rows["text"], rows["text_pair"], strict=True):
        belong[query].append(place[passage])
    mine, theirs = (
        np.stack(_vectors(candidate, task, Dataset.from_dict({"text": texts}), batch_size))[:, 0]
        for texts in (queries, passages)
    )
    ranks, nearest = [], []
    for vector, query in zip(mine, queries, strict=True):
        cosines = theirs @ vector
        nearest.append(int(cosines.argmax()))
        # Of equal cosines those that do not belong come first: nothing is won by saying the same of all.
        own = np.unique(belong[query])
        others = np.delete(cosines, own)
        ranks.append(np.sort([(others >= cosines[i]).sum() + (cosines[own] > cosines[i]).sum() for i in own]))
    return RetrievalScores(
        queries=np.array(queries, dtype=object), ranks=ranks, nearest=np.array(nearest), passages=len(passages)
    )


def _vectors(candidate: Scoreable, task: Any, rows: Dataset, batch_size: int) -> list[np.ndarray]:
    """``[texts, D]`` of length 1, of each row."""

    def read(batch: Batch) -> list[np.ndarray]:
        vectors: Any = candidate.run(task.student_inputs(batch), False)
        grouped = vectors.float().view(*batch["attention_mask"].shape[:2], -1)
        unit = grouped / grouped.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return list(unit.cpu().numpy())

    encoded: Any = task.encode(rows, candidate.tokenizer)
    return by_row(candidate.models, task, candidate.tokenizer, encoded, batch_size, read)


def _of_query(ranks: np.ndarray) -> dict[str, float]:
    """Recall and nDCG at each depth, and the reciprocal rank within the last, all of one query."""
    scores: dict[str, float] = {}
    for depth in DEPTHS:
        found = ranks[ranks < depth]
        best = (1 / np.log2(np.arange(min(len(ranks), depth)) + 2)).sum()
        scores[f"recall@{depth}"] = len(found) / len(ranks)
        scores[f"ndcg@{depth}"] = float((1 / np.log2(found + 2)).sum() / best)
    scores[f"mrr@{DEPTHS[-1]}"] = 1 / (int(ranks[0]) + 1) if ranks[0] < DEPTHS[-1] else 0.0
    return scores
