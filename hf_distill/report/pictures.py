"""Small pictures of rows that a student takes for another class, where its card may quote rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure

from hf_distill.evaluation.classification import ClassScores
from hf_distill.evaluation.scores import Scores
from hf_distill.names import one_line
from hf_distill.report.figures import DOTS, save
from hf_distill.tasks import Task

SHOWN = 8
"""Pictures at most, those of which the student is surest."""

SIDE = 96
"""Pixels that a picture is made smaller to."""


def wrong_rows(scores: Scores) -> list[int]:
    """Rows that are taken for another class than they are of, the surest first; none where there is not one class."""
    if not isinstance(scores, ClassScores) or scores.many:
        return []
    wrong = np.flatnonzero(scores.decisions != scores.labels)
    found: list[int] = wrong[np.argsort(-scores.confidences[0][wrong], kind="stable")].tolist()
    return found


def show_wrong(task: Task, rows: Dataset, scores: Any, path: Path) -> int:
    """Draw pictures that the student takes for another class, with both names; gives how many are drawn."""
    numbers = wrong_rows(scores)[:SHOWN]
    pictures = [task.picture(rows[number]) for number in numbers]
    if not pictures or any(picture is None for picture in pictures):
        return 0
    names: Sequence[str] = scores.label_names
    figure = Figure(figsize=(6.4, 2.1 * -(-len(numbers) // 4)), dpi=DOTS, layout="constrained")
    for place, (number, picture) in enumerate(zip(numbers, pictures, strict=True)):
        axes = figure.add_subplot(-(-len(numbers) // 4), 4, place + 1)
        assert picture is not None
        picture.thumbnail((SIDE, SIDE))
        axes.imshow(np.asarray(picture.convert("RGB")))
        is_of, taken_for = (one_line(names[each[number]])[:18] for each in (scores.labels, scores.decisions))
        axes.set_title(f"{is_of}\ntaken for {taken_for}", fontsize=9, parse_math=False)
        axes.set_axis_off()
    save(figure, path)
    return len(numbers)
