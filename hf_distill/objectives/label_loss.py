"""The task's own loss, on the rows that have a label; and what a model of several experts adds to it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from hf_distill.losses.fused import FusedTerm
from hf_distill.losses.sequence_loss import ctc_of_rows
from hf_distill.objectives.objective import Objective
from hf_distill.types import Targets, View, logits_at


class Labels(Objective):
    """Cross-entropy for one class of many, binary cross-entropy for many labels, squared error for real values.

    Of sequences whose places are not known it is the CTC loss of each row, divided by the number of its labels.
    """

    unit = "labels"
    needs = frozenset({"labels"})
    distributions = frozenset({"categorical", "bernoulli", "real", "ctc"})
    paper = "the task's own loss on the labels"

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        mask = view.masks["labels"]
        if view.distribution == "ctc":
            return ctc_of_rows(view).sum()
        logits = logits_at(mask, view.logits).float()
        if view.labels is None:
            return logits.sum() * 0.0
        labels = view.labels[mask]
        if view.distribution == "categorical":
            return functional.cross_entropy(logits, labels, reduction="sum")
        loss = functional.binary_cross_entropy_with_logits if view.distribution == "bernoulli" else functional.mse_loss
        return loss(logits, labels.float().view_as(logits), reduction="sum") / logits.shape[-1]

    @override
    def fused_term(self, view: View, factor: Tensor) -> FusedTerm | None:
        mask = view.masks["labels"]
        return None if view.labels is None else FusedTerm(divergence=None, factor=factor, mask=mask, options={})


class Router(Objective):
    """What keeps the experts of a student evenly used, see :func:`hf_distill.models.experts.balance`.

    No recipe names it: it belongs to a student whose config asks for it (``output_router_logits: true``), with the
    config's own coefficients, in training and in evaluations alike, as in Transformers' Trainer. It is a mean over
    micro-batches, those of an accumulation window and of all processes: never their sum.
    """

    unit = "batches"
    needs = frozenset({"routers"})
    distributions = frozenset({"categorical"})
    paper = "Fedus et al. 2021, Switch Transformers, arXiv:2101.03961"

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        return torch.zeros(()) if view.balance is None else view.balance
