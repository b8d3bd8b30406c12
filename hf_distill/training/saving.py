"""What a trainer writes of a student, and reads again: adapters or all of it, what stands beside it, nothing secret."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import TrainOutput

from hf_distill.models.loading import save_adapted_config
from hf_distill.students import has_adapters, load_adapters
from hf_distill.tasks import Task
from hf_distill.training.checkpoints import last_complete_checkpoint, load_extra_weights, save_extra_weights

EXTRA_WEIGHTS = "distillation"
"""The student's submodule that holds the objectives' own weights while it trains; never saved with it."""


class StudentSaving(Trainer):
    """The part of a ``Trainer`` that saves a student and goes on from what was saved."""

    task: Task
    extra_weights: nn.ModuleDict  # The objectives' own, which checkpoints keep beside the student's.
    use_cache_when_saved: bool | None  # The student's before training; None where its config has none.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As Trainer's, but ``resume_from_checkpoint=True`` takes the last COMPLETE checkpoint, or starts anew."""
        if resume_from_checkpoint is True:
            found = last_complete_checkpoint(Path(str(self.args.output_dir)))
            resume_from_checkpoint = str(found) if found else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Before Trainer writes: its trainer_state.json comes last and marks the checkpoint as complete.
        if self.args.should_save and len(self.extra_weights):
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            save_extra_weights(folder, self.extra_weights)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        whole = functools.partial(super()._load_from_checkpoint, resume_from_checkpoint, model)
        self._load(Path(resume_from_checkpoint), whole)
        if len(self.extra_weights):
            load_extra_weights(Path(resume_from_checkpoint), self.extra_weights)

    def _load_best_model(self) -> None:
        self._load(Path(str(self.state.best_model_checkpoint)), super()._load_best_model)

    def _load(self, folder: Path, load_whole: Callable[[], Any]) -> None:
        student = cast(PreTrainedModel, self.model)
        if has_adapters(student):
            load_adapters(student, folder)
        else:
            load_whole()
        self.task.load_beside(student, folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # training_args.bin would hold the token as it is, and push_to_hub would upload it.
        token, self.args.hub_token = self.args.hub_token, None
        # Off while training, but a saved decoder must generate as fast as it can.
        student = cast(PreTrainedModel, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        config, folder = student.config, Path(output_dir or str(self.args.output_dir))
        if self.use_cache_when_saved is not None:
            config.use_cache = self.use_cache_when_saved
        try:
            super()._save(output_dir, state_dict)
            if self.args.should_save:
                if has_adapters(cast(PreTrainedModel, self.model)):
                    save_adapted_config(config, folder)
                self.task.save_beside(student, folder, state_dict)
        finally:
            self.args.hub_token = token
            if self.use_cache_when_saved is not None:
                config.use_cache = self.args.use_cache

    def create_model_card(self, **kwargs: Any) -> None:  # type: ignore[override]  # Trainer names them all in its call.
        """Trainer's card, tagged, and naming the teacher."""
        tags = kwargs.pop("tags", None) or []
        tags = [tags] if isinstance(tags, str) else list(tags)
        super().create_model_card(tags=[*tags, "distillation", "knowledge-distillation", "hf_distill"], **kwargs)


def attach(student: PreTrainedModel, modules: nn.ModuleDict) -> None:
    """Put the objectives' weights inside the student, where optimizer and wrappers see them, but not its files."""
    if not len(modules):
        return
    student.add_module(EXTRA_WEIGHTS, modules)
    names = {f"{EXTRA_WEIGHTS}.{name}" for name in modules.state_dict()}
    student._keys_to_ignore_on_save = set(student._keys_to_ignore_on_save or ()) | names
