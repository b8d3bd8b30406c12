"""What an objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import ObjectiveError
from hf_distill.losses.fused import FusedTerm
from hf_distill.objectives.schedules import Schedule, Scheduled, read_schedule
from hf_distill.types import Distribution, Need, Targets, Term, Unit, View


class Objective(ABC):
    """One thing that is pulled towards another: a term of the loss.

    A new objective is a subclass in its own file and one line in ``OBJECTIVES``. Its options are the keyword arguments
    of its constructor, checked there.

    Args:
        weight: Factor of this term in the loss, at least 0; or its schedule, see :class:`Schedule`.

    Attributes:
        unit: What the term is averaged over, see :data:`hf_distill.types.Unit`.
        needs: What it asks of data and teacher; a teacher that does not provide it is refused before training.
        distributions: The kinds of output that it is defined for.
        cross_tokenizer: Whether it compares a teacher whose tokens are others, see :meth:`connect_tokenizers`.
        compares_tokens: True where student and teacher are compared token by token, so that both must read the same
            tokens.
        vocabularies: Whether it is defined for logits over a vocabulary, too.
        paper: Where it comes from, for the model card.
        schedules: What changes while the student trains, by the name of the option.
        layer_map: Which student layer learns from which teacher layer, known after :meth:`connect`; empty for most.
    """

    unit: Unit
    needs: frozenset[Need]
    distributions: ClassVar[frozenset[Distribution]] = frozenset({"categorical", "bernoulli", "real", "vector"})
    compares_tokens: ClassVar[bool] = False
    cross_tokenizer: bool = False
    vocabularies: ClassVar[bool] = True
    paper: ClassVar[str]

    def __init__(self, *, weight: Scheduled = 1.0) -> None:
        self.schedules: dict[str, Schedule] = {}
        self.weight = self.scheduled("weight", weight)
        self.module: nn.Module | None = None
        self.layer_map: dict[int, int] = {}

    def scheduled(self, name: str, value: Scheduled, *, above_zero: bool = False) -> float:
        """A number among the options, where it may be a schedule: its first value; it moves in :meth:`at`."""
        schedule = read_schedule(value, f"{type(self).__name__.lower()}: {name}", above_zero=above_zero)
        if schedule.start != schedule.end:
            self.schedules[name] = schedule
        return schedule.start

    def at(self, fraction: float) -> None:
        """Let what is scheduled take its value at a fraction of the training, 0 to 1."""
        for name, schedule in self.schedules.items():
            self.take(name, schedule.at(fraction))

    def take(self, name: str, value: float) -> None:
        """Let a scheduled number take a value."""
        setattr(self, name, value)

    @abstractmethod
    def total(self, view: View, targets: Targets) -> Tensor:
        """The float32 sum of this term over the units of one micro-batch, a differentiable scalar."""

    def __call__(self, view: View, targets: Targets) -> Term:
        """The term of one micro-batch."""
        return Term(total=self.total(view, targets), count=view.masks[self.unit].sum())

    def fused_term(self, view: View, factor: Tensor) -> FusedTerm | None:
        """This term as a part of the fused loss over a vocabulary, or None where it is none.

        Args:
            view: Whose logits are not made yet.
            factor: What the term's total is multiplied by in the loss.
        """
        return None

    def connect(self, student: PretrainedConfig, teacher: PretrainedConfig | None) -> list[str]:
        """Fit the objective to a pair of models, and set ``self.module`` where it brings weights of its own.

        Args:
            student: The student's config.
            teacher: The teacher's config, or None where there is none.

        Returns:
            Lines that tell what was chosen, for the log.
        """
        return []

    def connect_tokenizers(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> list[str]:
        """Fit an objective with ``cross_tokenizer`` to two tokenizers that are different ones.

        Returns:
            Lines that tell what they share, for the log.

        Raises:
            ModelError: Where their tokens cannot be compared.
        """
        return []

    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """What is logged of it beside its term, since the last call, with what adds a tensor up over all processes."""
        return {}

    def check_models(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:  # noqa: B027  # Most take any.
        """Refuse models that cannot show what the objective looks at; called after :meth:`connect`.

        Args:
            student: Of which only modules and shapes are looked at: it may have no weights yet.
            teacher: The same.

        Raises:
            HfDistillError: With the way out.
        """

    def teacher_layers(self, student: PretrainedConfig, teacher: PretrainedConfig) -> tuple[int, ...] | None:
        """Which of the teacher's hidden states it looks at, as indices into those that it needs; None: all of them."""
        return None

    def check(self, distribution: Distribution) -> None:
        """Refuse a kind of output that the objective is not defined for."""
        if distribution not in self.distributions:
            raise ObjectiveError(
                f"objective {type(self).__name__.lower()} is defined for {', '.join(sorted(self.distributions))} "
                f"outputs, but this task's are {distribution}; remove it or use another divergence"
            )
