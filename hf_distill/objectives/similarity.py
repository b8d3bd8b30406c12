"""Vectors of texts pulled towards the teacher's: one by one, or in how near they are to each other."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from typing_extensions import override

from hf_distill.errors import ObjectiveError
from hf_distill.models.pooling import head_of, vector_size
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.schedules import Scheduled
from hf_distill.types import Targets, View

Loss = Literal["cosine", "mse", "in_batch", "in_batch_kl", "contrastive", "margin_mse", "listwise_kl"]

WITH_TEACHERS = ("cosine", "mse", "contrastive")
"""Losses that compare the student's vectors with the teacher's, which must have as many dimensions."""

SCALED = ("in_batch_kl", "contrastive", "listwise_kl")  # Losses with a softmax.


class Similarity(Objective):
    """The student's vectors pulled towards the teacher's.

    ``cosine`` (1 - cosine) and ``mse`` (mean over the dimensions) compare each vector with the teacher's of the same
    text. ``in_batch`` compares how near all texts of a micro-batch are to each other: the mean squared difference of
    the cosines of a text with all others; ``in_batch_kl`` the divergence of their softmax; ``contrastive`` asks that a
    text's vector is nearer to the teacher's of the same text than to those of all others. ``margin_mse`` and
    ``listwise_kl`` compare within a row: how much nearer the first text is to the second than to each further one
    (Hofstätter et al. 2020), and the softmax over all of them. The in-batch losses see one micro-batch of one process:
    more rows a batch give them more to compare, more accumulation steps do not.

    Args:
        loss: One of these.
        target: ``own``: each text learns what the teacher says of itself; ``first`` (of cosine, mse and contrastive):
            all texts of a row learn what it says of the first, as translations do (Reimers and Gurevych 2020).
        scale: Of in_batch_kl, contrastive and listwise_kl: factor of cosines before a softmax, above 0; 20 by default.
    """

    unit = "positions"
    needs = frozenset({"logits"})
    distributions = frozenset({"vector"})
    vocabularies = False
    paper = (
        "Reimers and Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation, "
        "arXiv:2004.09813"
    )

    def __init__(
        self, *, loss: str = "cosine", target: str = "own", scale: float | None = None, weight: Scheduled = 1.0
    ) -> None:
        super().__init__(weight=weight)
        self.loss = self.one_of("loss", loss, get_args(Loss))
        self.target = self.one_of("target", target, ("own", "first"))
        if target == "first" and loss not in WITH_TEACHERS:
            raise ObjectiveError(f"similarity: target: first does nothing for {loss}; remove it")
        if scale is not None and loss not in SCALED:
            raise ObjectiveError(f"similarity: scale does nothing for {loss}; remove it")
        self.scale = 20.0 if scale is None else float(scale)
        if not self.scale > 0:
            raise ObjectiveError(f"similarity: scale must be above 0, got {scale!r}")

    @override
    def check_models(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        if head_of(student) is None or head_of(teacher) is None or self.loss not in WITH_TEACHERS:
            return
        sizes = vector_size(student), vector_size(teacher)
        if sizes[0] > sizes[1]:
            raise ObjectiveError(
                f"similarity: the student's vectors have {sizes[0]} numbers and the teacher's {sizes[1]}; give the "
                "student a projection to fewer, or use loss: in_batch, which compares any"
            )

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        assert isinstance(view.logits, Tensor)
        assert isinstance(targets.logits, Tensor)
        student, teacher = view.logits.float(), targets.logits.float()
        mask = view.masks["positions"]
        if self.loss in ("margin_mse", "listwise_kl"):
            return self._within_rows(student, teacher, mask, view.texts_of_row)
        if self.target == "first":
            teacher = teacher[:: view.texts_of_row].repeat_interleave(view.texts_of_row, 0)
        student, teacher = student[mask], teacher[mask]
        if self.loss in WITH_TEACHERS and student.shape != teacher.shape:
            raise ObjectiveError(
                f"similarity: the student's vectors have {student.shape[-1]} numbers and the teacher's "
                f"{teacher.shape[-1]}; set task.dimensions in a recipe, or use loss: in_batch, which compares any"
            )
        if self.loss == "cosine":
            return (1 - functional.cosine_similarity(student, teacher, dim=-1)).sum()
        if self.loss == "mse":
            return (student - teacher).square().mean(-1).sum()
        if self.loss == "contrastive":
            cosines = functional.normalize(student, dim=-1) @ functional.normalize(teacher, dim=-1).T
            nearest = torch.arange(len(student), device=student.device)
            return functional.cross_entropy(cosines * self.scale, nearest, reduction="sum")
        if len(student) < 2:  # There is nothing else in the batch.
            return student.sum() * 0.0
        own, other = _others(student), _others(teacher)
        if self.loss == "in_batch":
            return (own - other).square().mean(-1).sum()
        own, other = ((each * self.scale).log_softmax(-1) for each in (own, other))
        return functional.kl_div(own, other, reduction="sum", log_target=True)

    def _within_rows(self, student: Tensor, teacher: Tensor, mask: Tensor, texts: int) -> Tensor:
        """Compare the first text of each row with the others; the sum counts once for each text of a row."""
        if texts < 3:
            raise ObjectiveError(
                f"similarity: {self.loss} compares a text with at least two others of its row, but rows have {texts} "
                "texts; give them text_pair and candidates, or use loss: in_batch"
            )
        there = mask.view(-1, texts)
        mine, wanted = (
            _to_first(each.masked_fill(~mask[:, None], 0.0).view(-1, texts, each.shape[-1]))
            for each in (student, teacher)
        )
        if self.loss == "listwise_kl":
            mine, wanted = (
                (each * self.scale).masked_fill(~there[:, 1:], torch.finfo(each.dtype).min) for each in (mine, wanted)
            )
            values = (wanted.softmax(-1) * (wanted.log_softmax(-1) - mine.log_softmax(-1))).sum(-1)
        else:
            counted = there[:, 2:] & there[:, 1:2]
            gaps = ((mine[:, :1] - mine[:, 1:]) - (wanted[:, :1] - wanted[:, 1:])).square().masked_fill(~counted, 0.0)
            values = gaps.sum(-1) / counted.sum(-1).clamp(min=1)
        return (values.masked_fill(~there[:, 0], 0.0) * there.sum(-1)).sum()


def _to_first(vectors: Tensor) -> Tensor:
    """``[rows, texts - 1]``: the cosine of each further text of a row with its first."""
    unit = functional.normalize(vectors, dim=-1)
    return (unit[:, 1:] * unit[:, :1]).sum(-1)


def _others(vectors: Tensor) -> Tensor:
    """``[N, N - 1]``: the cosines of each vector with all others."""
    unit = functional.normalize(vectors, dim=-1)
    cosines, count = unit @ unit.T, len(unit)
    apart = ~torch.eye(count, dtype=torch.bool, device=unit.device)
    return cosines[apart].view(count, max(count - 1, 0))
