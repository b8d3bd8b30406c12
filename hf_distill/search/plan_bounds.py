"""What a planned student must keep to."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from hf_distill.errors import RecipeError
from hf_distill.recipe.parse import refuse_unless
from hf_distill.search.plan_speed import Measured


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a student must keep to, at least one of: speed in terms of the teacher's, latency of a row, parameters."""

    speedup: float | None = None
    max_latency_ms: float | None = None
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in dataclasses.astuple(self) if value is not None]
        refuse_unless(
            len(given) > 0, "plan: expected at least one of speedup, max_latency_ms and max_parameters; got none"
        )
        refuse_unless(
            all(value > 0 and math.isfinite(value) for value in given),
            f"plan: expected bounds above 0, got {', '.join(f'{value:g}' for value in given)}",
        )

    def kept(self, parameters: int, measured: Measured | None = None) -> float:
        """How far the bounds are kept: at least 1 where all are, less the further one is missed."""
        shares = [] if self.max_parameters is None else [self.max_parameters / parameters]
        if measured is not None:
            shares += [] if self.speedup is None else [measured.speedup / self.speedup]
            shares += [] if self.max_latency_ms is None else [self.max_latency_ms / measured.latency_ms]
        return min(shares, default=1.0)

    def __str__(self) -> str:
        texts = ("{:g} times the teacher's speed", "{:g} ms a row", "{:,} parameters")
        given = zip(texts, dataclasses.astuple(self), strict=True)
        return " and ".join(text.format(value) for text, value in given if value is not None)


def read_count(text: str) -> int:
    """A number of parameters as people write it: 10M, 1.5B, 500K, 66000000."""
    factor = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1:].upper())
    try:
        return int(float(text[:-1]) * factor) if factor else int(float(text))
    except (ValueError, OverflowError):
        raise RecipeError(f"max_parameters: expected a number such as 10M, 1.5B or 66000000, got {text!r}") from None
