"""From a live teacher to a cached one: what must be kept, where it lies, and whether it is there already."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from hf_distill.artifacts import digest, read_json
from hf_distill.errors import CacheError, TeacherError
from hf_distill.models.forward import compared_layers
from hf_distill.objectives import Objective
from hf_distill.pipeline.cases import TargetsCase
from hf_distill.pipeline.compatibility import check_targets
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import Task
from hf_distill.tasks.encoding import with_row_ids
from hf_distill.teachers import CachedTeacher, Teacher
from hf_distill.teachers.cache_schemes import SCHEMES, Arrays, Kind, NaiveTopK, Sampled, Scheme, TopK
from hf_distill.teachers.cache_store import Plan, Reader, fill, kept_rows
from hf_distill.tokenizers.processors import processor_mark
from hf_distill.types import Batch, Collate, Need, Targets

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of the files; raised when what they hold changes: in 1 some teachers of pairs read no segments."""

MOST_DENSE = 4096
"""Classes up to which all logits are kept."""

CLOSE = 0.05
"""By how much what was kept may differ from what the live teacher says now; half precision rounds."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a cache is made of. Rows depend on the student's tokenizer, and layers on its config."""

    teacher: Teacher
    task: Task
    tokenizer: PreTrainedTokenizerBase
    student: PretrainedConfig
    data_fingerprint: str
    seed: int


class Demand(NamedTuple):
    """Who asks a cache: the objectives of a student, and its config."""

    objectives: Mapping[str, Objective]
    student: PretrainedConfig


def cached(
    source: Source,
    train: Dataset,
    validation: Dataset,
    objectives: Mapping[str, Objective],
    config: CacheConfig,
    folder: Path,
    batch_size: int,
    others: Sequence[Demand] = (),
) -> tuple[CachedTeacher, Dataset, Dataset]:
    """A teacher that reads what the live one says of these rows, which it says now unless it did before."""
    rows = concatenate_datasets([train, validation.cast(train.features)])
    plan = _plan(source, len(rows), (Demand(objectives, source.student), *others), config, folder)
    plan = _larger(plan, config, folder) or plan
    other = source.teacher.tokenizer
    collate = with_row_ids(source.task.collator(source.tokenizer, other))
    device = source.teacher.device

    def targets(batch: Batch) -> Targets:
        return source.teacher.targets(source.task, batch, plan.needs, states={"hidden_states": plan.layers})

    if plan.scheme is not None and plan.scheme.warning:
        logger.info(f"warning: {plan.scheme.warning}")
    plan.claim()
    plan = dataclasses.replace(plan, states=_states_of(plan, rows, collate, source, targets))
    plan.set_damaged_aside()
    missing = plan.shards.missing_for_all()
    if not missing:
        logger.info(f"cache: {plan.folder} fits and is complete")
    else:
        states = [f"hidden states {list(plan.layers)}"] if plan.layers else []
        kept = " and ".join([*([plan.scheme.name] if plan.scheme else []), *states])
        logger.info(f"cache: {len(rows):,} rows to {plan.folder}, {kept}")
        fill(plan, missing, rows, collate, targets, source.task.masks, device, batch_size)
    if config.verify:
        _verify(plan, rows, collate, source, targets, config.verify)
        logger.info(f"cache: {config.verify} rows compared with the live teacher: the same")
    teacher = CachedTeacher(plan, source.teacher)
    numbered = rows.add_column("row_id", list(range(len(rows))))
    return teacher, numbered.select(range(len(train))), numbered.select(range(len(train), len(rows)))


def _plan(source: Source, rows: int, demands: Sequence[Demand], config: CacheConfig, folder: Path) -> Plan:
    task, vocabulary, likeliest = source.task, source.teacher.outputs, source.teacher.likeliest
    asking = [each.objectives for each in demands if "logits" in _needs(each)]
    schemes = [scheme_of(task, objectives, config, vocabulary, likeliest) for objectives in asking]
    scheme = schemes[0] if schemes else None
    if any(each.settings != schemes[0].settings for each in schemes):
        told = ", ".join(str(each.settings) for each in schemes)
        raise TeacherError(f"a cache is made at one temperature, but its students ask for several ({told}); use one")
    layers = _layers(source, [each for each in demands if "hidden_states" in _needs(each)])
    tokenizers = [source.tokenizer, *([source.teacher.tokenizer] if source.teacher.tokenizer is not None else [])]
    identity = {
        "format": FORMAT,
        **source.teacher.identity(),
        "tokenizer": processor_mark(tokenizers),
        "task": {"name": source.task.name, **source.task.settings},
        "data": source.data_fingerprint,
        "rows": rows,
        "scheme": None if scheme is None else {"name": scheme.name, **scheme.settings},
        "hidden_states": list(layers),
        "seed": source.seed,
    }
    place = Path(config.path) if config.path is not None else folder / digest(identity)[:12]
    return Plan(folder=place, identity=identity, scheme=scheme, layers=layers, rows=rows, seed=source.seed)


def _needs(demand: Demand) -> frozenset[Need]:
    return frozenset().union(*(objective.needs for objective in demand.objectives.values()))


def _larger(plan: Plan, config: CacheConfig, folder: Path) -> Plan | None:
    """The same plan in a complete cache that holds it and more hidden states, or logits that are not asked for."""
    for place in (plan.folder, *(sorted(folder.glob("*")) if config.path is None else ())):
        try:
            there = read_json(place / "manifest.json", CacheError, "a manifest", ["hidden_states", "scheme"])
        except CacheError:  # Of another cache, or refused where this one is claimed.
            continue
        asked = {**json.loads(json.dumps(plan.identity)), "hidden_states": there["hidden_states"]}
        if plan.scheme is None:
            asked["scheme"] = there["scheme"]
        found = dataclasses.replace(plan, folder=place, identity=there)
        holds_all = there == asked and all(layer in list(there["hidden_states"]) for layer in plan.layers)
        if holds_all and not found.shards.missing():
            return found
    return None


def _states_of(
    plan: Plan, rows: Dataset, collate: Collate, source: Source, targets: Callable[[Batch], Targets]
) -> dict[int, Kind]:
    """Of which kind each hidden state is that the live teacher gives, where some are on disk already."""
    if not plan.layers or len(plan.shards.missing()) == len(plan.shards):
        return {}
    (row,) = _now(plan, [0], rows, collate, source, targets)
    kinds = {np.dtype(np.uint16): "U16", np.dtype(np.float16): "F16", np.dtype(np.float64): "F64"}
    return {int(layer): (kinds.get(kept.dtype, "F32"), kept.shape[-1]) for layer, kept in row["tokens"].items()}


def _now(
    plan: Plan,
    numbers: Sequence[int],
    rows: Dataset,
    collate: Collate,
    source: Source,
    targets: Callable[[Batch], Targets],
) -> list[dict[str, Arrays]]:
    """What a cache would keep now of some rows, each read alone."""
    found = []
    for number in numbers:
        batch = {name: value.to(source.teacher.device) for name, value in collate([rows[number]]).items()}
        found += kept_rows(plan, [number], targets(batch), source.task.masks(batch))
    return found


def scheme_of(
    task: Task, objectives: Mapping[str, Objective], config: CacheConfig, vocabulary: int, likeliest: int | None = None
) -> Scheme:
    """What is kept of so many logits of a position, of a served teacher the likeliest alone."""
    name = task.cache_schemes[0] if config.scheme == "auto" else config.scheme
    if name == "dense":
        if vocabulary > MOST_DENSE:
            raise TeacherError(
                f"teacher.cache.scheme: dense keeps all {vocabulary:,} logits of every position; it is for up to "
                f"{MOST_DENSE} classes: use sampled, or top_k"
            )
        return SCHEMES["dense"](task.reduced(torch.zeros(1, vocabulary)).shape[-1])
    if likeliest is not None:
        check_targets(TargetsCase(traits=frozenset({"served"}), task=task, objectives=objectives))
        return TopK(1.0, vocabulary, likeliest)
    case = TargetsCase(traits=frozenset({"cached"}), cache=config, task=task, objectives=objectives)
    check_targets(case)
    (temperature,) = set(case.temperatures.values())
    if name == "sampled":
        return Sampled(temperature, vocabulary, **({} if config.draws is None else {"draws": config.draws}))
    kind = NaiveTopK if name == "naive_top_k" else TopK
    return kind(temperature, vocabulary, **({} if config.k is None else {"k": config.k}))


def _layers(source: Source, demands: Sequence[Demand]) -> tuple[int, ...]:
    if source.teacher.config is None:
        return ()
    found: set[int] = set()
    for demand in demands:
        for objective in demand.objectives.values():
            if "hidden_states" in objective.needs:
                chosen = objective.teacher_layers(demand.student, source.teacher.config)
                found |= set(range(compared_layers(source.teacher.config) + 1) if chosen is None else chosen)
    return tuple(sorted(found))


def _verify(
    plan: Plan,
    rows: Dataset,
    collate: Collate,
    source: Source,
    targets: Callable[[Batch], Targets],
    count: int,
) -> None:
    """Compare some rows, evenly spread, with what the live teacher says now."""
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)).tolist()
    reader = Reader(plan)
    live = _now(plan, numbers, rows, collate, source, targets)
    for number, kept, now in zip(numbers, reader.rows(numbers), live, strict=True):
        if _differ(kept, now):
            raise CacheError(
                f"what the cache in {plan.folder} holds of row {number} is not what the teacher says of it now; "
                "delete the cache to make it anew"
            )


def _differ(kept: Mapping[str, Arrays], now: Mapping[str, Arrays]) -> bool:
    for length, arrays in now.items():
        for name, values in arrays.items():
            if name in ("distinct", "tokens") and length != "tokens":
                continue  # Which tokens are drawn may hang on the last bit; the entropy does not.
            there = kept[length][name]
            if there.shape != values.shape:
                return True
            first, second = (_as_float(each) for each in (there, values))
            if first.size and not np.abs(first - second).max() <= CLOSE * max(1.0, float(np.abs(second).std())):
                return True
    return False


def _as_float(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint16:
        return torch.from_numpy(np.array(values)).view(torch.bfloat16).float().numpy()
    return values.astype(np.float32)
