"""What is pulled towards what. A new objective is one file here and its class's name among those of ``OBJECTIVES``.

May be imported: the objectives, ``make_objective`` and ``named_objectives``.
Never belongs here: which task is served, and where the targets come from.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from hf_distill.errors import ObjectiveError
from hf_distill.names import look_up
from hf_distill.objectives.attention_maps import Attention
from hf_distill.objectives.contrastive import Contrastive
from hf_distill.objectives.dkd import DKD
from hf_distill.objectives.hidden import Hidden
from hf_distill.objectives.label_loss import Labels, Router
from hf_distill.objectives.logits import Logits
from hf_distill.objectives.objective import Objective
from hf_distill.objectives.relation import Relation
from hf_distill.objectives.schedules import readable_option
from hf_distill.objectives.similarity import Similarity
from hf_distill.types import Need

__all__ = [
    "DKD",
    "OBJECTIVES",
    "Attention",
    "Contrastive",
    "Hidden",
    "Labels",
    "Logits",
    "Objective",
    "Relation",
    "Router",
    "Similarity",
    "looks_into_layers",
    "make_objective",
    "named_objectives",
    "readable_option",
]

_ALL: tuple[type[Objective], ...] = (Labels, Logits, Hidden, Relation, Attention, DKD, Similarity, Contrastive)
_WITHIN: frozenset[Need] = frozenset({"hidden_states", "encoder_states", "projections", "attentions"})
OBJECTIVES: dict[str, type[Objective]] = {kind.__name__.lower(): kind for kind in _ALL}


def make_objective(kind: str, options: Mapping[str, Any]) -> Objective:
    """An objective by name (``logits``) or dotted path (``my_package.losses:MyLoss``), with its options."""
    cls = look_up(kind, OBJECTIVES, "objective", ObjectiveError, Objective)
    known = [name for name in inspect.signature(cls).parameters if name != "self"]
    for name in options:
        if name not in known:
            raise ObjectiveError(f"objective {kind}: no option {name!r}; it knows {', '.join(known)}")
    try:
        return cls(**options)
    except TypeError as error:
        raise ObjectiveError(f"objective {kind}: {error}") from error


def looks_into_layers(objectives: Iterable[Objective]) -> bool:
    """Whether some of them look into layers of the student, and not at its outputs alone."""
    return any(not objective.needs.isdisjoint(_WITHIN) for objective in objectives)


def named_objectives(objectives: Iterable[Objective]) -> dict[str, Objective]:
    """Objectives by the name that logs show: ``logits``, and ``logits_2`` for a second one."""
    named: dict[str, Objective] = {}
    for objective in objectives:
        count = sum(type(other) is type(objective) for other in named.values())
        named[objective.name if not count else f"{objective.name}_{count + 1}"] = objective
    return named
