"""What a trainer writes of a student, and reads again: adapters or all of it, what stands beside it, nothing secret."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import TrainOutput

from hf_distill.artifacts import by_main, remove
from hf_distill.models.loading import save_adapted_config
from hf_distill.students import has_adapters, load_adapters
from hf_distill.tasks import Task
from hf_distill.training.checkpoints import (
    check_best,
    check_given,
    drop_older,
    last_whole_checkpoint,
    load_extra_weights,
    save_extra_weights,
    seal,
    sibling,
)

logger = logging.getLogger(__name__)

EXTRA_WEIGHTS = "distillation"
"""The student's submodule that holds the objectives' own weights while it trains; never saved with it."""


class StudentSaving(Trainer):
    """The part of a ``Trainer`` that saves a student and goes on from what was saved."""

    task: Task
    extra_weights: nn.ModuleDict  # The objectives' own, which checkpoints keep beside the student's.
    use_cache_when_saved: bool | None  # The student's before training; None where its config has none.
    _limit: int | None = None  # save_total_limit, while a checkpoint is written.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As Trainer's, but only a whole checkpoint is gone on from.

        ``resume_from_checkpoint=True`` takes the last whole one of ``output_dir``, or starts anew where none is; one
        that is named and is damaged is refused.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = by_main(self._last_whole)
        elif resume_from_checkpoint:
            check_given(Path(resume_from_checkpoint), has_extra_weights=len(self.extra_weights) > 0)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _last_whole(self) -> str | None:
        folder = Path(str(self.args.output_dir))
        if self.args.save_only_model and any(folder.glob("checkpoint-*")):
            logger.warning(f"{folder}: its checkpoints are without optimizers (save_only_model); training starts anew")
            return None
        found = last_whole_checkpoint(folder, with_best=self.args.load_best_model_at_end)
        return str(found) if found is not None else None

    def _init_training_state(self, *args: Any) -> tuple[int, int]:
        done: tuple[int, int] = super()._init_training_state(*args)
        (max_steps, _, epochs, checkpoint, _), state = args, self.state
        if checkpoint is None:
            return done
        # Trainer forgets the best checkpoint where the folder was moved, and would end with another model.
        if state.best_model_checkpoint is None and state.best_global_step:
            best = sibling(Path(checkpoint), f"checkpoint-{state.best_global_step}")
            state.best_model_checkpoint = str(best) if best.is_dir() else None
        # From the last checkpoint it would take one step more where training ends within an epoch.
        return (epochs, 0) if state.global_step >= max_steps else done

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        # Trainer would delete older ones before this one is sealed.
        self._limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                remove(folder)  # What an earlier call left there: it is not this one's.
                if len(self.extra_weights):
                    save_extra_weights(folder, self.extra_weights)
            self.accelerator.wait_for_everyone()  # Before another process writes there.
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # Every process writes the state of its random numbers.
            if self.args.should_save:
                seal(folder)
        except BaseException:
            if self.args.should_save:  # A part of a checkpoint is of no use, and a disk may be full.
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = self._limit
        if self.args.should_save:
            drop_older(folder, self._limit, self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        whole = functools.partial(super()._load_from_checkpoint, resume_from_checkpoint, model)
        self._load(Path(resume_from_checkpoint), whole)
        if len(self.extra_weights):
            load_extra_weights(Path(resume_from_checkpoint), self.extra_weights)

    def _load_best_model(self) -> None:
        check_best(Path(str(self.state.best_model_checkpoint)))
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
        limit, self.args.save_total_limit = self.args.save_total_limit, self._limit or self.args.save_total_limit
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
            self.args.hub_token, self.args.save_total_limit = token, limit
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
