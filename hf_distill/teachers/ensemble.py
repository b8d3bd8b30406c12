"""Several teachers as one model, and as one teacher: a weighted mean of their probabilities, or one of them a row."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_distill.errors import TeacherError
from hf_distill.mixtures import MixedHead, mixed
from hf_distill.models.forward import accepted_inputs, output_head, run_model
from hf_distill.teachers.model import ModelTeacher
from hf_distill.types import Distribution, LogitSource, Need

if TYPE_CHECKING:
    from hf_distill.tasks.base import Task


class Ensemble(PreTrainedModel):
    """Models of one task and one tokenizer that answer as one: see :mod:`hf_distill.mixtures` for what they say.

    Its config is a copy of the first member's, and so is what a student takes of its teacher. It gives logits alone.

    Args:
        models: Transformers models with the task's head; at least one.
        weights: Of each, above 0; made to sum to 1. All alike unless given.
        names: Of each, for people; what each was loaded from unless given.
        routed: Whether each row is taught by one member alone, the one whose index a batch's ``taught_by`` holds;
            weights count for nothing then.

    Attributes:
        weights: Of each member; their sum is 1.
        label_orders: For each member as in ``ModelTeacher``, see :meth:`follow`.

    Raises:
        TeacherError: Without a model, and for weights that are not one a model and above 0.

    Example:
        >>> trainer = DistillationTrainer(model=student, teacher=Ensemble([first, second], weights=[2.0, 1.0]), ...)
    """

    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # What each member runs, it was asked before.

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        weights: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
        routed: bool = False,
    ) -> None:
        weights = list(weights) if weights is not None else [1.0] * len(models)
        if not models or len(weights) != len(models) or not all(0 < weight < math.inf for weight in weights):
            raise TeacherError(
                f"an ensemble needs at least one model and for each a weight above 0, got {len(models)} models and "
                f"the weights {weights}; remove a model that is to count for nothing"
            )
        super().__init__(copy.deepcopy(models[0].config))
        rooms: list[Any] = [getattr(each.config.get_text_config(), "max_position_embeddings", None) for each in models]
        if None not in rooms:  # What is longer than one of them reads cannot be asked of all.
            self.config.get_text_config().max_position_embeddings = min(rooms)
        self.members = nn.ModuleList(models)
        self.weights = [weight / sum(weights) for weight in weights]
        self.names = list(names) if names is not None else [str(model.config._name_or_path) for model in models]
        self.routed = routed
        self.label_orders: list[list[int] | None] = [None] * len(models)
        self.distribution: Distribution = "categorical"
        maps = [model.hf_device_map for model in models if getattr(model, "hf_device_map", None) is not None]
        if maps:  # They are where they belong: nobody is to move them.
            self.hf_device_map = maps[0]

    def follow(self, task: Task) -> None:
        """Give logits in the order of a task's labels, each member's aligned by name, mixed as the task means them.

        Raises:
            TeacherError: Where a mixture means nothing in this task.
            LabelError: Where a member does not know the labels.
        """
        task.check_mixture()
        self.label_orders = [task.align(model.config) for model in self.members]  # type: ignore[arg-type]
        self.distribution = task.distribution
        for name, value in task.model_options().items():
            setattr(self.config, name, value)

    @property
    def description(self) -> list[dict[str, Any]]:
        """What each member is and counts for, as the manifest of a cache keeps it."""
        return [
            {"name": name, "weight": None if self.routed else weight, "labels": order, "dtype": str(model.dtype)}
            for name, weight, order, model in zip(
                self.names, self.weights, self.label_orders, self.members, strict=True
            )
        ]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        taught_by: Tensor | None = None,
        whole: bool = True,
    ) -> SequenceClassifierOutput:
        """What all say, or of each row the member that teaches it.

        Args:
            input_ids: ``[B, T]``.
            attention_mask: ``[B, T]``, or None.
            token_type_ids: ``[B, T]``, or None; left out for members that know none.
            position_ids: ``[B, T]``, or None.
            taught_by: ``[B]`` indices of members, where rows are routed.
            whole: False for a vocabulary: gives, as ``logits``, a :class:`LogitSource` of hidden states and heads.

        Raises:
            TeacherError: Where rows are routed and the batch does not tell by whom they are taught.
        """
        if self.routed and taught_by is None:
            raise TeacherError(
                "each row is taught by one of several teachers, but this batch does not tell by which; give the data "
                "the column taught_by, and a collator that keeps it"
            )
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
        }
        inputs = {name: value for name, value in given.items() if value is not None}
        said = list(self._said(inputs, taught_by if self.routed else None, whole))
        logits: Any = self._mixed(said, len(input_ids)) if whole else self._source(said, len(input_ids))
        return SequenceClassifierOutput(logits=logits)

    def _said(
        self, inputs: dict[str, Tensor], taught_by: Tensor | None, whole: bool
    ) -> Iterator[tuple[int, Tensor | None, Any]]:
        """Of each member that has rows: its index, its rows (None: all), and what it says of them."""
        for index, model in enumerate(self.members):
            assert isinstance(model, PreTrainedModel)
            rows = None if taught_by is None else (taught_by == index).nonzero().squeeze(-1)
            if rows is not None and not len(rows):
                continue
            own = inputs if rows is None else {name: value[rows] for name, value in inputs.items()}
            yield index, rows, run_model(model, model, accepted_inputs(model, own), not whole, False)[1]

    def _mixed(self, said: Sequence[tuple[int, Tensor | None, Any]], count: int) -> Tensor:
        """``[B, ..., C]``, classes in the order of the task's labels."""
        size = min(logits.shape[-1] for _, _, logits in said)
        ordered = []
        for index, _, logits in said:
            order = self.label_orders[index]
            ordered.append(logits[..., :size] if order is None else logits[..., order])
        if not self.routed:
            return mixed(ordered, self.weights, self.distribution)
        total = ordered[0].new_zeros(count, *ordered[0].shape[1:], dtype=_widest(ordered))
        for (_, rows, _), logits in zip(said, ordered, strict=True):
            total[rows] = logits.to(total.dtype)
        return total

    def _source(self, said: Sequence[tuple[int, Tensor | None, LogitSource]], count: int) -> LogitSource:
        """What enters a :class:`MixedHead`, with it."""
        if len(self.members) == 1:
            return said[0][2]
        head = MixedHead(
            heads=tuple(output_head(model) for model in self.members),  # type: ignore[arg-type]
            weights=tuple(self.weights),
        )
        first = said[0][2].hidden
        widths = [each.weight.shape[1] for each in head.heads]
        dtype = _widest([source.hidden for _, _, source in said])
        shape = (count, *first.shape[1:-1])
        states = [first.new_zeros(*shape, width, dtype=dtype) for width in widths]
        away = first.new_ones(*shape, len(widths), dtype=dtype)
        for index, rows, source in said:
            places = slice(None) if rows is None else rows
            states[index][places] = source.hidden.to(states[index])
            away[places, ..., index] = 0
        return LogitSource(hidden=torch.cat([*states, away], -1), head=head)


def _widest(tensors: Sequence[Tensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for each in tensors[1:]:
        dtype = torch.promote_types(dtype, each.dtype)
    return dtype


class EnsembleTeacher(ModelTeacher):
    """A :class:`ModelTeacher` of an :class:`Ensemble`: it gives logits, and nothing that lies within one model."""

    model: Ensemble
    provides: frozenset[Need] = frozenset({"logits"})

    @property
    def name(self) -> str:
        """The members' names."""
        return " + ".join(self.model.names)

    @property
    def outputs(self) -> int:
        """How many logits a position has."""
        heads = [model.get_output_embeddings() for model in self.model.members]  # type: ignore[operator]
        counts = [head.weight.shape[0] for head in heads if head is not None]
        return min(counts) if counts else int(self.config.num_labels or 0)


def teacher_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, label_order: list[int] | None = None
) -> ModelTeacher:
    """The live teacher that a model makes, see :class:`ModelTeacher`."""
    kind = EnsembleTeacher if isinstance(model, Ensemble) else ModelTeacher
    return kind(model, tokenizer, label_order)
