"""Means whose totals stay on the device, so that no step waits for a number to come back."""

from __future__ import annotations

from torch import Tensor

from hf_distill.types import Reduce


class Means:
    """Means by name: totals over all processes, by counts that are summed too where they are tensors."""

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
