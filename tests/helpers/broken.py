"""Objectives and teachers that give what is not finite, at a step of one's choice."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_distill.objectives import Objective
from hf_distill.teachers import Teacher
from hf_distill.types import Targets, View
from tests.helpers.toy_teacher import ToyTeacher


class Scripted(Objective):
    """The mean of the student's logits at the positions, times what a script says of a step.

    Args:
        script: The factor by number of the call, from 0; 1 where it says nothing.
        infinite_slope: At which calls the loss is finite and its gradient is not.
    """

    unit = "positions"
    needs = frozenset[Any]()

    def __init__(
        self, script: dict[int, float] | None = None, infinite_slope: tuple[int, ...] = (), *, weight: Any = 1.0
    ) -> None:
        super().__init__(weight=weight)
        self.script, self.infinite_slope, self.calls = script or {}, infinite_slope, 0

    def total(self, view: View, targets: Targets) -> Tensor:
        call, self.calls = self.calls, self.calls + 1
        assert isinstance(view.logits, Tensor)
        mean = torch.where(view.masks["positions"], view.logits.float().sigmoid().mean(-1), 0.0).sum()
        if call in self.infinite_slope:
            mean = mean + (mean - mean.detach()).square().sqrt()  # Finite, with a gradient of 0 times infinity.
        return mean * self.script.get(call, 1.0)


class Broken(ToyTeacher):
    """A teacher whose logits are NaN from a call on."""

    facts: ClassVar[dict[str, Any]] = ToyTeacher.facts

    def __init__(self, since: int = 0) -> None:
        super().__init__()
        self.since, self.calls = since, 0

    def targets(self, *arguments: Any, **named: Any) -> Targets:
        call, self.calls = self.calls, self.calls + 1
        found = super().targets(*arguments, **named)
        assert isinstance(found.logits, Tensor)
        return Targets(logits=found.logits * float("nan")) if call >= self.since else found


assert issubclass(Broken, Teacher)
