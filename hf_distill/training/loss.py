"""All terms of a loss at once, in one pass over the vocabulary where there is one; and their means, for the log."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hf_distill.losses.fused import fused_loss
from hf_distill.objectives.objective import Objective
from hf_distill.types import HeadLogits, Reduce, Targets, Unit, View


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


class Means:
    """Means by name: totals over all processes, by counts that are summed too where they are tensors.

    They stay on the device, so that no step waits for a number to come back.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor | float]] = {}

    def add(self, name: str, total: Tensor, count: Tensor | float) -> None:
        """Add to a total and to its count."""
        before, counted = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (before + total, counted + count)

    def result(self, reduce: Reduce, *, empty: bool = True) -> dict[str, float]:
        """Every mean, the same on every process; where nothing was counted 0, or nothing without ``empty``."""
        means = {}
        for name, (total, count) in self._sums.items():
            counted = reduce(count).item() if isinstance(count, Tensor) else count
            value = float(reduce(total).item() / (counted or 1.0))
            if counted or empty:
                means[name] = value
        return means
