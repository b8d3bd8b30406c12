"""Several teachers in a recipe: what can be refused before any is loaded, and who teaches which row."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from hf_distill.data.load import Data
from hf_distill.errors import DataError, RecipeError, TeacherError
from hf_distill.names import nearest
from hf_distill.objectives import Objective
from hf_distill.recipe import Recipe, TeacherConfig
from hf_distill.tasks import Task
from hf_distill.teachers import EnsembleTeacher, check_mixes, same_tokenizer
from hf_distill.types import OF_THE_DATA, TAUGHT_BY


def check_several(recipe: Recipe, task: Task, objectives: Mapping[str, Objective], scorers: Sequence[str]) -> None:
    """Refuse what several teachers cannot do together.

    Args:
        recipe: Perhaps with an ensemble.
        task: Bound to the data.
        objectives: By name.
        scorers: Of texts that models would write.

    Raises:
        TeacherError: Where the task, or an objective, asks for what lies within one model.
        RecipeError: Where texts are to be written.
    """
    if recipe.teacher is None or recipe.teacher.ensemble is None:
        return
    check_mixes(task)
    for name, objective in objectives.items():
        beyond = objective.needs - OF_THE_DATA - EnsembleTeacher.provides
        if beyond:
            raise TeacherError(
                f"objective {name} needs the teacher's {' and '.join(sorted(beyond))}, but several teachers say "
                "together how likely each answer is, and nothing of what lies within one of them; use logits, or name "
                "one teacher"
            )
        if objective.cross_tokenizer:
            raise TeacherError(
                f"objective {name}: cross_tokenizer compares a student with one teacher, and several mix what they say "
                "token by token; remove it and take a student with their tokenizer, or name one teacher"
            )
    if scorers:
        raise RecipeError(
            f"recipe.evaluate.scorers: several teachers score texts together, and write none that {', '.join(scorers)} "
            "could judge; remove them, or name one teacher"
        )


def check_one_tokenizer(tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    """Refuse members that do not cut texts into the same tokens; one may know more special ones, or padding rows.

    Raises:
        TeacherError: With the names of two that differ.
    """
    (first, own), *others = tokenizers.items()
    for name, other in others:
        if not same_tokenizer(own, other):
            raise TeacherError(
                f"several teachers read the same tokens, but {first} ({len(own):,} tokens) and {name} "
                f"({len(other):,}) cut texts into different ones; take members with one tokenizer, or distil from one "
                "after the other"
            )


def asked_columns(teacher: TeacherConfig | None) -> tuple[str, ...]:
    """The columns that teachers ask of the data, beside the task's."""
    return (teacher.route,) if teacher is not None and teacher.route is not None else ()


def with_teachers(data: Data, teacher: TeacherConfig | None, task: Task) -> Data:
    """The data, every row with the index of the member that teaches it; as it is where no column tells it.

    Raises:
        DataError: Where a row names no member, or a split has no such column.
    """
    if teacher is None or teacher.route is None or teacher.ensemble is None:
        return data
    names = [str(member.name) for member in teacher.ensemble]
    parts: dict[str, Any] = {name: getattr(data, name) for name in ("train", "validation", "test", "unlabelled")}
    notes = []
    for split, rows in parts.items():
        if rows is None:
            continue
        taught = _taught(rows, split, teacher.route, names)
        counts = Counter(taught)
        shown = ", ".join(f"{counts[number]:,} by {name}" for number, name in enumerate(names))
        notes.append(f"teacher: of {len(rows):,} {split} rows {shown} are taught")
        kept = rows if teacher.route in (*task.required, *task.optional) else rows.remove_columns([teacher.route])
        parts[split] = kept.add_column(TAUGHT_BY, taught)
    return dataclasses.replace(data, **parts, notes=(*data.notes, *notes))


def _taught(rows: Dataset, split: str, route: str, names: Sequence[str]) -> list[int]:
    """Which member teaches each row."""
    if route not in rows.column_names:
        raise DataError(
            f"split {split!r} has no column {route!r}, in which teacher.route looks for the name of each row's "
            f"teacher; it has {', '.join(rows.column_names)}; add it, or map it in data.columns"
        )
    feature = rows.features[route]
    values = [
        feature.int2str(value) if isinstance(feature, ClassLabel) and value is not None else value
        for value in rows[route]
    ]
    index = {name: number for number, name in enumerate(names)}
    unknown = [(number, value) for number, value in enumerate(values) if str(value) not in index]
    if unknown:
        number, value = unknown[0]
        raise DataError(
            f"split {split!r}: {len(unknown):,} of {len(values):,} rows name no teacher in column {route!r} (first: "
            f"row {number}, {value!r}); the teachers are called {', '.join(names)}{nearest(str(value), names)}"
        )
    return [index[str(value)] for value in values]
