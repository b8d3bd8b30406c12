"""A teacher cache on disk: a manifest that says what it was made of, and shards that are written side by side.

    <folder>/
      manifest.json              teacher, tokenizer, rows, scheme: a cache of anything else is refused by name
      shard-00000.safetensors    a fixed range of rows each, and its checksum

A shard is written whole or not at all, always from the same batches with the same random numbers, so that a run that
was broken off ends with the same bytes as one that was not.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor

from hf_distill.artifacts import Shards, claim, set_aside
from hf_distill.errors import CacheError
from hf_distill.teachers.cache_schemes import Arrays, Kind, Scheme, TopK
from hf_distill.teachers.cache_shards import DamagedShard, Shard, is_written, write_shard
from hf_distill.types import Batch, Collate, LogitSource, Masks, Need, SparseLogits, Targets, logits_at

logger = logging.getLogger(__name__)

SHARD_ROWS = 1024
"""Rows of a shard: what is done again, at most, by each process when a run was broken off."""

CHECKED_ROWS = 64
"""Rows of a shard that are looked at together when it is opened."""

ANY_STATES: Kind = ("F16 F32 F64 U16", 0)
"""What hidden states may be, where the teacher was not asked."""

CHUNK = 256
"""Positions whose logits are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a cache holds.

    Attributes:
        identity: What it is made of, by name; two caches are the same only where all of it is.
        scheme: What is kept of the logits; None where no objective asks for them.
        layers: The teacher's hidden states that are kept, as indices into its ``hidden_states``.
        states: The kind of each of them, by layer, where it is known.
    """

    folder: Path
    identity: Mapping[str, Any]
    scheme: Scheme | None
    layers: tuple[int, ...]
    rows: int
    seed: int
    states: Mapping[int, Kind] = field(default_factory=dict)

    @property
    def needs(self) -> frozenset[Need]:
        """What the cache gives."""
        kept: dict[Need, Any] = {"logits": self.scheme, "hidden_states": self.layers}
        return frozenset(need for need, what in kept.items() if what)

    @property
    def shards(self) -> Shards:  # noqa: D102
        return Shards(folder=self.folder, suffix=".safetensors", rows=self.rows, size=SHARD_ROWS, is_whole=is_written)

    def claim(self) -> None:
        """Make the folder this cache's, or see that it is."""
        if different := [
            f"{name} (there {_shown(there)}, asked {_shown(asked)})"
            for name, (there, asked) in claim(self.folder, self.identity, CacheError).items()
        ]:
            raise CacheError(
                f"the cache in {self.folder} was made of something else: {'; '.join(different)}; name another folder "
                "in teacher.cache.path, leave it out and the right one is found or made, or delete this one"
            )

    def open(self, number: int) -> Shard:
        """A shard that is whole: as it was written, and of values that a shard of this cache can hold."""
        shard = Shard(self.shards.path(number), len(self.shards.places(number)))
        if why := self._wrong_kind(shard) or self._wrong_values(shard):
            raise DamagedShard(shard.path, why)
        return shard

    def _wrong_kind(self, shard: Shard) -> str | None:
        kinds = {} if self.scheme is None else self.scheme.kinds()
        kinds |= {f"tokens.{layer}": self.states.get(layer, ANY_STATES) for layer in self.layers}
        for name, (dtypes, width) in kinds.items():
            if name not in shard.arrays:
                return f"it lacks {name!r}"
            dtype, shape = shard.arrays[name].get_dtype(), shard.arrays[name].get_shape()[1:]
            fits = 0 not in shape if width == 0 else shape == ([] if width is None else [width])
            if dtype not in dtypes.split() or len(shape) != (width is not None) or not fits:
                return f"{name!r} holds {shape} {dtype} an entry, not {[width or 'some'][: len(shape)]} {dtypes}"
        return None

    def _wrong_values(self, shard: Shard) -> str | None:
        for start in range(0, shard.rows, CHECKED_ROWS):
            stop = min(start + CHECKED_ROWS, shard.rows)
            part = shard.part(start, stop)
            bounds = {length: starts[start : stop + 1] - starts[start] for length, starts in shard.bounds.items()}
            if why := self.scheme.fault(part, bounds) if self.scheme is not None else None:
                return why
            if not all(_are_finite(part["tokens"][str(layer)]) for layer in self.layers):
                return "hidden states are NaN or infinite"
        return None

    def set_damaged_aside(self) -> None:
        """Rename shards that are not whole, so that they are written again; several processes share them."""
        for number in self.shards.own(range(len(self.shards))):
            if is_written(self.shards.path(number)):
                try:
                    self.open(number)
                except DamagedShard as error:
                    aside = set_aside(error.path)
                    logger.info(
                        f"warning: cache: {error.path} is damaged ({error.why}): renamed to {aside.name}, and the "
                        "teacher reads its rows again"
                    )
        PartialState().wait_for_everyone()


def fill(
    plan: Plan,
    missing: Sequence[int],
    rows: Dataset,
    collate: Collate,
    targets: Callable[[Batch], Targets],
    masks: Callable[[Batch], Masks],
    device: torch.device,
    batch_size: int,
) -> None:
    """Write the shards that are missing; several processes share them."""
    shards = plan.shards
    for number in shards.own(missing):
        places = shards.places(number)
        chosen = rows.select(places)
        order = np.argsort(chosen["length"], kind="stable")
        kept: dict[int, dict[str, Arrays]] = {}
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size].tolist()
            batch = {name: value.to(device) for name, value in collate([chosen[i] for i in numbers]).items()}
            found = kept_rows(plan, [places[i] for i in numbers], targets(batch), masks(batch))
            kept |= dict(zip(numbers, found, strict=True))
        write_shard(shards.path(number), [kept[i] for i in range(len(chosen))])
        logger.info(f"cache: shard {number + 1} of {len(shards)}")
    PartialState().wait_for_everyone()


class Reader:
    """Rows of a complete cache, by id; a shard that is missing or broken is refused when it is opened."""

    def __init__(self, plan: Plan) -> None:
        self._shard = functools.cache(plan.open)

    def rows(self, ids: Sequence[int]) -> list[dict[str, Arrays]]:
        """The arrays of rows, by length and name."""
        return [self._shard(number // SHARD_ROWS).row(number % SHARD_ROWS) for number in ids]


def kept_rows(plan: Plan, ids: Sequence[int], targets: Targets, masks: Masks) -> list[dict[str, Arrays]]:
    """What is kept of each row of a batch, by length and name."""
    rows: list[dict[str, Arrays]] = [{} for _ in ids]
    if plan.scheme is not None:
        assert targets.logits is not None
        for row, mask in zip(range(len(ids)), masks["positions"].view(len(ids), -1), strict=True):
            rows[row] |= _kept_positions(plan, ids[row], targets.logits, mask, row)
    if plan.layers:
        assert targets.hidden_states is not None
        # A row may hold several texts, one after the other.
        tokens = masks["tokens"].view(len(ids), -1)
        states = {j: targets.hidden_states[j].flatten(0, 1).view(*tokens.shape, -1) for j in plan.layers}
        for row, mask in enumerate(tokens):
            kept = {j: states[j][row][mask] for j in plan.layers}
            if not all(bool(torch.isfinite(each).all()) for each in kept.values()):
                raise _not_finite("hidden states", ids[row])
            rows[row]["tokens"] = {str(j): _as_array(each) for j, each in kept.items()}
    return rows


def _kept_positions(
    plan: Plan, row_id: int, logits: Tensor | LogitSource | SparseLogits, mask: Tensor, row: int
) -> dict[str, Arrays]:
    assert plan.scheme is not None
    chosen = mask.nonzero().squeeze(-1) + row * len(mask)
    if isinstance(logits, SparseLogits):
        assert isinstance(plan.scheme, TopK)
        kept = plan.scheme.keep_likeliest(logits.ids[chosen], logits.probabilities[chosen].log())
        return dict(zip(("positions", "entries"), kept, strict=True))
    # One stream of numbers a row: it depends on nothing but the seed and the row's id.
    stream = np.random.Generator(np.random.Philox(key=[plan.seed, row_id]))
    parts = []
    for part in chosen.split(CHUNK) if len(chosen) else [chosen]:
        own = logits_at(part, logits)
        if not bool(torch.isfinite(own.float().logsumexp(-1)).all()):
            raise _not_finite("logits", row_id)
        parts.append(plan.scheme.keep(own.float(), stream.random((len(part), plan.scheme.draws))))
    return {
        length: {name: np.concatenate([part[i][name] for part in parts]) for name in parts[0][i]}
        for i, length in enumerate(("positions", "entries"))
    }


def _are_finite(states: np.ndarray) -> bool:
    is_bfloat16 = states.dtype == np.uint16
    return not ((states & 0x7F80) == 0x7F80).any() if is_bfloat16 else bool(np.isfinite(states).all())


def _not_finite(what: str, row: int) -> CacheError:
    return CacheError(
        f"the teacher's {what} on row {row} are NaN or infinite; a cache would keep that for ever: try teacher.dtype: "
        "float32, or look at that row"
    )


def _as_array(states: Tensor) -> np.ndarray:
    """Half precision as the bits it is: numpy knows no bfloat16."""
    states = states.cpu()
    return states.view(torch.uint16).numpy() if states.dtype == torch.bfloat16 else states.numpy()


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
