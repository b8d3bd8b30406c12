"""The student's predictions pulled towards the teacher's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from hf_distill.errors import ObjectiveError, TeacherError
from hf_distill.losses.cross_vocabulary import Crossing
from hf_distill.losses.divergences import DIVERGENCES
from hf_distill.losses.fused import FusedTerm, check_sparse
from hf_distill.losses.gradients import GRADIENTS, sparse_forward_kl_value
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.schedules import Scheduled
from hf_distill.tokenizers.alignment import token_bytes
from hf_distill.tokenizers.shared_vocabulary import beginnings, shared_classes
from hf_distill.types import Distribution, SparseLogits, Targets, View, logits_at

DEFAULTS = {"temperature": 2.0, "beta": 0.5, "alpha": 0.1}  # Of the options of a divergence.

SURE_OF_BLANK = 0.9
"""The teacher's probability, at temperature 1, from which on a frame counts as blank."""


class Logits(Objective):
    """A divergence between the teacher's and the student's distribution over the classes, at a temperature.

    Args:
        divergence: A name in ``DIVERGENCES``: forward_kl, reverse_kl, jsd, skewed_kl, skewed_reverse_kl,
            total_variation or mse.
        temperature: Above 0, or its schedule, 2.0 by default; softens both; the term carries T^2. Not for mse.
        beta: Only for jsd: the teacher's share of the mixture, strictly between 0 and 1; 0.5 unless given.
        alpha: Only for skewed_kl (the teacher's share of the mixture) and skewed_reverse_kl (the student's share),
            strictly between 0 and 1; 0.1 unless given.
        cross_tokenizer: Whether the teacher may have other tokens: both are then compared where each has read the same
            bytes, over the tokens that they share, see :mod:`hf_distill.losses.cross_vocabulary`. Not for mse.
        blank_weight: Only for CTC, 0 to 1: what frames count at which the teacher gives the blank a probability of more
            than 0.9. They are most of all frames, and tell little. The mean is still that over all frames, so that a
            lower value makes the term smaller. Unless given all frames count alike.
    """

    unit = "positions"
    needs = frozenset({"logits"})
    distributions = frozenset({"categorical", "bernoulli", "real", "ctc"})
    paper = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531"

    def __init__(
        self,
        *,
        divergence: str = "forward_kl",
        temperature: Scheduled | None = None,
        beta: float | None = None,
        alpha: float | None = None,
        cross_tokenizer: bool = False,
        blank_weight: float | None = None,
        weight: Scheduled = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        if not isinstance(cross_tokenizer, bool):
            raise ObjectiveError(f"logits: cross_tokenizer must be true or false, got {cross_tokenizer!r}")
        self.divergence = self.one_of("divergence", divergence, tuple(DIVERGENCES))
        if cross_tokenizer and divergence == "mse":
            raise ObjectiveError(
                "logits: mse compares single logits, and tokens of two vocabularies have none in common; with "
                "cross_tokenizer use a divergence of probabilities, as forward_kl"
            )
        known = inspect.signature(DIVERGENCES[divergence]).parameters
        given: dict[str, Any] = {"temperature": temperature, "beta": beta, "alpha": alpha}
        for name, value in given.items():
            if value is not None and name not in known:
                raise ObjectiveError(f"logits: {name} does nothing for divergence {divergence}; remove it")
        if temperature is not None:
            given["temperature"] = self.scheduled("temperature", temperature, above_zero=True)
        for name in ("beta", "alpha"):
            share = given[name]
            if share is not None and not 0 < share < 1:
                raise ObjectiveError(f"logits: {name} must lie strictly between 0 and 1, got {share!r}")
        if blank_weight is not None and not 0 <= blank_weight <= 1:
            raise ObjectiveError(f"logits: blank_weight must be a number from 0 to 1, got {blank_weight!r}")
        self.blank_weight = blank_weight
        self.cross_tokenizer = cross_tokenizer
        self.crossing: Crossing | None = None
        chosen = {**DEFAULTS, **{name: value for name, value in given.items() if value is not None}}
        self.options: dict[str, Any] = {name: value for name, value in chosen.items() if name in known}

    @override
    def take(self, name: str, value: float) -> None:
        owner = self.options if name in self.options else vars(self)
        owner[name] = value

    @override
    def check(self, distribution: Distribution) -> None:
        super().check(distribution)
        if distribution == "real" and self.divergence != "mse":
            raise ObjectiveError(
                f"logits: {self.divergence} compares probabilities, not real values; use divergence: mse"
            )
        if self.blank_weight is not None and distribution != "ctc":
            raise ObjectiveError(
                f"logits: blank_weight is for CTC, and this task's outputs, {distribution}, have no blank; remove it"
            )

    @override
    def connect_tokenizers(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> list[str]:
        if not self.cross_tokenizer:
            return []
        own, other = token_bytes(student), token_bytes(teacher)
        classes = shared_classes(own, other, (beginnings(own, other, teacher), beginnings(other, own, student)))
        self.crossing = Crossing(classes)
        return [
            f"logits: cross_tokenizer: {sum(classes.first_exact):,} of the student's {len(student):,} tokens are "
            f"shared with the teacher's {len(teacher):,}; all others count as the shared token that begins them"
        ]

    @override
    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        return self.crossing.logs(reduce) if self.crossing is not None else {}

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        assert targets.logits is not None
        if isinstance(targets.logits, SparseLogits):
            return self._of_cache(view, targets.logits)
        mask = view.masks["positions"]
        student, teacher = logits_at(mask, view.logits), logits_at(mask, targets.logits)
        if self.crossing is not None:
            return self.crossing.value(self.divergence, student, teacher, self.options).sum()
        # Vocabularies that differ only by padding rows are compared over the tokens that both have.
        shared = min(student.shape[-1], teacher.shape[-1])
        kind = "categorical" if view.distribution == "ctc" else view.distribution
        options = {"distribution": kind, **self.options}
        values = DIVERGENCES[self.divergence](student[:, :shared], teacher[:, :shared], **options)
        if self.blank_weight is not None:
            sure = teacher.float().softmax(-1)[:, view.blank] > SURE_OF_BLANK
            values = values * torch.where(sure, self.blank_weight, 1.0)
        return values.sum()

    def _of_cache(self, view: View, targets: SparseLogits) -> Tensor:
        if view.distribution != "categorical":
            raise TeacherError(
                f"logits: a cache that keeps some tokens of each distribution teaches one class of many, but this "
                f"task's outputs are {view.distribution}; use a live teacher"
            )
        check_sparse(self.divergence, self.options.get("temperature", 1.0), targets)
        mask = view.masks["positions"]
        student = logits_at(mask, view.logits)
        targets, known = targets.of_leading(min(student.shape[-1], targets.vocabulary), mask)
        return sparse_forward_kl_value(student[known[mask], : targets.vocabulary], targets.at(known)).sum()

    @override
    def fused_term(self, view: View, factor: Tensor) -> FusedTerm | None:
        if self.divergence not in GRADIENTS:
            return None
        mask = view.masks["positions"]
        if self.crossing is not None and torch.is_grad_enabled():
            self.crossing.saw(mask, view.masks["labels"])
        return FusedTerm(
            divergence=self.divergence, factor=factor, mask=mask, options=self.options, crossing=self.crossing
        )
