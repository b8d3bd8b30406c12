"""The small types that tasks, teachers, objectives and the trainer hand to each other.

A :class:`View` is what a task makes of a student's outputs and a batch; :class:`Targets` are what a teacher gives for
the same batch. No type here knows which task, teacher or objective it serves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias, get_args

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from hf_distill.errors import DataError

Unit = Literal["labels", "positions", "tokens", "sources", "batches"]
"""What an objective averages over: labelled positions, all compared positions, real (unpadded) tokens of the compared
stack, or those that an encoder reads beside it; or micro-batches that hold anything."""
UNITS: tuple[Unit, ...] = get_args(Unit)

Distribution = Literal["categorical", "bernoulli", "real", "vector", "ctc"]
"""What one position's logits mean: one class of C (ctc: or none), C yes/no classes, C real values, a text's vector."""

Need = Literal["labels", "pairs", "routers", "logits", "hidden_states", "encoder_states", "projections", "attentions"]
"""What an objective asks for: labels, or pairs of texts that mean the same, of the data; how evenly a student uses
its experts; all else of the teacher."""

OF_THE_DATA: frozenset[Need] = frozenset({"labels", "pairs", "routers"})
"""What no teacher gives."""

Batch = dict[str, Any]
"""A collated batch: tensors by name, on the model's device."""

Rows: TypeAlias = Dataset | IterableDataset
"""Rows of a split, in memory or a stream."""

Tokenizer = PreTrainedTokenizerBase

Collate = Callable[[list[Mapping[str, Any]]], Batch]
"""Pads encoded rows to a batch."""

IGNORED = -100
"""The label of a token or row that does not count, as Transformers' losses know it."""

TAUGHT_BY = "taught_by"
"""In rows and batches: which of several teachers each row is taught by, ``[B]`` indices; not there where all teach."""

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""

Projections = dict[str, Tensor]
"""A layer's ``q``, ``k`` and ``v``, ``[B, T, width]`` each: what attention is made of, before rotary positions."""

Masks = dict[Unit, Tensor]
"""Boolean: ``labels`` ``[N]``, of ctc ``[B]``; ``positions`` ``[N]``; ``tokens`` ``[B, T]``, ``sources`` ``[B, S]``."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """An output head: ``logits = soft_cap * tanh(scale * (hidden @ weight.T + bias) / soft_cap)``.

    The weight is ``[V, H]``, the bias ``[V]``; without a soft cap nothing is bent.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    @property
    def vocabulary(self) -> int:
        """How many tokens it tells apart."""
        return len(self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., V]`` from ``[..., H]``, differentiable."""
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        logits = functional.linear(hidden, self.weight.to(hidden.dtype), bias) * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


class LogitSource(ABC):
    """What logits ``[N, V]`` over a vocabulary are made of, where all of them at once would be too large."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many tokens there are logits of."""

    @abstractmethod
    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Change what is known of each position: choose, reorder, detach or copy it."""

    @abstractmethod
    def logits(self) -> Tensor:
        """``[N, V]``, all at once, differentiable."""


@dataclass(frozen=True, kw_only=True)
class HeadLogits(LogitSource):
    """One model's logits over a vocabulary, not yet made, of ``[N, H]``: what enters the head at N positions."""

    hidden: Tensor
    head: Head

    @property
    @override
    def vocabulary(self) -> int:
        return self.head.vocabulary

    @override
    def map(self, change: Callable[[Tensor], Tensor]) -> HeadLogits:
        return replace(self, hidden=change(self.hidden))

    @override
    def logits(self) -> Tensor:
        return self.head.logits(self.hidden)


@dataclass(frozen=True, kw_only=True)
class MixedLogits(LogitSource):
    """Several models as one: the logs of the weighted mean of their probabilities, not yet made.

    The mean is taken of the probabilities at temperature 1, ``p = sum_m w_m p_m``, and the logits are ``log p``: a
    temperature softens the mixture. The mean of softened distributions would be another one at every temperature
    (Hinton et al. 2015, section 1, leave open which mean is taken; Fukuda et al. 2017, section 3, mix probabilities).
    """

    members: tuple[HeadLogits, ...]
    log_weights: Tensor  # [N, M]; -inf where a member says nothing.

    @property
    @override
    def vocabulary(self) -> int:
        return min(member.vocabulary for member in self.members)

    @override
    def map(self, change: Callable[[Tensor], Tensor]) -> MixedLogits:
        members = tuple(member.map(change) for member in self.members)
        return MixedLogits(members=members, log_weights=change(self.log_weights))

    @override
    def logits(self) -> Tensor:
        return log_mixture((member.logits()[..., : self.vocabulary] for member in self.members), self.log_weights)


def log_mixture(logits: Iterable[Tensor], log_weights: Tensor) -> Tensor:
    """``log sum_m w_m softmax(logits_m)``, at least float32; holds two of them at a time.

    Args:
        logits: ``[..., C]`` of each of M members.
        log_weights: ``[..., M]``, or ``[M]`` for all positions alike; ``-inf`` where a member says nothing.
    """
    total: Tensor | None = None
    for own, weight in zip(logits, log_weights.unbind(-1), strict=True):
        wide = own.to(torch.promote_types(own.dtype, torch.float32))
        weighted = torch.log_softmax(wide, -1) + weight[..., None]
        total = weighted if total is None else torch.logaddexp(total, weighted)
    assert total is not None
    return total


@dataclass(frozen=True, kw_only=True)
class SparseLogits:
    """What a cache keeps of a teacher's distribution at N positions: the probabilities of K tokens, not all logits.

    Attributes:
        ids: ``[N, K]`` int64, distinct within a row where the probability is above 0; any valid id where it is 0.
        probabilities: ``[N, K]`` float32, 0 where there is none.
        rest: ``[N]`` float32, the mass of all other tokens; None where it is not kept as a bucket.
        entropy: ``[N]`` float32, in nats, of the distribution that the value is measured against: the teacher's own
            for sampled targets, that of the K + 1 buckets for top-k with rest.
        vocabulary: How many tokens the teacher's has.
    """

    ids: Tensor
    probabilities: Tensor
    rest: Tensor | None
    entropy: Tensor
    temperature: float
    vocabulary: int

    def map(self, change: Callable[[Tensor], Tensor]) -> SparseLogits:
        """Change what is known of each position: spread or copy it."""
        own: dict[str, Any] = {name: change(kept) for name, kept in vars(self).items() if isinstance(kept, Tensor)}
        return replace(self, **own)

    def at(self, rows: Tensor | slice) -> SparseLogits:
        """Of some positions alone: a slice, a mask or indices."""
        return self.map(lambda kept: kept[rows])

    def of_leading(self, shared: int, mask: Tensor) -> tuple[SparseLogits, Tensor]:
        """Of the first ``shared`` tokens alone, and the positions of the mask ``[N]`` at which these have any mass.

        What lay on the tokens left out goes to the others in proportion, as in a softmax over the leading logits; so
        does a rest where all leading tokens are kept. The entropy follows; where tokens were sampled, only about.
        Outside the mask everything becomes 0.
        """
        # Tokens from ``shared`` on are padding rows that one vocabulary has and the other has not.
        given = self.probabilities.masked_fill(~mask[:, None], 0.0)
        beyond = self.ids >= shared
        leading, lost = given.masked_fill(beyond, 0.0), given.masked_fill(~beyond, 0.0)
        total, left, rest = given.sum(-1), leading.sum(-1), None
        if self.rest is not None:
            bucket = self.rest.masked_fill(~mask, 0.0).clamp(min=0.0)
            rest = bucket.masked_fill((leading > 0).sum(-1) >= shared, 0.0)
            lost = torch.cat((lost, (bucket - rest)[:, None]), -1)
            total, left = total + bucket, left + rest
        # The kept probabilities p become c * p with c = total / left: exactly 1 where nothing is lost.
        growth = torch.where(left > 0, total / left, 1.0)
        # With S the sum of p log p over what is kept, the entropy before is -S minus that of what is lost, and after
        # -sum of (c p) log(c p) = -c S - log c, since the c p sum to 1.
        entropy = (self.entropy + torch.special.xlogy(lost, lost).sum(-1)) * growth - growth.log()
        targets = replace(
            self,
            ids=self.ids.masked_fill(leading == 0, 0),
            probabilities=leading * growth[:, None],
            rest=None if rest is None else rest * growth,
            entropy=entropy.masked_fill(~mask, 0.0),
            vocabulary=shared,
        )
        return targets, mask & (left != 0)


@dataclass(frozen=True, kw_only=True)
class View:
    """The N positions of a batch that are compared, as the student sees them.

    Attributes:
        logits: ``[N, C]``, in the label order of the data; or what they are made of, for a fused loss.
        distribution: What the C logits of a position mean.
        labels: ``[N]`` class indices, or ``[N, C]`` floats (bernoulli, real), or those of rows, ``[B, L]``, with
            :data:`IGNORED` behind each (ctc). Where ``masks["labels"]`` is False the value is arbitrary.
        masks: Which labels, positions and tokens count, see :data:`Masks`.
        blank: The class of positions that stand for no label (ctc).
        texts_of_row: How many positions that follow each other are texts of one row, compared with the first of them.
        hidden_states: ``[B, T, H]`` each; index 0 is the embedding output, index i the output of layer i. None unless
            an objective needs them.
        encoder_states: ``[B, S, H]`` each, the same of an encoder beside a decoder, or None.
        projections: Of the layers that objectives look at, by layer; None unless one does.
        attentions: ``[B, heads, T, T]`` each, the probabilities of every layer; None unless an objective needs them.
        balance: What Transformers adds to the loss of the batch for its routers, a scalar; None unless one needs it.
    """

    logits: Tensor | LogitSource
    distribution: Distribution
    labels: Tensor | None
    masks: Masks
    blank: int = 0
    texts_of_row: int = 1
    hidden_states: tuple[Tensor, ...] | None = None
    encoder_states: tuple[Tensor, ...] | None = None
    projections: Mapping[int, Projections] | None = None
    attentions: tuple[Tensor, ...] | None = None
    balance: Tensor | None = None

    def check_sizes(self, given: View | Targets) -> None:
        """Refuse labels, logits and states of other positions than the masks have (DataError)."""
        logits = given.logits.hidden if isinstance(given.logits, HeadLogits) else given.logits
        found: list[tuple[str, Any, Unit]] = [("labels", self.labels, "labels"), ("logits", logits, "positions")]
        found += [("hidden_states", state, "tokens") for state in given.hidden_states or ()]
        found += [("encoder_states", state, "sources") for state in given.encoder_states or ()]
        found += [("projections", x, "tokens") for layer in (given.projections or {}).values() for x in layer.values()]
        for name, values, unit in found:
            mask, is_there = self.masks.get(unit), isinstance(values, Tensor) and values.numel()  # Else nobody looks.
            if mask is not None and is_there and values.shape[: mask.dim()] != mask.shape:
                raise DataError(
                    f"{name}: expected {list(mask.shape)} positions, as the batch's mask of {unit} has, got "
                    f"{list(values.shape[: mask.dim()])}: other tokens would be compared; let the data_collator pad to "
                    "one length, or leave it out; of a model that pads inside only the logits can be compared"
                )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a teacher gives for a batch, detached where it is made; what an objective did not ask for is None.

    Attributes:
        logits: ``[N, C]``, positions and classes in the same order as the student's :class:`View`, C larger or smaller
            only by the padding rows of a vocabulary; or what they are made of; or what a cache keeps of them.
        hidden_states: ``[B, T, H_teacher]`` each; projections, attentions and the states of an encoder accordingly.
    """

    logits: Tensor | LogitSource | SparseLogits | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    encoder_states: tuple[Tensor, ...] | None = None
    projections: Mapping[int, Projections] | None = None
    attentions: tuple[Tensor, ...] | None = None


def logits_at(rows: Tensor, logits: Tensor | LogitSource) -> Tensor:
    """``[M, C]`` logits of M positions, chosen by a mask ``[N]`` or by index."""
    return logits[rows] if isinstance(logits, Tensor) else logits.map(lambda values: values[rows]).logits()
