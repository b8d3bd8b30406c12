"""Several teachers as one: a weighted mean of their probabilities, or one of them a row."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from typing_extensions import override

from hf_distill.errors import TeacherError
from hf_distill.models.forward import output_head
from hf_distill.tasks import Task
from hf_distill.teachers.base import Layers, Loading, States
from hf_distill.teachers.model import ModelTeacher, RunningTeacher, usable
from hf_distill.tokenizers.compare import same_tokenizer
from hf_distill.tokenizers.processors import preparation_of, tokens_known
from hf_distill.types import (
    TAUGHT_BY,
    Batch,
    Distribution,
    HeadLogits,
    LogitSource,
    MixedLogits,
    Need,
    Targets,
    Tokenizer,
    log_mixture,
)


class Answer(NamedTuple):
    """What one member, by its index, says of some rows of a batch, by theirs; None: of all."""

    member: int
    rows: Tensor | None
    logits: Any


class EnsembleTeacher(RunningTeacher):
    """Models of one task and one tokenizer that answer as one; they give logits, and nothing that lies within a model.

    What a student takes of its teacher, it takes of the first member.

    Args:
        members: Models with the task's head, or teachers of them; at least one.
        weights: Of each, above 0; made to sum to 1. All alike unless given.
        names: Of each, for people; what each was loaded from unless given.
        routed: Whether each row is taught by one member alone, the one whose index a batch's ``taught_by`` holds;
            weights count for nothing then.

    Example:
        >>> teacher = EnsembleTeacher([first, second], weights=[2.0, 1.0])
        >>> trainer = DistillationTrainer(model=student, teacher=teacher, ...)
    """

    def __init__(
        self,
        members: Sequence[PreTrainedModel | ModelTeacher],
        weights: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        routed: bool = False,
    ) -> None:
        weights = list(weights) if weights is not None else [1.0] * len(members)
        if not members or len(weights) != len(members) or not all(0 < weight < math.inf for weight in weights):
            raise TeacherError(
                f"an ensemble needs at least one model and for each a weight above 0, got {len(members)} models and "
                f"the weights {weights}; remove a model that is to count for nothing"
            )
        self.members = [each if isinstance(each, ModelTeacher) else ModelTeacher(each) for each in members]
        self.weights = [weight / sum(weights) for weight in weights]
        self.names = list(names) if names is not None else [member.name for member in self.members]
        self.routed = routed
        self.distribution: Distribution = "categorical"
        first = self.members[0]
        self.model = first.model
        # What the one with the fewest tokens reads, all read.
        known = [member.tokenizer for member in self.members if member.tokenizer is not None]
        self.tokenizer = min(known, key=tokens_known, default=None)
        self.config = copy.deepcopy(first.config)
        self.folders = tuple(folder for member in self.members for folder in member.folders)
        texts = [each.config.get_text_config() for each in self.members]
        limits: list[Any] = [getattr(text, "max_position_embeddings", None) for text in texts]
        if None not in limits:  # What is longer than one of them reads cannot be asked of all.
            self.config.get_text_config().max_position_embeddings = min(limits)

    @classmethod
    @override
    def load(cls, config: Any, loading: Loading) -> EnsembleTeacher:
        members, names = [ModelTeacher.load(each.teacher, loading) for each in config.members], config.names
        check_one_tokenizer({n: m.tokenizer for n, m in zip(names, members, strict=True) if m.tokenizer is not None})
        weights = [each.weight or 1.0 for each in config.members]
        teacher = cls(members, weights, names, routed=config.route is not None)
        teacher.follow(loading.task)
        how = f"one a row, by column {config.route}" if config.route else "mixed by their weights"
        teacher.facts = teacher._facts(how)
        return teacher

    def _facts(self, how: str) -> dict[str, Any]:
        """What the card says of them, with how they teach together."""
        members = [
            {"name": name, **member.facts, **({} if self.routed else {"weight": round(weight, 4)})}
            for name, member, weight in zip(self.names, self.members, self.weights, strict=True)
        ]
        shown = [f"{each['name']} ({each['weight']:g})" if "weight" in each else str(each["name"]) for each in members]
        licenses = {each["license"] for each in members}
        return {
            "model": " + ".join(shown),
            "hub_id": None,
            "revision": None,
            "license": licenses.pop() if len(licenses) == 1 else None,
            "origin": f"{len(members)} teachers, {how}",
            "members": members,
        }

    @property
    @override
    def name(self) -> str:
        return " + ".join(self.names)

    @property
    @override
    def models(self) -> tuple[PreTrainedModel, ...]:
        return tuple(member.model for member in self.members)

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # noqa: D102
        return self.members[0].device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]  # noqa: D102
        return self.members[0].dtype

    @property
    @override
    def outputs(self) -> int:
        return min(member.outputs for member in self.members)

    @override
    def follow(self, task: Task) -> None:
        task.check_mixture()
        for member in self.members:
            member.follow(task)
        self.distribution = task.distribution

    @override
    def identity(self) -> dict[str, Any]:
        weights = [None] * len(self.members) if self.routed else self.weights
        members = [
            {"name": name, "weight": weight, "labels": member.label_order, "dtype": str(member.dtype)}
            for name, weight, member in zip(self.names, weights, self.members, strict=True)
        ]
        return {**super().identity(), "members": members}

    @override
    def targets(
        self, task: Task, batch: Batch, needs: frozenset[Need], layers: Layers = (), states: States | None = None
    ) -> Targets:
        for model in self.models:
            model.eval()
        with torch.inference_mode():
            logits = task.teacher_logits(self.run(task.teacher_inputs(batch), not task.keeps_logits), None, batch)
        return Targets(logits=usable(logits))

    @override
    def run(self, inputs: Batch, has_vocabulary: bool) -> Tensor | LogitSource:
        """What all say, or of each row the member that teaches it."""
        taught_by = inputs.get(TAUGHT_BY) if self.routed else None
        if self.routed and taught_by is None:
            raise TeacherError(
                "each row is taught by one of several teachers, but this batch does not tell by which; give the data "
                "the column taught_by, and a collator that keeps it"
            )
        answers = list(self._answers(inputs, taught_by, has_vocabulary))
        if len(self.members) == 1 and not self.routed:
            return answers[0].logits
        return (self._source if has_vocabulary else self._mixed)(answers, len(next(iter(inputs.values()))))

    def _answers(self, inputs: Batch, taught_by: Tensor | None, has_vocabulary: bool) -> Iterator[Answer]:
        for index, member in enumerate(self.members):
            rows = None if taught_by is None else (taught_by == index).nonzero().squeeze(-1)
            if rows is None or len(rows):
                read = inputs if rows is None else {name: value[rows] for name, value in inputs.items()}
                yield Answer(index, rows, member.run(read, has_vocabulary))

    def _mixed(self, answers: Sequence[Answer], count: int) -> Tensor:
        """``[B, ..., C]``."""
        size = min(answer.logits.shape[-1] for answer in answers)
        logits = [answer.logits[..., :size] for answer in answers]
        if not self.routed:
            return mixed(logits, self.weights, self.distribution)
        dtype = functools.reduce(torch.promote_types, (each.dtype for each in logits))
        total = logits[0].new_zeros(count, *logits[0].shape[1:], dtype=dtype)
        for answer, each in zip(answers, logits, strict=True):
            total[answer.rows] = each.to(dtype)
        return total

    def _source(self, answers: Sequence[Answer], count: int) -> MixedLogits:
        """Of ``[B, T]`` positions, each member's hidden states in the dtype of its head."""
        hidden = {answer.member: answer for answer in answers}
        first = answers[0].logits.hidden
        shape, device = (count, first.shape[1]), first.device
        says = torch.zeros(count, len(self.members), dtype=torch.bool, device=device)
        members = []
        for index, model in enumerate(self.models):
            head = output_head(model)
            states = torch.zeros(*shape, head.weight.shape[1], dtype=head.weight.dtype, device=device)
            if index in hidden:
                rows = slice(None) if hidden[index].rows is None else hidden[index].rows
                states[rows], says[rows, index] = hidden[index].logits.hidden.to(states), True
            members.append(HeadLogits(hidden=states, head=head))
        weights = torch.tensor(self.weights, device=device).log().expand(says.shape)
        log_weights = weights.masked_fill(~says, -torch.inf).log_softmax(-1)
        return MixedLogits(members=tuple(members), log_weights=log_weights[:, None].expand(*shape, -1))


def mixed(logits: Sequence[Tensor], weights: Sequence[float], distribution: Distribution) -> Tensor:
    """The logits of several models as those of one, at least float32.

    Args:
        logits: ``[..., C]`` of each, classes in the same order.
        weights: Of each; their sum is 1.
        distribution: ``categorical`` and ``ctc`` mix the probabilities of the classes, ``bernoulli`` that of each
            class; of ``real`` values it is the mean.
    """
    if distribution == "real":
        return sum((weight * own.float() for weight, own in zip(weights, logits, strict=True)), torch.zeros(()))
    log_weights = torch.tensor([math.log(weight) for weight in weights], device=logits[0].device)
    if distribution in ("categorical", "ctc"):
        return log_mixture(logits, log_weights)
    yes, no = (
        torch.stack([functional.logsigmoid(sign * own.float()) for own in logits], -1).add(log_weights).logsumexp(-1)
        for sign in (1, -1)
    )
    return yes - no


def check_one_tokenizer(tokenizers: Mapping[str, Tokenizer]) -> None:
    """Refuse members that do not cut texts into the same tokens; one may know more special ones, or padding rows.

    Nor may they prepare pictures or sounds otherwise.
    """
    (first, own), *others = tokenizers.items()
    for name, other in others:
        if same_tokenizer(own, other):
            continue
        told = (
            f"{first} ({tokens_known(own):,} tokens) and {name} ({tokens_known(other):,}) cut texts into different ones"
        )
        if preparation_of(own) != preparation_of(other):
            told = f"{first} and {name} prepare pictures or sounds otherwise (sizes, rates)"
        raise TeacherError(
            f"several teachers read the same, but {told}; take members with one tokenizer or processor, or distil from "
            "one after the other"
        )
