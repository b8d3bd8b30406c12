"""What tasks share whose labels are of a fixed set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import PretrainedConfig
from typing_extensions import override

from hf_distill.data.classes import LabelSet, label_decoder
from hf_distill.data.forms.chat_rows import numbers_of
from hf_distill.errors import DataError
from hf_distill.names import are_generic
from hf_distill.recipe.parse import check_option
from hf_distill.tasks.labelled.label_sets import align_labels, label_set_of
from hf_distill.tasks.task import Task


class ClassificationTask(Task, abstract=True):
    """Labels of a fixed set, known to the data and to models by their names."""

    def __init__(self, labels: list[str] | None = None) -> None:
        is_list = labels is None or (isinstance(labels, list) and len(set(map(str, labels))) == len(labels) > 1)
        check_option("labels", labels, is_list, "a list of different names, at least two")
        self.labels: LabelSet | None = None
        self._asked_names = None if labels is None else list(map(str, labels))

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "labels": self.label_set.names}

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
    def check_labels(self, rows: Dataset, split: str) -> None:
        column = self.required[-1]
        if column not in rows.column_names:
            return
        decode, known, numbered = label_decoder(rows, column, self.label_set), set[str](), numbers_of(rows)
        for number, value in enumerate(rows[column]):
            if (shown := str(value)) in known:
                continue
            known.add(shown)
            try:
                self._encoded_label(decode(value))
            except DataError as error:
                raise DataError(f"split {split!r}, row {numbered(number)}: {error}") from error

    def _encoded_label(self, value: Any) -> Any:
        return self.label_set.encode(value)

    @override
    def model_options(self) -> dict[str, Any]:
        names = self.label_set.names
        ids = {name: i for i, name in enumerate(names)}
        return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": ids}

    @override
    def align(self, teacher: PretrainedConfig, names: list[str] | None = None) -> list[int] | None:
        # Multi-hot lists tell no names: they are the teacher's.
        if self.label_set.multi_hot and are_generic(self.label_set.names):
            own = label_set_of(teacher).names if names is None else tuple(names)
            if len(own) == len(self.label_set.names):
                self.labels = replace(self.label_set, names=own)
        return align_labels(self.label_set, teacher, names)
