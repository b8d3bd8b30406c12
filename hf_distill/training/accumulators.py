"""Sums kept on the device between two logs, so that no step waits for a number to come back."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.types import Reduce


class TrainingSums:
    """Each term's mean over the optimizer steps since the last log, and the share of padding in what was read."""

    def __init__(self) -> None:
        self._terms: dict[str, Tensor] = {}
        self._steps = 0.0
        self._slots: Tensor | None = None

    def add(self, terms: dict[str, Tensor], attention_mask: Tensor | None, share_of_step: float) -> None:
        """Add one micro-batch: terms that were divided by their global counts; no mask where nothing is padded."""
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, torch.zeros_like(value)) + value
        self._steps += share_of_step
        if attention_mask is not None:
            real = attention_mask.sum()
            slots = torch.stack((real, real.new_tensor(attention_mask.numel())))
            self._slots = slots if self._slots is None else self._slots + slots

    def result(self, reduce: Reduce) -> tuple[dict[str, float], float]:
        """The mean of each term over the steps, and the share of padding; the same on every process."""
        means = {name: reduce(value).item() / max(self._steps, 1e-9) for name, value in self._terms.items()}
        if self._slots is None:
            return means, 0.0
        real, total = reduce(self._slots).tolist()
        return means, 1.0 - real / total


class EvaluationSums:
    """Each term over a whole evaluation set: all totals by all counts."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def add(self, totals: dict[str, Tensor], counts: dict[str, Tensor]) -> None:
        """Add one batch: each term's total and how many units it was taken over."""
        for name, total in totals.items():
            pair = torch.stack((total.double(), counts[name].double()))
            self._totals[name] = self._totals[name] + pair if name in self._totals else pair

    def result(self, reduce: Reduce) -> dict[str, float]:
        """Each term's value; 0 for a term with no units."""
        sums = {name: reduce(pair).tolist() for name, pair in self._totals.items()}
        return {name: total / max(count, 1.0) for name, (total, count) in sums.items()}
