"""hf_distill: distil big Transformers models into small ones, and prove how good they are.

The public names are imported when they are first used, so that ``import hf_distill`` costs nothing.
``hf_distill.objectives``, ``hf_distill.tasks`` and ``hf_distill.teachers`` are stable paths.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # The names of _HOMES, for editors and type checkers.
    from hf_distill.errors import HfDistillError
    from hf_distill.evaluation.metrics import Scorer
    from hf_distill.evaluation.scores import Scores
    from hf_distill.generation.rollout import Rollout
    from hf_distill.objectives import (
        DKD,
        Attention,
        Contrastive,
        Hidden,
        Labels,
        Logits,
        Objective,
        Relation,
        Similarity,
    )
    from hf_distill.pipeline.preflight import check
    from hf_distill.pipeline.run import Result, cache, distill, evaluate, label, push, run
    from hf_distill.recipe import Recipe, RolloutConfig
    from hf_distill.recipe.load_recipe import load_recipe
    from hf_distill.search.plan import StudentPlan, plan
    from hf_distill.search.sweep import Sweep, sweep
    from hf_distill.students.request import Student, StudentRequest
    from hf_distill.tasks import (
        AudioClassification,
        CausalLanguageModeling,
        CTCSpeechRecognition,
        Embeddings,
        ImageClassification,
        MaskedLanguageModeling,
        QuestionAnswering,
        SpeechRecognition,
        Summarization,
        Task,
        TextClassification,
        TokenClassification,
        Translation,
    )
    from hf_distill.teachers import CachedTeacher, EnsembleTeacher, ModelTeacher, ServedTeacher, Teacher
    from hf_distill.training.trainer import DistillationTrainer
    from hf_distill.types import HeadLogits, LogitSource, SparseLogits, Targets, View

__version__ = "0.1.0"

_HOMES = {
    "errors": "HfDistillError",
    "evaluation.metrics": "Scorer",
    "evaluation.scores": "Scores",
    "generation.rollout": "Rollout",
    "objectives": "DKD Attention Contrastive Hidden Labels Logits Objective Relation Similarity",
    "pipeline.preflight": "check",
    "pipeline.run": "Result cache distill evaluate label push run",
    "recipe": "Recipe RolloutConfig",
    "recipe.load_recipe": "load_recipe",
    "search.plan": "StudentPlan plan",
    "search.sweep": "Sweep sweep",
    "students.request": "Student StudentRequest",
    "tasks": "AudioClassification CTCSpeechRecognition CausalLanguageModeling Embeddings ImageClassification "
    "MaskedLanguageModeling QuestionAnswering SpeechRecognition Summarization Task TextClassification "
    "TokenClassification Translation",
    "teachers": "CachedTeacher EnsembleTeacher ModelTeacher ServedTeacher Teacher",
    "training.trainer": "DistillationTrainer",
    "types": "HeadLogits LogitSource SparseLogits Targets View",
}
_HOME_OF = {name: f"hf_distill.{module}" for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'hf_distill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
