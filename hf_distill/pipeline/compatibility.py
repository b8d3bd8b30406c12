"""What a teacher of whom but some probabilities are known, by a cache or a server, cannot serve; and the way out."""

from __future__ import annotations

from collections.abc import Mapping

from hf_distill.errors import TeacherError
from hf_distill.objectives import Objective
from hf_distill.recipe import CacheConfig
from hf_distill.types import OF_THE_DATA

_CACHED = ("a cache keeps", "is made", "a live teacher (teacher.kind: live)")
_SERVED = ("a server gives", "is asked", "a teacher that is loaded here (teacher.model)")


def check_cache(objectives: Mapping[str, Objective], config: CacheConfig, has_vocabulary: bool) -> float | None:
    """Refuse what no cache of this kind can serve, before anything is loaded.

    Returns:
        The temperature at which the cache must be made; None where it serves any.

    Raises:
        TeacherError: With the way out.
    """
    for name, objective in objectives.items():
        if objective.cross_tokenizer:
            raise TeacherError(
                f"objective {name}: cross_tokenizer needs a live teacher: what a cache keeps is found by the student's "
                "tokens, which the teacher does not have; set teacher.kind to live"
            )
        beyond = objective.needs - OF_THE_DATA - {"logits", "hidden_states"}
        if beyond:
            raise TeacherError(
                f"objective {name} needs the teacher's {' and '.join(sorted(beyond))}, which a cache does not keep: "
                "they would be larger than the model; use a live teacher (teacher.kind: live), or hidden, of the side "
                "that writes"
            )
    if config.scheme == "dense" and has_vocabulary:
        raise TeacherError(
            "teacher.cache.scheme: dense keeps all logits of a few classes, but those over a vocabulary are never held "
            "whole; use sampled, or top_k"
        )
    if config.scheme == "dense" or (config.scheme == "auto" and not has_vocabulary):
        if config.draws is not None:
            raise TeacherError("teacher.cache.draws: does nothing for classes, of which all logits are kept; remove it")
        return None
    if not has_vocabulary:
        raise TeacherError(
            f"teacher.cache.scheme: {config.scheme} is for vocabularies; use dense, which keeps all classes"
        )
    return shared_temperature(objectives)


def check_served(objectives: Mapping[str, Objective]) -> None:
    """Refuse what no served teacher can give, before anything is loaded.

    Raises:
        TeacherError: With the way out.
    """
    for name, objective in objectives.items():
        beyond = objective.needs - OF_THE_DATA - {"logits"}
        if beyond:
            raise TeacherError(
                f"objective {name} needs the teacher's {' and '.join(sorted(beyond))}, which no server gives; use "
                "logits, or a teacher that is loaded here (teacher.model)"
            )
    temperature = shared_temperature(objectives, _SERVED)
    if temperature not in (None, 1.0):
        raise TeacherError(
            f"the objectives compare at temperature {temperature:g}, but a server tells the likeliest tokens at 1, and "
            "some probabilities of a distribution cannot be taken to another temperature; set temperature: 1.0, or use "
            "a teacher that is loaded here (teacher.model)"
        )


def shared_temperature(objectives: Mapping[str, Objective], words: tuple[str, str, str] = _CACHED) -> float | None:
    """The one at which all objectives compare, if any does; refused where some probabilities cannot serve one of them.

    ``words`` tell who has only some of them, what it does, and what has all.
    """
    whose, does, instead = words
    asked = {}
    for name, objective in objectives.items():
        if "logits" not in objective.needs:
            continue
        options = getattr(objective, "options", {})
        divergence = getattr(objective, "divergence", None)
        if divergence != "forward_kl":
            raise TeacherError(
                f"objective {name} ({divergence or type(objective).__name__}) needs the probability of every token, "
                f"and {whose} some of them: use divergence: forward_kl, or {instead}"
            )
        if "temperature" in objective.schedules:
            raise TeacherError(
                f"objective {name}: temperature goes from {objective.schedules['temperature']}, but some probabilities "
                "of a distribution, known at one temperature, cannot be taken to another; use one temperature, or "
                f"{instead}"
            )
        asked[name] = float(options["temperature"])
    if len(set(asked.values())) > 1:
        told = ", ".join(f"{name} {temperature:g}" for name, temperature in asked.items())
        raise TeacherError(
            f"{whose.rsplit(' ', 1)[0]} {does} at one temperature, but the objectives ask for several ({told}); use one"
        )
    return next(iter(asked.values()), None)
