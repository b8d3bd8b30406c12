"""All terms of a loss at once: the weighted sum, in one pass over the vocabulary where there is one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_distill.losses.fused import FusedTerm, fused_loss
from hf_distill.objectives.base import Objective
from hf_distill.types import Head, LogitSource, SparseLogits, Targets, Unit, View


def weighted_loss(
    objectives: Mapping[str, Objective], view: View, targets: Targets, counts: Mapping[Unit, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Every term divided by its own count, weighted, and added.

    Args:
        objectives: By name.
        view: Of the student, for one micro-batch.
        targets: Of the teacher, for the same.
        counts: How many units each term is averaged over: of the whole accumulation window and all processes.

    Returns:
        The loss, and each term's total over the micro-batch, detached.
    """
    factors = {name: o.weight / counts[o.unit].clamp(min=1) for name, o in objectives.items()}
    fused = _fused_terms(objectives, view, factors)
    loss = torch.zeros((), device=next(iter(view.masks.values())).device)
    totals: dict[str, Tensor] = {}
    if fused:
        loss, values = _fused(view, targets, list(fused.values()))
        totals |= dict(zip(fused, values, strict=True))
    for name, objective in objectives.items():
        if name not in fused:
            total = objective(view, targets).total
            loss = loss + objective.weight * total / counts[objective.unit].clamp(min=1)
            totals[name] = total.detach()
    return loss, {name: totals[name] for name in objectives}


def _fused_terms(
    objectives: Mapping[str, Objective], view: View, factors: Mapping[str, Tensor]
) -> dict[str, FusedTerm]:
    if not isinstance(view.logits, LogitSource):
        return {}
    terms = {name: o.fused_term(view, factors[name]) for name, o in objectives.items()}
    return {name: term for name, term in terms.items() if term is not None}


def _fused(view: View, targets: Targets, terms: list[FusedTerm]) -> tuple[Tensor, Tensor]:
    student, teacher = view.logits, targets.logits
    assert isinstance(student, LogitSource)
    assert isinstance(student.head, Head)
    if teacher is None:
        return fused_loss(student.hidden, student.head, terms, labels=view.labels)
    if isinstance(teacher, SparseLogits):
        shared = min(student.head.vocabulary, teacher.vocabulary)
        return fused_loss(
            student.hidden, student.head, terms, labels=view.labels, teacher_targets=teacher, shared=shared
        )
    assert isinstance(teacher, LogitSource)
    return fused_loss(
        student.hidden,
        student.head,
        terms,
        labels=view.labels,
        teacher_hidden=teacher.hidden,
        teacher_head=teacher.head,
        shared=min(student.head.vocabulary, teacher.head.vocabulary),
    )
