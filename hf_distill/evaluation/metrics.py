"""Which metrics there are, which one decides, and what judges texts: BLEU, ROUGE, functions, `evaluate`'s metrics.

Each scorer reduces a text to a few numbers that add up over rows, so that rows can be resampled without scoring a text
again: n-gram counts for BLEU and chrF, which are figures of a whole corpus; a score for all others, whose mean counts.
A metric of the library `evaluate` alone is computed again on every resample.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.evaluation.transcripts.edits import edits_of
from hf_distill.evaluation.transcripts.normalizers import normalized
from hf_distill.names import OF_EVALUATE, look_up
from hf_distill.recipe import EvaluateConfig
from hf_distill.tasks import Task

BITS_PER_BYTE = "bits_per_byte"
"""Of causal language models: the negative log-likelihood of a text in bits, over its bytes. It alone compares models
that cut a text into different tokens. The end token counts and has no bytes: some percent on short texts, that figures
of others may lack. Packed rows, where texts begin in the middle, score a little worse than the same texts alone."""

AGAINST_TEACHER = ("kl_to_teacher", "agreement")
"""Metrics that there are only where there is a teacher, whose own are 0 and 1."""

OF_TOKENS = ("loss", "perplexity", "accuracy", "calibration_error", *AGAINST_TEACHER)
"""Metrics of each model's own tokens."""

OUT_OF_SCOPE = ("auroc_out_of_scope", "fpr95_out_of_scope")
"""How confidence tells rows of a class from rows of none: the chance that a row in scope is surer than one out of scope
(a tie counts half); and the share of rows out of scope that pass the threshold that 95% of those in scope pass."""

ERRORS = ("wer", "wer_normalized", "cer", "cer_normalized")
"""Of transcripts: words or characters that are wrong, missing or too many, over those that are said (a share, which may
be above 1). Normalized: without case and punctuation, see ``normalizer`` of the tasks of speech."""

MEASURED: Mapping[str, tuple[str, ...]] = {
    "single_label_classification": (
        "accuracy",
        *(f"{name}_{average}" for average in ("macro", "weighted") for name in ("precision", "recall", "f1")),
    ),
    "multi_label_classification": ("accuracy", "f1_micro", "f1_macro"),
    "regression": ("pearson", "spearman", "mse"),
    "similarity": ("spearman", "pearson"),
    "retrieval": ("ndcg@10", "ndcg@1", "recall@1", "recall@10", "mrr@10"),
    "causal-lm": (*OF_TOKENS, BITS_PER_BYTE),
    **dict.fromkeys(("masked-lm", "translation", "summarization", "speech-recognition"), OF_TOKENS),
    "token-classification": ("f1", "precision", "recall", "accuracy"),
    "question-answering": ("f1", "exact_match"),
    "transcribed words": ERRORS,
    "transcribed characters": tuple(name for name in ERRORS if name.startswith("cer")),
}
"""Metrics of each problem type; those of scorers come on top."""

PRIMARY: Mapping[str, str] = {
    **{problem_type: names[0] for problem_type, names in MEASURED.items()},
    "multi_label_classification": "f1_micro",
    "translation": "bleu",
    "summarization": "rougeL",
    "speech-recognition": "wer",
}
"""The metric by which models are compared when the recipe names none."""

LOWER_IS_BETTER = frozenset(
    {"mse", "loss", "perplexity", BITS_PER_BYTE, "calibration_error", "kl_to_teacher", "fpr95_out_of_scope", *ERRORS}
)

JUDGES = ("sacrebleu", "rouge-score")
"""Packages whose versions are told where texts were judged."""

Judge = Callable[[np.ndarray], dict[str, np.ndarray]]
"""From ``[R, N]``, how often each row was drawn, to ``[R]`` of each metric."""


class Scorer(ABC):
    """Judges texts against references; ``names`` are of the metrics it gives."""

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
    """A metric of sacrebleu, whose counts add up over a corpus; its own bootstrap draws from the same two methods."""

    metric: ClassVar[Any]

    @override
    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        return np.array(self.metric._extract_corpus_statistics(list(texts), [list(references)]), dtype=np.float64)

    @override
    def scores(self, sums: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        found = [self.metric._compute_score_from_stats(each.astype(int).tolist()).score for each in sums]
        return {self.names[0]: np.array(found)}


class Bleu(Corpus):
    """BLEU of sacrebleu: tokenised as WMT does (13a), case kept."""

    names = ("bleu",)
    metric = BLEU()


class Chrf(Corpus):
    """chrF2 of sacrebleu: n-grams of up to 6 characters."""

    names = ("chrf",)
    metric = CHRF()


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
    """A function of a text that was written and its reference, which gives a number."""

    def __init__(self, name: str, function: Callable[[str, str], float]) -> None:
        self.names = (name,)
        self._function = function

    @override
    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        return np.array([[float(self._function(*pair))] for pair in zip(texts, references, strict=True)])


class WordErrors(Scorer):
    """Wrong words of transcripts over what is said: as they are, and without case and punctuation (Whisper's way)."""

    names = ("wer", "wer_normalized")
    characters: ClassVar[bool] = False

    @override
    def statistics(self, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
        alike = (normalized(references, "basic"), normalized(texts, "basic"))
        found = [edits_of(*pair, characters=self.characters) for pair in ((references, texts), alike)]
        return np.stack([column for each in found for column in (each.wrong, each.said)], axis=1)

    @override
    def scores(self, sums: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: sums[:, 2 * i] / np.maximum(sums[:, 2 * i + 1], 1) for i, name in enumerate(self.names)}


class CharacterErrors(WordErrors):
    """The same of characters, blanks among them."""

    names = ("cer", "cer_normalized")
    characters = True


class EvaluateMetric(Mean):
    """A metric of the library `evaluate`, of texts or of decisions; one row alone where rows are scored one by one.

    It is a script that runs here, so that a recipe that names one is refused unless its code is allowed.

    Args:
        path: The folder of its script, or the id of a metric on the Hub.
        where: The recipe's key.
    """

    def __init__(self, path: str, where: str) -> None:
        self.names = (Path(path).name,)
        self._where = f"{where}: {OF_EVALUATE}{path}"
        script = Path(path) / f"{self.names[0]}.py"
        if Path(path).is_dir() and not script.is_file():  # It would be looked for on the Hub.
            raise RecipeError(f"{self._where}: there is no {script}; name a folder that holds the script of a metric")
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
    found = [re.findall(r"-?\d[\d,]*(?:\.\d+)?", each) for each in (text, reference)]
    return float(all(found) and len({float(each[-1].replace(",", "")) for each in found}) == 1)


SCORERS: dict[str, type[Scorer] | Callable[[str, str], float]] = {
    "bleu": Bleu,
    "chrf": Chrf,
    "rouge": Rouge,
    "wer": WordErrors,
    "cer": CharacterErrors,
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


def primary_metric(task: Task, config: EvaluateConfig) -> str:
    """Give the metric to compare by: the one that the recipe asks for, or the task's own."""
    judged = [name for scorer in make_scorers(config.scorers or task.scorers) for name in scorer.names]
    detected = OUT_OF_SCOPE if task.out_of_scope is not None else ()
    known = [*MEASURED[task.problem_type], *detected, *judged]
    if config.metric is None:
        own = PRIMARY[task.problem_type]
        return own if own in known else judged[0]
    if config.metric not in known:
        raise RecipeError(
            f"recipe.evaluate.metric: {config.metric!r} is not measured for {task.problem_type}; "
            f"choose one of {', '.join(known)}"
        )
    return config.metric
