"""Texts that mean the same near each other, without a teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from hf_distill.errors import ObjectiveError
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.schedules import Scheduled
from hf_distill.types import Targets, View


class Contrastive(Objective):
    """A text's vector nearer to that of its pair than to those of all other pairs of the micro-batch (InfoNCE).

    Where rows hold one text, it is read twice: dropout makes two views of it (Gao et al. 2021). More rows a batch give
    it more to tell apart, more accumulation steps do not.

    Args:
        scale: Cosines are multiplied by it before the softmax; above 0.
    """

    unit = "positions"
    needs = frozenset({"pairs"})
    distributions = frozenset({"vector"})
    vocabularies = False
    paper = "Gao et al. 2021, SimCSE: Simple Contrastive Learning of Sentence Embeddings, arXiv:2104.08821"

    def __init__(self, *, scale: float = 20.0, weight: Scheduled = 1.0) -> None:
        super().__init__(weight=weight)
        if not scale > 0:
            raise ObjectiveError(f"contrastive: scale must be above 0, got {scale!r}")
        self.scale = float(scale)

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        assert isinstance(view.logits, Tensor)
        texts = view.texts_of_row
        there = view.masks["positions"].view(-1, texts)[:, :2].all(-1)
        vectors = view.logits.float().view(-1, texts, view.logits.shape[-1])[:, :2][there]
        first, second = functional.normalize(vectors, dim=-1).unbind(1)
        pair = torch.arange(len(first), device=first.device)
        counted = view.masks["positions"].view(-1, texts)[there].sum(-1)
        losses = functional.cross_entropy(first @ second.T * self.scale, pair, reduction="none")
        return (losses * counted).sum()
