"""Several teachers as one: the weighted mean of their probabilities, as logits.

One rule: the mean is taken of the probabilities at temperature 1, ``p = sum_m w_m p_m``, and the ensemble's logits are
``log p``. All else follows from these as from any teacher's: a temperature softens the mixture, a divergence compares
with it, an evaluation scores it. The mean of softened distributions would be another one at every temperature (Hinton
et al. 2015, section 1, leave open which mean is taken; Fukuda et al. 2017, section 3, mix the probabilities).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.types import Distribution, Head


def log_mixture(logits: Iterable[Tensor], log_weights: Tensor) -> Tensor:
    """``log sum_m w_m softmax(logits_m)``, at least float32; holds two of them at a time.

    Args:
        logits: ``[..., C]`` of each of M members.
        log_weights: ``[..., M]``, or ``[M]`` for all positions alike; ``-inf`` where a member says nothing.
    """
    total: Tensor | None = None
    for own, weight in zip(logits, log_weights.unbind(-1), strict=True):
        wide = own.to(torch.promote_types(own.dtype, torch.float32))
        weighted = torch.log_softmax(wide, -1) + weight[..., None]
        total = weighted if total is None else torch.logaddexp(total, weighted)
    assert total is not None
    return total


def mixed(logits: Sequence[Tensor], weights: Sequence[float], distribution: Distribution) -> Tensor:
    """The logits of several models as those of one, at least float32; those of a single one are left as they are.

    Args:
        logits: ``[..., C]`` of each, classes in the same order.
        weights: Of each; their sum is 1.
        distribution: ``categorical`` mixes the probabilities of the classes, ``bernoulli`` that of each class;
            of ``real`` values it is the mean.
    """
    if len(logits) == 1:
        return logits[0]
    if distribution == "real":
        return sum((weight * own.float() for weight, own in zip(weights, logits, strict=True)), torch.zeros(()))
    log_weights = torch.tensor([math.log(weight) for weight in weights], device=logits[0].device)
    if distribution == "categorical":
        return log_mixture(logits, log_weights)
    yes, no = (
        torch.stack([functional.logsigmoid(sign * own.float()) for own in logits], -1).add(log_weights).logsumexp(-1)
        for sign in (1, -1)
    )
    return yes - no


@dataclass(frozen=True, kw_only=True)
class MixedHead:
    """The heads of several models over one vocabulary; serves where a :class:`Head` does.

    What enters it are the members' hidden states side by side, and for each member a 1 where it says nothing (0 where
    it does): ``[..., H_1 + ... + H_M + M]``. Tokens that one of them lacks are padding rows of the others: left out.

    Attributes:
        heads: Of each member.
        weights: Of each member, above 0; those that say something at a position are made to sum to 1 there.
    """

    heads: tuple[Head, ...]
    weights: tuple[float, ...]

    @property
    def vocabulary(self) -> int:
        """Tokens that all members have."""
        return min(head.vocabulary for head in self.heads)

    def parts(self, hidden: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each member's hidden states ``[..., H_m]`` in its own dtype, and ``[..., M]`` log-weights."""
        *states, away = hidden.split([*(head.weight.shape[1] for head in self.heads), len(self.heads)], dim=-1)
        weights = torch.tensor(self.weights, device=hidden.device).log().expand(away.shape)
        log_weights = weights.masked_fill(away != 0, -torch.inf).log_softmax(-1)
        return [own.to(head.weight.dtype) for own, head in zip(states, self.heads, strict=True)], log_weights

    def narrowed(self) -> list[Head]:
        """The members' heads over the tokens that all have."""
        size = self.vocabulary
        return [
            replace(head, weight=head.weight[:size], bias=None if head.bias is None else head.bias[:size])
            for head in self.heads
        ]

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., V]`` from what enters it, see :func:`log_mixture`."""
        states, log_weights = self.parts(hidden)
        return log_mixture((head.logits(own) for head, own in zip(self.narrowed(), states, strict=True)), log_weights)
