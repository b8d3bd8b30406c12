"""Numbers of an objective that change while the student trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_distill.errors import ObjectiveError

Scheduled = float | Mapping[str, Any]
"""A number, or ``{from: 1.0, to: 0.1, shape: cosine}``."""

SHAPES = {"linear": lambda fraction: fraction, "cosine": lambda fraction: (1.0 - math.cos(math.pi * fraction)) / 2.0}
"""How much of the way is behind at a fraction of the training."""


@dataclass(frozen=True)
class Schedule:
    """The way of a number from one value to another over all steps of a training."""

    start: float
    end: float  # After the last step, and whenever the student is evaluated, so that evaluations compare.
    shape: str  # A name in ``SHAPES``.

    def __str__(self) -> str:
        return f"{self.start:g} to {self.end:g} ({self.shape})"

    def at(self, fraction: float) -> float:
        """The number at a fraction of the training, 0 to 1."""
        return self.start + (self.end - self.start) * SHAPES[self.shape](fraction)


def read_schedule(value: Scheduled, where: str, *, above_zero: bool) -> Schedule:
    """A schedule; for a plain number one that stays where it is."""
    given = value if isinstance(value, Mapping) else {"from": value, "to": value}
    if not {"from", "to"} <= given.keys() <= {"from", "to", "shape"}:
        example = "{from: 1.0, to: 0.1, shape: cosine}"
        raise ObjectiveError(f"{where}: a schedule has from, to and shape, such as {example}, got {dict(given)}")
    shape = given.get("shape", "linear")
    if shape not in SHAPES:
        raise ObjectiveError(f"{where}: shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    for number in (given["from"], given["to"]):
        is_number = isinstance(number, (int, float)) and type(number) is not bool and 0 <= number < math.inf
        if not is_number or (above_zero and number == 0):
            bound = "above 0" if above_zero else "of at least 0"
            raise ObjectiveError(f"{where} must be a finite number {bound}, got {number!r}")
    return Schedule(float(given["from"]), float(given["to"]), shape)


def readable_option(value: Any, form: str = "") -> str:
    """An option of an objective as a person reads it, in a format unless it is a schedule."""
    if isinstance(value, Mapping) and "from" in value:
        return str(Schedule(value["from"], value["to"], value.get("shape", "linear")))
    return f"{value:{form}}" if form else str(value)
