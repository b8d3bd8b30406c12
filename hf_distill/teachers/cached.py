"""A teacher whose targets were taken once and are read from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from hf_distill.errors import CacheError
from hf_distill.models.forward import compared_layers
from hf_distill.tasks import Task
from hf_distill.teachers.base import Layers, States, Teacher
from hf_distill.teachers.cache_schemes import Arrays
from hf_distill.teachers.cache_shards import Rows
from hf_distill.teachers.cache_store import Plan, Reader
from hf_distill.types import Batch, Masks, Need, SparseLogits, Targets


class CachedTeacher(Teacher):
    """Targets of rows by their id, see ``row_id`` in a batch; the teacher that gave them is not asked again.

    Args:
        plan: Of a complete cache.
        teacher: The one whose targets were kept; it answers all else.
    """

    provides: frozenset[Need] = frozenset({"logits", "hidden_states"})
    reads_new_texts = False
    plan: Plan

    def __init__(self, plan: Plan, teacher: Teacher) -> None:
        self.plan, self.teacher = plan, teacher
        self.provides = plan.needs
        self.config, self.tokenizer, self.dtype = teacher.config, teacher.tokenizer, teacher.dtype
        self.facts, self.folders = teacher.facts, teacher.folders
        self.score, self.writer, self.identity = teacher.score, teacher.writer, teacher.identity  # type: ignore[method-assign]
        self._reader = Reader(plan)

    @property
    @override
    def name(self) -> str:
        return self.teacher.name

    @override
    def targets(
        self, task: Task, batch: Batch, needs: frozenset[Need], layers: Layers = (), states: States | None = None
    ) -> Targets:
        if "row_id" not in batch:
            raise CacheError("a batch without row ids cannot be looked up; train on the data set the cache gave back")
        masks = {unit: mask.cpu() for unit, mask in task.masks(batch).items()}
        # A row of which nothing counts was repeated to fill up the last batch of several processes, and emptied.
        counts = torch.cat([masks[unit].view(len(batch["row_id"]), -1) for unit in ("tokens", "positions")], 1).any(-1)
        ids = batch["row_id"][counts.to(batch["row_id"].device)].tolist()
        rows = self._reader.rows(ids) if ids else [_emptied(*self._reader.rows(batch["row_id"][:1].tolist()))]
        device = batch["row_id"].device
        logits = self._logits(ids, rows, masks, device) if "logits" in needs else None
        kept = self._states(ids, rows, masks, device) if "hidden_states" in needs else None
        return Targets(logits=logits, hidden_states=kept)

    def _logits(self, ids: Sequence[int], rows: Rows, masks: Masks, device: torch.device) -> Tensor | SparseLogits:
        assert self.plan.scheme is not None
        mask = masks["positions"]
        found = self.plan.scheme.give(_joined(rows, "positions"), _joined(rows, "entries"))
        count = len(found) if isinstance(found, Tensor) else len(found.ids)
        _check_count(ids, "positions", count, int(mask.sum()))
        at = mask.nonzero().squeeze(-1)

        def spread(values: Tensor) -> Tensor:
            """Values at their places among all positions, 0 elsewhere."""
            whole = values.new_zeros(len(mask), *values.shape[1:]).index_copy_(0, at, values)
            return whole.to(device)

        return spread(found) if isinstance(found, Tensor) else found.map(spread)

    def _states(self, ids: Sequence[int], rows: Rows, masks: Masks, device: torch.device) -> tuple[Tensor, ...]:
        """By index into the teacher's hidden states; empty where a layer was not kept, or is not asked for."""
        assert self.config is not None
        mask = masks["tokens"]
        states = [torch.empty(0)] * (compared_layers(self.config) + 1)
        asked = [{"tokens": {str(i): row["tokens"][str(i)] for i in self.plan.layers}} for row in rows]
        for name, values in _joined(asked, "tokens").items():
            _check_count(ids, "tokens", len(values), int(mask.sum()))
            kept = torch.from_numpy(values)
            kept = kept.view(torch.bfloat16) if kept.dtype == torch.uint16 else kept
            whole = kept.new_zeros(*mask.shape, kept.shape[-1])
            whole[mask] = kept
            states[int(name)] = whole
        return tuple(state.to(device) for state in states)


def _joined(rows: Rows, length: str) -> Arrays:
    return {name: np.concatenate([row[length][name] for row in rows]) for name in rows[0].get(length, {})}


def _emptied(row: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Arrays]:
    """The arrays of a row without what they hold, for a batch of which nothing counts."""
    return {length: {name: values[:0] for name, values in arrays.items()} for length, arrays in row.items()}


def _check_count(ids: Sequence[int], what: str, kept: int, asked: int) -> None:
    if kept != asked:
        raise CacheError(
            f"the cache holds {kept} {what} of the rows {', '.join(map(str, ids[:4]))}..., the batch has {asked}: the "
            "rows or the task's settings changed since it was made; delete the cache to make it anew"
        )
