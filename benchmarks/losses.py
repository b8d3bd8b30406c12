"""The losses over a vocabulary that ``fused_loss.py`` compares, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.fused import FusedTerm, fused_loss
from hf_distill.types import Head, HeadLogits

STUDENT_WIDTH, TEACHER_WIDTH = 576, 960
BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
"""TRL and Liger name divergences by a number."""


class Inputs(NamedTuple):
    """Hidden states and heads: normal numbers that make logits of a spread of about 3, as trained models' are."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor


class Cell(NamedTuple):
    divergence: str
    dtype: str
    vocabulary: int
    positions: int


Loss = Callable[[Inputs, str], Tensor]


def make_inputs(cell: Cell, device: str, positions: int) -> Inputs:
    torch.manual_seed(0)
    dtype = getattr(torch, cell.dtype)

    def draw(rows: int, width: int, size: float) -> Tensor:
        return torch.empty(rows, width, dtype=dtype, device=device).normal_(0.0, size)

    return Inputs(
        draw(positions, STUDENT_WIDTH, 1.0).requires_grad_(),
        draw(cell.vocabulary, STUDENT_WIDTH, 3.0 / STUDENT_WIDTH**0.5).requires_grad_(),
        draw(positions, TEACHER_WIDTH, 1.0),
        draw(cell.vocabulary, TEACHER_WIDTH, 3.0 / TEACHER_WIDTH**0.5),
    )


def ours(given: Inputs, divergence: str) -> Tensor:
    mask = torch.ones(len(given.hidden), dtype=torch.bool, device=given.hidden.device)
    term = FusedTerm(divergence=divergence, factor=1.0 / len(mask), mask=mask, options={})
    return fused_loss(
        given.hidden,
        Head(weight=given.weight),
        [term],
        targets=HeadLogits(hidden=given.teacher_hidden, head=Head(weight=given.teacher_weight)),
    )[0]


def plain(given: Inputs, divergence: str) -> Tensor:
    student, teacher = given.hidden @ given.weight.T, given.teacher_hidden @ given.teacher_weight.T
    return DIVERGENCES[divergence](student, teacher).mean()


def products(given: Inputs, divergence: str) -> Tensor:
    with torch.no_grad():
        student = given.hidden @ given.weight.T
        given.teacher_hidden @ given.teacher_weight.T
        given.hidden.grad, given.weight.grad = student @ given.weight, student.T @ given.hidden
    return torch.zeros(())


def trl() -> Loss:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def loss(given: Inputs, divergence: str) -> Tensor:
        student, teacher = (given.hidden, given.weight, None), (given.teacher_hidden, given.teacher_weight, None)
        value: Tensor = ChunkedDivergenceFunction.apply(*student, *teacher, BETAS[divergence])[0].mean()
        return value

    return loss


def liger() -> Loss:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    modules = {
        name: LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta)
        for name, beta in BETAS.items()
    }

    def loss(given: Inputs, divergence: str) -> Tensor:
        labels = torch.zeros(len(given.hidden), dtype=torch.long, device=given.hidden.device)
        value: Tensor = modules[divergence](*given, labels)
        return value

    return loss


LOSSES: dict[str, Callable[[], Loss]] = {
    "ours": lambda: ours,
    "plain": lambda: plain,
    "trl": trl,
    "liger": liger,
    "products": lambda: products,
}
"""What is compared; a peer is imported when it is asked for."""


def losses() -> tuple[dict[str, Loss], dict[str, str]]:
    """What is compared here, and why a peer is not."""
    found, missing = {}, {}
    for name, make in LOSSES.items():
        try:
            found[name] = make()
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


def step(loss: Loss, given: Inputs, divergence: str) -> None:
    """A forward and a backward."""
    given.hidden.grad = given.weight.grad = None
    value = loss(given, divergence)
    if value.requires_grad:
        value.backward()
