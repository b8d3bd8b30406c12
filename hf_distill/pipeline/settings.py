"""The settings of a training: the defaults of a recipe's ``training``, and the TrainingArguments that it becomes."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from transformers import TrainingArguments

from hf_distill.errors import RecipeError
from hf_distill.evaluation.metrics import OF_TOKENS
from hf_distill.recipe import Recipe
from hf_distill.recipe.stages import replaced_by_all
from hf_distill.tasks import task_class

DEFAULTS: dict[str, Any] = {
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "logging_steps": 50,
}
"""What a recipe's ``training`` holds unless it says otherwise; all else is TrainingArguments' own default."""


def with_defaults(recipe: Recipe) -> Recipe:
    """The recipe with the defaults of ``training`` filled in, its teacher's recipe too."""
    recipe = _with_metric(recipe)
    training = {**DEFAULTS, **recipe.training}
    if recipe.data.streaming:
        training = {**DEFAULTS, "eval_strategy": "steps", "save_strategy": "steps", **recipe.training}
        training["train_sampling_strategy"] = recipe.training.get("train_sampling_strategy", "random")
    # A default that every stage replaces would do nothing.
    training = {key: value for key, value in training.items() if not replaced_by_all(key, recipe.stages)}
    teacher = recipe.teacher
    if teacher is not None:
        teacher = teacher.with_recipes(with_defaults)
    return dataclasses.replace(recipe, training=training, teacher=teacher)


def _with_metric(recipe: Recipe) -> Recipe:
    """Models with different tokens are compared by bits a byte: a loss a token depends on how long tokens are."""
    shared = task_class(recipe.task.name).metric_across_tokenizers
    objectives = [objective for stage in recipe.by_stage().values() for objective in stage.objectives]
    if shared is None or not any(objective.options.get("cross_tokenizer") is True for objective in objectives):
        return recipe
    metric = recipe.evaluate.metric or shared
    if metric in OF_TOKENS:
        raise RecipeError(
            f"recipe.evaluate.metric: {metric} is a figure of each model's own tokens and says nothing across "
            f"tokenizers; remove it, or set it to {shared}"
        )
    return dataclasses.replace(recipe, evaluate=dataclasses.replace(recipe.evaluate, metric=metric))


def training_arguments(recipe: Recipe, output_dir: str, **more: Any) -> TrainingArguments:
    """``training`` as TrainingArguments."""
    machine = {"disable_tqdm": not sys.stderr.isatty(), "dataloader_pin_memory": torch.cuda.is_available()}
    settings = {**machine, **recipe.training, **more}
    try:
        return TrainingArguments(output_dir=output_dir, seed=recipe.seed, **settings)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"recipe.training: {error}") from error
