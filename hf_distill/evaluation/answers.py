"""How well a model answers questions from a context, as SQuAD counts it."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp
from typing_extensions import override

from hf_distill.errors import LabelError
from hf_distill.evaluation.analysis import Decided, Evaluated, beside_control, short
from hf_distill.evaluation.scores import Chance, Evaluation, Scoreable, Scores, by_row
from hf_distill.tasks.question_answering import answers_of
from hf_distill.types import Batch

ASKED = ("what", "who", "when", "where", "which", "why", "how")
"""Words that tell kinds of questions apart."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without punctuation and articles, one blank between words."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 where both are the same once normalized."""
    return float(normalized(answer) == normalized(reference))


def overlap(answer: str, reference: str) -> float:
    """F1 of the words of both once normalized; where one has none, 1 if the other has none, too."""
    given, wanted = normalized(answer).split(), normalized(reference).split()
    if not given or not wanted:
        return float(given == wanted)
    return 2 * (Counter(given) & Counter(wanted)).total() / (len(given) + len(wanted))


@dataclass(frozen=True, eq=False, kw_only=True)
class AnswerScores(Scores):
    """What one model answered to every question of a split.

    Attributes:
        texts: Its answers; empty where it gives none.
        references: The right ones of each question; the best counts. Empty where there is none.
        sure: ``[N]``, the probability of each answer among all that could be given.
    """

    texts: Sequence[str]
    references: Sequence[Sequence[str]]
    sure: np.ndarray

    @property
    @override
    def rows(self) -> np.ndarray:
        return np.array(["\n".join(each) for each in self.references], dtype=object)

    @cached_property
    def exact(self) -> np.ndarray:
        """``[N]``: whether each answer is right to the word."""
        return self._best(exact_match)

    @cached_property
    def f1(self) -> np.ndarray:
        """``[N]``: the overlap of each answer with the right one."""
        return self._best(overlap)

    @property
    @override
    def confidences(self) -> tuple[np.ndarray, np.ndarray]:
        return self.sure, self.exact

    @override
    def chance(self, metric: str) -> Chance:
        return Chance("f1", float(np.mean([not any(each) for each in self.references])), "answering nothing")

    @override
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        weights = counts / counts.sum(1, keepdims=True)
        return {"f1": weights @ self.f1, "exact_match": weights @ self.exact}

    @override
    def agreement(self, teacher: AnswerScores) -> float:
        return float(np.mean([exact_match(*pair) for pair in zip(self.texts, teacher.texts, strict=True)]))

    def by_kind(self, questions: Sequence[str]) -> dict[str, dict[str, float]]:
        """F1 and support (how many there are) of each kind of question."""
        kinds = np.array([next((w for w in re.findall(r"\w+", q.lower()) if w in ASKED), "other") for q in questions])
        return {
            kind: {"f1": float(self.f1[kinds == kind].mean()), "support": int((kinds == kind).sum())}
            for kind in sorted(set(kinds.tolist()))
        }

    @override
    def analysis(self, models: Mapping[str, AnswerScores], evaluated: Evaluated, examples: int = 5) -> dict[str, Any]:
        questions, exact = list(evaluated.rows["question"]), self.metrics()["exact_match"]
        f1 = {name: each.f1 for name, each in models.items()}
        means = {name: each.metrics()["f1"] for name, each in models.items()}
        decided = Decided(
            by_class={name: each.by_kind(questions) for name, each in models.items()},
            means=means,
            by_row=f1,
            lengths=[len(context.split()) for context in evaluated.rows["context"]],
            loss="{:.3f} of F1",
            sure=(float(self.sure.mean()), exact),
            units=("questions", "words"),
        )
        control, lost = beside_control(means, "'s {:.3f}"), f1["teacher"] - f1["student"]
        first = (
            f"Of {len(questions)} questions the student answers {exact:.1%} right to the word: F1 "
            f"{means['student']:.3f}, the teacher's {means['teacher']:.3f}{control}."
        )
        shown = [
            {
                "text": short(questions[row]),
                "label": short(" / ".join(dict.fromkeys(self.references[row])) or "nothing"),
                **{name: short(models[name].texts[row] or "nothing") for name in ("student", "teacher")},
            }
            for row in np.argsort(-lost, kind="stable")[:examples]
            if lost[row] > 0
        ]
        return decided.analysis(models, first, "f1", shown)

    def _best(self, judge: Callable[[str, str], float]) -> np.ndarray:
        pairs = zip(self.texts, self.references, strict=True)
        return np.array([max(judge(text, each) for each in (wanted or [""])) for text, wanted in pairs])


def score_answers(candidate: Scoreable, evaluation: Evaluation) -> AnswerScores:
    """A model's likeliest answer to every question, over all its windows."""
    task, rows = evaluation.task, evaluation.rows
    if any(value is None for value in rows["answers"]):
        raise LabelError("the evaluated split has rows whose answers are not known; remove them")
    windows = task.encode(rows, candidate.tokenizer)

    def read(batch: Batch) -> list[np.ndarray]:
        logits: Any = candidate.run(task.student_inputs(batch), False)
        pairs = zip(logits.float(), batch["attention_mask"].bool(), strict=True)
        return [row[:, mask].cpu().numpy() for row, mask in pairs]

    logits = by_row(candidate.models, task, candidate.tokenizer, windows, evaluation.batch_size, read)
    own: list[list[int]] = [[] for _ in range(len(rows))]
    for number, row in enumerate(windows["row"]):
        own[row].append(number)
    read_windows = list(zip(logits, map(np.array, windows["places"]), windows["nothing"], strict=True))
    texts, sure = zip(
        *(
            _answer(context, [read_windows[i] for i in numbers], task.max_answer_length, task.may_abstain)
            for context, numbers in zip(rows["context"], own, strict=True)
        ),
        strict=True,
    )
    references = [[each.text for each in answers_of(value)] for value in rows["answers"]]
    return AnswerScores(texts=texts, references=references, sure=np.array(sure))


def _answer(
    context: str, windows: Sequence[tuple[np.ndarray, np.ndarray, int]], longest: int, may_abstain: bool
) -> tuple[str, float]:
    """The likeliest part of a context, and how likely it is among all; of no answer, the least sure window tells."""
    best, text, mass = -np.inf, "", []
    for logits, places, _ in windows:
        scores = _spans(logits, places, longest)
        first, last = np.unravel_index(scores.argmax(), scores.shape)
        mass.append(logsumexp(scores))
        if scores[first, last] > best:
            best, text = float(scores[first, last]), context[places[first, 0] : places[last, 1]]
    if may_abstain:
        nothing = min(float(logits[:, place].sum()) for logits, _, place in windows)
        mass.append(nothing)
        if nothing > best:
            best, text = nothing, ""
    return text, float(np.exp(best - logsumexp(mass)))


def _spans(logits: np.ndarray, places: np.ndarray, longest: int) -> np.ndarray:
    """``[T, T]``: begin plus end of every part of the context that is not too long, -inf of all others."""
    of_context = (places >= 0).all(1)
    begin, end = np.where(of_context, logits.astype(np.float64), -np.inf)
    lengths = np.arange(len(end)) - np.arange(len(begin))[:, None]
    return np.where((lengths >= 0) & (lengths < longest), begin[:, None] + end, -np.inf)
