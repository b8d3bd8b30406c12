"""How good is what a model writes? BLEU, chrF, ROUGE, exact match, or a function of the recipe's own.

Each scorer reduces a text to a few numbers that add up over rows, so that rows can be resampled without scoring a text
again: n-gram counts for BLEU and chrF, which are figures of a whole corpus; a score for all others, whose mean counts.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.names import look_up


class Scorer(ABC):
    """Judges texts against references.

    Attributes:
        names: Of the metrics it gives.
    """

    names: tuple[str, ...]

    @abstractmethod
    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """``[N, K]``, what a row adds to the sums."""

    @abstractmethod
    def scores(self, sums: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``[R]`` of each metric, from ``[R, K]`` sums over ``[R]`` rows."""


class Corpus(Scorer):
    """A metric of sacrebleu, whose counts add up over a corpus.

    Its own bootstrap (``sacrebleu.significance``) draws from the same two methods.
    """

    metric: ClassVar[Callable[[], Any]]

    def __init__(self) -> None:
        self._metric: Any = type(self).metric()

    @override
    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        return np.array(self._metric._extract_corpus_statistics(list(texts), [list(references)]), dtype=np.float64)

    @override
    def scores(self, sums: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        (name,) = self.names
        values = [self._metric._compute_score_from_stats(each.astype(int).tolist()).score for each in sums]
        return {name: np.array(values)}


class Bleu(Corpus):
    """BLEU of sacrebleu: tokenised as WMT does (13a), case kept."""

    names = ("bleu",)
    metric = BLEU


class Chrf(Corpus):
    """chrF2 of sacrebleu: n-grams of up to 6 characters."""

    names = ("chrf",)
    metric = CHRF


class Mean(Scorer):
    """Scores of single rows, of which the mean counts."""

    @override
    def scores(self, sums: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[:, i] / rows for i, name in enumerate(self.names)}


class Rouge(Mean):
    """F-measure of ROUGE-1, ROUGE-2 and ROUGE-L, words stemmed; 0 to 1."""

    names = ("rouge1", "rouge2", "rougeL")

    @override
    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        scorer = RougeScorer(list(self.names), use_stemmer=True)
        found = (scorer.score(reference, text) for text, reference in zip(texts, references, strict=True))
        return np.array([[each[name].fmeasure for name in self.names] for each in found])


class Function(Mean):
    """A function of a text and its reference that gives a number.

    Args:
        name: Of the metric.
        function: Gets the text that was written, and the reference.
    """

    def __init__(self, name: str, function: Callable[[str, str], float]) -> None:
        self.names = (name,)
        self._function = function

    @override
    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        pairs = zip(texts, references, strict=True)
        return np.array([[float(self._function(text, reference))] for text, reference in pairs])


def exact_match(text: str, reference: str) -> float:
    """1 where both are the same, blanks at the ends aside."""
    return float(text.strip() == reference.strip())


def last_number(text: str, reference: str) -> float:
    """1 where the last number of both is the same, as sums are judged (GSM8K)."""
    written, wanted = _last_number(text), _last_number(reference)
    return float(written is not None and written == wanted)


def _last_number(text: str) -> float | None:
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return float(found[-1].replace(",", "")) if found else None


SCORERS: dict[str, type[Scorer] | Callable[[str, str], float]] = {
    "bleu": Bleu,
    "chrf": Chrf,
    "rouge": Rouge,
    "exact_match": exact_match,
    "last_number": last_number,
}
"""By the name that recipes use."""


def make_scorers(names: Sequence[str], where: str = "recipe.evaluate.scorers") -> list[Scorer]:
    """Scorers by name, or by ``package.module:name`` of a :class:`Scorer` or a function of a text and its reference.

    Args:
        names: Of a recipe.
        where: Their key.

    Raises:
        RecipeError: For a name, class or function that is not there.
    """
    return [_scorer(name, where) for name in names]


def _scorer(name: str, where: str) -> Scorer:
    found = look_up(name, SCORERS, where, RecipeError)
    if not isinstance(found, type):
        return Function(name.rpartition(":")[2], found)
    if not issubclass(found, Scorer):
        raise RecipeError(f"{where}: {name} is no subclass of {__name__}.Scorer, and no function")
    return found()
