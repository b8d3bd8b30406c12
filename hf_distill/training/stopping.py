"""SIGTERM while a student trains: every process saves its part of a checkpoint at the end of the step, and stops."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from hf_distill.signals import Stopped, is_heard, is_stopping


class StopWhenAsked(TrainerCallback):
    """Saves a checkpoint and stops once one of the processes was asked to end."""

    stopping = False

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._save_if_asked(args, control)

    @override
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._save_if_asked(args, control)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.stopping:  # Here and not at the end of the epoch, where Trainer would evaluate once more.
            raise Stopped

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopping:  # With save_strategy: best Trainer saves only what is better.
            raise Stopped

    def _save_if_asked(self, args: TrainingArguments, control: TrainerControl) -> None:
        asked = is_stopping()
        if is_heard() and PartialState().num_processes > 1:  # All stop after the same step, or one waits for ever.
            asked = bool(reduce(torch.tensor(int(asked), device=args.device), "sum").item())
        if asked:
            self.stopping = control.should_save = True
