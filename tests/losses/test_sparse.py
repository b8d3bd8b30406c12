"""Targets from a cache: the fused loss equals the plain one, and sampled tokens teach what all of them would."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional

from hf_distill.errors import ObjectiveError, TeacherError
from hf_distill.losses import fused_chunks
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.fused import FusedTerm, fused_loss
from hf_distill.losses.gradients import GRADIENTS, sparse_forward_kl, sparse_forward_kl_value
from hf_distill.objectives import Labels, Logits
from hf_distill.training.loss import weighted_loss
from hf_distill.types import Head, HeadLogits, SparseLogits, Targets, View
from tests.helpers.fused_cases import (
    COMPARED,
    LABELLED,
    POSITIONS,
    VOCABULARY,
    WIDTH,
    CountedProducts,
    LargestTensor,
    assert_equal,
    assert_nothing_where_all_is_masked,
)

TEMPERATURE = 2.0
KINDS = ("sampled", "top-k with rest", "top-k alone", "all kept")
MIXES = ("alone", "with labels")


def sampled(logits: torch.Tensor, draws: int = 6, temperature: float = TEMPERATURE) -> SparseLogits:
    """As many distinct tokens as there can be; where fewer were drawn, the last ones have no probability and id 0."""
    probabilities = torch.softmax(logits / temperature, -1)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.multinomial(probabilities, draws, replacement=True, generator=generator)
    counts = torch.zeros_like(probabilities).scatter_add_(-1, drawn, torch.ones_like(drawn, dtype=logits.dtype))
    shares, ids = (counts / draws).topk(min(draws, logits.shape[-1]), -1)
    entropy = -torch.special.xlogy(probabilities, probabilities).sum(-1)
    return SparseLogits(
        ids=ids.masked_fill(shares == 0, 0),
        probabilities=shares,
        rest=None,
        entropy=entropy,
        temperature=temperature,
        vocabulary=logits.shape[-1],
    )


def top(logits: torch.Tensor, k: int, *, with_rest: bool, temperature: float = TEMPERATURE) -> SparseLogits:
    kept, ids = torch.softmax(logits / temperature, -1).topk(k, -1)
    rest = (1.0 - kept.sum(-1)).clamp(min=0.0) if with_rest else None
    kept = kept if with_rest else kept / kept.sum(-1, keepdim=True)
    buckets = kept if rest is None else torch.cat((kept, rest[:, None]), -1)
    return SparseLogits(
        ids=ids,
        probabilities=kept,
        rest=rest,
        entropy=-torch.special.xlogy(buckets, buckets).sum(-1),
        temperature=temperature,
        vocabulary=logits.shape[-1],
    )


MAKE: dict[str, Callable[[torch.Tensor], SparseLogits]] = {
    "sampled": sampled,
    "top-k with rest": lambda logits: padded(top(logits, 3, with_rest=True)),
    "top-k alone": lambda logits: top(logits, 3, with_rest=False),
    "all kept": lambda logits: top(logits, logits.shape[-1], with_rest=True),
}


def padded(targets: SparseLogits) -> SparseLogits:
    """Two entries without probability: one repeats a token that is kept, the other names token 0."""
    ids = torch.cat((targets.ids[:, :1], targets.ids, torch.zeros_like(targets.ids[:, :1])), -1)
    return replace(targets, ids=ids, probabilities=functional.pad(targets.probabilities, (1, 1)))


@dataclass(frozen=True, kw_only=True)
class Case:
    hidden: torch.Tensor
    head: Head
    teacher: torch.Tensor
    targets: SparseLogits
    labels: torch.Tensor
    terms: list[FusedTerm]
    shared: int | None = None

    def leaves(self) -> list[torch.Tensor]:
        given = (self.hidden, self.head.weight, self.head.bias)
        return [tensor for tensor in given if tensor is not None]

    def fused(self, **options) -> tuple[torch.Tensor, torch.Tensor]:
        return fused_loss(
            self.hidden,
            self.head,
            self.terms,
            labels=self.labels,
            targets=self.targets,
            shared=self.shared,
            **options,
        )

    def plain(self) -> torch.Tensor:
        """The same loss from all logits at once and all buckets in a dense tensor, through autograd."""
        student = self.head.logits(self.hidden)
        loss = torch.zeros((), dtype=student.dtype)
        for term in self.terms:
            rows = term.mask.nonzero().squeeze(-1).tolist()
            if term.divergence is None:
                total = functional.cross_entropy(student[rows], self.labels[rows], reduction="sum")
            else:
                total = sum(
                    plain_value(student[row, : self.shared], self.targets.at(slice(row, row + 1))) for row in rows
                )
            loss = loss + term.factor * total
        return loss


def plain_value(student: torch.Tensor, targets: SparseLogits) -> torch.Tensor:
    """One position, token by token: the cross-entropy of the buckets, less the entropy."""
    p = torch.softmax(student / targets.temperature, -1)
    value, others = -targets.entropy[0], set(range(len(p)))
    for token, probability in zip(targets.ids[0].tolist(), targets.probabilities[0], strict=True):
        if probability > 0:
            value = value - probability * p[token].log()
            others.discard(token)
    if targets.rest is not None and others:
        value = value - targets.rest[0] * p[sorted(others)].sum().log()
    return value * targets.temperature**2


def case(kind: str, mix: str = "alone", dtype: torch.dtype = torch.float64) -> Case:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    terms = [FusedTerm(divergence="forward_kl", factor=0.3, mask=COMPARED, options={"temperature": TEMPERATURE})]
    if mix == "with labels":
        terms.append(FusedTerm(divergence=None, factor=torch.tensor(0.7), mask=LABELLED, options={}))
    teacher = 2 * draw(POSITIONS, VOCABULARY)
    labels = torch.randint(VOCABULARY, (POSITIONS,), generator=generator)
    return Case(
        hidden=draw(POSITIONS, WIDTH).requires_grad_(),
        head=Head(weight=draw(VOCABULARY, WIDTH).requires_grad_(), bias=draw(VOCABULARY).requires_grad_()),
        teacher=teacher,
        targets=MAKE[kind](teacher if dtype == torch.float64 else teacher.float()),
        labels=labels.masked_fill(~LABELLED, -100),
        terms=terms,
    )


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, leaves: list[torch.Tensor], tolerance: float = 1e-10):
    assert ours.item() == pytest.approx(theirs.item(), rel=tolerance, abs=tolerance)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradients_are_those_of_all_logits_at_once(kind, mix):
    given = case(kind, mix)
    assert_same(given.fused()[0], given.plain(), given.leaves())
    given = replace(given, head=replace(given.head, scale=1.7, soft_cap=3.0))
    assert_same(given.fused()[0], given.plain(), given.leaves())


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", ["sampled", "top-k with rest"])
def test_chunks_and_blocks_of_any_size_give_the_same(kind, mix, rows, positions, monkeypatch):
    monkeypatch.setattr(fused_chunks, "BLOCK_BYTES", rows * VOCABULARY * 8)
    given = case(kind, mix)
    assert_same(given.fused(memory=positions * VOCABULARY * 8)[0], given.plain(), given.leaves())


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind, mix):
    given = case(kind, mix)

    def loss(hidden, weight, bias):
        head = Head(weight=weight, bias=bias, soft_cap=4.0)
        return replace(given, hidden=hidden, head=head).fused(memory=1)[0]

    assert torch.autograd.gradcheck(loss, given.leaves())


@pytest.mark.parametrize("kind", KINDS)
def test_entries_without_probability_add_nothing(kind):
    given = case(kind)
    longer = replace(given, targets=padded(padded(given.targets)))
    assert_same(longer.fused()[0], given.fused()[0], given.leaves())


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("rest", [None, 0.0], ids=["no rest", "rest of 0"])
@pytest.mark.parametrize("columns", [(11, 11), (9, 11), (11, 9)], ids=["equal", "teacher padded", "student padded"])
def test_with_all_tokens_kept_it_is_the_live_forward_kl(columns, rest, mix):
    own, other = columns
    given = case("all kept", mix)
    rest = None if rest is None else torch.zeros(POSITIONS, dtype=torch.float64)
    targets = replace(top(given.teacher[:, :other], other, with_rest=True), rest=rest)
    head = Head(weight=given.head.weight[:own].detach().requires_grad_())
    labels = given.labels.clamp(max=own - 1)
    given = replace(given, head=head, targets=targets, labels=labels, shared=min(columns))
    live = fused_loss(
        given.hidden,
        head,
        given.terms,
        labels=labels,
        targets=HeadLogits(
            hidden=torch.eye(POSITIONS, dtype=torch.float64), head=Head(weight=given.teacher[:, :other].T.contiguous())
        ),
        shared=min(columns),
    )
    assert_same(given.fused()[0], live[0], given.leaves(), tolerance=1e-9)


def test_with_all_shared_tokens_kept_the_rest_lies_on_the_teachers_padding_and_is_left_out():
    teacher = torch.randn(POSITIONS, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    teacher[:, 9:] -= 4.0
    kept, _ = top(teacher, 9, with_rest=True).of_leading(9, COMPARED)
    alone = top(teacher[:, :9], 9, with_rest=False)
    assert (kept.rest == 0).all()
    torch.testing.assert_close(kept.probabilities[COMPARED], alone.probabilities[COMPARED])
    torch.testing.assert_close(kept.entropy[COMPARED], alone.entropy[COMPARED])


def test_all_tokens_in_float32_are_the_live_forward_kl_to_a_millionth():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (2 * torch.randn(20, 50, generator=generator) for _ in range(2))
    # The rest is what rounding leaves, and there is no token that it could lie on.
    targets, known = top(teacher, 50, with_rest=True).of_leading(50, torch.ones(20, dtype=torch.bool))
    assert known.all()
    assert (targets.rest == 0).all()
    value, gradient = sparse_forward_kl(student.clone(), targets)
    expected, live = GRADIENTS["forward_kl"](student.clone(), teacher.clone(), temperature=TEMPERATURE)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(gradient, live, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["all kept", "top-k with rest"])
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(kind):
    given = case(kind, dtype=torch.float32)
    logits = given.head.logits(given.hidden).detach()
    given = replace(given, targets=MAKE[kind](logits))
    loss, _ = given.fused()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    assert all(gradient.abs().max() < 2e-6 for gradient in torch.autograd.grad(loss, given.leaves()))


def test_sampled_tokens_are_unbiased_and_their_error_falls_like_the_root_of_the_draws():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (1.5 * torch.randn(1, VOCABULARY, generator=generator, dtype=torch.float64) for _ in range(2))
    repeats = 40_000
    targets = sampled(teacher.expand(repeats, -1), draws=4)
    values, gradients = sparse_forward_kl(student.repeat(repeats, 1), targets)
    value, gradient = GRADIENTS["forward_kl"](student.clone(), teacher.clone(), temperature=TEMPERATURE)

    def error(draws: int) -> float:
        means = gradients.view(repeats // draws, draws, VOCABULARY).mean(1)
        return (means - gradient).square().mean().sqrt().item()

    assert error(1) / error(25) == pytest.approx(5.0, rel=0.1)
    assert error(25) / error(400) == pytest.approx(4.0, rel=0.2)
    assert error(repeats) < 0.02 * error(1)
    assert values.mean().item() == pytest.approx(value.item(), abs=5 * values.std().item() / repeats**0.5)
    # The k likeliest tokens alone are wrong, however often they are looked at.
    _, naive = sparse_forward_kl(student.clone(), top(teacher, 4, with_rest=False))
    assert (naive - gradient).abs().max() > 20 * (gradients.mean(0) - gradient).abs().max()


def test_the_value_of_sampled_tokens_may_be_below_zero_where_the_student_is_good():
    logits = torch.randn(200, VOCABULARY, generator=torch.Generator().manual_seed(0))
    value, _ = sparse_forward_kl(logits.clone(), sampled(logits))
    assert value.min() < 0 < value.max()
    assert abs(value.mean()) < 4 * value.std() / len(value) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_alone_is_the_same_and_leaves_the_logits_as_they_are(kind):
    given = case(kind)
    logits = given.head.logits(given.hidden).detach()
    value = sparse_forward_kl_value(logits, given.targets)
    expected, gradient = sparse_forward_kl(logits.clone(), given.targets)
    torch.testing.assert_close(value, expected)
    logits.requires_grad_()
    own = torch.autograd.grad(sparse_forward_kl_value(logits, given.targets).sum(), logits)[0]
    torch.testing.assert_close(own, gradient)


def test_a_rest_of_which_float32_leaves_nothing_in_the_student_leaves_everything_finite():
    student = torch.tensor([[0.0, 300.0, -300.0, 5.0], [20.0, 0.0, 0.0, 0.0]])
    targets = replace(
        top(torch.zeros(2, 4), 1, with_rest=True, temperature=1.0),
        ids=torch.tensor([[1], [0]]),
        probabilities=torch.tensor([[0.9], [0.9]]),
        rest=torch.tensor([0.1, 0.1]),
    )
    value, gradient = sparse_forward_kl(student.clone(), targets)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    # The others' mass is 6e-9, which a difference from 1 would make 0.
    torch.testing.assert_close(gradient[1], torch.tensor([0.1, -0.1 / 3, -0.1 / 3, -0.1 / 3]))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_beyond_what_both_know_are_left_out_and_a_position_without_others_teaches_nothing(kind):
    given = replace(case(kind, "with labels"), shared=9)
    head = Head(weight=given.head.weight[:9].detach().requires_grad_())
    labels = given.labels.clamp(max=8)
    ids, probabilities = given.targets.ids.clone(), given.targets.probabilities.clone()
    ids[0], probabilities[0] = 9, 0.0
    probabilities[0, 0] = 1.0
    rest = None if given.targets.rest is None else given.targets.rest.clone().index_fill_(0, torch.tensor([0]), 0.0)
    targets = replace(given.targets, ids=ids, probabilities=probabilities, rest=rest)
    given = replace(given, head=head, labels=labels, targets=targets)
    loss, _ = given.fused()

    known = given.terms[0].mask.clone()
    known[0] = False
    leading, _ = targets.of_leading(9, known)
    assert (leading.ids < 9).all()
    mass = leading.probabilities.sum(-1) + (0.0 if leading.rest is None else leading.rest)
    torch.testing.assert_close(mass, known.double())
    terms = [replace(given.terms[0], mask=known), given.terms[1]]
    assert_same(loss, replace(given, terms=terms, targets=leading).plain(), given.leaves())


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_garbage_at_masked_positions_changes_nothing(kind, mix):
    clean = case(kind, mix)
    masked = ~COMPARED
    rest = clean.targets.rest
    targets = replace(
        clean.targets,
        ids=clean.targets.ids.masked_fill(masked[:, None], -100),
        probabilities=clean.targets.probabilities.masked_fill(masked[:, None], math.nan),
        rest=None if rest is None else rest.masked_fill(masked, math.nan),
        entropy=clean.targets.entropy.masked_fill(masked, math.nan),
    )
    assert_equal(clean, replace(clean, targets=targets))


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_with_everything_masked_the_loss_is_zero_and_finite(kind, mix):
    given = case(kind, mix, torch.float32)
    assert_nothing_where_all_is_masked(given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_takes_three_products_and_an_evaluation_one(kind):
    given = case(kind, "with labels")
    with CountedProducts() as count:
        given.fused()[0].backward()
    assert count.products == 3
    with CountedProducts() as count, torch.inference_mode():
        loss, _ = given.fused()
    assert count.products == 1
    assert loss.item() == pytest.approx(given.plain().item())


def test_no_tensor_has_the_size_of_all_logits():
    positions, vocabulary = 64, 101
    every = torch.ones(positions, dtype=torch.bool)
    given = case("sampled", "with labels", torch.float32)
    given = replace(
        given,
        hidden=torch.randn(positions, WIDTH, requires_grad=True),
        head=Head(weight=torch.randn(vocabulary, WIDTH, requires_grad=True)),
        targets=top(torch.randn(positions, vocabulary), 4, with_rest=True),
        labels=torch.randint(vocabulary, (positions,)),
        terms=[replace(term, mask=every) for term in given.terms],
    )
    with LargestTensor() as largest:
        given.fused(memory=8 * vocabulary * 4)[0].backward()
    assert largest.elements <= 8 * vocabulary


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [torch.bfloat16, torch.float32])
def test_half_precision_is_near_and_the_loss_is_float32(head, kind, mix):
    exact = case(kind, mix)
    given = replace(case(kind, mix, head), targets=exact.targets)
    for memory in (10**9, 1):
        loss, totals = replace(given, hidden=given.hidden.bfloat16()).fused(memory=memory)
        assert loss.dtype == totals.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.plain().item(), rel=0.05)
        leaves = given.leaves()
        pairs = zip(
            leaves,
            torch.autograd.grad(loss, leaves),
            torch.autograd.grad(exact.plain(), exact.leaves()),
            strict=True,
        )
        for leaf, ours, theirs in pairs:
            assert ours.dtype == leaf.dtype
            assert (ours - theirs).norm() < 0.05 * theirs.norm()


def objectives_of(divergence: str = "forward_kl", temperature: float | None = TEMPERATURE) -> dict[str, object]:
    return {"labels": Labels(weight=0.7), "logits": Logits(divergence=divergence, temperature=temperature, weight=0.3)}


def views(given: Case) -> list[View]:
    """The student whose logits are still to be made, and the one whose logits are there."""
    masks = {"labels": LABELLED, "positions": COMPARED, "tokens": COMPARED[None]}
    source = HeadLogits(hidden=given.hidden, head=given.head)
    return [
        View(logits=logits, distribution="categorical", labels=given.labels, masks=masks)
        for logits in (source, given.head.logits(given.hidden))
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", [VOCABULARY, 9])
def test_the_objectives_are_fused_with_it_as_they_are_without(kind, vocabulary):
    given = case(kind, dtype=torch.float32)
    targets = Targets(logits=MAKE[kind](given.teacher[:, :vocabulary]))
    counts = {"labels": LABELLED.sum(), "positions": COMPARED.sum()}
    (fused, ours), (plain, theirs) = (weighted_loss(objectives_of(), v, targets, counts) for v in views(given))
    assert_same(fused, plain, given.leaves(), tolerance=1e-5)
    assert {name: total.item() for name, total in ours.items()} == pytest.approx(
        {name: total.item() for name, total in theirs.items()}, rel=1e-5
    )


@pytest.mark.parametrize("divergence", sorted(DIVERGENCES.keys() - {"forward_kl"}))
def test_a_divergence_that_needs_all_tokens_is_refused(divergence):
    given = case("sampled")
    objectives = objectives_of(divergence, None if divergence == "mse" else TEMPERATURE)
    counts = {"labels": LABELLED.sum(), "positions": COMPARED.sum()}
    for view in views(given):
        with pytest.raises(TeacherError, match=rf"got {divergence}; use forward_kl, or a live teacher"):
            weighted_loss(objectives, view, Targets(logits=given.targets), counts)


def test_another_temperature_than_the_caches_is_refused():
    given = case("sampled")
    counts = {"labels": LABELLED.sum(), "positions": COMPARED.sum()}
    for view in views(given):
        with pytest.raises(TeacherError, match=r"made at temperature 2, the objective asks for 1: .* temperature: 2"):
            weighted_loss(objectives_of(temperature=1.0), view, Targets(logits=given.targets), counts)
    # As a file may give it back.
    nearly = replace(given.targets, temperature=TEMPERATURE * (1 + 1e-8))
    replace(given, targets=nearly).fused()


def test_outputs_that_are_not_one_class_of_many_are_refused():
    given = case("sampled")
    view = replace(views(given)[1], distribution="bernoulli")
    with pytest.raises(TeacherError, match="one class of many"):
        Logits(temperature=TEMPERATURE).total(view, Targets(logits=given.targets))


def test_vocabularies_of_different_sizes_are_refused_unless_it_is_said_what_they_share():
    given = case("sampled")
    with pytest.raises(ObjectiveError, match="pass shared"):
        replace(given, targets=replace(given.targets, vocabulary=13)).fused()


def test_labels_alone_do_not_look_at_the_targets():
    given = case("sampled", "with labels")
    given = replace(given, terms=given.terms[1:], targets=replace(given.targets, temperature=9.0))
    assert_same(given.fused()[0], given.plain(), given.leaves())
