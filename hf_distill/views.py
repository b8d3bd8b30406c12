"""The small types that tasks, teachers, objectives and the trainer hand to each other.

A :class:`View` is what a task makes of a student's outputs and a batch; :class:`Targets` are what a teacher gives for
the same batch; a :class:`Term` is what an objective returns. No type here knows which task, teacher or objective it
serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Unit = Literal["labels", "positions", "tokens"]
"""What an objective averages over: labelled positions, all compared positions, or real (unpadded) input tokens."""

UNITS: tuple[Unit, ...] = get_args(Unit)

Distribution = Literal["categorical", "bernoulli", "real"]
"""What the logits of one position mean: one class of C, C independent yes/no classes, or C real values."""

Need = Literal["labels", "logits", "hidden_states"]
"""What an objective asks for: labels from the data; logits or hidden states from the teacher."""

Batch = dict[str, Any]
"""A collated batch: tensors by name, on the model's device."""

Masks = dict[Unit, Tensor]
"""One boolean mask a unit. ``labels`` and ``positions``: ``[N]``; ``tokens``: ``[B, T]``."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """An output head: ``logits = soft_cap * tanh(scale * (hidden @ weight.T + bias) / soft_cap)``.

    Attributes:
        weight: ``[V, H]``.
        bias: ``[V]``, or None.
        scale: What the logits are multiplied by.
        soft_cap: The bound that a hyperbolic tangent bends them to, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., V]`` from ``[..., H]``, differentiable."""
        logits = functional.linear(hidden, self.weight.to(hidden.dtype), _as(self.bias, hidden)) * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


def _as(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(like.dtype)


@dataclass(frozen=True, kw_only=True)
class LogitSource:
    """What logits over a vocabulary are made of, where all of them at once would be too large.

    Attributes:
        hidden: ``[N, H]``, what enters the head at the N compared positions.
        head: The output head.
    """

    hidden: Tensor
    head: Head


@dataclass(frozen=True, kw_only=True)
class View:
    """The N positions of a batch that are compared, as the student sees them.

    Attributes:
        logits: ``[N, C]``, in the label order of the data; or what they are made of, for a fused loss.
        distribution: What the C logits of a position mean.
        labels: ``[N]`` class indices, or ``[N, C]`` floats (bernoulli, real). Where ``masks["labels"]`` is False the
            value is arbitrary.
        masks: Which labels, positions and tokens count, see :data:`Masks`.
        hidden_states: ``[B, T, H]`` each; index 0 is the embedding output, index i the output of layer i. None unless
            an objective needs them.
    """

    logits: Tensor | LogitSource
    distribution: Distribution
    labels: Tensor | None
    masks: Masks
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a teacher gives for a batch, detached where it is made; what an objective did not ask for is None.

    Attributes:
        logits: ``[N, C]``, positions and classes in the same order as the student's :class:`View`, C larger or smaller
            only by the padding rows of a vocabulary; or what they are made of.
        hidden_states: ``[B, T, H_teacher]`` each, or None.
    """

    logits: Tensor | LogitSource | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def logits_at(mask: Tensor, logits: Tensor | LogitSource) -> Tensor:
    """``[M, C]`` logits of the M positions that a mask ``[N]`` chooses, made now where only their source is there."""
    return logits[mask] if isinstance(logits, Tensor) else logits.head.logits(logits.hidden[mask])


@dataclass(frozen=True, kw_only=True)
class Term:
    """An objective's value on one micro-batch: a sum, and over how many units it was taken.

    The trainer alone divides: by the count over the whole accumulation window and all processes.

    Attributes:
        total: Scalar, differentiable, float32.
        count: Scalar, how many units of ``Objective.unit`` were summed.
    """

    total: Tensor
    count: Tensor
