"""A model that trains without dropout, or without that of whole layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel


@contextmanager
def without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Set all dropout of a model to 0, of values and of layers; afterwards all is as it was.

    Rates are found by name, in modules and in configs, which some models (Falcon, Wav2Vec2) read while they run.
    """
    with _at_zero(_owned_rates(model)):
        yield


@contextmanager
def without_layerdrop(model: PreTrainedModel) -> Iterator[None]:
    """Let a model run all its layers, also where it would leave some out at random (Fan et al. 2019, LayerDrop).

    A layer that is left out has nothing to be compared, and Transformers counts the others as if it were not there.
    """
    with _at_zero(_layer_rates(model)):
        yield


def layerdrop_note(model: PreTrainedModel) -> str | None:
    """A line that tells which rates :func:`without_layerdrop` sets to 0; None where there is none."""
    rates = {f"{name} {rate:g}" for _, name, rate in _layer_rates(model)}
    if not rates:
        return None
    return f"no layer is dropped ({', '.join(sorted(rates))} in its config), since objectives look into layers"


@contextmanager
def _at_zero(before: list[tuple[Any, str, float]]) -> Iterator[None]:
    try:
        for owner, name, _ in before:
            setattr(owner, name, 0.0)
        yield
    finally:
        for owner, name, rate in before:
            setattr(owner, name, rate)


def _layer_rates(model: PreTrainedModel) -> list[tuple[Any, str, float]]:
    return [each for each in _owned_rates(model) if "layerdrop" in each[1] or "layer_drop" in each[1]]


def _owned_rates(model: PreTrainedModel) -> list[tuple[Any, str, float]]:
    """Each rate above 0, with its name and its owner: a module or a config."""
    owners: list[Any] = list(model.modules())
    found = (vars(owner).get("config") for owner in owners)
    configs = {id(config): config for config in found if isinstance(config, PretrainedConfig)}
    return [(owner, name, rate) for owner in [*owners, *configs.values()] for name, rate in _rates(owner)]


def _rates(owner: Any) -> Iterator[tuple[str, float]]:
    for name, value in list(vars(owner).items()):
        is_rate = "drop" in name or (name == "p" and "Dropout" in type(owner).__name__)
        if is_rate and isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            yield name, float(value)
