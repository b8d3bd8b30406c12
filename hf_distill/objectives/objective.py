"""What an objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, get_args

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import ObjectiveError
from hf_distill.losses.fused import FusedTerm
from hf_distill.names import check_values
from hf_distill.objectives.schedules import Schedule, Scheduled, read_schedule
from hf_distill.types import UNITS, Distribution, Need, Targets, Unit, View


class Objective(ABC):
    """One thing that is pulled towards another: a term of the loss.

    Its options are the keyword arguments of its constructor, checked there. It returns a sum, see :meth:`total`;
    :func:`hf_distill.training.loss.weighted_loss` alone divides.

    Args:
        weight: Factor of this term in the loss, at least 0; or its schedule, see :class:`Schedule`.

    Attributes:
        unit: The sum is divided by the number of these, see :data:`hf_distill.types.Unit`.
        needs: What it requires of data and teacher; a teacher that does not provide it is refused before training.
            Both are set on the class; options may change them on an instance.
        distributions: The kinds of output that it is defined for.
        cross_tokenizer: Whether it compares a teacher that has other tokens, see :meth:`connect_tokenizers`.
        compares_tokens: Whether it compares token by token, so that both models must read the same tokens.
        vocabularies: Whether it is defined for logits over a vocabulary, too.
        paper: Its source, for the model card.
        schedules: What changes while the student trains, by the name of the option.
        layer_map: Which student layer learns from which teacher layer, known after :meth:`connect`; empty for most.
    """

    unit: Unit
    needs: frozenset[Need]
    distributions: ClassVar[frozenset[Distribution]] = frozenset({"categorical", "bernoulli", "real", "vector", "ctc"})
    compares_tokens: ClassVar[bool] = False
    cross_tokenizer: bool = False
    vocabularies: ClassVar[bool] = True
    paper: ClassVar[str] = "no paper"

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse a class with a ``unit``, a need or a kind of output that does not exist."""
        super().__init_subclass__(**arguments)
        check_values(cls, "unit", UNITS, ObjectiveError)
        check_values(cls, "needs", get_args(Need), ObjectiveError, several=True)
        check_values(cls, "distributions", get_args(Distribution), ObjectiveError, several=True)

    def __init__(self, *, weight: Scheduled = 1.0) -> None:
        self.schedules: dict[str, Schedule] = {}
        self.weight = self.scheduled("weight", weight)
        self.module: nn.Module | None = None
        self.layer_map: dict[int, int] = {}

    def scheduled(self, name: str, value: Scheduled, *, above_zero: bool = False) -> float:
        """The first value of an option that may be a schedule; :meth:`at` moves it."""
        schedule = read_schedule(value, f"{self.name}: {name}", above_zero=above_zero)
        if schedule.start != schedule.end:
            self.schedules[name] = schedule
        return schedule.start

    def at(self, fraction: float) -> None:
        """Move scheduled options to their values at a fraction of the training, 0 to 1."""
        for name, schedule in self.schedules.items():
            self.take(name, schedule.at(fraction))

    def take(self, name: str, value: float) -> None:
        """Set a scheduled option."""
        setattr(self, name, value)

    @abstractmethod
    def total(self, view: View, targets: Targets) -> Tensor:
        """The float32 sum of this term over the units of one micro-batch, a differentiable scalar."""

    def fused_term(self, view: View, factor: Tensor) -> FusedTerm | None:
        """This term, times ``factor``, as a part of the fused loss over a vocabulary; None where it is none."""
        return None

    def connect(self, student: PretrainedConfig, teacher: PretrainedConfig | None) -> list[str]:
        """Fit it to two models, set ``self.module`` where it brings weights of its own, return lines for the log."""
        return []

    def connect_tokenizers(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> list[str]:
        """Fit an objective with ``cross_tokenizer`` to two different tokenizers, and return lines for the log."""
        return []

    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Further numbers for the log, since the last call; ``reduce`` adds a tensor up over all processes."""
        return {}

    def check_models(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:  # noqa: B027  # Most take any.
        """Refuse models that cannot show what it compares, after :meth:`connect`; they may have no weights yet."""

    def teacher_layers(self, student: PretrainedConfig, teacher: PretrainedConfig) -> tuple[int, ...] | None:
        """Which of the teacher's hidden states it compares, as indices into those that it needs; None: all of them."""
        return None

    def one_of(self, option: str, value: str, known: Sequence[str]) -> str:
        """The value of an option, if it is among the known ones."""
        if value not in known:
            raise ObjectiveError(f"{self.name}: {option} must be one of {', '.join(known)}, got {value!r}")
        return value

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__.lower()

    def check(self, distribution: Distribution) -> None:
        """Refuse a kind of output that the objective is not defined for."""
        if distribution not in self.distributions:
            raise ObjectiveError(
                f"objective {self.name} is defined for {', '.join(sorted(self.distributions))} "
                f"outputs, but this task's are {distribution}; remove it or use another divergence"
            )
