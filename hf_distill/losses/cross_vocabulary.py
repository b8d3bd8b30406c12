"""A divergence between two vocabularies: over the classes into which both are sorted.

Where both models have read the same bytes (:func:`hf_distill.tokenizers.alignment.meetings`) they predict the same
text, each in its own tokens. Its tokens are sorted into classes that mean the same for both
(:func:`hf_distill.tokenizers.shared_vocabulary.shared_classes`), and any divergence of ``DIVERGENCES`` is taken between

    P(c) = sum of softmax(student / T)_v over the tokens v of class c, and Q(c) of the teacher's likewise,

T^2 included, of which the gradient in the student's logits is ``T * g_c(v) * p_v / P(c(v))``, with ``g`` the
divergence's own gradient in ``log P``. Both sum to 1. With one vocabulary every token is a class of its own, and this
is the plain divergence.

GOLD (TRL) matches tokens by text and leaves all others to sorted probabilities, as ULD does (Boizard et al. 2024,
arXiv:2402.12030). Here a token that only one model has counts as the shared token that begins it, so that no mass is
compared with mass of another meaning. What a model says inside a span that the other cuts otherwise is not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.gradients import GRADIENTS, SMALLEST, softmax_
from hf_distill.tokenizers.shared_vocabulary import SharedClasses


class Crossing:
    """The classes of two vocabularies as tensors, the student's first, and sums of what was compared."""

    def __init__(self, classes: SharedClasses) -> None:
        self.count = classes.count
        maps = (torch.tensor(each) for each in (classes.first, classes.second))
        self._maps = [torch.where(each < 0, self.count, each) for each in maps]
        self._exact = [torch.tensor(each) for each in (classes.first_exact, classes.second_exact)]
        self._sums = torch.zeros(5, dtype=torch.float64)

    def gradient(
        self, divergence: str, student: Tensor, teacher: Tensor, options: Mapping[str, float]
    ) -> tuple[Tensor, Tensor]:
        """The value ``[n]`` and its gradient in the student's logits, with the conventions of ``GRADIENTS``."""
        temperature, others = _split(options)
        (own, exact), (other, other_exact) = self._on(student, 0), self._on(teacher, 1)
        softmax_(student.masked_fill_(own == self.count, -torch.inf), temperature)
        softmax_(teacher.masked_fill_(other == self.count, -torch.inf), temperature)
        shares = [(student @ exact).sum(), (teacher @ other_exact).sum()]
        self._add(torch.stack([*shares, torch.tensor(float(len(student)), device=student.device)]), 0)
        merged = self._merged(student, own)
        value, slope = GRADIENTS[divergence](merged.log(), self._merged(teacher, other).log_(), **others)
        slope.mul_(temperature).div_(merged)
        share = torch.cat((slope, slope.new_zeros(len(slope), 1)), -1)
        return value * temperature**2, student.mul_(share.gather(1, own.expand_as(student)))

    def value(self, divergence: str, student: Tensor, teacher: Tensor, options: Mapping[str, float]) -> Tensor:
        """The value ``[n]`` alone; the logits stay as they are, and autograd may follow."""
        temperature, others = _split(options)
        logits = []
        for side, given in enumerate((student, teacher)):
            classes, _ = self._on(given, side)
            wide = given.to(torch.promote_types(given.dtype, torch.float32)) / temperature
            shares = torch.softmax(wide.masked_fill(classes == self.count, -torch.inf), -1)
            logits.append(self._merged(shares, classes).log())
        found: Tensor = DIVERGENCES[divergence](*logits, **others)
        return found * temperature**2

    def saw(self, compared: Tensor, counted: Tensor) -> None:
        """Add masks ``[N]`` to the sums: positions that were compared, and all that predict a token that counts."""
        self._add(torch.stack([compared.sum(), counted.sum()]), 3)

    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The share of positions compared, and each model's mass on tokens that both have, since the last call."""
        student, teacher, rows, compared, counted = reduce(self._sums).tolist()
        self._sums = torch.zeros_like(self._sums)
        return {
            "compared_positions": compared / max(counted, 1.0),
            "shared_mass_student": student / max(rows, 1.0),
            "shared_mass_teacher": teacher / max(rows, 1.0),
        }

    def _add(self, values: Tensor, at: int) -> None:
        self._sums = self._sums.to(values.device)
        self._sums[at : at + len(values)] += values

    def _on(self, logits: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """The class of each column, ``count`` where it has none, and whether both vocabularies have it."""
        columns, device = logits.shape[1], logits.device
        if self._maps[side].device != device or len(self._maps[side]) != columns:
            beyond = max(columns - len(self._maps[side]), 0)  # Rows that pad a vocabulary.
            self._maps[side] = functional.pad(self._maps[side], (0, beyond), value=self.count)[:columns].to(device)
            self._exact[side] = functional.pad(self._exact[side], (0, beyond))[:columns].to(device)
        return self._maps[side], self._exact[side].to(logits.dtype)

    def _merged(self, shares: Tensor, classes: Tensor) -> Tensor:
        """``[n, C]`` from the probabilities ``[n, V]``, with no 0 in them."""
        sums = shares.new_zeros(len(shares), self.count + 1)
        sums = sums.scatter_add(1, classes.expand_as(shares), shares)
        return sums[:, : self.count].clamp(min=SMALLEST)


def _split(options: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    return options.get("temperature", 1.0), {name: value for name, value in options.items() if name != "temperature"}
