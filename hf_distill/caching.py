"""From a live teacher to a cached one: what must be kept, where it lies, and whether it is there already."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from hf_distill.errors import CacheError, TeacherError
from hf_distill.heads import compared_layers
from hf_distill.objectives import Objective
from hf_distill.pairing import with_row_ids
from hf_distill.recipe import CacheConfig
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher, EnsembleTeacher, ModelTeacher, ServerTeacher
from hf_distill.teachers.cache import Collate, Plan, Reader, fill, kept_rows
from hf_distill.teachers.schemes import SCHEMES, Arrays, NaiveTopK, Sampled, Scheme, TopK
from hf_distill.views import OF_THE_DATA, Need

FORMAT = 1
"""Of the files; raised when what they hold changes."""

MOST_DENSE = 4096
"""Classes up to which all logits are kept."""

CLOSE = 0.05
"""By how much what was kept may differ from what the live teacher says now; half precision rounds."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a cache is made of.

    Attributes:
        teacher: Live.
        weights: What tells its weights from others: a commit of the Hub, or the checksum of files; of a served teacher
            its name.
        task: Bound to the data.
        tokenizer: The student's, which pads the rows.
        student: The student's config: layer maps depend on it.
        data_fingerprint: Of the rows before they were encoded.
        seed: Of the draws.
    """

    teacher: ModelTeacher | ServerTeacher
    weights: str
    task: Task
    tokenizer: PreTrainedTokenizerBase
    student: PretrainedConfig
    data_fingerprint: str
    seed: int


@dataclass(frozen=True)
class Demand:
    """Who asks a cache.

    Attributes:
        objectives: Of one student.
        student: Its config.
    """

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
    report: Callable[[str], None],
    others: Sequence[Demand] = (),
) -> tuple[CachedTeacher, Dataset, Dataset]:
    """A teacher that reads what the live one says of these rows, which it says now unless it did before.

    Args:
        source: What it is made of.
        train: Encoded.
        validation: Encoded.
        objectives: That will ask it; they are left as they are.
        config: ``teacher.cache`` of a recipe.
        folder: Where caches lie; this one is found there by what it is made of.
        batch_size: Rows of a forward pass.
        report: Gets lines that tell what happens.
        others: What else the same cache is to serve.

    Returns:
        The teacher, and both data sets with the ids that it knows their rows by.

    Raises:
        TeacherError: Where a cache of this kind cannot serve an objective.
        CacheError: Where the folder holds a cache of something else, or what it holds is broken.
    """
    rows = concatenate_datasets([train, validation.cast(train.features)])
    plan = _plan(source, len(rows), (Demand(objectives, source.student), *others), config, folder)
    plan = _larger(plan, config, folder) or plan
    other = source.teacher.tokenizer
    collate = with_row_ids(source.task.collator(source.tokenizer, other))
    needs: frozenset[Need] = frozenset(
        [*(["logits"] if plan.scheme else []), *(["hidden_states"] if plan.layers else [])]  # type: ignore[list-item]
    )
    device = source.teacher.device

    def targets(batch: Any) -> Any:
        return source.teacher.targets(source.task, batch, needs, states={"hidden_states": plan.layers})

    if plan.scheme is not None and plan.scheme.warning:
        report(f"warning: {plan.scheme.warning}")
    plan.claim()
    is_complete = plan.is_complete()
    # All look before one writes: a process that came late and found nothing left to do would not wait for the others.
    PartialState().wait_for_everyone()
    if is_complete:
        report(f"cache: {plan.folder} fits and is complete")
    else:
        report(f"cache: {len(rows):,} rows to {plan.folder}, {_described(plan)}")
        fill(plan, rows, collate, targets, source.task.masks, device, batch_size, report)
    if config.verify:
        _verify(plan, rows, collate, source, needs, config.verify)
        report(f"cache: {config.verify} rows compared with the live teacher: the same")
    teacher = CachedTeacher(
        plan, source.teacher.config, source.teacher.name, source.teacher.dtype, source.teacher.tokenizer
    )
    numbered = rows.add_column("row_id", list(range(len(rows))))
    return teacher, numbered.select(range(len(train))), numbered.select(range(len(train), len(rows)))


def check_cache(objectives: Mapping[str, Objective], config: CacheConfig, has_vocabulary: bool) -> float | None:
    """Refuse what no cache of this kind can serve, before anything is loaded.

    Returns:
        The temperature at which the cache must be made; None where it serves any.

    Raises:
        TeacherError: With the way out.
    """
    for name, objective in objectives.items():
        if objective.cross_tokenizer:
            raise TeacherError(
                f"objective {name}: cross_tokenizer needs a live teacher: what a cache keeps is found by the student's "
                "tokens, which the teacher does not have; set teacher.kind to live"
            )
        beyond = objective.needs - OF_THE_DATA - {"logits", "hidden_states"}
        if beyond:
            raise TeacherError(
                f"objective {name} needs the teacher's {' and '.join(sorted(beyond))}, which a cache does not keep: "
                "they would be larger than the model; use a live teacher (teacher.kind: live), or hidden, of the side "
                "that writes"
            )
    if config.scheme == "dense" and has_vocabulary:
        raise TeacherError(
            "teacher.cache.scheme: dense keeps all logits of a few classes, but those over a vocabulary are never held "
            "whole; use sampled, or top_k"
        )
    if config.scheme == "dense" or (config.scheme == "auto" and not has_vocabulary):
        if config.draws is not None:
            raise TeacherError("teacher.cache.draws: does nothing for classes, of which all logits are kept; remove it")
        return None
    if not has_vocabulary:
        raise TeacherError(
            f"teacher.cache.scheme: {config.scheme} is for vocabularies; use dense, which keeps all classes"
        )
    return _temperature(objectives)


def check_served(objectives: Mapping[str, Objective]) -> None:
    """Refuse what no served teacher can give, before anything is loaded.

    Raises:
        TeacherError: With the way out.
    """
    for name, objective in objectives.items():
        beyond = objective.needs - OF_THE_DATA - {"logits"}
        if beyond:
            raise TeacherError(
                f"objective {name} needs the teacher's {' and '.join(sorted(beyond))}, which no server gives; use "
                "logits, or a teacher that is loaded here (teacher.model)"
            )
    temperature = _temperature(objectives, _SERVED)
    if temperature not in (None, 1.0):
        raise TeacherError(
            f"the objectives compare at temperature {temperature:g}, but a server tells the likeliest tokens at 1, and "
            "some probabilities of a distribution cannot be taken to another temperature; set temperature: 1.0, or use "
            "a teacher that is loaded here (teacher.model)"
        )


def weights_mark(folder: Path) -> str:
    """What tells the weights in a folder from others: the Hub's commit, or the checksum of the files.

    Args:
        folder: Of a model; in the Hub's cache it is named after the commit.
    """
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def _plan(source: Source, rows: int, demands: Sequence[Demand], config: CacheConfig, folder: Path) -> Plan:
    schemes = [_scheme(source, each.objectives, config) for each in demands if "logits" in _needs(each)]
    scheme = schemes[0] if schemes else None
    if any(each.settings != schemes[0].settings for each in schemes):
        told = ", ".join(str(each.settings) for each in schemes)
        raise TeacherError(f"a cache is made at one temperature, but its students ask for several ({told}); use one")
    layers = _layers(source, [each for each in demands if "hidden_states" in _needs(each)])
    tokenizers = [source.tokenizer, *([source.teacher.tokenizer] if source.teacher.tokenizer is not None else [])]
    teacher = source.teacher
    identity = {
        "format": FORMAT,
        "teacher": Path(teacher.name).name,
        "weights": source.weights,
        "dtype": str(teacher.dtype).removeprefix("torch."),
        "labels": teacher.label_order,
        "tokenizer": tokenizer_mark(tokenizers),
        "task": {"name": source.task.name, **source.task.settings},
        "data": source.data_fingerprint,
        "rows": rows,
        "scheme": None if scheme is None else {"name": scheme.name, **scheme.settings},
        "hidden_states": list(layers),
        "seed": source.seed,
        **({"members": teacher.model.description} if isinstance(teacher, EnsembleTeacher) else {}),
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    place = Path(config.path) if config.path is not None else folder / digest[:12]
    return Plan(folder=place, identity=identity, scheme=scheme, layers=layers, rows=rows, seed=source.seed)


def _needs(demand: Demand) -> frozenset[Need]:
    return frozenset().union(*(objective.needs for objective in demand.objectives.values()))


def _larger(plan: Plan, config: CacheConfig, folder: Path) -> Plan | None:
    """The same plan in a complete cache that holds it and more hidden states, or logits that are not asked for."""
    for place in (plan.folder, *(sorted(folder.glob("*")) if config.path is None else ())):
        path = place / "manifest.json"
        there = json.loads(path.read_text()) if path.is_file() else {}
        asked = {**json.loads(json.dumps(plan.identity)), "hidden_states": there.get("hidden_states", [])}
        if plan.scheme is None:
            asked["scheme"] = there.get("scheme")
        found = dataclasses.replace(plan, folder=place, identity=there)
        if there == asked and set(plan.layers) <= set(there["hidden_states"]) and found.is_complete():
            return found
    return None


def _scheme(source: Source, objectives: Mapping[str, Objective], config: CacheConfig) -> Scheme:
    vocabulary = source.teacher.outputs
    name = config.scheme
    if name == "auto":
        name = "sampled" if source.task.has_vocabulary else "dense"
    if name == "dense":
        if vocabulary > MOST_DENSE:
            raise TeacherError(
                f"teacher.cache.scheme: dense keeps all {vocabulary:,} logits of every position; it is for up to "
                f"{MOST_DENSE} classes: use sampled, or top_k"
            )
        return SCHEMES["dense"]()
    if isinstance(source.teacher, ServerTeacher):
        check_served(objectives)
        return TopK(1.0, vocabulary, source.teacher.k)
    check_cache(objectives, config, source.task.has_vocabulary)
    temperature = _temperature(objectives)
    assert temperature is not None
    if name == "sampled":
        return Sampled(temperature, vocabulary, **({} if config.draws is None else {"draws": config.draws}))
    kind = NaiveTopK if name == "naive_top_k" else TopK
    return kind(temperature, vocabulary, **({} if config.k is None else {"k": config.k}))


_CACHED = ("a cache keeps", "is made", "a live teacher (teacher.kind: live)")
_SERVED = ("a server gives", "is asked", "a teacher that is loaded here (teacher.model)")


def _temperature(objectives: Mapping[str, Objective], words: tuple[str, str, str] = _CACHED) -> float | None:
    """The one at which all objectives compare, if any does; refused where some probabilities cannot serve one of them.

    ``words`` tell who has only some of them, what it does, and what has all.
    """
    whose, does, instead = words
    asked = {}
    for name, objective in objectives.items():
        if "logits" not in objective.needs:
            continue
        options = getattr(objective, "options", {})
        divergence = getattr(objective, "divergence", None)
        if divergence != "forward_kl":
            raise TeacherError(
                f"objective {name} ({divergence or type(objective).__name__}) needs the probability of every token, "
                f"and {whose} some of them: use divergence: forward_kl, or {instead}"
            )
        if "temperature" in objective.schedules:
            raise TeacherError(
                f"objective {name}: temperature goes from {objective.schedules['temperature']}, but some probabilities "
                "of a distribution, known at one temperature, cannot be taken to another; use one temperature, or "
                f"{instead}"
            )
        asked[name] = float(options["temperature"])
    if len(set(asked.values())) > 1:
        told = ", ".join(f"{name} {temperature:g}" for name, temperature in asked.items())
        raise TeacherError(
            f"{whose.rsplit(' ', 1)[0]} {does} at one temperature, but the objectives ask for several ({told}); use one"
        )
    return next(iter(asked.values()), None)


def _layers(source: Source, demands: Sequence[Demand]) -> tuple[int, ...]:
    if source.teacher.config is None:
        return ()
    total = compared_layers(source.teacher.config)
    found: set[int] = set()
    for demand in demands:
        for objective in demand.objectives.values():
            if "hidden_states" in objective.needs:
                chosen = objective.teacher_layers(demand.student, source.teacher.config)
                found |= set(range(total + 1)) if chosen is None else set(chosen)
    return tuple(sorted(found))


def tokenizer_mark(tokenizers: Sequence[PreTrainedTokenizerBase]) -> str:
    """Of vocabulary, way of cutting, special tokens and chat template."""
    parts = []
    for tokenizer in tokenizers:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        parts.append(
            [
                _without_length(json.loads(backend.to_str())) if backend is not None else sorted(tokenizer.get_vocab()),
                tokenizer.special_tokens_map,
                tokenizer.chat_template,
                tokenizer.padding_side,
            ]
        )
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _without_length(settings: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer remembers how it was last asked to cut and pad; that is no part of it."""
    return {name: value for name, value in settings.items() if name not in ("truncation", "padding")}


def _described(plan: Plan) -> str:
    logits = [] if plan.scheme is None else [plan.scheme.name]
    return " and ".join([*logits, *([f"hidden states {list(plan.layers)}"] if plan.layers else [])])


def _verify(plan: Plan, rows: Dataset, collate: Collate, source: Source, needs: frozenset[Need], count: int) -> None:
    """Compare some rows, evenly spread, with what the live teacher says now.

    Raises:
        CacheError: Where they differ by more than rounding.
    """
    numbers = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)).tolist()
    reader = Reader(plan)
    for number in numbers:
        batch = {name: value.to(source.teacher.device) for name, value in collate([rows[number]]).items()}
        now = kept_rows(
            plan,
            [number],
            source.teacher.targets(source.task, batch, needs, states={"hidden_states": plan.layers}),
            source.task.masks(batch),
        )[0]
        (kept,) = reader.rows([number])
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
