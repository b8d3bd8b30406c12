"""How well a model labels words: entities found, words right."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities
from typing_extensions import override

from hf_distill.data.tag_schemes import OUTSIDE, read_scheme
from hf_distill.errors import LabelError
from hf_distill.evaluation.analysis import Decided, Evaluated, beside_control, short
from hf_distill.evaluation.classification import ClassScores
from hf_distill.evaluation.scores import Chance, Evaluation, Scoreable, Scores, by_row, ratio
from hf_distill.types import IGNORED, Batch

Span = tuple[str, int, int]
"""Type, first and last word of an entity."""


def spans(names: Sequence[str], tags: Iterable[int]) -> list[Span]:
    """The entities of a row as seqeval finds them; where labels mark none, each labelled word is one."""
    scheme = read_scheme(tuple(names))
    given = [scheme.tags[tag] for tag in tags]
    if scheme.name is not None:
        return list(get_entities(given))
    return [(names[tag], place, place) for place, tag in enumerate(tags) if scheme.tags[tag] != OUTSIDE]


@dataclass(frozen=True, eq=False, kw_only=True)
class TagScores(Scores):
    """What one model gave for every word of a split.

    Attributes:
        words: One row a word.
        row_of: ``[W]``, the row that each word belongs to, ascending.
        seen: ``[W]``, whether the model saw the word; where it did not, its decision stands without a look.
        place: ``[W]``, which word of its row each is; None where no word of a row is left out.
    """

    words: ClassScores
    row_of: np.ndarray
    seen: np.ndarray
    place: np.ndarray | None = None

    @property
    @override
    def rows(self) -> np.ndarray:
        labels = np.split(self.words.labels, self._starts)
        return np.array([row.tobytes() for row in labels], dtype=object)

    @cached_property
    def found(self) -> list[tuple[list[Span], list[Span]]]:
        """The entities of each row: those that there are, and those that the model names."""
        labels, decided = (np.split(each, self._starts) for each in (self.words.labels, self.words.decisions))
        names = self.words.label_names
        return [(spans(names, gold), spans(names, own)) for gold, own in zip(labels, decided, strict=True)]

    @property
    def count(self) -> np.ndarray:
        """``[N]``: words of each row."""
        return np.bincount(self.row_of)

    @property
    def right(self) -> np.ndarray:
        """``[N]``: words of each row that are labelled rightly."""
        return np.bincount(self.row_of, self.words.correct)

    @property
    def types(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support (how many there are) of each type of entity."""
        kinds = sorted({span[0] for gold, own in self.found for span in (*gold, *own)})
        totals = {kind: self._counts(kind).sum(0) for kind in kinds}
        return {
            kind: {name: float(share) for name, share in _shares(*total).items()} | {"support": int(total[2])}
            for kind, total in totals.items()
        }

    @property
    @override
    def confidences(self) -> tuple[np.ndarray, np.ndarray]:
        sure, right = self.words.confidences
        return sure[self.seen], right[self.seen]

    @override
    def chance(self, metric: str) -> Chance:
        usual = Counter(self.words.labels.tolist()).most_common(1)[0][0]
        logits = np.eye(len(self.words.label_names))[np.full(len(self.words.labels), usual)]
        always = dataclasses.replace(self.words, logits=logits)
        value = dataclasses.replace(self, words=always).metrics()["f1"]
        return Chance("f1", value, f"calling every word {self.words.label_names[usual]}")

    @override
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        weights = counts.astype(np.float64)
        accuracy = ratio(weights @ self.right, weights @ self.count)
        return {**_shares(*(weights @ self._table).T), "accuracy": accuracy}

    @override
    def agreement(self, teacher: TagScores) -> float:
        return self.words.agreement(teacher.words)

    @override
    def analysis(self, models: Mapping[str, TagScores], evaluated: Evaluated, examples: int = 5) -> dict[str, Any]:
        words, named = self._shown_words(evaluated.rows["tokens"]), {name: each.types for name, each in models.items()}
        texts = [" ".join(row) for row in words]
        of_words = [texts[row] for row in self.row_of]
        own, f1 = self.metrics(), {name: each.metrics()["f1"] for name, each in models.items()}
        what = "labelled words" if read_scheme(tuple(self.words.label_names)).name is None else "entities"
        sure, right = self.confidences
        decided = Decided(
            by_class=named,
            means=f1,
            by_row={name: each.right / each.count for name, each in models.items()},
            lengths=self.count,
            loss="{:.1%} of the words",
            sure=(float(sure.mean()), float(right.mean())),
            confusions=self.words.most_confused(models["teacher"].words, of_words, examples),
            units=(what, "words"),
        )
        control = beside_control(f1, "'s {:.3f}")
        first = (
            f"Of {sum(each['support'] for each in named['student'].values())} {what} the student finds "
            f"{own['recall']:.1%}, and {own['precision']:.1%} of those it names are right: F1 {f1['student']:.3f}, the "
            f"teacher's {f1['teacher']:.3f}{control}."
        )
        shown = [
            {
                "text": short(texts[row]),
                "label": _shown(words[row], self.found[row][0]),
                **{name: _shown(words[row], models[name].found[row][1]) for name in ("student", "teacher")},
            }
            for row in self._lost_to(models["teacher"])[:examples]
        ]
        return decided.analysis(models, first, "accuracy", shown)

    def _shown_words(self, rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        """The words of each row that are scored."""
        if self.place is None:
            return list(rows)
        places = np.split(self.place, self._starts)
        return [[row[i] for i in place] for row, place in zip(rows, places, strict=True)]

    def _lost_to(self, teacher: TagScores) -> list[int]:
        """Rows of which the teacher names all entities rightly and the student does not, most errors first."""
        wrong = {
            row: len(set(gold) ^ set(own))
            for row, (gold, own) in enumerate(self.found)
            if set(gold) != set(own) and set(teacher.found[row][1]) == set(gold)
        }
        return sorted(wrong, key=lambda row: -wrong[row])

    @property
    def _starts(self) -> np.ndarray:
        return np.flatnonzero(np.diff(self.row_of)) + 1

    @cached_property
    def _table(self) -> np.ndarray:
        return self._counts(None)

    def _counts(self, kind: str | None) -> np.ndarray:
        """``[N, 3]``: entities of a type, or of all: named rightly, named, and there."""
        chosen = [[{span for span in part if kind in (None, span[0])} for part in pair] for pair in self.found]
        return np.array([[len(gold & own), len(own), len(gold)] for gold, own in chosen], dtype=np.float64)


def score_tags(candidate: Scoreable, evaluation: Evaluation) -> TagScores:
    """A model's decision on every word of a split, each by its first token.

    A word without a label is not scored. One that the model does not see, because its row is cut or its tokenizer drops
    it, is decided as ``O``, or as the first label where there is no such: models of any tokenizer are scored on the
    same words.
    """
    task, rows = evaluation.task, evaluation.rows
    names = task.label_set.names
    unseen = np.zeros(len(names), dtype=np.float32)
    unseen[read_scheme(names).outside or 0] = 1e-3  # Decided, and as unsure as can be.

    def read(batch: Batch) -> list[np.ndarray]:
        logits: Any = candidate.run(task.student_inputs(batch), False)
        pairs = zip(logits.float(), batch["attention_mask"].bool(), strict=True)
        return [row[mask].cpu().numpy() for row, mask in pairs]

    encoded = task.encode(rows, candidate.tokenizer)
    of_tokens = by_row(candidate.models, task, candidate.tokenizer, encoded, evaluation.batch_size, read)
    of_words = [np.vstack([row, unseen])[first] for row, first in zip(of_tokens, encoded["first_tokens"], strict=True)]
    counts = [len(each) for each in of_words]
    if not all(counts):
        raise LabelError(f"row {counts.index(0)} of the evaluated split has no words; remove it")
    labels, seen = (np.concatenate(encoded[name]) for name in ("word_labels", "first_tokens"))
    row_of, place = np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(n) for n in counts])
    told = labels != IGNORED  # What a word is whose label is missing is not known.
    words = ClassScores(np.concatenate(of_words)[told], labels[told], task.label_set.problem_type, names)
    return TagScores(words=words, row_of=row_of[told], seen=seen[told] >= 0, place=None if told.all() else place[told])


def _shares(*counts: Any) -> dict[str, np.ndarray]:
    hits, named, there = map(np.asarray, counts)
    return {"f1": ratio(2 * hits, named + there), "precision": ratio(hits, named), "recall": ratio(hits, there)}


def _shown(words: Sequence[str], entities: Sequence[Span]) -> str:
    named = [f"{' '.join(words[first : last + 1])} ({kind})" for kind, first, last in entities]
    return short(", ".join(named) or "none")
