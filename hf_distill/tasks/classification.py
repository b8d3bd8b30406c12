"""What tasks with a set of class labels share."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.tasks.base import Task
from hf_distill.tasks.labels import LabelSet, align_labels


class ClassificationTask(Task):
    """Labels of a fixed set, known to the data and to models by their names.

    Args:
        max_length: Tokens of one row, special ones included; longer rows are cut.

    Attributes:
        labels: The set; None until it is known.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = checked_length(max_length)
        self.labels: LabelSet | None = None

    @property
    @override
    def is_bound(self) -> bool:
        return self.labels is not None

    @property
    @override
    def label_set(self) -> LabelSet:
        assert self.labels is not None, "read_labels or follow comes first"
        return self.labels

    @override
    def model_options(self) -> dict[str, Any]:
        names = self.label_set.names
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
        }

    @override
    def align(self, teacher: PretrainedConfig, names: list[str] | None = None) -> list[int] | None:
        return align_labels(self.label_set, teacher, names)


def checked_length(max_length: int) -> int:
    """``task.max_length``, where it leaves room for anything.

    Raises:
        RecipeError: Where it does not.
    """
    if not isinstance(max_length, int) or max_length < 4:
        raise RecipeError(f"task.max_length: expected a whole number of at least 4, got {max_length!r}")
    return max_length
