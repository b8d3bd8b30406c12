"""hf_distill: distil big Transformers models into small ones, and prove how good they are.

The public names are imported when they are first used, so that ``import hf_distill`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_distill.errors import HfDistillError
    from hf_distill.generation.rollout import Rollout
    from hf_distill.objectives import DKD, Attention, Hidden, Labels, Logits, Objective, Relation
    from hf_distill.pipeline.preflight import check
    from hf_distill.pipeline.run import Result, cache, distill, evaluate, label, push, run
    from hf_distill.recipe import Recipe, RolloutConfig
    from hf_distill.recipe.load_recipe import load_recipe
    from hf_distill.search.plan import StudentPlan, plan
    from hf_distill.search.sweep import Sweep, sweep
    from hf_distill.tasks import CausalLanguageModeling, Task, TextClassification
    from hf_distill.teachers import CachedTeacher, EnsembleTeacher, ModelTeacher, ServedTeacher, Teacher
    from hf_distill.training.trainer import DistillationTrainer

__version__ = "0.1.0"

__all__ = [
    "DKD",
    "Attention",
    "CachedTeacher",
    "CausalLanguageModeling",
    "DistillationTrainer",
    "EnsembleTeacher",
    "HfDistillError",
    "Hidden",
    "Labels",
    "Logits",
    "ModelTeacher",
    "Objective",
    "Recipe",
    "Relation",
    "Result",
    "Rollout",
    "RolloutConfig",
    "ServedTeacher",
    "StudentPlan",
    "Sweep",
    "Task",
    "Teacher",
    "TextClassification",
    "cache",
    "check",
    "distill",
    "evaluate",
    "label",
    "load_recipe",
    "plan",
    "push",
    "run",
    "sweep",
]

_HOMES = {
    "errors": ("HfDistillError",),
    "generation.rollout": ("Rollout",),
    "objectives": ("DKD", "Attention", "Hidden", "Labels", "Logits", "Objective", "Relation"),
    "pipeline.preflight": ("check",),
    "pipeline.run": ("Result", "cache", "distill", "evaluate", "label", "push", "run"),
    "recipe": ("Recipe", "RolloutConfig"),
    "recipe.load_recipe": ("load_recipe",),
    "search.plan": ("StudentPlan", "plan"),
    "search.sweep": ("Sweep", "sweep"),
    "tasks": ("CausalLanguageModeling", "Task", "TextClassification"),
    "teachers": ("CachedTeacher", "EnsembleTeacher", "ModelTeacher", "ServedTeacher", "Teacher"),
    "training.trainer": ("DistillationTrainer",),
}
_HOME_OF = {name: f"hf_distill.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hf_distill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
