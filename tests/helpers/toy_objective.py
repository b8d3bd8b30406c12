"""An objective that the package does not know, named as ``tests.helpers.toy_objective:ToyObjective``."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.objectives import Objective
from hf_distill.types import Targets, View


class ToyObjective(Objective):
    """The largest difference between a student's logits and its teacher's at a position."""

    unit = "positions"
    needs = frozenset({"logits"})
    paper = "a note on a napkin"

    def __init__(self, *, weight: float = 1.0, bound: float = 10.0) -> None:
        super().__init__(weight=weight)
        self.bound = bound

    def total(self, view: View, targets: Targets) -> Tensor:
        assert isinstance(view.logits, Tensor)
        assert isinstance(targets.logits, Tensor)
        apart = (view.logits.float() - targets.logits).abs().amax(-1).clamp(max=self.bound)
        return torch.where(view.masks["positions"], apart, 0.0).sum()
