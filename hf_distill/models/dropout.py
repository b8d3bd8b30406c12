"""A model that trains without dropout, or without that of whole layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

Rate = tuple[Any, str]
"""A module or a config, and what it calls a rate above 0."""


@contextmanager
def without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Set all dropout of a model to 0, of values and of layers; afterwards all is as it was.

    Rates are found by name, in modules and in configs, which some models (Falcon, Wav2Vec2) read while they run.
    """
    with at_zero(_owned_rates(model)):
        yield


def layer_rates(model: PreTrainedModel) -> list[Rate]:
    """The rates at which a model leaves out layers at random while it learns (Fan et al. 2019, LayerDrop).

    A layer that is left out has nothing to be compared, and Transformers counts the others as if it were not there.
    """
    return [(owner, name) for owner, name in _owned_rates(model) if "layerdrop" in name or "layer_drop" in name]


def layerdrop_note(rates: list[Rate]) -> list[str]:
    """A line that tells that these are 0 while objectives look into layers; none without any."""
    named = ", ".join(sorted({f"{name} {getattr(owner, name):g}" for owner, name in rates}))
    return [f"no layer is dropped ({named}), since objectives look into layers"] if rates else []


@contextmanager
def at_zero(rates: list[Rate]) -> Iterator[None]:
    """Set rates to 0; afterwards they are what they were."""
    before = [(owner, name, getattr(owner, name)) for owner, name in rates]
    try:
        for owner, name in rates:
            setattr(owner, name, 0.0)
        yield
    finally:
        for owner, name, rate in before:
            setattr(owner, name, rate)


def _owned_rates(model: PreTrainedModel) -> list[Rate]:
    owners: list[Any] = list(model.modules())
    found = (vars(owner).get("config") for owner in owners)
    configs = {id(config): config for config in found if isinstance(config, PretrainedConfig)}
    return [(owner, name) for owner in [*owners, *configs.values()] for name in _rates(owner)]


def _rates(owner: Any) -> Iterator[str]:
    for name, value in list(vars(owner).items()):
        is_rate = "drop" in name or (name == "p" and "Dropout" in type(owner).__name__)
        if is_rate and isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            yield name
