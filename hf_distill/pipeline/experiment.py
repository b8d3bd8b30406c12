"""A recipe that is resolved: everything that a run needs to know before it loads a weight, made once and frozen.

runs/<name>/
  stages/<stage>/    of every stage but the last: student/, control/, checkpoints/
  student/           of the last one, as of a run without stages; so are control/ and checkpoints/
"""

from __future__ import annotations

import copy
import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_distill.data.rows import Data
from hf_distill.errors import RecipeError
from hf_distill.evaluation.metrics import OF_TOKENS, primary_metric
from hf_distill.objectives import Objective, make_objective, named_objectives
from hf_distill.pipeline.plans import ModelPlan
from hf_distill.pipeline.run_folder import RunFolder, recipe_hash
from hf_distill.recipe import HubConfig, Recipe
from hf_distill.recipe.stages import in_stage, replaced_by_all
from hf_distill.tasks import Task, task_class

DEFAULTS: dict[str, Any] = {
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_steps": 50,
}
"""What a recipe's ``training`` holds unless it says otherwise; all else is TrainingArguments' own default."""

KEPT_CHECKPOINTS = 2
"""``save_total_limit`` where a recipe gives none, and until the run is complete: then all checkpoints go."""


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
    """``training`` as TrainingArguments; refused by the key that they cannot be made of."""
    here = {"disable_tqdm": not sys.stderr.isatty(), "dataloader_pin_memory": torch.cuda.is_available()}

    def made(training: Mapping[str, Any]) -> TrainingArguments:
        settings = {**here, "save_total_limit": KEPT_CHECKPOINTS, **training, **more}
        return TrainingArguments(output_dir=output_dir, seed=recipe.seed, **settings)

    try:
        return made(recipe.training)
    except Exception as error:  # Whatever they raise is of what they were given.
        key = at_fault(recipe.training, made)
        way = "; correct or remove it" if key else ""
        raise RecipeError(f"recipe.training{key}: {one_line(error)}{way}") from error


def at_fault(training: Mapping[str, Any], attempt: Callable[[dict[str, Any]], object]) -> str:
    """The key of ``training`` without which an attempt succeeds, behind a dot; nothing where there is none."""
    for key in sorted(training, key=lambda key: bool(training[key] == DEFAULTS.get(key))):
        with suppress(Exception):
            attempt({name: value for name, value in training.items() if name != key})
            return f".{key}"
    return ""


def one_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    text = str(error.args[0]) if isinstance(error, PackageNotFoundError) and error.args else str(error)
    wanted = re.match(r"The '([^']+)' distribution was not found", text)
    text = f"{wanted[1]} is not installed: pip install '{wanted[1]}'" if wanted else text
    return " ".join(text.split()).rstrip(".") or type(error).__name__


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run's training.

    Attributes:
        name: As in the recipe; empty for the whole of a recipe without stages.
        recipe: What is trained in it; has no stages.
        folder: What it leaves.
        before: What the stage before it left; None for the first.
        objectives: By name, as the recipe gives them; :meth:`new_objectives` makes those that are trained with.
        arguments: The recipe's ``training``.
    """

    name: str
    recipe: Recipe
    folder: RunFolder
    before: RunFolder | None
    objectives: Mapping[str, Objective]
    arguments: TrainingArguments

    def new_objectives(self) -> dict[str, Objective]:
        """The objectives, not yet fitted to any pair of models."""
        return copy.deepcopy(dict(self.objectives))

    @property
    def prefix(self) -> str:
        """What lines about it begin with; empty for a recipe without stages."""
        return f"stage {self.name}: " if self.name else ""


def stages_of(recipe: Recipe, folder: RunFolder) -> tuple[Stage, ...]:
    """The stages of a run, in order; a single one for a recipe without stages."""
    recipes = recipe.by_stage()
    runs = folder.runs or folder.path.parent
    folders = [*(RunFolder(folder.path / "stages" / name, runs) for name in list(recipes)[:-1]), folder]
    stages = []
    for (name, each), own, before in zip(recipes.items(), folders, [None, *folders[:-1]], strict=True):
        with in_stage(name):
            stages.append(
                Stage(
                    name=name,
                    recipe=each,
                    folder=own,
                    before=before,
                    objectives=named_objectives(
                        make_objective(config.kind, {"weight": config.weight, **config.options})
                        for config in each.objectives
                    ),
                    arguments=training_arguments(each, str(own.checkpoints("student"))),
                )
            )
    return tuple(stages)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A resolved recipe.

    Attributes:
        recipe: With all defaults.
        task: Bound to the data.
        data: What the recipe's ``data`` hold.
        runs: The folder of all runs, which share teachers, caches and labels.
        folder: Where this run lies.
        stages: In order; one for a recipe without stages.
        teacher: Its shape; None where there is none, or where its weights are not here.
        student: Its shape.
        command: What runs it again.
    """

    recipe: Recipe
    task: Task
    data: Data
    runs: Path
    folder: RunFolder
    stages: tuple[Stage, ...]
    teacher: ModelPlan | None
    student: ModelPlan
    command: str

    @property
    def metric(self) -> str:
        """The metric that decides."""
        return primary_metric(self.task, self.recipe.evaluate)

    @property
    def rows(self) -> Dataset:
        """The rows that all models are scored on."""
        return self.data.evaluated(self.recipe.evaluate.split)

    @property
    def outside(self) -> Dataset | None:
        """The rows of that split that are of none of the classes, where the task set some aside."""
        return self.data.outside.get(self.recipe.evaluate.split)

    def renamed(self, name: str, folder: RunFolder) -> Experiment:
        """The same under another name and in another folder."""
        recipe = dataclasses.replace(self.recipe, name=name)
        return dataclasses.replace(self, recipe=recipe, folder=folder, stages=stages_of(recipe, folder))

    @property
    def sha256(self) -> str:
        """The hash of all that decides the results."""
        return recipe_hash(dataclasses.replace(self.recipe, hub=HubConfig()), self.data.fingerprint)
