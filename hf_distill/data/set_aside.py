"""Rows that belong to none of the classes: left out of the training rows, kept aside where models are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import datasets
from datasets import Dataset, IterableDataset

from hf_distill.data.rows import Data
from hf_distill.errors import DataError, RecipeError
from hf_distill.names import nearest_or_all


def set_aside(data: Data, name: str) -> Data:
    """The data whose training, validation and test rows are all of a class; what was of none is in ``outside``."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    known = {label for rows in splits.values() for label in _labels(rows)}
    if name not in known:
        raise RecipeError(f"task.out_of_scope: no row is labelled {name!r}{nearest_or_all(name, sorted(known))}")
    inside = {split: _without(rows, name) for split, rows in splits.items()}
    for split, rows in inside.items():
        if isinstance(rows, Dataset) and not len(rows):
            raise DataError(f"split {split!r} holds rows labelled {name!r} alone, which are of no class; add others")
    count = ""
    if isinstance(data.train, Dataset):
        count = f"{len(data.train) - len(inside['train']):,} of {len(data.train):,} "
    note = f"out of scope: {count}training rows, labelled {name!r}, are left out: they are of no class"
    return dataclasses.replace(
        data,
        **inside,
        outside={split: _labelled(splits[split], name) for split in ("validation", "test")},
        notes=(*data.notes, note),
        loaded=data,
    )


def _labels(rows: Dataset | IterableDataset) -> set[str]:
    if (names := _names(rows)) is not None or not isinstance(rows, Dataset):
        return set(names or ())
    return {str(value) for value in rows["label"] if value is not None}


def _names(rows: Dataset | IterableDataset) -> list[str] | None:
    feature = rows.features.get("label") if rows.features else None
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def _is(rows: Dataset | IterableDataset, name: str) -> Callable[[Any], bool]:
    names = _names(rows)
    if names is None:
        return lambda value: value is not None and str(value) == name
    number = names.index(name) if name in names else None
    return lambda value: value is not None and value == number


def _labelled(rows: Dataset | IterableDataset, name: str) -> Dataset:
    assert isinstance(rows, Dataset)  # What is evaluated on is in memory.
    is_it = _is(rows, name)
    return rows.select([i for i, value in enumerate(rows["label"]) if is_it(value)]).remove_columns("label")


def _without(rows: Any, name: str) -> Any:
    """Rows of all other labels, whose features no longer name that one."""
    is_it = _is(rows, name)
    kept = rows.filter(lambda value: not is_it(value), input_columns="label")
    names = _names(rows)
    if names is None or name not in names:
        return kept
    rest = [each for each in names if each != name]
    number = {i: rest.index(each) for i, each in enumerate(names) if each != name}
    features = datasets.Features({**rows.features, "label": datasets.ClassLabel(names=rest)})
    return kept.map(
        lambda batch: {"label": [number.get(value, value) for value in batch["label"]]}, batched=True, features=features
    )
