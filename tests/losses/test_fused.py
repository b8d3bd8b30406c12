"""The fused loss over a vocabulary equals the plain one, in value and gradient, and never holds all logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hf_distill.errors import ObjectiveError
from hf_distill.losses import fused, fused_chunks
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.fused import FusedTerm, fused_loss
from hf_distill.losses.gradients import GRADIENTS
from hf_distill.types import Head, HeadLogits
from tests.helpers.fused_cases import (
    COMPARED,
    LABELLED,
    POSITIONS,
    TEACHER_WIDTH,
    VOCABULARY,
    WIDTH,
    CountedProducts,
    LargestTensor,
    assert_equal,
    assert_nothing_where_all_is_masked,
)

KINDS = (*GRADIENTS, "cross_entropy", "mix")


@dataclass(frozen=True, kw_only=True)
class Case:
    hidden: torch.Tensor
    head: Head
    teacher_hidden: torch.Tensor
    teacher_head: Head
    labels: torch.Tensor
    terms: list[FusedTerm]
    shared: int | None = None

    def leaves(self) -> list[torch.Tensor]:
        given = (self.hidden, self.head.weight, self.head.bias)
        return [tensor for tensor in given if tensor is not None and tensor.requires_grad]

    def fused(self, **options) -> tuple[torch.Tensor, torch.Tensor]:
        return fused_loss(
            self.hidden,
            self.head,
            self.terms,
            labels=self.labels,
            targets=HeadLogits(hidden=self.teacher_hidden, head=self.teacher_head),
            shared=self.shared,
            **options,
        )

    def plain(self) -> torch.Tensor:
        """The same loss from all logits at once, through autograd."""
        student, teacher = self.head.logits(self.hidden), self.teacher_head.logits(self.teacher_hidden)
        loss = torch.zeros((), dtype=torch.promote_types(student.dtype, torch.float32))
        for term in self.terms:
            rows = term.mask
            if term.divergence is None:
                total = functional.cross_entropy(student[rows].to(loss.dtype), self.labels[rows], reduction="sum")
            else:
                pair = (logits[rows][:, : self.shared] for logits in (student, teacher))
                total = DIVERGENCES[term.divergence](*pair, **term.options).sum()
            loss = loss + term.factor * total
        return loss


def terms_of(kind: str, temperature: float = 2.0) -> list[FusedTerm]:
    if kind == "mix":
        return [*terms_of("jsd"), *terms_of("cross_entropy"), *terms_of("forward_kl", 1.0)]
    if kind == "cross_entropy":
        return [FusedTerm(divergence=None, factor=0.7, mask=LABELLED, options={})]
    options = {} if kind == "mse" else {"temperature": temperature}
    return [FusedTerm(divergence=kind, factor=torch.tensor(0.3), mask=COMPARED, options=options)]


def case(kind: str, dtype: torch.dtype = torch.float64, *, bias: bool = False, teacher_rows: int = VOCABULARY) -> Case:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    labels = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)
    return Case(
        hidden=draw(POSITIONS, WIDTH).requires_grad_(),
        head=Head(
            weight=draw(VOCABULARY, WIDTH).requires_grad_(), bias=draw(VOCABULARY).requires_grad_() if bias else None
        ),
        teacher_hidden=draw(POSITIONS, TEACHER_WIDTH),
        teacher_head=Head(weight=draw(teacher_rows, TEACHER_WIDTH)),
        labels=labels.masked_fill(~LABELLED, -100),
        terms=terms_of(kind),
    )


def assert_equals_plain(given: Case, tolerance: float = 1e-10, **options) -> None:
    loss, totals = given.fused(**options)
    expected = given.plain()
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)
    assert sum(t.factor * total for t, total in zip(given.terms, totals, strict=True)) == pytest.approx(loss.item())
    leaves = given.leaves()
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_every_divergence_has_its_gradient():
    assert GRADIENTS.keys() == DIVERGENCES.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind):
    given = case(kind, bias=True)

    def loss(hidden, weight, bias):
        head = Head(weight=weight, bias=bias, scale=0.5, soft_cap=4.0)
        return replace(given, hidden=hidden, head=head).fused(memory=1)[0]

    assert torch.autograd.gradcheck(loss, given.leaves())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [None, 9], ids=["one vocabulary", "padded vocabularies"])
def test_value_and_gradients_are_those_of_all_logits_at_once(kind, shared):
    given = replace(case(kind, bias=True, teacher_rows=VOCABULARY if shared is None else 13), shared=shared)
    assert_equals_plain(given)
    scaled = replace(given.head, scale=1.7, soft_cap=3.0)
    assert_equals_plain(replace(given, head=scaled, teacher_head=replace(given.teacher_head, soft_cap=5.0)))


@pytest.mark.parametrize("positions", [1, 3, POSITIONS])
@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("kind", ["reverse_kl", "mix"])
def test_chunks_and_blocks_of_any_size_give_the_same(kind, rows, positions, monkeypatch):
    monkeypatch.setattr(fused_chunks, "BLOCK_BYTES", rows * VOCABULARY * 8)
    assert_equals_plain(case(kind, bias=True), memory=positions * 2 * VOCABULARY * 8)


def test_more_memory_than_needed_makes_one_chunk_and_less_than_a_position_makes_one_each():
    sizes = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function._overloadpacket is torch.ops.aten.mm and result.shape[1] == VOCABULARY:
                sizes.append(len(result))
            return result

    given = case("forward_kl")
    for memory in (10**9, 3 * 2 * VOCABULARY * 8, 1):
        with Products(), torch.no_grad():
            given.fused(memory=memory)
    of_the_student = sizes[::2]
    assert of_the_student == [5, 3, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_what_is_frozen_gets_no_gradient_and_costs_no_product(frozen):
    given = case("forward_kl")
    if frozen == "hidden":
        given = replace(given, hidden=given.hidden.detach())
    else:
        given = replace(given, head=Head(weight=given.head.weight.detach()))
    assert_equals_plain(given)
    with CountedProducts() as count:
        given.fused()[0].backward()
    assert count.products == 3


def test_a_step_takes_four_products_and_an_evaluation_two():
    given = case("mix")
    with CountedProducts() as count:
        given.fused()[0].backward()
    assert count.products == 4
    for context in (torch.no_grad(), torch.inference_mode()):
        with CountedProducts() as count, context:
            loss, _ = given.fused()
        assert count.products == 2
        assert loss.item() == pytest.approx(given.plain().item())


def test_no_tensor_has_the_size_of_all_logits():
    positions, vocabulary = 64, 101
    mask = torch.ones(positions, dtype=torch.bool)
    given = replace(
        case("mix"),
        hidden=torch.randn(positions, WIDTH, requires_grad=True),
        head=Head(weight=torch.randn(vocabulary, WIDTH, requires_grad=True)),
        teacher_hidden=torch.randn(positions, TEACHER_WIDTH),
        teacher_head=Head(weight=torch.randn(vocabulary, TEACHER_WIDTH)),
        labels=torch.randint(vocabulary, (positions,)),
        terms=[replace(term, mask=mask) for term in terms_of("mix")],
    )
    with LargestTensor() as largest:
        given.fused(memory=8 * 2 * vocabulary * 4)[0].backward()
    assert largest.elements <= max(8 * vocabulary, TEACHER_WIDTH * vocabulary)
    with LargestTensor() as largest:
        given.plain().backward()
    assert largest.elements >= positions * vocabulary


def test_a_tied_embedding_gets_both_of_its_gradients():
    given = case("mix")
    ids = torch.tensor([0, 3, 3, 10, 5, 1, 0])
    gradients = []
    for how in ("fused", "plain"):
        weight = given.head.weight.detach().clone().requires_grad_()
        tied = replace(given, hidden=torch.tanh(weight[ids]), head=Head(weight=weight))
        (tied.fused()[0] if how == "fused" else tied.plain()).backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)


def test_what_comes_from_upstream_multiplies_the_gradients_of_every_backward():
    given = case("mix", bias=True)
    loss, totals = given.fused()
    assert not totals.requires_grad
    once = torch.autograd.grad(loss, given.leaves(), retain_graph=True)
    again = torch.autograd.grad(loss * 65536.0, given.leaves(), retain_graph=True)
    given.fused()[0].backward()
    assert all(torch.equal(a * 65536.0, b) for a, b in zip(once, again, strict=True))
    loss.backward()
    for leaf, gradient in zip(given.leaves(), once, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * gradient)


def test_the_gradient_of_the_head_is_handed_over_and_not_copied():
    given = case("forward_kl", torch.float32)
    loss, _ = given.fused()
    saved = loss.grad_fn.saved_tensors[1].data_ptr()
    loss.backward()
    assert given.head.weight.grad.data_ptr() == saved


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_at_masked_positions_changes_nothing(kind):
    clean = case(kind)
    covered = torch.stack([term.mask for term in clean.terms]).any(0)
    compared = torch.stack([t.mask & (t.divergence is not None) for t in clean.terms]).any(0)
    dirty = replace(
        clean,
        hidden=clean.hidden.detach().masked_fill(~covered[:, None], math.nan).requires_grad_(),
        teacher_hidden=clean.teacher_hidden.masked_fill(~compared[:, None], math.nan),
    )
    assert_equal(clean, dirty)


@pytest.mark.parametrize("kind", KINDS)
def test_with_everything_masked_the_loss_is_zero_and_finite(kind):
    given = case(kind, torch.float32, bias=True)
    assert_nothing_where_all_is_masked(given)


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("rows", [(11, 11), (11, 14), (14, 11)], ids=["equal", "teacher padded", "student padded"])
def test_a_student_that_equals_its_teacher_has_exactly_no_loss_and_no_gradient(kind, temperature, rows):
    generator = torch.Generator().manual_seed(1)
    weight, hidden = torch.randn(11, WIDTH, generator=generator), 3 * torch.randn(POSITIONS, WIDTH, generator=generator)
    own, other = (torch.cat((weight, 9.0 * torch.ones(count - 11, WIDTH))) for count in rows)
    given = Case(
        hidden=hidden.clone().requires_grad_(),
        head=Head(weight=own.requires_grad_()),
        teacher_hidden=hidden,
        teacher_head=Head(weight=other),
        labels=torch.zeros(POSITIONS, dtype=torch.long),
        terms=terms_of(kind, temperature),
        shared=11,
    )
    loss, _ = given.fused()
    loss.backward()
    assert loss == 0
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in given.leaves())


@pytest.mark.parametrize("kind", GRADIENTS)
def test_probabilities_too_small_for_float32_leave_everything_finite(kind):
    student, teacher = torch.tensor([[0.0, 200.0, -200.0, 5.0]]), torch.tensor([[200.0, 0.0, -200.0, 3.0]])
    expected = DIVERGENCES[kind](student.double(), teacher.double())
    value, gradient = GRADIENTS[kind](student, teacher)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl"])
def test_the_factor_of_the_squared_temperature_keeps_the_size_of_the_gradient(kind):
    sizes = []
    for temperature in (20.0, 40.0, 80.0):
        given = replace(case(kind), terms=terms_of(kind, temperature))
        sizes.append(torch.autograd.grad(given.fused()[0], given.hidden)[0].norm().item())
    assert max(sizes) / min(sizes) < 1.15


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_near_and_the_loss_is_float32(kind):
    exact, half = case(kind, torch.float32), case(kind, torch.bfloat16)
    for memory in (10**9, 1):
        loss, totals = half.fused(memory=memory)
        assert loss.dtype == totals.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.plain().item(), rel=0.05)
        gradients = torch.autograd.grad(loss, half.leaves())
        assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
        for ours, theirs in zip(gradients, torch.autograd.grad(exact.plain(), exact.leaves()), strict=True):
            assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_the_gradient_of_a_half_precision_head_is_added_up_in_float32_whatever_the_slices(monkeypatch):
    given = case("forward_kl", torch.bfloat16)
    whole = torch.autograd.grad(given.fused(memory=1)[0], given.head.weight)[0]
    monkeypatch.setattr(fused, "SLICE_BYTES", 2 * WIDTH * 2)
    assert torch.equal(whole, torch.autograd.grad(given.fused(memory=1)[0], given.head.weight)[0])


def test_a_half_precision_teacher_teaches_a_float32_student():
    given = case("mix", torch.float32)
    head = Head(weight=given.teacher_head.weight.bfloat16())
    given = replace(given, teacher_hidden=given.teacher_hidden.bfloat16(), teacher_head=head)
    assert_equals_plain(given, tolerance=1e-5)


@pytest.mark.parametrize("memory", [1, 10**9])
def test_half_precision_states_make_half_products_and_the_gradients_keep_the_dtypes_of_what_they_are_of(memory):
    given = case("mix", torch.float32, bias=True)
    loss, _ = replace(given, hidden=given.hidden.bfloat16()).fused(memory=memory)
    exact = given.plain()
    assert loss.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    leaves = given.leaves()
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(exact, leaves), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_autocast_around_the_loss_changes_nothing():
    given = case("mix", torch.float32, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert given.fused()[0].item() == case("mix", torch.float32, bias=True).fused()[0].item()


def test_vocabularies_of_different_sizes_are_refused_unless_it_is_said_what_they_share():
    with pytest.raises(ObjectiveError, match="pass shared"):
        case("forward_kl", teacher_rows=13).fused()
