"""A model that trains without dropout."""

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
    owners: list[Any] = list(model.modules())
    found = (vars(owner).get("config") for owner in owners)
    configs = {id(config): config for config in found if isinstance(config, PretrainedConfig)}
    before = [(owner, name, rate) for owner in [*owners, *configs.values()] for name, rate in _rates(owner)]
    try:
        for owner, name, _ in before:
            setattr(owner, name, 0.0)
        yield
    finally:
        for owner, name, rate in before:
            setattr(owner, name, rate)


def _rates(owner: Any) -> Iterator[tuple[str, float]]:
    for name, value in list(vars(owner).items()):
        is_rate = "drop" in name or (name == "p" and "Dropout" in type(owner).__name__)
        if is_rate and isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            yield name, float(value)
