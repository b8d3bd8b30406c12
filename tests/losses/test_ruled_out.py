"""Classes that a teacher rules out with -inf: every divergence has its minimum at the teacher, in all its forms."""

from __future__ import annotations

import pytest
import torch

from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.fused import FusedTerm, fused_loss
from hf_distill.losses.gradients import GRADIENTS
from hf_distill.types import Head, HeadLogits, MixedLogits

RULED_OUT = torch.tensor([False, True, False, True, False])
CLASSES = len(RULED_OUT)
POSITIONS, WIDTH = 6, 4


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teacher_logits() -> torch.Tensor:
    return drawn(POSITIONS, CLASSES).masked_fill(RULED_OUT, -torch.inf)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_that_says_the_same_of_the_classes_left_is_at_the_minimum(divergence):
    teacher = teacher_logits()
    same = torch.where(RULED_OUT, drawn(POSITIONS, CLASSES, seed=1) * 3, teacher).requires_grad_()
    value = DIVERGENCES[divergence](same, teacher)
    (gradient,) = torch.autograd.grad(value.sum(), same)
    assert value.detach() == pytest.approx(0.0, abs=1e-12)
    assert gradient == pytest.approx(0.0, abs=1e-7)
    others = drawn(200, CLASSES, seed=2) * 2
    assert (DIVERGENCES[divergence](others, teacher[:1].expand(200, -1)) > 0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_that_learns_from_it_goes_to_the_teacher(divergence):
    teacher = torch.tensor([[1.0, -torch.inf, 0.5, -torch.inf]])
    student = torch.zeros(1, 4, requires_grad=True)
    optimizer = torch.optim.SGD([student], lr=0.02 if divergence == "total_variation" else 1.0)
    for _ in range(400):
        value = DIVERGENCES[divergence](student, teacher).sum()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    left = student.detach()[:, [0, 2]].softmax(-1)
    assert left == pytest.approx(teacher[:, [0, 2]].softmax(-1), abs=0.01)
    assert -1e-6 <= value.item() < 0.01


@pytest.mark.parametrize("divergence", [name for name in DIVERGENCES if name != "mse"])
def test_of_yes_and_no_what_is_left_is_certain_and_teaches_nothing(divergence):
    teacher = torch.tensor([[1.0, -torch.inf, torch.inf, 0.5]])
    student = torch.zeros(1, 4, requires_grad=True)
    value = DIVERGENCES[divergence](student, teacher, distribution="bernoulli")
    (gradient,) = torch.autograd.grad(value.sum(), student)
    left = DIVERGENCES[divergence](student[:, [0, 3]], teacher[:, [0, 3]], distribution="bernoulli")
    assert value.item() == pytest.approx(left.item() / 2)
    assert gradient[0, 1:3].tolist() == [0.0, 0.0]
    assert (gradient[0, [0, 3]] != 0).all()


def sources(kind: str) -> HeadLogits | MixedLogits:
    def one(seed: int, ruled_out: torch.Tensor) -> HeadLogits:
        bias = drawn(CLASSES, seed=seed).masked_fill(ruled_out, -torch.inf)
        head = Head(weight=drawn(CLASSES, WIDTH, seed=seed + 1), bias=bias)
        return HeadLogits(hidden=drawn(POSITIONS, WIDTH, seed=seed + 2), head=head)

    if kind == "one teacher":
        return one(10, RULED_OUT)
    # Where the second is silent, what the first alone rules out is ruled out in that row alone.
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64).repeat(POSITIONS // 2, 1).log()
    return MixedLogits(members=(one(10, RULED_OUT), one(20, RULED_OUT & False)), log_weights=weights)


@pytest.mark.parametrize("divergence", GRADIENTS)
@pytest.mark.parametrize("kind", ["one teacher", "mixture"])
@pytest.mark.parametrize("learns", [True, False], ids=["trained", "evaluated"])
def test_the_fused_loss_is_the_plain_one(divergence, kind, learns):
    targets = sources(kind)
    hidden = drawn(POSITIONS, WIDTH, seed=30).requires_grad_(learns)
    head = Head(weight=drawn(CLASSES, WIDTH, seed=31).requires_grad_(learns), bias=drawn(CLASSES, seed=32))
    mask = torch.tensor([True, True, False, True, True, True])
    term = FusedTerm(divergence=divergence, factor=0.7, mask=mask, options={})
    fused, _ = fused_loss(hidden, head, [term], targets=targets)
    plain = 0.7 * DIVERGENCES[divergence](head.logits(hidden)[mask], targets.logits()[mask]).sum()
    assert fused.item() == pytest.approx(plain.item(), abs=1e-9)
    if learns:
        own, other = (torch.autograd.grad(loss, (hidden, head.weight)) for loss in (fused, plain))
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(own, other, strict=True))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_teacher_that_is_no_number_gives_no_gradient_that_is_one(divergence):
    student, teacher = drawn(2, CLASSES).requires_grad_(), drawn(2, CLASSES, seed=1)
    teacher[0, 1] = torch.nan
    (plain,) = torch.autograd.grad(DIVERGENCES[divergence](student, teacher).sum(), student)
    _, written = GRADIENTS[divergence](student.detach().clone(), teacher.clone())
    for gradient in (plain, written):
        assert gradient[0].isnan().any()
        assert gradient[1].isfinite().all()
