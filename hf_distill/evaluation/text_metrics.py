"""How good is what a model writes? BLEU, chrF, ROUGE, exact match, a function of the recipe's own, or `evaluate`'s.

Each scorer reduces a text to a few numbers that add up over rows, so that rows can be resampled without scoring a text
again: n-gram counts for BLEU and chrF, which are figures of a whole corpus; a score for all others, whose mean counts.
A metric of the library `evaluate` alone is computed again on every resample.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.names import look_up
from hf_distill.tasks import Task
from hf_distill.tasks.rollout_batches import Prompts

JUDGES = ("sacrebleu", "rouge-score")
"""Packages whose versions are told where texts were judged."""

OF_EVALUATE = "evaluate:"
"""What stands before the folder or Hub id of a metric of the library `evaluate`."""

ALLOW_CODE = "HF_DISTILL_ALLOW_CODE"
"""The environment variable that lets the code of a metric on the Hub run here."""

REPETITIVE = 0.5
"""Share of the references' different texts below which a model is told to repeat itself."""

Judge = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From ``[R, N]``, how often each row was drawn, to ``[R]`` of each metric."""


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

    def judge(self, texts: Sequence[Any], references: Sequence[Any]) -> Judge:
        """Look at texts once, and score any resample of them."""
        statistics = self.statistics(texts, references)
        return lambda counts: self.scores(counts @ statistics, counts.sum(1))


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


class EvaluateMetric(Mean):
    """A metric of the library `evaluate`, of texts or of decisions; one row alone where rows are scored one by one.

    Args:
        path: The folder of its script, or the id of a metric on the Hub.
        where: The recipe's key.

    Raises:
        RecipeError: Where it cannot be loaded, or is code of the Hub that nobody allowed.
    """

    def __init__(self, path: str, where: str) -> None:
        self.names = (Path(path).name,)
        self._where = f"{where}: {OF_EVALUATE}{path}"
        script = Path(path) / f"{self.names[0]}.py"
        # A folder without its script would be looked for on the Hub.
        if not script.is_file() and os.environ.get(ALLOW_CODE) != "1":
            raise RecipeError(
                f"{self._where}: there is no {script}, and a metric of the Hub is code that would run on this machine; "
                f"read it, and set {ALLOW_CODE}=1 to allow it, or name a folder that holds a copy"
            )
        try:
            self._module = evaluate.load(str(script) if script.is_file() else path, keep_in_memory=True)
        except (OSError, ImportError, ValueError) as error:
            raise RecipeError(
                f"{self._where} could not be loaded by evaluate.load ({type(error).__name__}: {error}); check the "
                "folder, or the id and the network"
            ) from error

    @override
    def statistics(self, texts: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
        return np.array([[self._value([row], [wanted])] for row, wanted in zip(texts, references, strict=True)])

    @override
    def judge(self, texts: Sequence[Any], references: Sequence[Any]) -> Judge:
        def score(counts: np.ndarray) -> dict[str, np.ndarray]:
            drawn = [np.repeat(np.arange(len(texts)), row.astype(int)).tolist() for row in counts]
            values = [self._value([texts[i] for i in rows], [references[i] for i in rows]) for rows in drawn]
            return {self.names[0]: np.array(values)}

        return score

    def _value(self, predictions: list[Any], references: list[Any]) -> float:
        (name,) = self.names
        try:
            found = self._module.compute(predictions=predictions, references=references)
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{self._where} cannot score what this task gives: {error}") from error
        value = found.get(name, next(iter(found.values())) if len(found) == 1 else None)
        if not isinstance(value, (int, float, np.number)):
            raise RecipeError(f"{self._where} gives {found}; expected one number, named {name} where there are others")
        return float(value)


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
    """Scorers by name, ``package.module:name`` of a :class:`Scorer` or a function, or ``evaluate:folder_or_id``."""
    return [_scorer(name, where) for name in names]


def _scorer(name: str, where: str) -> Scorer:
    if name.startswith(OF_EVALUATE):
        return EvaluateMetric(name.removeprefix(OF_EVALUATE), where)
    found = look_up(name, SCORERS, where, RecipeError)
    if not isinstance(found, type):
        return Function(name.rpartition(":")[2], found)
    if not issubclass(found, Scorer):
        raise RecipeError(f"{where}: {name} is no subclass of {__name__}.Scorer, and no function")
    return found()


def scorer_names(task: Task, asked: Sequence[str]) -> tuple[str, ...]:
    """What judges a task's texts: what the recipe asks for, or the task's own; nothing where decisions are judged."""
    if task.row_labels is not None and all(name.startswith(OF_EVALUATE) for name in asked):
        return ()
    return tuple(asked) or task.scorers


def metric_names(names: Sequence[str]) -> tuple[str, ...]:
    """The metrics that scorers of these names give."""
    return tuple(metric for scorer in make_scorers(names) for metric in scorer.names)


@dataclass(frozen=True, eq=False, kw_only=True)
class Written:
    """What one model wrote on every row of a split.

    Attributes:
        texts: One a row.
        references: What should have been written.
        judges: What scores them.
    """

    texts: Sequence[str]
    references: Sequence[str]
    judges: Sequence[Judge]

    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric ``[R]`` on resampled rows, from ``[R, N]`` counts of how often each was drawn."""
        weights = counts.astype(np.float64)
        return {name: values for judge in self.judges for name, values in judge(weights).items()}

    def repeats(self, name: str) -> Iterator[str]:
        """Warn of a model that writes the same about everything: its scores tell little."""
        different, usual = len(set(self.texts)), len(set(self.references))
        if different < REPETITIVE * usual:
            yield (
                f"The {name} wrote {different:,} different texts on {len(self.texts):,} rows, of which the references "
                f"have {usual:,}: it writes nearly the same about everything, and its scores tell little; train it "
                "longer, or on more rows."
            )


def judged(texts: Sequence[str], prompts: Prompts, names: Sequence[str]) -> Written:
    """Texts, one a prompt, judged by scorers of these names against what should have been written."""
    judges = [scorer.judge(texts, prompts.references) for scorer in make_scorers(names)]
    return Written(texts=texts, references=prompts.references, judges=judges)
