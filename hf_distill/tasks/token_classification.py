"""Token classification: a label for each word, as in named-entity recognition and part-of-speech tagging."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForTokenClassification, PretrainedConfig
from typing_extensions import override

from hf_distill.data.classes import label_decoder, read_label_set
from hf_distill.data.tag_schemes import OUTSIDE, read_scheme
from hf_distill.errors import DataError
from hf_distill.names import shortened
from hf_distill.recipe.parse import check_option, checked_length
from hf_distill.tasks.encoding import (
    asked_segments,
    check_offsets,
    check_one_a_token,
    columns_of,
    label_column,
    padded,
    padded_inputs,
    pads_left,
    refuse_other_tokens,
    replaced,
    were_cut,
)
from hf_distill.tasks.labelled.label_sets import label_set_of
from hf_distill.tasks.labelled.labelled_task import ClassificationTask
from hf_distill.types import IGNORED, Batch, Collate, LogitSource, Masks, Rows, Tokenizer, View

SPECIAL = "special_tokens_mask"


class TokenClassification(ClassificationTask):
    """Rows of ``tokens``, a list of words, and ``labels``, one for each of them: strings, whole numbers or ClassLabels.

    A row is read as its words with a blank between them, as a text is read later. The label of a word stands on its
    first token; the student learns from the teacher on all tokens that are not special. Rows whose ``labels`` are None
    are unlabelled; so are words whose label is None, -100, or -1 of a ClassLabel.

    Args:
        max_length: Tokens of one row, special ones included; of longer rows the last words are not seen.
        label_all_subwords: Whether a word's further tokens have its label, too: I-x where the word's is B-x.
        labels: The names of the labels, where the data have numbers, in their order.
    """

    name = "token-classification"
    pipeline_tag = "token-classification"
    auto_model = AutoModelForTokenClassification
    required = ("tokens", "labels")
    text_columns = ("tokens",)
    scored_as = "tags"
    problem_type = name
    counted = "words"
    by_token = (*ClassificationTask.by_token, "labels")
    encoded_by = ("max_length", "label_all_subwords")

    def __init__(
        self, *, max_length: int = 128, label_all_subwords: bool = False, labels: list[str] | None = None
    ) -> None:
        super().__init__(labels)
        self.max_length = checked_length(max_length)
        is_flag = isinstance(label_all_subwords, bool)
        check_option("label_all_subwords", label_all_subwords, is_flag, "true or false")
        self.label_all_subwords = label_all_subwords

    @override
    def read_labels(self, train: Rows) -> None:
        found = read_label_set(train, "labels", None, self._asked_names, of_words=True)
        if found.problem_type != "multi_label_classification":
            raise DataError(
                "column 'labels' of the training split holds no lists, but every word needs a label of its own; map "
                "the right column in data.columns, or use the task text-classification"
            )
        self.labels = dataclasses.replace(found, problem_type="single_label_classification")

    @override
    def follow(self, config: PretrainedConfig) -> None:
        self.labels = dataclasses.replace(label_set_of(config), problem_type="single_label_classification")

    @override
    def check_tokenizers(self, by_bytes: bool) -> None:
        refuse_other_tokens(self.name)

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        """Tokenise rows; adds ``length``, ``cut``, ``first_tokens`` and ``word_labels``, both one a word."""
        check_offsets(tokenizer)
        limit = min(self.max_length, tokenizer.model_max_length)
        column = label_column(columns_of(rows), "labels")
        decode = label_decoder(rows, column, self.label_set)
        following = np.array([self._following(name) for name in self.label_set.names])

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            texts = [" ".join(words) for words in batch["tokens"]]
            encoded = tokenizer(
                texts,
                truncation=True,
                max_length=limit,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
                **asked_segments(tokenizer),
            )
            raw = batch.get(column, [None] * len(texts))
            given = [
                self._word_labels(words, decode(values)) for words, values in zip(batch["tokens"], raw, strict=True)
            ]
            words_of = [_words_of(*pair) for pair in zip(encoded["offset_mapping"], batch["tokens"], strict=True)]
            kept = {name: v for name, v in encoded.items() if name not in ("attention_mask", "offset_mapping")}
            return {
                **kept,
                "labels": [self._token_labels(*pair, following) for pair in zip(words_of, given, strict=True)],
                "length": [len(ids) for ids in encoded["input_ids"]],
                "cut": were_cut(encoded, limit),
                "first_tokens": [_first_tokens(*pair) for pair in zip(words_of, given, strict=True)],
                "word_labels": given,
            }

        return rows.map(encode_batch, batched=True, remove_columns=replaced(rows))

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        left = pads_left(tokenizer)

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            batch = padded_inputs(rows, tokenizer, more=[SPECIAL])
            column = label_column(rows[0], "labels")
            if column not in rows[0]:
                return batch
            return {**batch, "labels": torch.tensor(padded([list(row[column]) for row in rows], IGNORED, left))}

        return collate

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        """Further: what is special, told by the tokenizer, where no label says that it counts."""
        found = super().completed(batch, tokenizer)
        check_one_a_token(found, "labels")
        if SPECIAL not in found:
            tokens = found["attention_mask"]
            special = torch.zeros_like(tokens, dtype=torch.bool)
            if tokenizer is not None and "input_ids" in found:
                ids = torch.tensor(tokenizer.all_special_ids, device=tokens.device)
                special = torch.isin(found["input_ids"], ids)
            found[SPECIAL] = (special & (found["labels"] == IGNORED) if "labels" in found else special).long()
        check_one_a_token(found, SPECIAL)
        return found

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens, labels = batch["attention_mask"].bool(), batch.get("labels")
        positions = (tokens & ~batch[SPECIAL].bool()).view(-1)
        labelled = positions & (labels != IGNORED).view(-1) if labels is not None else torch.zeros_like(positions)
        return {"labels": labelled, "positions": positions, "tokens": tokens}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        assert isinstance(logits, Tensor)
        labels = batch.get("labels")
        return self._view(logits.flatten(0, 1), hidden_states, batch, None if labels is None else labels.view(-1))

    @override
    def texts(self, rows: Rows) -> Iterator[str]:
        for row in rows:
            yield " ".join(row["tokens"])

    @property
    @override
    def extra_columns(self) -> tuple[str, ...]:
        return (*super().extra_columns, SPECIAL)

    @override
    def _encoded_label(self, value: Any) -> Any:
        return None if value is None else self._word_labels(value, value)

    @override
    def label_notes(self, train: Rows) -> Iterator[str]:
        names = self.label_set.names
        scheme = read_scheme(names)
        if scheme.name is not None:
            kinds = sorted({tag[2:] for tag in scheme.tags if tag != OUTSIDE})
            yield f"labels: tags are {scheme.name}: whole entities are scored, of the types {shortened(kinds)}"
        else:
            unknown = "" if scheme.outside is not None else ", and none stands for no entity"
            hint = "; name them in task.labels" if all(name.lstrip("-").isdigit() for name in names) else ""
            yield f"labels: tags mark no entities (no B- or I-){unknown}: each word is scored by itself{hint}"
        if isinstance(train, Dataset):
            decode = label_decoder(train, "labels", self.label_set)
            tags = [tag for row in train["labels"] for tag in decode(row) or ()]
            if ignored := sum(tag is None or tag == IGNORED for tag in tags):
                yield f"labels: {ignored:,} of {len(tags):,} training words have none: they are ignored"

    def _word_labels(self, words: Sequence[str], values: Sequence[Any] | None) -> list[int]:
        if values is None:
            return [IGNORED] * len(words)
        if len(values) != len(words):
            raise DataError(
                f"a row has {len(words)} words and {len(values)} labels (it starts with {' '.join(words[:5])!r}); "
                "every word needs one: correct the row, or map the right columns in data.columns"
            )
        return [IGNORED if value is None or value == IGNORED else self.label_set.index(value) for value in values]

    def _following(self, name: str) -> int:
        """The label of the further tokens of a word: none, or the word's own, for which I-x stands in B-x's place."""
        if not self.label_all_subwords:
            return IGNORED
        inside = "I-" + name.removeprefix("B-")
        names = self.label_set.names
        return names.index(inside if name.startswith("B-") and inside in names else name)

    def _token_labels(self, words: np.ndarray, given: Sequence[int], following: np.ndarray) -> list[int]:
        """One label a token, :data:`IGNORED` where none counts."""
        if not given:
            return [IGNORED] * len(words)
        own = np.asarray(given)[words]
        labels = np.where(_is_first(words), own, following[np.maximum(own, 0)])
        return np.where((words < 0) | (own == IGNORED), IGNORED, labels).tolist()


def _words_of(offsets: Sequence[Sequence[int]], words: Sequence[str]) -> np.ndarray:
    """``[T]``: for each token the number of its word, -1 where it has none.

    A token belongs to the word of its last character: some tokenizers let the blank before a word begin it.
    """
    if not words:
        return np.full(len(offsets), -1)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    starts = ends - [len(word) for word in words]
    first, last = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    numbers = np.minimum(np.searchsorted(ends, last - 1, side="right"), len(words) - 1)
    inside = (last > first) & (starts[numbers] < last) & (last <= ends[numbers])
    return np.where(inside, numbers, -1)


def _is_first(words: np.ndarray) -> np.ndarray:
    """``[T]``: whether a token is the first of its word."""
    first = np.zeros(len(words), dtype=bool)
    numbers, places = np.unique(words, return_index=True)
    first[places[numbers >= 0]] = True
    return first


def _first_tokens(words: np.ndarray, given: Sequence[int]) -> list[int]:
    """One place a word: of its first token, or -1 where the model does not see the word."""
    places = np.full(len(given), -1)
    first = np.flatnonzero(_is_first(words))
    places[words[first]] = first
    return places.tolist()
