"""Extractive question answering: where in a context the answer begins and ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForQuestionAnswering
from typing_extensions import override

from hf_distill.data.classes import STREAMED_LABELS
from hf_distill.data.forms.chat_rows import numbers_of
from hf_distill.errors import DataError, TeacherError
from hf_distill.models.forward import SEGMENTS
from hf_distill.recipe.parse import check_option, checked_length
from hf_distill.tasks.encoding import (
    asked_segments,
    check_offsets,
    columns_of,
    padded_inputs,
    pads_left,
    refuse_other_tokens,
)
from hf_distill.tasks.task import Task
from hf_distill.types import IGNORED, Batch, Collate, LogitSource, Masks, Rows, Tokenizer, View

PLACES_OF_ANSWERS = ("start_positions", "end_positions")
"""What Transformers' models call the two labels of a window."""


class Answer(NamedTuple):
    """A part of a context, by its text and the place of its first character."""

    text: str
    start: int


class QuestionAnswering(Task):
    """Rows of ``question``, ``context`` and ``answers``: ``{text: [...], answer_start: [...]}``, as SQuAD has them.

    A context that is longer than a window is read in several that overlap. A window has two positions, begin and end of
    the answer, each a choice among its tokens; where it does not hold the answer, both are its first special token.
    The first answer of a row teaches; any counts as right. Rows whose lists are empty have no answer, rows whose
    ``answers`` are None are unlabelled.

    Args:
        max_length: Tokens of one window, with question and special tokens; a question fills half of it at most.
        doc_stride: Tokens of the context that two windows share; unless given 128, or fewer where ``max_length`` is
            below 257.
        max_answer_length: Tokens of an answer at most, where models are scored.
    """

    name = "question-answering"
    pipeline_tag = "question-answering"
    auto_model = AutoModelForQuestionAnswering
    required = ("question", "context", "answers")
    text_columns = ("question", "context")
    scored_as = "answers"
    usage = "question-answering"
    cache_schemes = ()
    counted = "questions"
    encoded_by = ("max_length", "doc_stride")

    def __init__(self, *, max_length: int = 384, doc_stride: int | None = None, max_answer_length: int = 30) -> None:
        self.max_length = checked_length(max_length)
        if doc_stride is None:
            doc_stride = max(0, min(128, max_length // 2 - 1))
        told = f"a whole number from 0 to below half of max_length ({max_length}), so that every window shows something"
        fits = isinstance(doc_stride, int) and 0 <= doc_stride < max_length // 2
        check_option("doc_stride", doc_stride, fits, f"{told} new beside the question")
        fits = isinstance(max_answer_length, int) and max_answer_length >= 1
        check_option("max_answer_length", max_answer_length, fits, "a whole number of at least 1")
        self.doc_stride = doc_stride
        self.max_answer_length = max_answer_length
        self.may_abstain = False

    @override
    def read_labels(self, train: Rows) -> None:
        rows = (
            train["answers"] if isinstance(train, Dataset) else (r["answers"] for r in islice(train, STREAMED_LABELS))
        )
        self.may_abstain = any(value is not None and not answers_of(value) for value in rows)

    @override
    def check_labels(self, rows: Dataset, split: str) -> None:
        for number, (context, value) in enumerate(zip(rows["context"], rows["answers"], strict=True)):
            try:
                _check_places(context, [] if value is None else answers_of(value))
            except DataError as error:
                raise DataError(f"split {split!r}, row {numbers_of(rows)(number)}: {error}") from error

    @override
    def model_options(self) -> dict[str, Any]:
        return {"num_labels": 2}

    @override
    def check_tokenizers(self, by_bytes: bool) -> None:
        refuse_other_tokens(self.name)

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        """Tokenise rows, one row a window.

        Adds ``length``, ``row`` (the number of the question), ``nothing`` (the token that stands for no answer) and
        ``places``: of each token of the context the characters that it stands for, ``[-1, -1]`` of all others.
        """
        check_offsets(tokenizer)

        def encode_batch(batch: Mapping[str, list[Any]], numbers: Sequence[int]) -> dict[str, list[Any]]:
            encoded = self._windows(tokenizer, batch["question"], batch["context"])
            of_row = encoded["overflow_to_sample_mapping"]
            raw = batch.get("answers", [None] * len(numbers))
            known = [None if value is None else answers_of(value) for value in raw]
            for context, answers in zip(batch["context"], known, strict=True):
                _check_places(context, answers or [])
            places = [_places(window) for window in encoded.encodings]
            # No answer is the token that sums a text up, else the first.
            summing = tokenizer.cls_token_id
            nothing = [list(ids).index(summing) if summing in ids else 0 for ids in encoded["input_ids"]]
            kept = [name for name in ("input_ids", SEGMENTS) if name in encoded]
            return {
                **{name: encoded[name] for name in kept},
                "labels": [_label(p, n, known[i]) for p, n, i in zip(places, nothing, of_row, strict=True)],
                "length": [len(ids) for ids in encoded["input_ids"]],
                "row": [numbers[i] for i in of_row],
                "nothing": nothing,
                "places": [each.tolist() for each in places],
            }

        return rows.map(encode_batch, batched=True, with_indices=True, remove_columns=columns_of(rows))

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        left = pads_left(tokenizer)

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            batch = padded_inputs(rows, tokenizer)
            longest = batch["input_ids"].shape[1]
            shifts = [longest - len(row["input_ids"]) if left else 0 for row in rows]
            given = [row.get("labels", [row[name] for name in PLACES_OF_ANSWERS if name in row]) for row in rows]
            if not given[0]:
                return batch
            labels = torch.tensor(given)
            return {**batch, "labels": labels.where(labels == IGNORED, labels + torch.tensor(shifts)[:, None])}

        return collate

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        """Further: labels of start and end positions; one outside of the window counts nowhere, as in Transformers."""
        found = super().completed(batch, tokenizer)
        places = [found.pop(name).view(-1) for name in PLACES_OF_ANSWERS if name in found]
        if "labels" not in found and len(places) == len(PLACES_OF_ANSWERS):
            labels, length = torch.stack(places, 1), found["attention_mask"].shape[1]
            found["labels"] = labels.masked_fill((labels < 0) | (labels >= length), IGNORED)
        return found

    @override
    def turned(self, batch: Batch, tokenizer: Tokenizer | None) -> Batch:
        found = super().turned(batch, tokenizer)
        if found.get("attention_mask") is not batch.get("attention_mask") and {"labels", *PLACES_OF_ANSWERS} & {*found}:
            raise DataError(
                "a batch has rows that begin with padding, and does not tell whether the positions of answers count "
                "it; pad on the right (tokenizer.padding_side), and tokenise the rows again if they are padded"
            )
        return found

    @override
    def label_ids(self, batch: Batch) -> Any:
        return tuple(batch["labels"].unbind(1)) if "labels" in batch else None

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens, labels = batch["attention_mask"].bool(), batch.get("labels")
        positions = tokens.any(-1).repeat_interleave(2)
        labelled = positions & (labels != IGNORED).view(-1) if labels is not None else torch.zeros_like(positions)
        return {"labels": labelled, "positions": positions, "tokens": tokens}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        assert isinstance(logits, Tensor)
        padding, labels = ~batch["attention_mask"].bool(), batch.get("labels")
        shown = logits.masked_fill(padding[:, None], -torch.inf).flatten(0, 1)
        return self._view(shown, hidden_states, batch, None if labels is None else labels.view(-1))

    @override
    def check_mixture(self) -> None:
        raise TeacherError(
            f"several teachers: in {self.name} every row has classes of its own, which a mixture does not know; take "
            "one teacher"
        )

    def _windows(self, tokenizer: Tokenizer, questions: list[str], contexts: list[str]) -> Any:
        limit = min(self.max_length, tokenizer.model_max_length)
        asked = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        room = max(1, limit // 2 - 4)  # A pair has four special tokens at most.
        short = [q if len(o) <= room else q[: o[room - 1][1]] for q, o in zip(questions, asked, strict=True)]
        return tokenizer(
            short,
            contexts,
            truncation="only_second",
            max_length=limit,
            stride=min(self.doc_stride, limit // 2 - 1),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            **asked_segments(tokenizer),
        )


def answers_of(value: Any) -> list[Answer]:
    """The answers of a row, given as two lists, as a list of answers, or as a single one; empty where it has none."""
    try:
        if isinstance(value, Mapping):
            texts, starts = value["text"], value["answer_start"]
            pairs = [(texts, starts)] if isinstance(texts, str) else list(zip(texts, starts, strict=True))
        else:
            pairs = [(each["text"], each["answer_start"]) for each in value]
        return [Answer(text, int(start)) for text, start in pairs]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"answers are {value!r}, but where they stand in the context is needed: {{text: [...], answer_start: "
            "[...]} as SQuAD has them, or [{text: ..., answer_start: ...}]; give each its place"
        ) from error


def _check_places(context: str, answers: Sequence[Answer]) -> None:
    for text, start in answers:
        if not text.strip():
            raise DataError(
                f"an answer is {text!r}, which stands nowhere; give a question without an answer none: "
                "{text: [], answer_start: []}"
            )
        if context[start : start + len(text)] != text:
            raise DataError(
                f"an answer should stand in its context from character {start}: expected {text!r}, found "
                f"{context[start : start + len(text)]!r}; a wrong place teaches wrong answers: correct answer_start"
            )


def _places(window: Any) -> np.ndarray:
    """``[T, 2]``: first and last character of each token of the context, -1 of all others."""
    of_context = np.array([number == 1 for number in window.sequence_ids])
    return np.where(of_context[:, None], np.array(window.offsets), -1)


def _label(places: np.ndarray, nothing: int, answers: Sequence[Answer] | None) -> list[int]:
    """First and last token of the first answer."""
    if answers is None:
        return [IGNORED, IGNORED]
    tokens = np.flatnonzero((places >= 0).all(1))
    if not answers or not len(tokens):
        return [nothing, nothing]
    first, last = answers[0].start, answers[0].start + len(answers[0].text)
    starts, ends = places[tokens].T
    if starts[0] > first or ends[-1] < last:
        return [nothing, nothing]
    return [int(tokens[ends > first][0]), int(tokens[starts < last][-1])]
