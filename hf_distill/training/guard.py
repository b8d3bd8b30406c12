"""The guard of a training: a loss or a gradient that is not finite, or a loss that grows a hundredfold, stops it.

What it needs to know stays on the device: for each term, how many steps in a row were bad, and which one was the first
that counted. It is read before every log, evaluation and save, and every few steps, so that no step waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from hf_distill.errors import TrainingError
from hf_distill.names import shortened
from hf_distill.objectives import Objective
from hf_distill.teachers import Teacher
from hf_distill.types import OF_THE_DATA

logger = logging.getLogger(__name__)

LOSS, GRADIENT, GROWTH = "the weighted loss", "the gradient", "the growth of the loss"
"""What is watched beside the terms."""

EVERY = 10
"""Steps after which the device is asked at the latest."""

TIMES = 100.0
"""How much larger than its best a loss is that has run away."""

STEPS = 10
"""Over how many steps a loss is averaged to be called its best, and for how many it must stay too large."""

FLOORS = 0.1, 0.01
"""What counts as the best of a loss at the least: in the first ``STEPS`` steps, and after them. A loss of few rows may
be next to 0 by chance, and one that a student has learned to the end may be that for good."""

SKIPPED = 32
"""Steps in a row that fp16's gradient scaler may skip while it looks for its scale, which it halves each time."""

_NEVER = torch.iinfo(torch.int64).max
_GO_ON = "training_guard: false trains on nevertheless"


class Guard:
    """What is known of the steps of one training.

    Args:
        objectives: By name; their weights are read at each step.
        skipped: How many gradients in a row may be infinite.
    """

    def __init__(self, objectives: Mapping[str, Objective], skipped: int = 0) -> None:
        self.objectives = objectives
        self.names = [*objectives, LOSS, GRADIENT, GROWTH]
        self.patience = [1] * (len(objectives) + 1) + [skipped + 1, STEPS]
        self.steps = 0
        self.begun: int | None = None  # The first step that was seen.
        self._window: Tensor | None = None

    def add(self, means: Mapping[str, Tensor]) -> None:
        """Add the terms of a micro-batch to those of its step."""
        values = torch.stack([value.detach().float() for value in means.values()])
        self._window = values if self._window is None else self._window + values

    def end_step(self, step: int, gradient: Tensor | float | None, processes: int) -> None:
        """Look at a step whose gradients are there: at its terms, their sum, and the norm of the gradient."""
        if self._window is None:
            return
        values, self._window = self._window * processes, None
        if self.begun is None:
            self.begun = step
            self._in_a_row = values.new_zeros(len(self.names), dtype=torch.int64)
            self._first = torch.full_like(self._in_a_row, _NEVER)
            self._patience = self._in_a_row.new_tensor(self.patience)
            self._mean = self._best = values
        if isinstance(gradient, DTensor):
            gradient = gradient.full_tensor()
        norm = values.new_zeros(()) if gradient is None else torch.as_tensor(gradient).to(values)
        weights = [objective.weight for objective in self.objectives.values()]
        watched = torch.cat([values, torch.stack([_weighted(weights, values), norm])])
        bad = torch.cat([~torch.isfinite(watched), self._grown(values, weights)[None]])
        self._in_a_row = (self._in_a_row + 1) * bad
        is_first = (self._in_a_row >= self._patience) & (self._first == _NEVER)
        self._first = self._first.masked_fill(is_first, step)

    def _grown(self, values: Tensor, weights: list[float]) -> Tensor:
        """Whether the loss is far above its best: both by the weights of now, without terms that change otherwise."""
        comparable = [
            0.0 if objective.schedules.keys() - {"weight"} else weight
            for objective, weight in zip(self.objectives.values(), weights, strict=True)
        ]
        self.steps += 1
        self._mean = self._mean + (values - self._mean) / min(self.steps, STEPS)
        now, mean, best = _weighted(comparable, torch.stack([values, self._mean, self._best], -1)).unbind()
        limit = TIMES * best.abs().clamp(min=FLOORS[self.steps > STEPS])
        if self.steps >= STEPS:  # Until then its best is the first.
            self._best = torch.where(mean < (limit if self.steps == STEPS else best), self._mean, self._best)
        self.now, self.limit = now, limit
        return now > limit

    def first_bad(self, gather: Callable[[Tensor], Tensor]) -> tuple[int, list[str]] | None:
        """The first step that was bad, and what was bad then, the same on every process; None where all is well."""
        if self.begun is None:
            return None
        first: list[int] = gather(self._first[None]).amin(0).tolist()
        step = min(first)
        return None if step == _NEVER else (step, [n for n, at in zip(self.names, first, strict=True) if at == step])


class GuardedTraining(Trainer):
    """The part of a ``Trainer`` that stops a training that has run away, before anything of it is saved."""

    objectives: dict[str, Objective]
    teacher: Teacher | None
    guard: Guard
    training_guard: bool
    _is_reported: bool

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As Trainer's; a student with weights that are not finite is refused before the first step."""
        scales = self.accelerator.scaler is not None or (self.is_deepspeed_enabled and self.args.fp16)
        self.guard, self._is_reported = Guard(self.objectives, SKIPPED if scales else 0), False
        if self.model is not None:
            self._check_weights("before the first step", "take another checkpoint of it, or load it in float32")
        return super().train(*args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        self.guard.end_step(self.state.global_step + 1, norm, self.accelerator.num_processes)
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control, step = self.control, self.state.global_step
        is_kept = control.should_save or control.should_evaluate or control.should_training_stop
        if is_kept or control.should_log or step % EVERY == 0:
            found = self.guard.first_bad(self.accelerator.gather)
            if found is not None:
                self._refuse(self._told(*found))
            elif is_kept:
                self._check_weights(f"after step {step}", _lower(self.args.learning_rate))
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def check_evaluation(self, terms: Mapping[str, float]) -> None:
        """Refuse an evaluation whose terms are not all finite."""
        if broken := [name for name, value in terms.items() if not torch.isfinite(torch.tensor(value))]:
            when = f"after step {self.state.global_step}"
            self._refuse(f"the evaluation's loss of {shortened(broken)} is not finite {when}; {self._advice(broken)}")

    def _check_weights(self, when: str, advice: str) -> None:
        assert self.model is not None
        # Each process of a split student holds other weights than the next.
        if broken := next(filter(None, gather_object([broken_weight(self.model)])), None):
            self._refuse(f"the student's weight {broken} is not finite {when}; {advice}")

    def _refuse(self, why: str) -> None:
        if self.training_guard:
            raise TrainingError(f"{why}; training stopped and saved nothing of it; {_GO_ON}")
        if not self._is_reported:
            logger.warning(f"warning: {why}; training_guard is false, so training goes on")
        self._is_reported = True

    def _told(self, step: int, bad: list[str]) -> str:
        terms = [name for name in bad if name in self.objectives]
        if terms:
            return f"the loss of {shortened(terms)} is not finite at step {step}; {self._advice(terms, step)}"
        rate = _lower(self.args.learning_rate)
        if LOSS in bad:
            return f"the sum of all terms is not finite at step {step}, though each of them is; lower their weights"
        if GRADIENT in bad:
            return (
                f"the gradient is not finite at step {step}, though each loss is ({shortened(list(self.objectives))}); "
                f"{rate}, use bf16 or float32 in place of fp16, or look for a term that is not smooth at 0, such as a "
                "square root"
            )
        now, limit = self.accelerator.gather(torch.stack([self.guard.now, self.guard.limit])[None]).mean(0).tolist()
        return (
            f"the loss has been over {TIMES:g} times its best for {STEPS} steps at step {step} (it is {now:.3g} now, "
            f"its best was about {limit / TIMES:.3g}); {rate}"
        )

    def _advice(self, broken: list[str], step: int | None = None) -> str:
        """What to try where terms are not finite, by which of them are."""
        taught = {name for name, objective in self.objectives.items() if objective.needs - OF_THE_DATA}
        for model in self.teacher.models if self.teacher is not None and taught & set(broken) else ():
            if weight := broken_weight(model):
                return f"the teacher's weight {weight} is not finite: take another checkpoint of it, or another dtype"
        if taught >= set(broken) and (fine := [name for name in self.objectives if name not in taught]):
            return (
                f"that of {shortened(fine)} is, so look at the teacher: it may give NaN (try teacher.dtype: float32), "
                "or the temperature or a row of the data may be out of its range"
            )
        if step is not None and step == self.guard.begun:
            return (
                "it was so from the first step on: look at what the teacher gives, the rows of the data and the "
                "objective's options, and use float32 or bf16 in place of fp16"
            )
        return (
            f"{_lower(self.args.learning_rate)}, use float32 or bf16 in place of fp16, or look at the rows of the data"
        )


def broken_weight(model: nn.Module) -> str | None:
    """The name of the first weight of a model that is not finite, None where all are."""
    floats = ((name, weight) for name, weight in model.named_parameters() if weight.is_floating_point())
    return next((name for name, weight in floats if not bool(torch.isfinite(weight.detach()).all())), None)


def _weighted(weights: Sequence[float], values: Tensor) -> Tensor:
    """The sum of terms, in plain numbers times tensors: a tensor of numbers would be copied to the device, and wait."""
    return torch.stack([weight * value for weight, value in zip(weights, values.unbind(), strict=True)]).sum(0)


def _lower(learning_rate: float) -> str:
    return f"lower learning_rate (it is {learning_rate:g}), add warmup_steps or lower max_grad_norm"
