"""A loss over a vocabulary that never holds more than a chunk of ``[positions, vocabulary]``.

Of a chunk of positions the logits are made from hidden states and heads, the terms of the loss and their gradient in
the logits are taken at once, and both products that carry this gradient on (to the hidden states and to the head) are
done while it is there: four products of a head's size a step, where making the logits again in the backward would take
six. The backward only multiplies by what autograd hands it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_distill.errors import ObjectiveError, TeacherError
from hf_distill.losses.fused_chunks import FusedTerm, Mixture, Model, Work, kept
from hf_distill.types import Head, HeadLogits, LogitSource, MixedLogits, SparseLogits

MEMORY = 160 * 2**20  # Bytes that the logits of a chunk may take, unless told otherwise.
SLICE_BYTES = 2**24  # Of a slice of the head's gradient, taken in half precision before it is added up in float32.


def fused_loss(
    hidden: Tensor,
    head: Head,
    terms: Sequence[FusedTerm],
    *,
    labels: Tensor | None = None,
    targets: LogitSource | SparseLogits | None = None,
    shared: int | None = None,
    memory: int = MEMORY,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of terms over a vocabulary, without its logits.

    Args:
        hidden: ``[N, H]``, the student's; gradients flow to it and to the head. Products are made in its dtype, also
            under autocast; those of a teacher in its own.
        head: The student's.
        terms: What is summed; positions that no term covers are left out of everything.
        labels: ``[N]`` indices into the student's vocabulary, for the cross-entropy; arbitrary where it is masked.
        targets: For the divergences, at the same positions: what a teacher's logits are made of, or those of several
            mixed; or what a cache keeps of them, where positions of which it keeps nothing are left out.
        shared: How many leading tokens the two vocabularies share. Divergences compare what softmax makes of these
            alone; the cross-entropy knows all of the student's. Terms with a ``crossing`` need none.
        memory: Bytes that the logits of one chunk may take.

    Returns:
        The loss, a differentiable scalar, and ``[K]``, the totals of the terms without their factors, detached; both
        float32 (float64 for float64 hidden states).
    """
    crosses = any(term.crossing is not None for term in terms)
    shared = len(head.weight) if crosses else _shared(head, targets, shared)
    if isinstance(targets, SparseLogits):
        targets, terms = _of_cache(targets, terms, shared)
    rows = torch.stack([term.mask for term in terms]).any(0).nonzero().squeeze(-1)
    compared, labelled = (
        [kept(term.mask, rows) for term in terms if (term.divergence is None) is of_labels]
        for of_labels in (False, True)
    )
    student = Model(kept(hidden, rows), head, len(head.weight) if labelled else shared)
    columns = targets.vocabulary if crosses and targets is not None else shared
    compares_with = _placed(targets, rows, ~torch.stack(compared).any(0), columns) if compared else None
    if labelled:
        assert labels is not None
        labels = kept(labels, rows).masked_fill(~torch.stack(labelled).any(0), 0)
    work = Work(student, compares_with, terms, rows, labels, memory)
    with torch.autocast(hidden.device.type, enabled=False):
        loss, totals = _Fused.apply(student.hidden, head.weight, head.bias, work, torch.is_grad_enabled())
    return loss, totals


def _placed(
    targets: LogitSource | SparseLogits | None, rows: Tensor, nowhere: Tensor, columns: int
) -> Model | Mixture | SparseLogits:
    assert targets is not None
    if isinstance(targets, SparseLogits):
        return targets.at(rows)

    # What stands where only the labels count may be anything, and 0 * nan would not be 0.
    def masked(values: Tensor) -> Tensor:
        return kept(values.detach(), rows).masked_fill(nowhere[:, None], 0.0)

    source = targets.map(masked)
    if isinstance(source, MixedLogits):
        return Mixture(source, columns)
    assert isinstance(source, HeadLogits)
    return Model(source.hidden, source.head, columns)


def check_sparse(divergence: str, temperature: float, targets: SparseLogits) -> None:
    """Refuse what a cache cannot serve: a divergence other than forward_kl, or another temperature than its own."""
    if divergence != "forward_kl":
        raise TeacherError(
            f"logits: a cache that keeps some tokens of each distribution can serve divergence forward_kl, got "
            f"{divergence}; use forward_kl, or a live teacher: reverse KL and the like need probabilities of all tokens"
        )
    if not math.isclose(temperature, targets.temperature, rel_tol=1e-6):
        raise TeacherError(
            f"logits: the cache was made at temperature {targets.temperature:g}, the objective asks for "
            f"{temperature:g}: some probabilities of a distribution cannot be taken to another temperature; set "
            f"temperature: {targets.temperature:g}, or make the cache again at {temperature:g}"
        )


def _of_cache(
    targets: SparseLogits, terms: Sequence[FusedTerm], shared: int
) -> tuple[SparseLogits, Sequence[FusedTerm]]:
    """The targets over the shared tokens, and the terms where these have something to teach."""
    compared = [term for term in terms if term.divergence is not None]
    if not compared:
        return targets, terms
    for term in compared:
        check_sparse(str(term.divergence), term.options.get("temperature", 1.0), targets)
    targets, known = targets.of_leading(shared, torch.stack([term.mask for term in compared]).any(0))
    return targets, [t if t.divergence is None else replace(t, mask=t.mask & known) for t in terms]


def _shared(head: Head, targets: LogitSource | SparseLogits | None, shared: int | None) -> int:
    own = head.vocabulary
    if shared is None and targets is not None and targets.vocabulary != own:
        raise ObjectiveError(
            f"the student's vocabulary has {own} tokens and the teacher's {targets.vocabulary}; a divergence needs to "
            "know how many leading ones they share: pass shared"
        )
    return own if shared is None else shared


class _Fused(torch.autograd.Function):
    """Everything is done in the forward; what waits for the backward has the size of the inputs."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work, grad_enabled: bool
    ) -> tuple[Tensor, Tensor]:
        """The loss and the totals; the gradients for an upstream of 1 wait in ``ctx``."""
        wanted = [grad_enabled and needed for needed in ctx.needs_input_grad[:3]]
        factor = work.unit * work.student.head.scale
        of_hidden = torch.empty_like(hidden, dtype=work.wide) if wanted[0] else None
        of_weight = _HeadGradient(weight, work, len(hidden)) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=work.wide) if bias is not None and wanted[2] else None
        for start in range(0, len(hidden), max(1, work.positions)):
            rows = slice(start, min(start + work.positions, len(hidden)))
            gradient = work.chunk(rows, any(wanted))
            if of_hidden is not None:
                torch.mul(gradient @ work.student.weight, factor, out=of_hidden[rows])
            if of_weight is not None:
                of_weight.add_(gradient, (hidden[rows] * factor).to(gradient.dtype))
            if of_bias is not None:
                of_bias[: work.student.columns] += factor * gradient.sum(0, dtype=work.wide)
            del gradient
        for model in (work.student, work.targets):
            if isinstance(model, (Model, Mixture)):
                model.release()
        totals = work.values.masked_fill_(~work.masks, 0.0).sum(1)
        ctx.mark_non_differentiable(totals)
        ctx.dtypes = [hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype]
        ctx.save_for_backward(of_hidden, None if of_weight is None else of_weight.total.to(weight.dtype), of_bias)
        return (work.factors * totals).sum(), totals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The saved gradients times the upstream one."""
        # On a CPU a look at the number costs nothing, and mostly saves a pass over the head and a second copy of it.
        is_one = upstream.device.type == "cpu" and upstream.item() == 1.0
        scaled = [
            None if gradient is None else (gradient if is_one else gradient * upstream).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None


class _HeadGradient:
    """``gradient.T @ hidden``, added up over the chunks, in float32 wherever there is something to add up."""

    def __init__(self, weight: Tensor, work: Work, count: int) -> None:
        self.total = torch.empty_like(weight, dtype=work.wide if count > work.positions else work.student.dtype)
        self.total[work.student.columns if count else 0 :] = 0.0
        self.used = self.total[: work.student.columns]
        self.is_first = True

    def add_(self, gradient: Tensor, hidden: Tensor) -> None:
        keep = 0 if self.is_first else 1
        self.is_first = False
        if gradient.dtype == self.total.dtype:
            self.used.addmm_(gradient.T, hidden, beta=keep)
            return
        step = max(1, SLICE_BYTES // (hidden.shape[1] * hidden.element_size()))
        for start in range(0, len(self.used), step):
            columns = slice(start, start + step)
            product = torch.mm(gradient[:, columns].T, hidden)
            self.used[columns] = self.used[columns].add_(product) if keep else product
