"""A recipe that is resolved: everything that a run needs to know before it loads a weight, made once and frozen.

runs/<name>/
  stages/<stage>/    of every stage but the last: student/, control/, checkpoints/
  student/           of the last one, as of a run without stages; so are control/ and checkpoints/
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from transformers import TrainingArguments

from hf_distill.data.load import Data
from hf_distill.evaluation.metrics import primary_metric
from hf_distill.objectives import Objective, make_objective, named_objectives
from hf_distill.pipeline.plans import ModelPlan
from hf_distill.pipeline.run_folder import RunFolder, recipe_hash
from hf_distill.pipeline.settings import training_arguments
from hf_distill.recipe import HubConfig, Recipe
from hf_distill.recipe.stages import in_stage
from hf_distill.tasks import Task


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
