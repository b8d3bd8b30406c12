"""Text classification: one text or a pair; one class, several classes, or a score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PretrainedConfig
from typing_extensions import override

from hf_distill.data.classes import LabelSet, ProblemType, as_given, label_decoder, notes_of, read_label_set
from hf_distill.data.forms.chat_rows import numbers_of
from hf_distill.data.rows import Data
from hf_distill.data.set_aside import set_aside
from hf_distill.errors import DataError, RecipeError
from hf_distill.names import are_generic
from hf_distill.recipe.parse import check_choice, check_option, checked_length
from hf_distill.tasks.encoding import asked_segments, columns_of, label_column, padded_inputs, replaced, were_cut
from hf_distill.tasks.label_sets import align_labels, label_set_of
from hf_distill.tasks.task import TEACHER_PREFIX, Task
from hf_distill.types import IGNORED, Batch, Collate, Distribution, LogitSource, Masks, Rows, Tokenizer, View

_DISTRIBUTIONS: dict[ProblemType, Distribution] = {
    "single_label_classification": "categorical",
    "multi_label_classification": "bernoulli",
    "regression": "real",
}


class ClassificationTask(Task, abstract=True):
    """Labels of a fixed set, known to the data and to models by their names."""

    def __init__(self, max_length: int, labels: list[str] | None = None) -> None:
        is_list = labels is None or (isinstance(labels, list) and len(set(map(str, labels))) == len(labels) > 1)
        check_option("labels", labels, is_list, "a list of different names, at least two")
        self.max_length = checked_length(max_length)
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


class TextClassification(ClassificationTask):
    """Rows of ``text``, optionally ``text_pair``, and ``label``.

    Labels are strings or whole numbers (one class), lists of them (several at once; also multi-hot, a list with 0 or 1
    for each label) or floats (a score). Rows whose label is None, empty or -1 of a ClassLabel are unlabelled: the
    teacher's targets alone teach there. Rows in memory may call the column ``labels``.

    Args:
        max_length: Tokens of one row, special ones included; longer texts are cut.
        problem_type: Overrules what the label column looks like: whole numbers that are a score, for instance.
        out_of_scope: The label of rows that are of no class. A run leaves them out of the training rows; where models
            are scored, they tell how well a model's confidence knows them from all others.
        labels: The names of the labels, where the data do not tell them: of numbers and multi-hot lists in their order.
    """

    name = "text-classification"
    pipeline_tag = "text-classification"
    auto_model = AutoModelForSequenceClassification
    required = ("text", "label")
    optional = ("text_pair",)
    text_columns = ("text", "text_pair")
    encoded_by = ("max_length", "problem_type", "out_of_scope")

    def __init__(
        self,
        *,
        max_length: int = 128,
        problem_type: ProblemType | None = None,
        out_of_scope: str | None = None,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__(max_length, labels)
        check_choice("problem_type", problem_type, (*get_args(ProblemType), None))
        check_option("out_of_scope", out_of_scope, isinstance(out_of_scope, str | None), "the name of a label")
        self._asked_type = problem_type
        self.out_of_scope = out_of_scope

    @property
    @override
    def distribution(self) -> Distribution:
        return _DISTRIBUTIONS[self.label_set.problem_type]

    @override
    def set_aside(self, data: Data) -> Data:
        if self.out_of_scope is None:
            return data
        found = read_label_set(data.train, "label", self._asked_type).problem_type
        if found != "single_label_classification":
            told = f"only where a row has one class of many, and this is {found}; remove it"
            raise RecipeError(f"task.out_of_scope: {told}")
        return set_aside(data, self.out_of_scope)

    @override
    def read_labels(self, train: Rows) -> None:
        self.labels = read_label_set(
            train, label_column(columns_of(train), "label"), self._asked_type, self._asked_names
        )

    @override
    def label_notes(self, train: Rows) -> Iterator[str]:
        yield from notes_of(train, "label", self.label_set, self._asked_type)

    @override
    def follow(self, config: PretrainedConfig) -> None:
        self.labels = label_set_of(config)

    @override
    def model_options(self) -> dict[str, Any]:
        return {**super().model_options(), "problem_type": self.label_set.problem_type}

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        unlabelled: Any = self._unlabelled()
        column = label_column(columns_of(rows), "label")
        labels = as_given(rows, column, self.label_set)
        decode = label_decoder(rows, column, labels)

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            encoded = self._tokens(batch, tokenizer)
            encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
            if teacher_tokenizer is not None:
                own = self._tokens(batch, teacher_tokenizer)
                encoded |= {TEACHER_PREFIX + name: values for name, values in own.items() if name != "cut"}
            raw = batch.get(column, [None] * len(batch["text"]))
            given = [labels.encode(decode(value)) for value in raw]
            encoded["labels"] = [unlabelled if label is None else label for label in given]
            return encoded

        return rows.map(encode_batch, batched=True, remove_columns=replaced(rows))

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        label_type = torch.long if self.distribution == "categorical" else torch.float

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            batch = padded_inputs(rows, tokenizer)
            if teacher_tokenizer is not None:
                batch |= padded_inputs(rows, teacher_tokenizer, TEACHER_PREFIX)
            values = [row.get(label_column(row, "labels")) for row in rows]
            filled = [self._unlabelled() if value is None else value for value in values]
            return {**batch, "labels": torch.tensor(filled, dtype=label_type)}

        return collate

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        found = super().completed(batch, tokenizer)
        labels, classes = found.get("labels"), len(self.label_set.names)
        if labels is None:
            return found
        if self.distribution == "categorical":
            if labels.is_floating_point():
                raise DataError(
                    f"labels: expected the number of one class a row, got {labels.dtype}: set config.problem_type of "
                    "the model to multi_label_classification or regression, or give whole numbers"
                )
            return {**found, "labels": labels.view(-1)}
        if labels.numel() != len(labels) * classes:
            raise DataError(
                f"labels: expected [{len(labels)}, {classes}] numbers for {classes} outputs, got {list(labels.shape)}; "
                "give one number (0 or 1 of each class) an output"
            )
        # As whole numbers, too: a mark of Transformers for no label stays one.
        whole = labels if labels.is_floating_point() else labels.float().masked_fill(labels == IGNORED, math.nan)
        return {**found, "labels": whole}

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens = batch["attention_mask"].bool()
        labels = batch.get("labels")
        if labels is None:
            labelled = tokens.new_zeros(len(tokens))
        elif labels.is_floating_point():
            labelled = ~labels.view(len(labels), -1).isnan().any(-1)
        else:
            labelled = labels != IGNORED
        positions = tokens.any(-1)
        return {"labels": labelled & positions, "positions": positions, "tokens": tokens}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        return self._view(logits, hidden_states, batch, batch.get("labels"))

    @override
    def training_rows(self, rows: Rows) -> dict[str, int]:
        if self.distribution != "categorical" or isinstance(rows, IterableDataset):
            return {}
        decode = label_decoder(rows, "label", self.label_set)
        indices = Counter(self.label_set.encode(decode(value)) for value in rows["label"])
        return {name: indices[i] for i, name in enumerate(self.label_set.names)}

    def _tokens(self, batch: Mapping[str, list[Any]], tokenizer: Tokenizer) -> dict[str, list[Any]]:
        limit = min(self.max_length, tokenizer.model_max_length)
        pair = batch.get("text_pair")
        encoded = tokenizer(batch["text"], pair, truncation=True, max_length=limit, **asked_segments(tokenizer))
        tokens = {name: values for name, values in encoded.items() if name != "attention_mask"}
        return {**tokens, "cut": were_cut(encoded, limit)}

    def _unlabelled(self) -> int | float | list[float]:
        if self.distribution == "categorical":
            return IGNORED
        return math.nan if self.distribution == "real" else [math.nan] * len(self.label_set.names)
