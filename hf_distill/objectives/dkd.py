"""The teacher's word on the label, and its word on all other classes, weighed apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from hf_distill.errors import ObjectiveError
from hf_distill.losses.divergences import kl, log_probabilities
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.schedules import Scheduled
from hf_distill.types import Targets, View, logits_at


class DKD(Objective):
    """Decoupled knowledge distillation, on the rows that have a label.

    ``T^2 * (alpha * TCKD + beta * NCKD)``, Zhao et al. 2022, section 3. TCKD is the divergence between the
    probabilities of the label and of all else, NCKD that of the distributions over all else, 0 for two classes. The
    plain divergence, ``TCKD + (1 - the teacher's probability of the label) * NCKD``, all but silences the latter where
    a teacher is confident.

    Args:
        alpha: Of TCKD, at least 0.
        beta: Of NCKD, at least 0; more of it the surer the teacher is.
        temperature: Above 0, or its schedule; softens both distributions.
    """

    unit = "labels"
    needs = frozenset({"labels", "logits"})
    distributions = frozenset({"categorical"})
    vocabularies = False
    paper = "Zhao et al. 2022, Decoupled Knowledge Distillation, arXiv:2203.08679"

    def __init__(
        self, *, alpha: float = 1.0, beta: float = 8.0, temperature: Scheduled = 4.0, weight: Scheduled = 1.0
    ) -> None:
        super().__init__(weight=weight)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value < math.inf:
                raise ObjectiveError(f"dkd: {name} must be a finite number of at least 0, got {value!r}")
        if alpha == beta == 0:
            raise ObjectiveError("dkd: alpha and beta are both 0, so there is nothing to learn; raise one of them")
        self.alpha, self.beta = alpha, beta
        self.temperature = self.scheduled("temperature", temperature, above_zero=True)

    @override
    def total(self, view: View, targets: Targets) -> Tensor:
        assert isinstance(targets.logits, Tensor)
        mask = view.masks["labels"]
        student = logits_at(mask, view.logits).float()
        if view.labels is None:
            return student.sum() * 0.0
        if view.labels.is_floating_point():
            raise ObjectiveError(
                "dkd: tells the class of a row from all others, and rows that are mixtures (mixup, cutmix) have two; "
                "use logits"
            )
        target, other = self.parts(student, targets.logits[mask], view.labels[mask])
        return (self.alpha * target + self.beta * other).sum() * self.temperature**2

    def parts(self, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """TCKD and NCKD of each row, ``[N]``, from logits ``[N, C]`` and labels ``[N]``."""
        own, other = (self._decoupled(logits, labels) for logits in (student, teacher))
        return kl(other[0], own[0]), kl(other[1], own[1])

    def _decoupled(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``[N, 2]`` of the label and of all else; ``[N, C]`` among all else."""
        log_all = log_probabilities(logits, self.temperature, "categorical")
        is_label = functional.one_hot(labels, log_all.shape[-1]).bool()
        log_others = log_all.masked_fill(is_label, -torch.inf)
        log_rest = log_others.logsumexp(-1, keepdim=True)
        return torch.cat((log_all.gather(-1, labels[:, None]), log_rest), -1), log_others - log_rest
