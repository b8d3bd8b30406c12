"""A task that the package does not know: a line of words and its mood, named as ``tests.helpers.toy_task:ToyTask``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification

from hf_distill.data.classes import LabelSet
from hf_distill.tasks import Task
from hf_distill.types import View
from tests.helpers import tiny

MOODS = ("bad", "good")


class ToyTask(Task):
    """Rows of ``line`` and ``mood``."""

    name = "mood"
    pipeline_tag = "text-classification"
    auto_model = AutoModelForSequenceClassification
    required = ("line", "mood")
    text_columns = ("line",)
    counted = "lines"

    def __init__(self, *, max_length: int = 32) -> None:
        self.max_length = max_length

    @property
    def label_set(self) -> LabelSet:
        return LabelSet(problem_type="single_label_classification", names=MOODS)

    def model_options(self) -> dict[str, Any]:
        return {"id2label": dict(enumerate(MOODS)), "label2id": {name: i for i, name in enumerate(MOODS)}}

    def encode(self, rows: Any, tokenizer: Any, teacher_tokenizer: Any = None) -> Any:
        def encode_row(row: Mapping[str, Any]) -> dict[str, Any]:
            ids = tokenizer(row["line"], truncation=True, max_length=self.max_length)["input_ids"]
            return {"input_ids": ids, "labels": MOODS.index(row["mood"]), "length": len(ids)}

        return rows.map(encode_row, remove_columns=["line", "mood"])

    def collator(self, tokenizer: Any, teacher_tokenizer: Any = None) -> Callable[[list[Mapping[str, Any]]], Any]:
        def collate(rows: list[Mapping[str, Any]]) -> Any:
            padded = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
            return {**padded, "labels": torch.tensor([row["labels"] for row in rows])}

        return collate

    def masks(self, batch: Any) -> Any:
        tokens = batch["attention_mask"].bool()
        return {"labels": tokens.any(-1), "positions": tokens.any(-1), "tokens": tokens}

    def view(self, logits: Any, hidden_states: Any, batch: Any) -> View:
        return View(
            logits=logits,
            distribution=self.distribution,
            labels=batch["labels"],
            masks=self.masks(batch),
            hidden_states=hidden_states,
        )

    def texts(self, rows: Any) -> Iterator[str]:
        yield from (row["line"] for row in rows)


def splits() -> DatasetDict:
    """The rows of :func:`tests.helpers.tiny.splits` under the toy task's names."""
    return DatasetDict({name: _renamed(rows) for name, rows in tiny.splits(train=192, test=64).items()})


def _renamed(rows: Dataset) -> Dataset:
    return Dataset.from_dict({"line": rows["text"], "mood": [MOODS[label] for label in rows["label"]]})
