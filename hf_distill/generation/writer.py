"""What lets a teacher write: the protocol that labelling uses, whatever kind of teacher stands behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hf_distill.tasks.rollout_batches import Prompts

RUN = 4
"""Length of the token runs that are counted as repeated (seq-rep-4 of Welleck et al. 2020)."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One text that a teacher wrote, without special tokens."""

    text: str
    tokens: int
    mean_log_probability: float | None  # The end token's included; None where a server does not tell.
    repetition: float  # The share of its runs of RUN tokens that occurred in it before.
    ended: bool  # Within the limit.


class Writer(Protocol):
    """A teacher that writes texts after prompts; ``teacher.writer(...)`` returns one."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain data on which its texts depend; part of what labels are found again by."""

    @property
    def description(self) -> str:
        """How it writes, in a few words for the log."""

    @property
    def at_once(self) -> int | None:
        """How many prompts :meth:`write` is best given; None: as many as there are."""

    def write(self, prompts: Prompts, places: Sequence[int], seed: int) -> list[list[Hypothesis]]:
        """Write after some of the prompts."""

    def content(self, ids: Sequence[int]) -> list[int]:
        """Tokens without special ones."""


def repeated_share(ids: Sequence[int]) -> float:
    """The share of runs of :data:`RUN` tokens that occurred before; 0 for texts that hold one run at most."""
    runs = [tuple(ids[i : i + RUN]) for i in range(len(ids) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
