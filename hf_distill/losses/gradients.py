"""The divergences once more, value and gradient at once, for logits that are too large to keep.

Every function in ``GRADIENTS`` takes finite float32 (or float64) logits of student and teacher ``[n, C]``, one class of
C, and **uses them up**: they are its scratch space. It returns the value ``[n]`` and the value's gradient with respect
to the student's logits ``[n, C]``, which is the student's buffer, T^2 included: what autograd makes of the function of
the same name in ``DIVERGENCES``.

With ``p`` the student's probabilities at temperature T and ``g`` the derivative of a divergence D in ``p``, the
gradient of T^2 * D in the logits is ``T * p * (g - <p, g>)``; a constant added to ``g`` changes nothing, so it is
chosen such that ``g`` is exactly 0 where student and teacher are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_distill.types import SparseLogits

SMALLEST = 1e-30  # Probabilities stay this far from 0, so that their ratios have a logarithm; it adds nothing to a sum.


def _scale_(tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1.0 else tensor.mul_(factor)


def softmax_(logits: Tensor, temperature: float) -> Tensor:
    """Logits to probabilities, in place."""
    torch.softmax(_scale_(logits, 1.0 / temperature), -1, out=logits)
    # Over 50,000 classes softmax's own float32 sum is wrong by 1e-6, and every value after it; sum() adds in pairs.
    return logits.div_(logits.sum(-1, keepdim=True))


def _log_softmax_(logits: Tensor, temperature: float) -> Tensor:
    """Logits to probabilities, in place; returns the log-normalisers ``[n]`` of the scaled logits."""
    highest = logits.amax(-1) / temperature
    return highest - softmax_(logits, temperature).amax(-1).log_()


def _probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both softmaxes, in place, with no 0 in them."""
    softmax_(student, temperature).clamp_(min=SMALLEST)
    return student, softmax_(teacher, temperature).clamp_(min=SMALLEST)


def _through_softmax(slope: Tensor, probabilities: Tensor, scratch: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """``<p, g>`` as ``[n]``, and ``factor * p * (g - <p, g>)`` in the buffer of the probabilities."""
    mean = torch.mul(slope, probabilities, out=scratch).sum(-1, keepdim=True)
    torch.mul(slope.sub_(mean), probabilities, out=probabilities)
    return mean.squeeze(-1), _scale_(probabilities, factor)


def forward_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """``g = -teacher / p``, so that the gradient is ``T * (p - teacher)``."""
    difference = _scale_(teacher - student, 1.0 / temperature)
    normalisers = _log_softmax_(teacher, temperature) - _log_softmax_(student, temperature)
    value = difference.mul_(teacher).sum(-1) - normalisers
    return value * temperature**2, _scale_(student.sub_(teacher), temperature)


def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """``g = log(p / teacher)``, which but for a constant is the difference of the logits."""
    slope = _scale_(student - teacher, 1.0 / temperature)
    normalisers = _log_softmax_(student, temperature) - _log_softmax_(teacher, temperature)
    mean, gradient = _through_softmax(slope, student, teacher, temperature)
    return (mean - normalisers) * temperature**2, gradient


def jsd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, beta: float = 0.5) -> tuple[Tensor, Tensor]:
    """``g = (1 - beta) * log(p / m)`` with ``m = beta * teacher + (1 - beta) * p``; the other parts cancel."""
    student, teacher = _probabilities(student, teacher, temperature)
    mixture = torch.lerp(student, teacher, beta)
    slope = (student / mixture).log_()
    of_teacher = torch.div(teacher, mixture, out=mixture).log_().mul_(teacher).sum(-1)
    of_student, gradient = _through_softmax(slope, student, teacher, (1.0 - beta) * temperature)
    return (beta * of_teacher + (1.0 - beta) * of_student) * temperature**2, gradient


def skewed_kl(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, alpha: float = 0.1
) -> tuple[Tensor, Tensor]:
    """``g = -(1 - alpha) * (teacher / m - 1)`` with ``m = alpha * teacher + (1 - alpha) * p``."""
    student, teacher = _probabilities(student, teacher, temperature)
    ratio = torch.lerp(student, teacher, alpha)
    torch.div(teacher, ratio, out=ratio)
    value = ratio.log().mul_(teacher).sum(-1)
    _, gradient = _through_softmax(ratio.sub_(1.0), student, teacher, (alpha - 1.0) * temperature)
    return value * temperature**2, gradient


def skewed_reverse_kl(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, alpha: float = 0.1
) -> tuple[Tensor, Tensor]:
    """``g = log(p / m) - alpha * (p / m - 1)`` with ``m = (1 - alpha) * teacher + alpha * p``."""
    student, teacher = _probabilities(student, teacher, temperature)
    ratio = torch.lerp(teacher, student, alpha)
    torch.div(student, ratio, out=ratio)
    slope = ratio.log()
    value = torch.mul(slope, student, out=teacher).sum(-1)
    _, gradient = _through_softmax(slope.sub_(ratio.sub_(1.0), alpha=alpha), student, teacher, temperature)
    return value * temperature**2, gradient


def total_variation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """``g = sign(p - teacher) / 2``."""
    student, teacher = _probabilities(student, teacher, temperature)
    difference = student - teacher
    value = torch.abs(difference, out=teacher).sum(-1) / 2
    slope = difference.sign_().add_(value[:, None] * 0.0)  # The sign of what is no number is one.
    _, gradient = _through_softmax(slope, student, teacher, temperature / 2)
    return value * temperature**2, gradient


def mse(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the centred difference over C: to centre is to project, and the gradient lies in the plane already."""
    difference = student.sub_(teacher)
    difference.sub_(difference.mean(-1, keepdim=True))
    value = torch.square(difference, out=teacher).mean(-1)
    return value, difference.mul_(2.0 / difference.shape[-1])


_ALL: tuple[Any, ...] = (forward_kl, reverse_kl, jsd, skewed_kl, skewed_reverse_kl, total_variation, mse)
GRADIENTS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {divergence.__name__: divergence for divergence in _ALL}


def cross_entropy(student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """``-log p[label]`` and ``p - onehot(label)``, with the conventions of ``GRADIENTS``; ``labels`` is ``[n]``."""
    index = labels[:, None]
    chosen = student.gather(-1, index)
    value = _log_softmax_(student, 1.0) - chosen.squeeze(-1)
    return value, student.scatter_add_(-1, index, torch.full_like(chosen, -1.0))


def sparse_forward_kl(student: Tensor, targets: SparseLogits) -> tuple[Tensor, Tensor]:
    """:func:`forward_kl` from what a cache keeps, with the conventions of ``GRADIENTS``; one pass more with a rest.

    The gradient is ``T * (p - teacher)`` at the kept tokens. At the others it is ``T * p``, times
    ``1 - rest / (their mass in p)`` where the cache keeps their mass in the teacher. The value of sampled targets is
    right on average, so that it may be below 0.
    """
    ids, temperature = targets.ids, targets.temperature
    given = targets.probabilities.to(student.dtype)
    chosen = student.gather(-1, ids).div_(temperature)
    normalisers = _log_softmax_(student, temperature)
    value = (normalisers[:, None] - chosen).mul_(given).sum(-1) - targets.entropy
    if targets.rest is None:
        return value * temperature**2, _scale_(student, temperature).scatter_add_(-1, ids, given * -temperature)
    rest = targets.rest.to(student.dtype)
    # An entry without probability keeps no token: its id may stand in the row a second time.
    kept = student.gather(-1, ids).masked_fill_(given == 0, 0.0)
    # The others are added up, not taken from 1, of which float32 would leave nothing.
    others = student.scatter_add_(-1, ids, -kept).sum(-1).clamp_(min=SMALLEST)
    value -= rest * others.log()
    student.mul_(((1.0 - rest / others) * temperature)[:, None])
    return value * temperature**2, student.scatter_add_(-1, ids, (kept - given) * temperature)


def sparse_forward_kl_value(student: Tensor, targets: SparseLogits) -> Tensor:
    """The value of :func:`sparse_forward_kl` alone, ``[n]``: it leaves the logits as they are, for autograd too."""
    student = student.to(torch.promote_types(student.dtype, torch.float32))
    given = targets.probabilities.to(student.dtype)
    logarithms = torch.log_softmax(student / targets.temperature, -1)
    value = -(logarithms.gather(-1, targets.ids) * given).sum(-1) - targets.entropy
    if targets.rest is not None:
        is_kept = torch.zeros_like(logarithms).scatter_add_(-1, targets.ids, given) > 0
        others = logarithms.exp().masked_fill(is_kept, 0.0).sum(-1).clamp(min=SMALLEST)
        value = value - targets.rest * others.log()
    return value * targets.temperature**2
