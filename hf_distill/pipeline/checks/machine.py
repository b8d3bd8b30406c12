"""Whether this machine can do what ``training`` asks: a tiny model is trained for a step with the very same keys."""

from __future__ import annotations

import copy
import dataclasses
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from transformers import DefaultFlowCallback, PretrainedConfig, PreTrainedModel, Trainer
from transformers.integrations import get_reporting_integration_callbacks
from transformers.utils import logging

from hf_distill.errors import HfDistillError, RecipeError
from hf_distill.pipeline.experiment import Stage, at_fault, one_line, training_arguments
from hf_distill.recipe import Recipe
from hf_distill.tasks import Task


class _Tiny(PreTrainedModel):
    """The least that Trainer trains."""

    config_class = PretrainedConfig
    supports_gradient_checkpointing = True
    gradient_checkpointing = False

    def __init__(self) -> None:
        super().__init__(PretrainedConfig())
        self.embeddings, self.linear = nn.Embedding(2, 8), nn.Linear(8, 8)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.embeddings(input_ids)
        checkpointed = self.gradient_checkpointing and self.training
        logits = (
            self._gradient_checkpointing_func(self.linear.__call__, hidden) if checkpointed else self.linear(hidden)
        )
        return {"loss": logits.float().pow(2).mean(), "logits": logits}


_ROWS = [{"input_ids": [0, 1], "labels": [0, 1]}] * 64

_ONE_LAYER = {"num_hidden_layers": 1, "num_decoder_layers": 1, "decoder_layers": 1, "vocab_size": 64}
_ONE_STEP: Mapping[str, Any] = {
    "max_steps": 1,
    "gradient_accumulation_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_strategy": "no",
    "load_best_model_at_end": False,
    "disable_tqdm": True,
    "log_level": "error",
}


def try_training(stage: Stage) -> None:
    """Train a tiny model for a step with the keys of a stage: packages, precision, optimizer, schedule, compilation.

    Raises:
        RecipeError: Where that fails, naming the key without which it goes.
    """
    recipe = stage.recipe
    if stage.arguments.fp16 and stage.arguments.device.type == "cpu":
        raise RecipeError(
            "recipe.training.fp16: does nothing on a CPU, where accelerate computes in float32; remove it, or set bf16"
        )
    for name in stage.arguments.report_to or ():
        _try_report(name)
    try:
        _step(recipe)
    except Exception as error:
        key = at_fault(recipe.training, lambda training: _step(dataclasses.replace(recipe, training=training)))
        way = "; correct or remove it" if key else ""
        raise RecipeError(f"recipe.training{key}: cannot be done here: {one_line(error)}{way}") from error


def _try_report(name: str) -> None:
    """Make what reports to a package, which looks for the package; nothing is reported."""
    try:
        for callback in get_reporting_integration_callbacks([name]):
            # Some that are half made complain when they are deleted.
            type(callback.__name__, (callback,), {"__del__": lambda self: None})()
    except Exception as error:
        told = one_line(error)
        how = "" if "pip install" in told or isinstance(error, ValueError) else f": pip install {name}"
        raise RecipeError(f"recipe.training.report_to: {told}{how}; or set it to none") from error


def check_modules(stage: Stage, student: PreTrainedModel) -> None:
    """Refuse keys of ``training`` that ask for parts or abilities that the student does not have."""
    args = stage.arguments
    if args.activation_checkpointing and not student.supports_gradient_checkpointing:
        raise RecipeError(
            f"recipe.training.activation_checkpointing: {type(student).__name__} does not support it; remove it"
        )
    if args.optim_target_modules is None:
        return
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, student)
    except Exception as error:
        raise RecipeError(f"recipe.training.optim_target_modules: {one_line(error)}") from error


def _step(recipe: Recipe) -> None:
    """Train a tiny model with a recipe's ``training`` for a step; only set it up where it would be split."""
    with tempfile.TemporaryDirectory() as folder, _undisturbed():
        args = training_arguments(recipe, folder)
        args.report_to = []
        if args.optim_target_modules is not None:
            args.optim_target_modules = "all-linear"
        for name, value in _ONE_STEP.items():
            setattr(args, name, value)
        trainer = Trainer(model=_Tiny(), args=args, train_dataset=_ROWS, eval_dataset=_ROWS)
        trainer.callback_handler.callbacks = [DefaultFlowCallback()]
        # It would collect garbage, which takes longer than all else.
        trainer.accelerator.free_memory = lambda *objects: objects
        if not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            trainer.train()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Print nothing, and leave random numbers and what libraries keep of a trainer as they were."""
    python, numpy, verbosity = random.getstate(), np.random.get_state(), logging.get_verbosity()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.set_verbosity_error()
            yield
    finally:
        logging.set_verbosity(verbosity)
        random.setstate(python)
        np.random.set_state(numpy)
        AcceleratorState._reset_state(reset_partial_state=False)


SMALL_ENOUGH = 60_000_000
"""Parameters of one layer and its head, at most, on which a family is tried."""


def check_family(task: Task, model: PreTrainedModel) -> None:
    """Refuse models over a vocabulary on which a task cannot rely: what a run sees with all weights, seen on one layer.

    Raises:
        ModelError: As by the task's ``check_model``.
    """
    if task.keeps_logits:
        return
    small = copy.deepcopy(model.config)
    try:
        for config in {id(each): each for each in (small, small.get_text_config())}.values():
            for name, value in _ONE_LAYER.items():
                if getattr(config, name, None) is not None:
                    setattr(config, name, value)
        with torch.device("meta"):
            if task.auto_model.from_config(copy.deepcopy(small)).num_parameters() > SMALL_ENOUGH:
                return
        with _undisturbed():
            made = task.auto_model.from_config(small, dtype=torch.float32)
    except Exception:
        return  # What cannot be made small is not tried.
    try:
        with _undisturbed():
            task.check_model(made)
    except HfDistillError:
        raise
    except Exception:
        return
