"""One micro-batch: the teacher looks at it, the student runs, the objectives compare them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from hf_distill.models.attention import caught_projections, check_learning
from hf_distill.models.dropout import Rate, at_zero
from hf_distill.models.experts import balance
from hf_distill.models.forward import ENCODED, STATES, accepted_inputs, compared_attentions, run_model
from hf_distill.objectives import Objective
from hf_distill.students import frozen_encoder
from hf_distill.tasks import Task
from hf_distill.teachers import Teacher
from hf_distill.training.loss import weighted_loss
from hf_distill.types import OF_THE_DATA, Batch, LogitSource, Need, Targets, Unit

Counts = Mapping[Unit, Tensor]
"""How many units a term is divided by; scalars."""

Terms = tuple[Tensor, dict[str, Tensor], Any]
"""The loss; every term's total, detached; the student's outputs."""


@dataclass(kw_only=True)
class Step:
    """A task, a teacher and objectives that fit each other and a student.

    Attributes:
        task: Bound to the labels.
        teacher: As it teaches this student; None where no objective asks for one.
        objectives: By the name that logs show.
        layers: Whose projections objectives look at, of the student and of the teacher.
        states: Which of the teacher's hidden states they look at; of kinds that are not named, all.
        weights: The objectives' own, trained with the student.
        layer_rates: At which the student would drop layers that objectives look into: 0 while it runs.
        shares_encoder: Whether the teacher reads what the student's frozen encoder makes of a batch.
        notes: Lines that tell how student and teacher were connected.
    """

    task: Task
    teacher: Teacher | None
    objectives: dict[str, Objective]
    layers: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    states: dict[Need, frozenset[int]] = field(default_factory=dict)
    weights: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    layer_rates: list[Rate] = field(default_factory=list)
    shares_encoder: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def needs(self) -> frozenset[Need]:
        """What the objectives ask for, all together."""
        return frozenset().union(*(objective.needs for objective in self.objectives.values()))

    def follow_schedules(self, fraction: float) -> None:
        """Let scheduled options be what they are when a fraction of the training is done."""
        for objective in self.objectives.values():
            objective.at(fraction)

    def targets(self, batch: Batch) -> Targets:
        """What the objectives need of the teacher."""
        needs = self.needs - OF_THE_DATA
        if self.teacher is None or not needs:
            return Targets()
        return self.teacher.targets(self.task, batch, needs, self.layers[1], self.states)

    def encoded(
        self, student: PreTrainedModel, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]
    ) -> Batch:
        """The batch with what a frozen encoder makes of it: the same in every epoch, so without dropout."""
        encoder = frozen_encoder(student)
        assert encoder is not None
        inputs = accepted_inputs(cast(PreTrainedModel, encoder), self.task.student_inputs(batch))
        with torch.no_grad(), autocast():
            return {**batch, ENCODED: BaseModelOutput(last_hidden_state=encoder(**inputs)[0])}

    def terms(
        self,
        model: nn.Module,
        student: PreTrainedModel,
        batch: Batch,
        targets: Targets,
        counts: Counts,
        with_logits: bool = False,
    ) -> Terms:
        """Run the student and the objectives inside the outermost wrapper's forward.

        ``with_logits``: whether the outputs hold the logits also where the loss needs none of them whole.
        """
        if model is student or isinstance(model, torch._dynamo.OptimizedModule):
            return self._terms(model, student, batch, targets, counts, with_logits)
        # DDP and FSDP must see everything that has weights run inside their own forward, projections included: so for
        # one call the student's forward is the whole step, and the wrapper is called without inputs.
        original = student.forward

        def whole(*_: Any, **__: Any) -> Terms:
            student.forward = original
            return self._terms(student, student, batch, targets, counts, with_logits)

        student.forward = whole
        try:
            result: Terms = model()
        finally:
            student.forward = original
        return result

    def _terms(
        self,
        forward: nn.Module,
        student: PreTrainedModel,
        batch: Batch,
        targets: Targets,
        counts: Counts,
        with_logits: bool,
    ) -> Terms:
        inputs = accepted_inputs(student, self.task.student_inputs(batch))
        hidden, attention = not self.needs.isdisjoint(STATES), "attentions" in self.needs
        routers = "routers" in self.needs
        with at_zero(self.layer_rates), caught_projections(student, self.layers[0]) as projections:
            outputs, logits = run_model(
                forward, student, inputs, not self.task.keeps_logits, hidden, attention, routers
            )
        states = {need: find(outputs) for need, find in STATES.items() if need in self.needs}
        view = self.task.view(logits, states.get("hidden_states"), batch)
        view = replace(view, encoder_states=states.get("encoder_states"))
        if projections:
            check_learning(vector for layer in projections.values() for vector in layer.values())
            view = replace(view, projections=projections)
        if attention:
            view = replace(view, attentions=compared_attentions(outputs, student))
            check_learning(view.attentions or ())
        if routers:
            # Of a batch in which nothing counts it would be no number.
            view = replace(view, balance=balance(student, outputs).where(batch["attention_mask"].any(), 0.0))
        for given in (view, targets):
            view.check_sizes(given)
        if with_logits and isinstance(logits, LogitSource):
            outputs.logits = logits.logits()
        return (*weighted_loss(self.objectives, view, targets, counts), outputs)
