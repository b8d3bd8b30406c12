"""All terms of a loss at once: the weighted sum, in one pass over the vocabulary where there is one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_distill.losses.fused import fused_loss
from hf_distill.objectives.objective import Objective
from hf_distill.types import HeadLogits, Targets, Unit, View


def weighted_loss(
    objectives: Mapping[str, Objective], view: View, targets: Targets, counts: Mapping[Unit, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Divide every objective's sum by its own count, weight it, and add them up.

    This is the one place that divides what is learned from; the trainer divides the sums once more for the log.
    """
    factors = {name: o.weight / counts[o.unit].clamp(min=1) for name, o in objectives.items()}
    loss = torch.zeros((), device=next(iter(view.masks.values())).device)
    totals: dict[str, Tensor] = {}
    student, given = view.logits, targets.logits
    if not isinstance(student, Tensor):
        found = {name: o.fused_term(view, factors[name]) for name, o in objectives.items()}
        if fused := {name: term for name, term in found.items() if term is not None}:
            assert isinstance(student, HeadLogits)
            assert not isinstance(given, Tensor)
            shared = None if given is None else min(student.vocabulary, given.vocabulary)
            terms = list(fused.values())
            loss, values = fused_loss(
                student.hidden, student.head, terms, labels=view.labels, targets=given, shared=shared
            )
            totals |= dict(zip(fused, values, strict=True))
    for name, objective in objectives.items():
        if name not in totals:
            total = objective.total(view, targets)
            loss = loss + objective.weight * total / counts[objective.unit].clamp(min=1)
            totals[name] = total.detach()
    return loss, {name: totals[name] for name in objectives}
