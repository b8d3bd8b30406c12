"""The chunks of a fused loss: logits made, looked at, and replaced by their gradient, in one buffer a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.losses.cross_vocabulary import Crossing
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.gradients import GRADIENTS, cross_entropy, sparse_forward_kl, sparse_forward_kl_value
from hf_distill.types import Head, MixedLogits, SparseLogits, log_mixture

BLOCK_BYTES = 6 * 2**20
"""Bytes of the float32 logits of a block of rows on a CPU: all that is done to them finds them in the cache."""


@dataclass(frozen=True, kw_only=True)
class FusedTerm:
    """One term of the loss: the sum of a divergence, or of the cross-entropy with the labels, over some positions."""

    divergence: str | None  # A name in ``GRADIENTS``; None for the cross-entropy.
    factor: float | Tensor  # What the sum is multiplied by in the loss.
    mask: Tensor  # ``[N]`` booleans, the positions that are summed over.
    options: Mapping[str, float]  # The divergence's own: temperature, beta, alpha.
    crossing: Crossing | None = None  # The classes that are compared, where the two vocabularies are different ones.


def kept(tensor: Tensor, rows: Tensor) -> Tensor:
    """The rows of a tensor, without a copy where they are all there are."""
    return tensor if len(rows) == len(tensor) else tensor.index_select(0, rows)


class Model:
    """Hidden states and a head, of which the first ``columns`` logits are wanted, a chunk of positions at a time."""

    def __init__(self, hidden: Tensor, head: Head, columns: int) -> None:
        self.hidden, self.head, self.columns, self.dtype = hidden, head, columns, hidden.dtype
        self.buffer: Tensor | None = None
        self.wide_buffer: Tensor | None = None

    @property
    def row_bytes(self) -> int:
        """What a position takes while its chunk is there."""
        return self.columns * self.dtype.itemsize

    def product(self, rows: slice, positions: int) -> Tensor:
        """``hidden @ weight.T + bias`` of some rows, of at most ``positions``; the next call takes its place."""
        if self.buffer is None:
            self.weight = self.head.weight[: self.columns].to(self.dtype)
            self.bias = None if self.head.bias is None else self.head.bias[: self.columns].to(self.dtype)
            self.buffer = self.weight.new_empty(positions, self.columns)
        hidden = self.hidden[rows]
        out = self.buffer[: len(hidden)]
        if self.bias is None:
            return torch.mm(hidden, self.weight.T, out=out)
        return torch.addmm(self.bias, hidden, self.weight.T, out=out)

    def widened(self, product: Tensor, wide: torch.dtype) -> Tensor:
        """A block of a product in a dtype; where that is a copy, in a buffer that the next block takes again."""
        if product.dtype == wide:
            return product
        if self.wide_buffer is None or len(self.wide_buffer) < len(product):
            self.wide_buffer = torch.empty_like(product, dtype=wide, memory_format=torch.contiguous_format)
        return self.wide_buffer[: len(product)].copy_(product)

    def release(self) -> None:
        """Give the buffers back before something else needs the memory."""
        self.buffer = self.wide_buffer = None

    def finish_(self, logits: Tensor) -> Tensor | None:
        """Scale and cap a product in place; the cap's derivative, where there is one."""
        if self.head.soft_cap is None:
            logits = logits if self.head.scale == 1.0 else logits.mul_(self.head.scale)
            return None
        logits.mul_(self.head.scale / self.head.soft_cap).tanh_()
        slope = 1.0 - logits.square()
        logits.mul_(self.head.soft_cap)
        return slope


class Mixture:
    """As :class:`Model`, for several teachers: a chunk's logits are the log of the mean of their probabilities.

    Made over all tokens that the members share, and then cut, as where the mixture is held whole.
    """

    def __init__(self, source: MixedLogits, columns: int) -> None:
        self.log_weights, self.columns = source.log_weights, columns
        self.members = [Model(member.hidden, member.head, source.vocabulary) for member in source.members]

    @property
    def row_bytes(self) -> int:
        """Every member's product, and three of the mixture's size in float32 on the way to it."""
        return sum(member.row_bytes for member in self.members) + 3 * 4 * self.members[0].columns

    def product(self, rows: slice, positions: int) -> Tensor:
        """The logits of some rows, finished."""

        def finished(member: Model) -> Tensor:
            product = member.product(rows, positions)
            member.finish_(logits := product.to(torch.promote_types(product.dtype, torch.float32)))
            return logits

        return log_mixture(map(finished, self.members), self.log_weights[rows])[:, : self.columns]

    def widened(self, product: Tensor, wide: torch.dtype) -> Tensor:
        """The block, which is float32 already."""
        return product.to(wide)

    def finish_(self, logits: Tensor) -> None:
        """There is nothing left to do."""

    def release(self) -> None:
        """Give the members' buffers back."""
        for member in self.members:
            member.release()


class Work:
    """What is to be done for one loss: the terms, at the positions that one of them covers.

    The gradient in the logits is short of ``unit``: with one term its factor, so that no pass over the logits
    multiplies by it; with several their sum, so that half precision holds what is left. ``weights`` ``[K, n]`` are each
    position's share of it in each term.
    """

    def __init__(
        self,
        student: Model,
        targets: Model | Mixture | SparseLogits | None,
        terms: Sequence[FusedTerm],
        rows: Tensor,
        labels: Tensor | None,
        memory: int,
    ) -> None:
        self.student, self.targets, self.labels = student, targets, labels
        self.wide = torch.promote_types(student.dtype, torch.float32)
        # The cross-entropy comes first: its gradient has all columns, those of the divergences are added to it.
        self.order = sorted(range(len(terms)), key=lambda k: terms[k].divergence is not None)
        self.terms = terms
        self.masks = torch.stack([kept(term.mask, rows) for term in terms])
        self.values = torch.zeros(self.masks.shape, dtype=self.wide, device=rows.device)
        zero = torch.zeros(1, dtype=self.wide, device=rows.device)
        self.factors = torch.cat([zero + term.factor for term in terms])
        self.unit = self.factors[0] if len(terms) == 1 else self.factors.abs().sum()
        self.weights = (self.factors / self.unit.clamp(min=torch.finfo(self.wide).tiny))[:, None] * self.masks
        self.positions, self.block = self._sizes(len(rows), memory)
        # Logits are -inf where a bias is: of padding rows of a vocabulary.
        teachers = targets.members if isinstance(targets, Mixture) else [targets] if isinstance(targets, Model) else []
        biases = [model.head.bias for model in teachers if model.head.bias is not None]
        self.rules_out = any(bool((bias == -torch.inf).any()) for bias in biases)

    def _sizes(self, count: int, memory: int) -> tuple[int, int]:
        """How many positions a chunk has, all of them about equally many; how many a block."""
        models = [model for model in (self.student, self.targets) if isinstance(model, (Model, Mixture))]
        row = self.student.columns * self.wide.itemsize
        on_cpu = self.masks.device.type == "cpu"
        classes = max((term.crossing.count for term in self.terms if term.crossing is not None), default=0)
        scratch = 4 * row + 8 * classes * self.wide.itemsize
        each = sum(model.row_bytes for model in models) + (0 if on_cpu else scratch)
        chunks = math.ceil(count / max(1, memory // each))
        positions = math.ceil(count / max(1, chunks))
        return positions, max(1, BLOCK_BYTES // row) if on_cpu else max(1, positions)

    def chunk(self, rows: slice, with_gradient: bool) -> Tensor:
        """Fill in the values of a chunk; its logits, or in their place the gradient in them, in units of ``unit``."""
        student = self.student.product(rows, self.positions)
        targets = self.targets.product(rows, self.positions) if isinstance(self.targets, (Model, Mixture)) else None
        for start in range(0, len(student), self.block):
            part = slice(start, start + self.block)
            block = student[part]
            logits = self.student.widened(block, self.wide)
            slope = self.student.finish_(logits)
            at = slice(rows.start + start, rows.start + start + len(block))
            of_teacher = self._of_teacher(None if targets is None else targets[part], at)
            if not with_gradient:
                self._evaluate(logits, of_teacher, at)
                continue
            gradient = self._differentiate(logits, of_teacher, at)
            if slope is not None:
                gradient.mul_(slope)
            if gradient.data_ptr() != block.data_ptr():
                block.copy_(gradient)
        return student

    def _of_teacher(self, product: Tensor | None, rows: slice) -> Tensor | SparseLogits | None:
        if isinstance(self.targets, SparseLogits):
            return self.targets.at(rows)
        if self.targets is None or product is None:
            return None
        self.targets.finish_(logits := self.targets.widened(product, self.wide))
        return logits

    def _differentiate(self, student: Tensor, targets: Tensor | SparseLogits | None, rows: slice) -> Tensor:
        """The gradient of all terms in a block's logits, which are used up."""
        total: Tensor | None = None
        for k in self.order:
            term, last = self.terms[k], k == self.order[-1]
            own = student if last else student.clone()
            if term.divergence is None:
                assert self.labels is not None
                value, gradient = cross_entropy(own, self.labels[rows])
            elif isinstance(targets, SparseLogits):
                value, gradient = sparse_forward_kl(own[:, : targets.vocabulary], targets)
            else:
                assert targets is not None
                value, gradient = self._compare(term, own, targets if last else targets.clone())
            self.values[k, rows] = value
            if len(self.terms) == 1:
                return gradient
            gradient.mul_(self.weights[k, rows, None])
            if total is None:
                total = gradient
            else:
                total[:, : gradient.shape[1]].add_(gradient)
        assert total is not None
        return total

    def _compare(self, term: FusedTerm, student: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        assert term.divergence is not None
        if term.crossing is not None:
            return term.crossing.gradient(term.divergence, student, targets, term.options)
        compare = _over_classes_left if self.rules_out else GRADIENTS.__getitem__
        return compare(term.divergence)(student[:, : targets.shape[1]], targets, **term.options)

    def _evaluate(self, student: Tensor, targets: Tensor | SparseLogits | None, rows: slice) -> None:
        for k, term in enumerate(self.terms):
            if term.divergence is None:
                assert self.labels is not None
                value = functional.cross_entropy(student, self.labels[rows], reduction="none")
            elif isinstance(targets, SparseLogits):
                value = sparse_forward_kl_value(student[:, : targets.vocabulary], targets)
            elif term.crossing is not None:
                assert targets is not None
                value = term.crossing.value(term.divergence, student, targets, term.options)
            else:
                assert targets is not None
                value = DIVERGENCES[term.divergence](student[:, : targets.shape[1]], targets, **term.options)
            self.values[k, rows] = value


def _over_classes_left(divergence: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A divergence as in ``GRADIENTS``, of the classes that the teacher does not rule out; slow, for rare heads."""

    def compare(student: Tensor, teacher: Tensor, **options: float) -> tuple[Tensor, Tensor]:
        value, gradient, ruled_out = student.new_empty(len(student)), torch.zeros_like(student), teacher == -torch.inf
        for pattern in ruled_out.unique(dim=0):
            rows = (ruled_out == pattern).all(1).nonzero()
            left = (~pattern).nonzero().squeeze(-1)
            value[rows.squeeze(-1)], gradient[rows, left] = GRADIENTS[divergence](
                student[rows, left], teacher[rows, left], **options
            )
        return value, gradient

    return compare
