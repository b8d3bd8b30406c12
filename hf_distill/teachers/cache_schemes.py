"""What a cache keeps of a teacher's distribution, and what becomes of it again. A new scheme is one class here.

Keeping only the k likeliest tokens as if they were all is biased: the student is taught that nothing else can come.
Tokens drawn from the teacher are not: in the mean over draws they give the gradient of the whole distribution, at some
12 distinct tokens a position (Anshumann et al. 2025, Sparse Logit Sampling, section 4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.types import SparseLogits

Arrays = dict[str, np.ndarray]
"""By name."""

Kind = tuple[str, int | None]
"""Of an array: its dtype, as safetensors calls it, or several; and how many numbers an entry has, 0 where that is not
known, None where it has no second axis."""


SLACK = 0.05
"""By how much rounding to half precision may bring probabilities above 1."""


class Scheme(ABC):
    """How logits become arrays, and arrays targets."""

    name: ClassVar[str]
    warning: ClassVar[str | None] = None  # What a person should know who chooses it.
    draws: int = 0  # How many random numbers a position takes.

    @abstractmethod
    def keep(self, logits: Tensor, uniform: np.ndarray) -> tuple[Arrays, Arrays]:
        """Arrays with one entry a position, and arrays with the kept tokens of all positions, end to end.

        Args:
            logits: ``[n, V]``, the teacher's, float32.
            uniform: ``[n, draws]`` numbers between 0 and 1; all the chance there is.
        """

    @abstractmethod
    def give(self, positions: Mapping[str, np.ndarray], entries: Mapping[str, np.ndarray]) -> Tensor | SparseLogits:
        """What :meth:`keep` kept of n positions, as targets of n positions."""

    @abstractmethod
    def kinds(self) -> dict[str, Kind]:
        """What :meth:`keep` gives, by length and name: ``{"positions.logits": ("F32", 77)}``."""

    @abstractmethod
    def fault(self, part: Mapping[str, Arrays], bounds: Mapping[str, np.ndarray]) -> str | None:
        """What is wrong with arrays of the right kinds, read from disk, in a few words.

        Args:
            part: Of some rows, by length and name.
            bounds: Where each row starts in them, by length, and where the last one ends.
        """

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is kept."""
        return {}


class Dense(Scheme):
    """All logits as they are; for a few classes."""

    name = "dense"

    def __init__(self, classes: int = 0) -> None:
        self.classes = classes

    @override
    def keep(self, logits: Tensor, uniform: np.ndarray) -> tuple[Arrays, Arrays]:
        return {"logits": logits.float().cpu().numpy()}, {}

    @override
    def give(self, positions: Mapping[str, np.ndarray], entries: Mapping[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(np.array(positions["logits"]))

    @override
    def kinds(self) -> dict[str, Kind]:
        return {"positions.logits": ("F32", self.classes)}

    @override
    def fault(self, part: Mapping[str, Arrays], bounds: Mapping[str, np.ndarray]) -> str | None:
        largest = part["positions"]["logits"].max(axis=1)  # Which is NaN where one is.
        return None if np.isfinite(largest).all() else "logits are NaN or infinite"


class Sampled(Scheme):
    """Tokens drawn from the teacher, with how often each was drawn, and the entropy of the whole distribution.

    A token and its count share as few whole bytes as hold both: three, for 50 draws and up to 262,144 tokens.
    """

    name = "sampled"

    def __init__(self, temperature: float, vocabulary: int, draws: int = 50) -> None:
        if not 1 <= draws <= 255:
            raise RecipeError(f"recipe.teacher.cache.draws: expected 1 to 255, got {draws}")
        self.temperature, self.vocabulary, self.draws = temperature, vocabulary, draws
        self.count_bits = (draws - 1).bit_length()

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "draws": self.draws}

    @override
    def keep(self, logits: Tensor, uniform: np.ndarray) -> tuple[Arrays, Arrays]:
        log_probabilities = torch.log_softmax(logits.float() / self.temperature, -1)
        probabilities = log_probabilities.exp()
        entropy = -(probabilities * log_probabilities.clamp(min=-1e4)).sum(-1)
        # In float64: in float32 a sum of 1 swallows the rare tokens.
        cumulated = probabilities.cumsum(-1, dtype=torch.float64)
        sorted_draws = torch.from_numpy(np.sort(uniform, axis=1)).to(cumulated) * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, sorted_draws, right=True).clamp(max=self.vocabulary - 1).cpu().numpy()
        is_new = np.ones(drawn.shape, dtype=bool)
        is_new[:, 1:] = drawn[:, 1:] != drawn[:, :-1]
        starts = np.flatnonzero(is_new.ravel())
        counts = np.diff(starts, append=drawn.size)
        packed = (drawn.ravel()[starts].astype(np.int64) << self.count_bits) | (counts - 1)
        return (
            {"distinct": is_new.sum(1).astype(np.uint8), "entropy": entropy.cpu().numpy().astype(np.float16)},
            {"tokens": _bytes_of(packed, self._largest)},
        )

    @override
    def give(self, positions: Mapping[str, np.ndarray], entries: Mapping[str, np.ndarray]) -> SparseLogits:
        packed = _numbers_of(entries["tokens"])
        counts = (packed & (2**self.count_bits - 1)) + 1
        ids, shares = _padded(positions["distinct"], packed >> self.count_bits, counts.astype(np.float32) / self.draws)
        return SparseLogits(
            ids=ids,
            probabilities=shares,
            rest=None,
            entropy=torch.from_numpy(positions["entropy"].astype(np.float32)),
            temperature=self.temperature,
            vocabulary=self.vocabulary,
        )

    @property
    def _largest(self) -> int:
        return (self.vocabulary - 1) << self.count_bits | (2**self.count_bits - 1)

    @override
    def kinds(self) -> dict[str, Kind]:
        positions: dict[str, Kind] = {"positions.distinct": ("U8", None), "positions.entropy": ("F16", None)}
        return {**positions, "entries.tokens": ("U8", _width(self._largest))}

    @override
    def fault(self, part: Mapping[str, Arrays], bounds: Mapping[str, np.ndarray]) -> str | None:
        distinct, entropy = (part["positions"][name] for name in ("distinct", "entropy"))
        ends = np.concatenate([[0], np.cumsum(distinct, dtype=np.int64)])
        if not (distinct > 0).all() or not np.array_equal(ends[bounds["positions"]], bounds["entries"]):
            return "its numbers of tokens do not add up"
        if not np.isfinite(entropy).all() or (entropy < -1e-2).any():
            return "entropies are NaN, infinite or below 0"
        packed = _numbers_of(part["entries"]["tokens"])
        steps = np.diff(packed >> self.count_bits)
        steps[ends[1:-1] - 1] = 1  # From one position to the next.
        if (packed >> self.count_bits >= self.vocabulary).any() or (steps <= 0).any():
            return f"tokens are not in the vocabulary of {self.vocabulary:,}, or there twice"
        counts = (packed & (2**self.count_bits - 1)) + 1
        if len(distinct) and (np.add.reduceat(counts, ends[:-1]) != self.draws).any():
            return f"the draws of a position are not {self.draws}"
        return None


class TopK(Scheme):
    """The k likeliest tokens with their log-probabilities; all others as one, whose mass is what is left."""

    name = "top_k"

    def __init__(self, temperature: float, vocabulary: int, k: int = 64) -> None:
        if not 1 <= k <= min(vocabulary, 65535):
            raise RecipeError(f"recipe.teacher.cache.k: expected 1 to {min(vocabulary, 65535)}, got {k}")
        self.temperature, self.vocabulary, self.k = temperature, vocabulary, k

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "k": self.k}

    @override
    def keep(self, logits: Tensor, uniform: np.ndarray) -> tuple[Arrays, Arrays]:
        values, ids = torch.log_softmax(logits.float() / self.temperature, -1).topk(self.k, dim=-1)
        return self.keep_likeliest(ids, values)

    def keep_likeliest(self, ids: Tensor, values: Tensor) -> tuple[Arrays, Arrays]:
        """As :meth:`keep`, of k tokens ``[n, k]`` and their log-probabilities alone."""
        return {}, {
            "tokens": _bytes_of(ids.cpu().numpy().ravel(), self.vocabulary - 1),
            "log_probabilities": values.cpu().numpy().ravel().astype(np.float16),
        }

    @override
    def give(self, positions: Mapping[str, np.ndarray], entries: Mapping[str, np.ndarray]) -> SparseLogits:
        ids = torch.from_numpy(_numbers_of(entries["tokens"])).view(-1, self.k)
        kept = torch.from_numpy(entries["log_probabilities"].astype(np.float32)).view(-1, self.k).exp()
        return self._completed(ids, kept)

    @override
    def kinds(self) -> dict[str, Kind]:
        return {"entries.tokens": ("U8", _width(self.vocabulary - 1)), "entries.log_probabilities": ("F16", None)}

    @override
    def fault(self, part: Mapping[str, Arrays], bounds: Mapping[str, np.ndarray]) -> str | None:
        if (bounds["entries"] % self.k).any():
            return f"a row's tokens are not {self.k} a position"
        if (_numbers_of(part["entries"]["tokens"]) >= self.vocabulary).any():
            return f"tokens are not in the vocabulary of {self.vocabulary:,}"
        kept = part["entries"]["log_probabilities"].astype(np.float32)
        total = np.exp(np.minimum(kept, 1.0)).reshape(-1, self.k).sum(1)  # NaN stays, and is neither above nor below.
        return None if ((total > 0) & (total < 1 + SLACK)).all() else "probabilities do not add up to 1 or less"

    def _completed(self, ids: Tensor, kept: Tensor) -> SparseLogits:
        return with_rest(ids, kept, self.temperature, self.vocabulary)


class NaiveTopK(TopK):
    """The k likeliest tokens as if they were all there are: biased, see the top of this module."""

    name = "naive_top_k"
    warning = (
        "naive_top_k teaches the student that no token but the k likeliest can come: its gradient points elsewhere "
        "than that of the whole distribution; use sampled, or top_k, which keeps the rest's mass"
    )

    def _completed(self, ids: Tensor, kept: Tensor) -> SparseLogits:
        return _of_outcomes(ids, kept / kept.sum(1, keepdim=True), None, self.temperature, self.vocabulary)


def with_rest(ids: Tensor, probabilities: Tensor, temperature: float, vocabulary: int) -> SparseLogits:
    """The k likeliest tokens ``[n, k]`` and their probabilities as targets, with what is left as one bucket."""
    total = probabilities.sum(1)
    rest = (1.0 - total).clamp(min=0.0)
    # Rounding may have brought the sum above 1.
    whole = total + rest
    return _of_outcomes(ids, probabilities / whole[:, None], rest / whole, temperature, vocabulary)


def _of_outcomes(
    ids: Tensor, probabilities: Tensor, rest: Tensor | None, temperature: float, vocabulary: int
) -> SparseLogits:
    outcomes = probabilities if rest is None else torch.cat([probabilities, rest[:, None]], 1)
    return SparseLogits(
        ids=ids,
        probabilities=probabilities,
        rest=rest,
        entropy=-torch.special.xlogy(outcomes, outcomes).sum(1),
        temperature=temperature,
        vocabulary=vocabulary,
    )


SCHEMES: dict[str, Callable[..., Scheme]] = {scheme.name: scheme for scheme in (Dense, Sampled, TopK, NaiveTopK)}


def _width(largest: int) -> int:
    """How many bytes the largest number needs."""
    return max(1, (int(largest).bit_length() + 7) // 8)


def _bytes_of(numbers: np.ndarray, largest: int) -> np.ndarray:
    """``[E, B]``: whole numbers in as few bytes as the largest needs, the lowest first."""
    return numbers.astype("<i8")[:, None].view(np.uint8)[:, : _width(largest)]


def _numbers_of(packed: np.ndarray) -> np.ndarray:
    whole = np.zeros((len(packed), 8), dtype=np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view("<i8").ravel()


def _padded(lengths: np.ndarray, ids: np.ndarray, values: np.ndarray) -> tuple[Tensor, Tensor]:
    """Ragged rows as ``[n, longest]`` each, 0 where a row has no more."""
    lengths = lengths.astype(np.int64)
    longest = int(lengths.max(initial=1))
    there = np.arange(longest) < lengths[:, None]
    padded_ids, padded_values = np.zeros(there.shape, np.int64), np.zeros(there.shape, np.float32)
    padded_ids[there], padded_values[there] = ids, values
    return torch.from_numpy(padded_ids), torch.from_numpy(padded_values)
