"""``training`` of a recipe: keys of ``transformers.TrainingArguments``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hf_distill.errors import RecipeError
from hf_distill.names import nearest_or_all
from hf_distill.recipe.parse import shown

RESERVED_TRAINING = {
    "output_dir": "the run's folder is runs/<name>, see name and --runs",
    "seed": "use recipe.seed",
    "data_seed": "use recipe.seed",
    "hub_token": "log in with `hf auth login` or set HF_TOKEN",
    "push_to_hub": "use recipe.hub.push",
    "hub_model_id": "use recipe.hub.model_id",
    "hub_private_repo": "use recipe.hub.private",
    "hub_strategy": "the student is pushed once, when the run is complete",
    "hub_always_push": "the student is pushed once, when the run is complete",
    "hub_revision": "the student is pushed to the main branch",
    "label_smoothing_factor": "it would do nothing here; the teacher's logits are the soft labels",
    "label_names": "it would do nothing here; the task knows its labels",
    "average_tokens_across_devices": "it would do nothing here; every term is divided by its count over all processes",
    "resume_from_checkpoint": "a run goes on by itself; delete its folder to start anew",
    "do_train": "a run always trains",
    "do_predict": "a run always evaluates",
}
"""Keys of TrainingArguments that have their place elsewhere, or would do nothing, and why."""

NUMERIC_TRAINING = (
    "learning_rate",
    "num_train_epochs",
    "weight_decay",
    "warmup_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "logging_steps",
)
"""Keys of TrainingArguments whose values must be finite numbers of at least 0."""


def check_training_values(training: Any, where: str) -> None:
    """Refuse keys of ``training`` that have their place elsewhere, and numbers that are none."""
    if not isinstance(training, Mapping):
        return
    for key, value in training.items():
        if key in RESERVED_TRAINING:
            raise RecipeError(f"{where}.{key}: cannot be set here: {RESERVED_TRAINING[key]}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key in NUMERIC_TRAINING and value is not None and not (is_number and 0 <= value < float("inf")):
            raise RecipeError(f"{where}.{key}: expected a finite number of at least 0, got {shown(value)}")


def check_training(training: Mapping[str, Any]) -> None:
    """Refuse keys that TrainingArguments does not know."""
    from transformers import TrainingArguments

    known = [each.name for each in dataclasses.fields(TrainingArguments) if each.init]
    for key in training:
        if key not in known:
            raise RecipeError(f"recipe.training.{key}: TrainingArguments has no such key{nearest_or_all(key, known)}")
