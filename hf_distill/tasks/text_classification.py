"""Text classification: one text or a pair; one class, several classes, or a score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoModelForSequenceClassification
from typing_extensions import override

from hf_distill.data.classes import ProblemType
from hf_distill.recipe.parse import checked_length
from hf_distill.tasks.encoding import asked_segments, padded_inputs, replaced, were_cut
from hf_distill.tasks.labelled.row_classification import RowClassification
from hf_distill.tasks.task import TEACHER_PREFIX
from hf_distill.types import Batch, Collate, Masks, Rows, Tokenizer


class TextClassification(RowClassification):
    """Rows of ``text``, optionally ``text_pair``, and ``label``, see :class:`RowClassification`.

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
        super().__init__(problem_type, out_of_scope, labels)
        self.max_length = checked_length(max_length)

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        labels = self._encoder(rows)

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            encoded = self._tokens(batch, tokenizer)
            encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
            if teacher_tokenizer is not None:
                own = self._tokens(batch, teacher_tokenizer)
                encoded |= {TEACHER_PREFIX + name: values for name, values in own.items() if name != "cut"}
            encoded["labels"] = labels(batch, len(batch["text"]))
            return encoded

        return rows.map(encode_batch, batched=True, remove_columns=replaced(rows))

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            batch = padded_inputs(rows, tokenizer)
            if teacher_tokenizer is not None:
                batch |= padded_inputs(rows, teacher_tokenizer, TEACHER_PREFIX)
            return {**batch, "labels": self._label_tensor(rows)}

        return collate

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens = batch["attention_mask"].bool()
        positions = tokens.any(-1)
        return {"labels": self._labelled(batch, positions), "positions": positions, "tokens": tokens}

    def _tokens(self, batch: Mapping[str, list[Any]], tokenizer: Tokenizer) -> dict[str, list[Any]]:
        limit = min(self.max_length, tokenizer.model_max_length)
        pair = batch.get("text_pair")
        encoded = tokenizer(batch["text"], pair, truncation=True, max_length=limit, **asked_segments(tokenizer))
        tokens = {name: values for name, values in encoded.items() if name != "attention_mask"}
        return {**tokens, "cut": were_cut(encoded, limit)}
