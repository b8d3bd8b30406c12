"""A live teacher: a frozen model that looks at every batch the student sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from hf_distill.models.attention import caught_projections, eager_attention
from hf_distill.models.forward import STATES, accepted_inputs, compared_attentions, run_model
from hf_distill.models.hardware import place
from hf_distill.models.pooling import head_of, vector_size
from hf_distill.types import Batch, LogitSource, Need, Targets

if TYPE_CHECKING:
    from hf_distill.tasks.base import Task


ENCODED = "encoder_outputs"
"""What Transformers calls an encoder's output; in a batch where student and teacher share it."""


class ModelTeacher:
    """Targets from a forward pass of a model: frozen, in eval mode, under inference_mode, in its own dtype.

    Args:
        model: A Transformers model with the task's head; it is frozen here, and moved by :meth:`to` unless it was
            already spread over devices.
        tokenizer: Its tokenizer, or None where it reads the student's.
        label_order: For each label of the data the index of the teacher's output, see ``Task.align``; None where the
            order is the same.

    Attributes:
        provides: What it can give.
        reads_new_texts: Whether it gives targets for texts that it has not seen before.
    """

    reads_new_texts: ClassVar[bool] = True
    provides: frozenset[Need] = frozenset({"logits", *STATES, "projections", "attentions"})

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        label_order: list[int] | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.label_order = label_order

    @property
    def config(self) -> PretrainedConfig:
        """The model's config."""
        return self.model.config

    @property
    def name(self) -> str:
        """The Hub id or folder that it was loaded from."""
        return str(self.model.config._name_or_path)

    @property
    def device(self) -> torch.device:
        """Where its inputs belong."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.model.dtype

    @property
    def outputs(self) -> int:
        """How many logits a position has."""
        if head_of(self.model) is not None:
            return vector_size(self.model)
        head = self.model.get_output_embeddings()
        return head.weight.shape[0] if head is not None else int(self.model.config.num_labels)

    def to(self, device: torch.device) -> None:
        """See :func:`place`."""
        place(self.model, device)

    def targets(
        self,
        task: Task,
        batch: Batch,
        needs: frozenset[Need],
        layers: Collection[int] = (),
        states: Mapping[Need, Collection[int]] | None = None,
    ) -> Targets:
        """What the objectives need of a batch, detached.

        Args:
            task: Tells which part of the batch is the teacher's, and which positions its outputs are.
            batch: As the student gets it, on the student's device.
            needs: What to give; the rest is None.
            layers: Whose projections are needed.
            states: Which hidden states are needed, as indices, by what they are called: all others are let go, and
                empty in what is given. What is not there: all.
        """
        hidden, attention = not needs.isdisjoint(STATES), "attentions" in needs
        self.model.eval()
        inputs = accepted_inputs(self.model, task.teacher_inputs(batch))
        if ENCODED in inputs:
            inputs[ENCODED] = BaseModelOutput(last_hidden_state=inputs[ENCODED][0].to(self.model.dtype))
        shown = eager_attention(self.model) if attention else nullcontext()
        with torch.inference_mode(), shown, caught_projections(self.model, layers) as projections:
            outputs, logits = run_model(self.model, self.model, inputs, not task.keeps_logits, hidden, attention)
            found = {
                need: _needed(find(outputs), (states or {}).get(need)) for need, find in STATES.items() if need in needs
            }
            logits = task.teacher_logits(logits, found.get("hidden_states"), batch)
        if isinstance(logits, Tensor) and self.label_order is not None:
            logits = logits[:, self.label_order]
        if isinstance(logits, Tensor):
            logits = task.reduced(logits)
        maps = compared_attentions(outputs, self.model) if attention else None
        return Targets(
            logits=_usable_logits(logits),
            **{need: tuple(map(_usable, each)) for need, each in found.items()},
            projections={layer: {name: _usable(x) for name, x in parts.items()} for layer, parts in projections.items()}
            or None,
            attentions=None if maps is None else tuple(map(_usable, maps)),
        )


def _needed(states: tuple[Tensor, ...], needed: Collection[int] | None) -> tuple[Tensor, ...]:
    if needed is None:
        return states
    return tuple(state if i in needed else state.new_empty(0) for i, state in enumerate(states))


def _usable(tensor: Tensor) -> Tensor:
    """A copy that autograd may keep: tensors made under inference_mode must not be saved for a backward pass."""
    return tensor.clone()


def _usable_logits(logits: Tensor | LogitSource) -> Tensor | LogitSource:
    if isinstance(logits, Tensor):
        return _usable(logits)
    return LogitSource(hidden=_usable(logits.hidden), head=logits.head)


def same_tokenizer(first: PreTrainedTokenizerBase | None, second: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers give the same ids: the same cutting of a probe, and the same ids of all that both know.

    One of them may know more tokens than the other, as models of one family do that differ by special ones.
    """
    if first is None or second is None or first is second:
        return True
    probe = "The quick Brown fox, it's 12.5% naïve: «déjà-vu» 東京 ok?"
    fewer, more = sorted((first.get_vocab(), second.get_vocab()), key=len)
    return fewer.items() <= more.items() and first(probe)["input_ids"] == second(probe)["input_ids"]
