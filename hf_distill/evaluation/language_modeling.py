"""How well a model predicts tokens: loss, perplexity, accuracy, distance from the teacher, calibration.

Every figure is a ratio of sums over rows, so that rows can be resampled without asking a model again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from typing_extensions import override

from hf_distill.errors import ModelError
from hf_distill.evaluation.analysis import Evaluated, beside_control, compare_control, judge_calibration, rounded, short
from hf_distill.evaluation.metrics import BITS_PER_BYTE, Judge, make_scorers
from hf_distill.evaluation.scores import Chance, Scoreable, Scores, by_row
from hf_distill.models.forward import output_head
from hf_distill.tasks import Task
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.types import Batch, View, logits_at

BINS = 15
"""Equally wide bins of confidence, for the calibration error."""

REPETITIVE = 0.5
"""Share of the references' different texts below which a model is told to repeat itself."""

CHUNK = 256
"""Positions whose logits are held at a time."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Written:
    """What one model wrote on every row of a split, what it should have written, and what judges it."""

    texts: Sequence[str]
    references: Sequence[str]
    judges: Sequence[Judge]

    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric ``[R]`` on resampled rows, from ``[R, N]`` counts of how often each was drawn."""
        return {name: each for judge in self.judges for name, each in judge(counts.astype(np.float64)).items()}

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


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenScores(Scores):
    """What one model gave on every row of a split, summed over the row's tokens that count.

    Attributes:
        vocabulary: How many tokens the model chooses among.
        tokens: ``[N]``, how many count.
        loss: ``[N]``, negative log-likelihood, in nats.
        correct: ``[N]``, tokens that the model finds likeliest.
        confidence: ``[N, BINS]``, sum of probability minus correctness over the tokens in each bin of confidence.
        kl: ``[N]``, KL(teacher || model) in nats; None where there is no teacher, or one with other tokens.
        agreed: ``[N]``, tokens on which the model's likeliest is the teacher's; None where ``kl`` is.
        bytes: ``[N]``, UTF-8 bytes of the text that those tokens stand for; None where rows do not tell them.
        sizes: ``[N]``, bytes of each row's whole text, whatever its tokens; None where rows are no texts of their own.
        written: What the model wrote on the same rows; None where it was not asked to.
    """

    vocabulary: int
    tokens: np.ndarray
    loss: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    kl: np.ndarray | None = None
    agreed: np.ndarray | None = None
    bytes: np.ndarray | None = None
    sizes: np.ndarray | None = None
    written: Written | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be scored."""
        if not self.tokens.sum():
            raise ModelError("no token of the evaluated split counts; check the columns and task.max_length")
        broken = int((~np.isfinite(self.loss)).sum())
        if broken:
            raise ModelError(
                f"the model's loss is not finite on {broken} of {len(self.loss)} rows; training diverged or the "
                "precision is too low: lower training.learning_rate, or use float32"
            )

    @property
    @override
    def rows(self) -> np.ndarray:
        return self.tokens if self.sizes is None else self.sizes

    @property
    @override
    def calibration_error(self) -> float:
        return self.metrics()["calibration_error"]

    @override
    def chance(self, metric: str) -> Chance:
        return Chance("loss", float(np.log(self.vocabulary)), f"guessing among its {self.vocabulary} tokens")

    @override
    def score(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        weights = counts.astype(np.float64)
        tokens = weights @ self.tokens
        loss = weights @ self.loss / tokens
        scores = {
            "loss": loss,
            "perplexity": np.exp(loss),
            "accuracy": weights @ self.correct / tokens,
            "calibration_error": np.abs(weights @ self.confidence).sum(1) / tokens,
        }
        if self.bytes is not None:
            scores[BITS_PER_BYTE] = weights @ self.loss / np.log(2) / (weights @ self.bytes)
        if self.kl is not None and self.agreed is not None:
            scores |= {"kl_to_teacher": weights @ self.kl / tokens, "agreement": weights @ self.agreed / tokens}
        return scores | (self.written.score(counts) if self.written else {})

    @override
    def agreement(self, teacher: Any) -> float | None:
        # With the teacher that they were scored beside; with different tokens no decision is about the same thing.
        return self.metrics().get("agreement")

    @override
    def analysis(self, models: Mapping[str, Any], evaluated: Evaluated, examples: int = 5) -> dict[str, Any]:
        texts, metrics = evaluated.texts, {name: each.metrics() for name, each in models.items()}
        alike = "kl_to_teacher" in metrics["student"]
        # In nats a token, or in bits a byte.
        by_row = {
            name: each.loss / np.maximum(each.tokens, 1) if alike else each.loss / np.log(2) / np.maximum(each.bytes, 1)
            for name, each in models.items()
        }
        rise = by_row["student"] - by_row["teacher"]
        worst = np.argsort(-rise, kind="stable")[:examples]
        sure = float((self.confidence.sum() + self.correct.sum()) / self.tokens.sum())
        return {
            "summary": [
                *_compare(metrics, float(np.quantile(rise, 0.9))),
                judge_calibration(self.calibration_error, sure, metrics["student"]["accuracy"]),
                *(line for name, each in models.items() if each.written for line in each.written.repeats(name)),
            ],
            "measure": {"rows": "loss" if alike else BITS_PER_BYTE},
            "calibration": rounded({name: each["calibration_error"] for name, each in metrics.items()}),
            "rows": [
                {"text": short(texts[row]), **rounded({name: losses[row] for name, losses in by_row.items()})}
                for row in worst
            ],
            "written": [
                {
                    "text": short(texts[row]),
                    "reference": short(self.written.references[row]),
                    **{name: short(each.written.texts[row]) for name, each in models.items() if each.written},
                }
                for row in worst
                if self.written
            ],
        }


def score_tokens(
    candidate: Scoreable,
    task: Task,
    rows: Dataset,
    reference: Scoreable | None = None,
    batch_size: int = 8,
    sizes: Sequence[int] | None = None,
) -> TokenScores:
    """A model's figures on encoded rows, in their order; logits are held for a few positions at a time."""

    def view(of: Scoreable, batch: Batch) -> View:
        return task.view(of.run(task.student_inputs(batch), True), None, batch)

    def read(batch: Batch) -> Any:
        own = view(candidate, batch)
        other = own if reference is candidate or reference is None else view(reference, batch)
        return _row_sums(own, other, len(batch["labels"])).tolist()

    models = [*(reference.models if reference is not None else ()), *candidate.models]
    table = np.array(by_row(models, task, candidate.tokenizer, rows, batch_size, read), dtype=np.float64)
    vocabulary = min(output_head(model).vocabulary for model in candidate.models)
    return tabled_scores(table, rows, vocabulary, sizes, compared=reference is not None)


def tabled_scores(
    table: np.ndarray, rows: Dataset, vocabulary: int, sizes: Sequence[int] | None, *, compared: bool
) -> TokenScores:
    """The scores that sums over the tokens of each row make.

    Args:
        table: ``[N, 5 + BINS]``: tokens, loss, correct, KL, agreed, and the bins of confidence.
        rows: Encoded.
        vocabulary: How many tokens the model chooses among.
        sizes: Bytes of each whole text.
        compared: Whether there is a teacher to whom KL and agreement refer.
    """
    scored = np.array(rows["bytes"], dtype=np.float64) if "bytes" in rows.column_names else None
    of_texts = None
    if sizes is not None and "source" in rows.column_names:
        texts, number = np.unique(rows["source"], return_inverse=True)
        table, of_texts = _by_text(table, number), np.asarray(sizes)[texts]
        scored = _by_text(scored, number) if scored is not None else None
    return TokenScores(
        vocabulary=vocabulary,
        tokens=table[:, 0],
        loss=table[:, 1],
        correct=table[:, 2],
        confidence=table[:, 5:],
        kl=table[:, 3] if compared else None,
        agreed=table[:, 4] if compared else None,
        bytes=scored,
        sizes=of_texts,
    )


def _by_text(rows: np.ndarray, text: np.ndarray) -> np.ndarray:
    """``[texts, ...]``: sums over the rows of each text, by its number."""
    sums = np.zeros((text.max() + 1, *rows.shape[1:]))
    np.add.at(sums, text, rows)
    return sums


def _row_sums(view: View, teacher: View, rows: int) -> Tensor:
    """``[rows, 5 + BINS]``: tokens, loss, correct, KL, agreed, and the bins."""
    mask = view.masks["labels"]
    assert view.labels is not None
    row_of = torch.arange(len(mask), device=mask.device) * rows // len(mask)
    chosen = mask.nonzero().squeeze(-1)
    table = torch.zeros(rows, 5 + BINS, dtype=torch.float64, device=mask.device)
    for part in chosen.split(CHUNK):
        ours = torch.log_softmax(logits_at(part, view.logits).float(), dim=-1)
        theirs = ours if teacher is view else torch.log_softmax(logits_at(part, teacher.logits).float(), dim=-1)
        table.index_add_(0, row_of[part], _figures(ours, theirs, view.labels[part]).double())
    return table.cpu()


def _figures(ours: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
    """``[n, 5 + BINS]`` of the same columns, one row a position."""
    best, decided = ours.max(-1)
    correct = (decided == labels).float()
    loss = -ours.gather(1, labels[:, None]).squeeze(1)
    # Vocabularies that differ only by padding rows are compared over the tokens that both have.
    shared = min(ours.shape[1], theirs.shape[1])
    first, second = (torch.log_softmax(each[:, :shared], -1) for each in (theirs, ours))
    kl = (first.exp() * (first - second)).sum(-1)
    agreed = (decided == theirs.argmax(-1)).float()
    sure = best.exp()
    bins = torch.zeros(len(labels), BINS, device=labels.device)
    bins.scatter_(1, ((sure * BINS).ceil().long() - 1).clamp(0, BINS - 1)[:, None], (sure - correct)[:, None])
    return torch.cat([torch.stack([torch.ones_like(loss), loss, correct, kl, agreed], dim=1), bins], dim=1)


def _compare(metrics: Mapping[str, Mapping[str, float]], worst: float) -> Iterator[str]:
    """Compare losses a token of models with the same tokens, and bits a byte of models with different ones."""
    student = metrics["student"]
    alike = "kl_to_teacher" in student
    loss = {name: each["loss" if alike else BITS_PER_BYTE] for name, each in metrics.items()}
    own, teacher, control = f"{loss['student']:.3f}", f"{loss['teacher']:.3f}", beside_control(loss, " {:.3f}")
    if alike:
        rise = f"the loss is at least {worst:.3f} nats a token above the teacher's"
        yield (
            f"The student's loss is {own} nats a token (perplexity {student['perplexity']:.2f}), the teacher's "
            f"{teacher}{control}."
        )
    else:
        rise = f"it needs at least {worst:.3f} bits a byte more than the teacher"
        yield (
            f"The student needs {own} bits for a byte of text, the teacher {teacher}{control}. Their tokens are "
            "different ones, so that losses a token, agreement and a divergence of the two do not compare."
        )
    yield from compare_control({name: -value for name, value in loss.items()})
    if alike:
        yield (
            f"On {student['agreement']:.1%} of the tokens both find the same one likeliest; the divergence from the "
            f"teacher is {student['kl_to_teacher']:.3f} nats a token."
        )
    yield f"On the worst tenth of the rows {rise}: look at these first, and add text of their kind."
