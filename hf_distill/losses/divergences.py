"""Divergences between two sets of logits: plain functions, one value a position.

Every function in ``DIVERGENCES`` takes the logits of student and teacher ``[N, C]``, works in float32 whatever their
dtype (float64 stays float64), carries the factor T^2 that keeps the gradient's size independent of the temperature
(Hinton et al. 2015, section 2.1), and returns ``[N]``. A class that the teacher rules out with ``-inf`` (the padding
rows of a vocabulary) is not compared: the student's distribution is that over the classes left, as where a vocabulary
is cut to what two models share, so that every divergence is smallest, and 0, where both say the same of these. Shares
of a mixture lie strictly between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.types import Distribution


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def log_probabilities(logits: Tensor, temperature: float, distribution: Distribution) -> Tensor:
    """Log-probabilities at a temperature, at least float32: ``[N, C]``, or ``[N, C, 2]``, yes and no (bernoulli)."""
    scaled = _wide(logits) / temperature
    if distribution == "bernoulli":
        return torch.stack((functional.logsigmoid(scaled), functional.logsigmoid(-scaled)), dim=-1)
    return torch.log_softmax(scaled, dim=-1)


def kl(reference: Tensor, other: Tensor) -> Tensor:
    """KL(reference || other) of log-probabilities, summed over the last dimension, 0 where the reference is 0."""
    return (reference.exp() * (reference - other).masked_fill(reference == -torch.inf, 0.0)).sum(-1)


def _log_mixture(log_teacher: Tensor, log_student: Tensor, share: float) -> Tensor:
    return torch.logaddexp(log_teacher + math.log(share), log_student + math.log1p(-share))


def _both(student: Tensor, teacher: Tensor, temperature: float, distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both, the student's over what the teacher does not rule out, ``-inf`` elsewhere."""
    log_teacher = log_probabilities(teacher, temperature, distribution)
    ruled_out = log_teacher == -torch.inf
    if distribution == "bernoulli":  # Of yes and no one is left.
        log_student = log_probabilities(student, temperature, distribution)
        return torch.where(ruled_out.any(-1, keepdim=True), log_teacher, log_student), log_teacher
    left = log_probabilities(student.masked_fill(ruled_out, -torch.inf), temperature, distribution)
    return left.masked_fill(ruled_out, -torch.inf), log_teacher  # Once more, for the gradient of -inf.


def _over_classes(value: Tensor) -> Tensor:
    """The mean over the classes of ``[N, C]``, one divergence a class (bernoulli); ``[N]`` as it is."""
    return value if value.dim() == 1 else value.mean(-1)


def forward_kl(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, distribution: Distribution = "categorical"
) -> Tensor:
    """T^2 * KL(teacher || student), Hinton et al. 2015: the student covers all that the teacher holds possible."""
    log_student, log_teacher = _both(student, teacher, temperature, distribution)
    return _over_classes(kl(log_teacher, log_student)) * temperature**2


def reverse_kl(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, distribution: Distribution = "categorical"
) -> Tensor:
    """T^2 * KL(student || teacher), Gu et al. 2024 (MiniLLM), equation 1: the student keeps to the teacher's modes."""
    log_student, log_teacher = _both(student, teacher, temperature, distribution)
    return _over_classes(kl(log_student, log_teacher)) * temperature**2


def jsd(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    distribution: Distribution = "categorical",
    beta: float = 0.5,
) -> Tensor:
    """T^2 times the generalised Jensen-Shannon divergence, Agarwal et al. 2024 (GKD), equation 1.

    ``beta * KL(teacher || m) + (1 - beta) * KL(student || m)`` with ``m = beta * teacher + (1 - beta) * student``.
    """
    log_student, log_teacher = _both(student, teacher, temperature, distribution)
    mixture = _log_mixture(log_teacher, log_student, beta)
    value = beta * kl(log_teacher, mixture) + (1.0 - beta) * kl(log_student, mixture)
    return _over_classes(value) * temperature**2


def skewed_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    distribution: Distribution = "categorical",
    alpha: float = 0.1,
) -> Tensor:
    """T^2 * KL(teacher || alpha * teacher + (1 - alpha) * student), Ko et al. 2024 (DistiLLM).

    The ratio stays below ``1 / alpha``: no gradient explodes where the student rules out what the teacher says.
    """
    log_student, log_teacher = _both(student, teacher, temperature, distribution)
    return _over_classes(kl(log_teacher, _log_mixture(log_teacher, log_student, alpha))) * temperature**2


def skewed_reverse_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    distribution: Distribution = "categorical",
    alpha: float = 0.1,
) -> Tensor:
    """T^2 * KL(student || (1 - alpha) * teacher + alpha * student), Ko et al. 2024 (DistiLLM)."""
    log_student, log_teacher = _both(student, teacher, temperature, distribution)
    return _over_classes(kl(log_student, _log_mixture(log_teacher, log_student, 1.0 - alpha))) * temperature**2


def total_variation(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, distribution: Distribution = "categorical"
) -> Tensor:
    """T^2 * sum(|student - teacher|) / 2 of the probabilities, Wen et al. 2023 (f-DISTILL); T^2 by convention."""
    log_student, log_teacher = _both(student, teacher, temperature, distribution)
    value = _over_classes((log_student.exp() - log_teacher.exp()).abs().sum(-1) / 2) * temperature**2
    return value * (1.0 + 0.0 * value.detach())  # The sign of what is no number is one: its gradient would be, too.


def mse(student: Tensor, teacher: Tensor, *, distribution: Distribution = "categorical") -> Tensor:
    """Mean squared difference of the logits over the classes, Kim et al. 2021: the limit of T^2 * KL for a high T.

    It knows no temperature: T^2 cancels it. For ``categorical`` the logits are compared without their mean, which
    softmax ignores.
    """
    student, teacher = _wide(student), _wide(teacher)
    ruled_out = teacher == -torch.inf
    student, teacher = student.masked_fill(ruled_out, 0.0), teacher.masked_fill(ruled_out, 0.0)
    classes = (~ruled_out).sum(-1, keepdim=True).clamp(min=1)
    if distribution == "categorical":
        student = student - student.sum(-1, keepdim=True) / classes
        teacher = teacher - teacher.sum(-1, keepdim=True) / classes
    return (student - teacher).square().masked_fill(ruled_out, 0.0).sum(-1) / classes.squeeze(-1)


_ALL: tuple[Any, ...] = (forward_kl, reverse_kl, jsd, skewed_kl, skewed_reverse_kl, total_variation, mse)
DIVERGENCES: dict[str, Callable[..., Tensor]] = {divergence.__name__: divergence for divergence in _ALL}
