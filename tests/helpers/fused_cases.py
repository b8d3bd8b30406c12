"""What the tests of the fused losses share: sizes and masks, what must hold of any case, and counters of the work."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode

POSITIONS, WIDTH, TEACHER_WIDTH, VOCABULARY = 7, 5, 6, 11
COMPARED = torch.tensor([True, True, False, True, False, True, True])
LABELLED = torch.tensor([True, False, False, True, True, True, False])


def assert_equal(first, second) -> None:
    """To the last bit, in loss, totals and gradients."""
    results = []
    for each in (first, second):
        loss, totals = each.fused()
        results.append((loss.detach(), totals, *torch.autograd.grad(loss, each.leaves())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def assert_nothing_where_all_is_masked(given) -> None:
    nothing = torch.zeros(POSITIONS, dtype=torch.bool)
    given = replace(given, terms=[replace(term, mask=nothing) for term in given.terms])
    loss, totals = given.fused()
    loss.backward()
    assert loss == 0
    assert (totals == 0).all()
    assert all(torch.equal(leaf.grad, torch.zeros_like(leaf)) for leaf in given.leaves())


class CountedProducts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.products += function._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return function(*args, **(kwargs or {}))


class LargestTensor(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result
