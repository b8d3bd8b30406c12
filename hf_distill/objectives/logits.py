"""The student's predictions pulled towards the teacher's."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import Tensor

from hf_distill.errors import ObjectiveError
from hf_distill.objectives.base import Objective
from hf_distill.objectives.divergences import DIVERGENCES
from hf_distill.views import Distribution, Targets, View


class Logits(Objective):
    """A divergence between the teacher's and the student's distribution over the classes, at a temperature.

    Args:
        divergence: A name in ``DIVERGENCES``: forward_kl, reverse_kl, jsd or mse.
        temperature: Above 0; softens both distributions; the term carries T^2. 2.0 unless given. Refused for mse,
            which it would not change.
        beta: Only for jsd: the teacher's share of the mixture, strictly between 0 and 1; 0.5 unless given.
        weight: See :class:`Objective`.

    Raises:
        ObjectiveError: For an unknown divergence, an option that it does not know, or a value out of bounds.
    """

    unit = "positions"
    needs = frozenset({"logits"})
    paper = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531"

    def __init__(
        self,
        *,
        divergence: str = "forward_kl",
        temperature: float | None = None,
        beta: float | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        if divergence not in DIVERGENCES:
            raise ObjectiveError(f"logits: divergence must be one of {', '.join(DIVERGENCES)}, got {divergence!r}")
        known = inspect.signature(DIVERGENCES[divergence]).parameters
        for name, value in (("temperature", temperature), ("beta", beta)):
            if value is not None and name not in known:
                raise ObjectiveError(f"logits: {name} does nothing for divergence {divergence}; remove it")
        if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
            raise ObjectiveError(f"logits: temperature must be a finite number above 0, got {temperature!r}")
        if beta is not None and not 0 < beta < 1:
            raise ObjectiveError(f"logits: beta must lie strictly between 0 and 1, got {beta!r}")
        self.divergence = divergence
        self.options: dict[str, Any] = {"temperature": 2.0, "beta": 0.5}
        self.options |= {k: v for k, v in (("temperature", temperature), ("beta", beta)) if v is not None}
        self.options = {name: value for name, value in self.options.items() if name in known}

    def check(self, distribution: Distribution) -> None:
        """Refuse a divergence of probabilities where the outputs are real values."""
        if distribution == "real" and self.divergence != "mse":
            raise ObjectiveError(
                f"logits: {self.divergence} compares probabilities, but this task's outputs are real values; "
                "use divergence: mse"
            )

    def total(self, view: View, targets: Targets) -> Tensor:
        """See :meth:`Objective.total`."""
        assert targets.logits is not None
        mask = view.masks["positions"]
        divergence = DIVERGENCES[self.divergence]
        value: Tensor = divergence(
            view.logits[mask], targets.logits[mask], distribution=view.distribution, **self.options
        )
        return value.sum()
