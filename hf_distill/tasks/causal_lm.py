"""Causal language modelling: plain text, prompts with completions, and chats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from datasets import Dataset, Features, IterableDataset, Value
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from hf_distill.errors import DataError, RecipeError
from hf_distill.models.sanity_checks import check_head, check_packing
from hf_distill.tasks.base import TEACHER_PREFIX, Prompts, Task
from hf_distill.tasks.encoding import (
    IGNORED,
    Example,
    fit,
    last_turn,
    pack,
    padded,
    read_chat,
    read_completion,
    read_text,
)
from hf_distill.tasks.rollout_batches import WRITTEN, AfterPrompts, check_prompt_tokens
from hf_distill.tasks.routed import carried, check_apart
from hf_distill.tokenizers.chat import answered, render_chat
from hf_distill.tokenizers.cross_reader import NOWHERE, Reading, TeacherReader
from hf_distill.types import Batch, LogitSource, Masks, View

PLACES = TEACHER_PREFIX + "places"
"""The column of where, among the teacher's tokens, each of the student's is met."""

PACKED_TOGETHER = 10_000
"""Texts whose tokens are laid end to end; the last block of each such group may be short."""


class CausalLanguageModeling(Task):
    """Rows of ``text``, of ``prompt`` and ``completion``, or of ``messages``; each token predicts the next.

    Texts are packed: laid end to end and cut into blocks of ``max_length`` tokens, without padding. The positions start
    anew with each text, so that neither student nor teacher sees one text from another. Of prompts and completions only
    the completion counts, of chats only the assistant's turns.

    Args:
        max_length: Tokens of one row.
        packing: Only for ``text``: whether texts are packed, as they are unless this says no. Without it each text is a
            row of its own, cut into several where it is longer than ``max_length``.
        too_long: Not for ``text``: what happens to a row whose prompt leaves no room for its completion: ``drop`` it,
            as is done unless given, or ``truncate`` the prompt from its start. A completion is cut at its end.
        separator: Only for ``prompt`` and ``completion``: stands between them, and belongs to the prompt; nothing does
            unless given.

    Raises:
        RecipeError: For values out of bounds, and, once the rows are known, for options that they make idle.
    """

    name = "causal-lm"
    pipeline_tag = "text-generation"
    auto_model = AutoModelForCausalLM
    required = ()
    optional = ("text", "prompt", "completion", "messages")
    text_columns = ("text", "prompt", "completion")
    has_vocabulary = True
    by_token = True
    crosses_tokenizers = True
    reads_served = True
    counted = "tokens"

    def __init__(
        self,
        *,
        max_length: int = 512,
        packing: bool | None = None,
        too_long: Literal["drop", "truncate"] | None = None,
        separator: str | None = None,
    ) -> None:
        if not isinstance(max_length, int) or max_length < 4:
            raise RecipeError(f"task.max_length: expected a whole number of at least 4, got {max_length!r}")
        if too_long not in ("drop", "truncate", None):
            raise RecipeError(f"task.too_long: expected drop or truncate, got {too_long!r}")
        if not isinstance(separator, (str, type(None))):
            raise RecipeError(f"task.separator: expected a text, got {separator!r}")
        if not isinstance(packing, (bool, type(None))):
            raise RecipeError(f"task.packing: expected true or false, got {packing!r}")
        self.max_length = max_length
        self._given = {"packing": packing, "too_long": too_long, "separator": separator}
        self.packing = packing is not False
        self.too_long = too_long or "drop"
        self.separator = separator or ""
        self.form: str | None = None

    @property
    @override
    def extra_columns(self) -> tuple[str, ...]:
        return (*super().extra_columns, PLACES)

    @property
    @override
    def settings(self) -> dict[str, Any]:
        names = ("max_length", "packing", "too_long", "separator")
        return {name: getattr(self, name) for name in names}

    @override
    def read_labels(self, train: Dataset | IterableDataset) -> None:
        self._read_form(_columns(train))

    @override
    def check_model(self, model: PreTrainedModel) -> None:
        ids = torch.arange(2, 10, device=model.device)[None] % model.config.get_text_config().vocab_size
        check_head(model, {"input_ids": ids})
        if self.packing and self.form in (None, "text"):
            check_packing(model)

    def encode(
        self,
        rows: Dataset | IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Dataset | IterableDataset:
        """See :meth:`Task.encode`. Adds ``length``, ``labels``, ``bytes`` and ``position_ids`` where rows are packed.

        ``bytes`` are those that the tokens stand for that count. Where rows are not packed there are ``cut`` and
        ``source``, the row that each is of. For a teacher with another tokenizer there are its tokens of the same bytes
        and, for each of the student's, where among them the one stands that begins with it: ``teacher_places``.

        Raises:
            DataError: For a tokenizer without an end token or chat template, for rows that cannot be read, and where
                none is left because every prompt is too long.
            ModelError: For two tokenizers that cannot be compared.
            RecipeError: Where texts are packed and the teacher has another tokenizer.
        """
        columns = _columns(rows)
        form = self._read_form(columns)
        limit = min(self.max_length, tokenizer.model_max_length)
        packed = form == "text" and self.packing
        check_apart(columns, packed)
        if teacher_tokenizer is not None:
            self.check_crossing()
        reader = TeacherReader(tokenizer, teacher_tokenizer) if teacher_tokenizer is not None else None

        def encode_batch(batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
            given = [list(values) for values in zip(*(batch[name] for name in _FORMS[form]), strict=True)]
            examples = [self._read(tokenizer, form, values) for values in given]
            if packed:
                return pack(examples, limit)
            made: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, *(_READ_BESIDE if reader else ()))}
            pieces = []
            for number, values, example in zip(numbers, given, examples, strict=True):
                fitted = list(fit(example, limit, form == "text", self.too_long))
                for row in fitted:
                    ids, labels, sizes = (part[row] for part in example)
                    labels = [IGNORED, *labels[1:]] if form == "text" else labels
                    counted = sum(size for size, label in zip(sizes, labels, strict=True) if label != IGNORED)
                    cut = form != "text" and len(example[0]) > limit
                    beside = self._read_beside(reader, tokenizer, form, values, example[0], row) if reader else ()
                    found = (ids, labels, len(ids), cut, counted, number, *beside)
                    for column, value in zip(made.values(), found, strict=True):
                        column.append(value)
                pieces.append(len(fitted))
            return {**made, **carried(batch, pieces)}

        encoded: Dataset | IterableDataset = rows.map(
            encode_batch,
            batched=True,
            with_indices=True,
            batch_size=PACKED_TOGETHER if packed else 1000,
            remove_columns=columns,
        )
        if isinstance(encoded, Dataset) and not len(encoded):
            raise DataError(
                f"none of {len(rows)} rows is left: every prompt fills the {limit} tokens of task.max_length; raise "
                "it, or set task.too_long to truncate"
            )
        return encoded

    def prompts(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Prompts:
        """See :meth:`Task.prompts`: prompts without their completion, chats without the assistant's last turn.

        Raises:
            RecipeError: For plain text, which has no prompt.
        """
        form = self._read_form(_columns(rows))
        if form == "text":
            raise RecipeError(
                "recipe.evaluate.scorers: plain text has no prompt to write after; remove them, or give rows of prompt "
                "and completion, or of messages"
            )
        limit = min(self.max_length, tokenizer.model_max_length)
        input_ids: list[list[int]] = []
        references, row_ids, chats = [], [], []
        for number, row in enumerate(rows):
            example = self._read(tokenizer, form, [row[name] for name in _FORMS[form]])
            if not list(fit(example, limit, False, self.too_long)):
                continue
            input_ids.append(example[0][: last_turn(example[1])][-limit:])
            turns = [turn for turn in row.get("messages") or () if turn["role"] == "assistant"]
            references.append(turns[-1]["content"] if turns else row["completion"])
            row_ids.append(number)
            if turns:
                chats.append(answered(row["messages"], "")[:-1])
        return Prompts(input_ids=input_ids, references=references, row_ids=row_ids, chats=chats or None)

    def with_answers(self, rows: Dataset, texts: Sequence[str] | None) -> Dataset:
        """See :meth:`Task.with_answers`: other completions, or another last turn of the assistant.

        Raises:
            RecipeError: For plain text, which has no prompt.
        """
        if "messages" in rows.column_names:
            chats = map(answered, rows["messages"], texts or ["."] * len(rows))
            return _with_column(rows, "messages", list(chats))
        if "prompt" in rows.column_names:
            return _with_column(rows, "completion", list(texts or [""] * len(rows)))
        raise RecipeError(
            "recipe.label: plain text has no prompt that a teacher could write after; remove it, or give rows of "
            "prompt (with or without a completion), or of messages"
        )

    def writing(self, tokenizer: PreTrainedTokenizerBase | None, prompt_tokens: int | None = None) -> AfterPrompts:
        """See :meth:`Task.writing`.

        Raises:
            RecipeError: For texts that are packed, and for prompts of unknown length.
        """
        check_prompt_tokens(prompt_tokens, self.form)
        if self.form == "text" and self.packing:
            raise RecipeError(
                "task.packing: of texts that are laid end to end most have no beginning to write after; set it to "
                "false, or remove rollout"
            )
        return AfterPrompts(prompt_tokens)

    def _read(self, tokenizer: PreTrainedTokenizerBase, form: str, values: list[Any]) -> Example:
        options = {"separator": self.separator} if form == "completion" else {}
        return _READERS[form](tokenizer, *values, **options)

    def _read_beside(
        self,
        reader: TeacherReader,
        tokenizer: PreTrainedTokenizerBase,
        form: str,
        values: list[Any],
        ids: list[int],
        row: slice,
    ) -> Reading:
        if form == "messages":
            return reader.of_chat(render_chat(tokenizer, *values), render_chat(reader.tokenizer, *values), ids, row)
        return reader.of_text(self.separator.join(values), ids, row)

    def check_crossing(self) -> None:
        """See :meth:`Task.check_crossing`.

        Raises:
            RecipeError: For texts that are packed.
        """
        if self.packing and self.form in (None, "text"):
            raise RecipeError(
                "task.packing: a teacher with another tokenizer cuts texts that are laid end to end into other blocks "
                "than the student's; set it to false"
            )

    def _read_form(self, columns: list[str]) -> str:
        """What the rows are made of; refused where an option does nothing for them."""
        self.form = form = _form(columns)
        for name, value in self._given.items():
            if value is not None and form not in _FORMS_OF[name]:
                raise RecipeError(f"task.{name}: does nothing for rows of {' and '.join(_FORMS[form])}; remove it")
        return form

    @override
    def collator(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Callable[[list[Mapping[str, Any]]], Batch]:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)
        left = tokenizer.padding_side == "left"

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            masked = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
            fillers = {"input_ids": pad, "attention_mask": 0, "labels": IGNORED, "position_ids": 0, PLACES: NOWHERE}
            batch = {
                name: torch.tensor(padded([row[name] for row in masked], filler, left))
                for name, filler in fillers.items()
                if name in masked[0]
            }
            if PLACES not in batch:
                return batch
            # On the right, whatever its tokenizer says: the places count from the left.
            own = [row[TEACHER_PREFIX + "input_ids"] for row in rows]
            real = padded([[1] * len(ids) for ids in own], 0, left=False)
            read = {"input_ids": torch.tensor(padded(own, 0, left=False)), "attention_mask": torch.tensor(real)}
            return {**batch, **{TEACHER_PREFIX + name: value for name, value in read.items()}}

        return collate

    @override
    def student_inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = super().student_inputs(batch)
        if "position_ids" in inputs:
            # With a mask, Transformers would take the row for a single text.
            inputs.pop("attention_mask")
        return inputs

    @override
    def masks(self, batch: Batch) -> Masks:
        tokens = batch["attention_mask"].bool()
        if WRITTEN in batch:
            predicts = tokens & batch[WRITTEN].roll(-1, dims=1)
        elif "labels" not in batch:
            predicts = tokens & tokens.roll(-1, dims=1)
        else:
            predicts = tokens & (batch["labels"] != IGNORED).roll(-1, dims=1)
        predicts[:, -1] = False
        positions = predicts[:, :-1].flatten()
        labels = positions if WRITTEN not in batch else torch.zeros_like(positions)
        if PLACES in batch:
            positions = positions & (batch[PLACES][:, 1:] != NOWHERE).flatten()
        return {"labels": labels, "positions": positions, "tokens": predicts}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        shifted = (
            logits[:, :-1].flatten(0, 1)
            if isinstance(logits, Tensor)
            else LogitSource(hidden=logits.hidden[:, :-1].flatten(0, 1), head=logits.head)
        )
        labels = batch.get("labels")
        return View(
            logits=shifted,
            distribution="categorical",
            labels=labels[:, 1:].flatten() if labels is not None else None,
            masks=self.masks(batch),
            hidden_states=hidden_states,
        )

    @override
    def teacher_logits(
        self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch
    ) -> Tensor | LogitSource:
        if PLACES not in batch:
            return super().teacher_logits(logits, hidden_states, batch)
        assert isinstance(logits, LogitSource)
        before = (batch[PLACES][:, 1:] - 1).clamp(min=0)
        width = logits.hidden.shape[-1]
        hidden = logits.hidden.gather(1, before[..., None].expand(-1, -1, width))
        return LogitSource(hidden=hidden.flatten(0, 1), head=logits.head)

    @override
    def texts(self, rows: Dataset | IterableDataset) -> Iterator[str]:
        for row in rows:
            if row.get("messages") is not None:
                yield "\n".join(f"{turn['role']}: {turn['content']}" for turn in row["messages"])
            else:
                yield row["text"] if row.get("text") is not None else row["prompt"] + row["completion"]


_COLUMNS = ("input_ids", "labels", "length", "cut", "bytes", "source")
"""Of encoded rows that are not packed."""

_READ_BESIDE = (TEACHER_PREFIX + "input_ids", PLACES)
"""Beside them, where the teacher has another tokenizer."""

_FORMS = {"messages": ("messages",), "completion": ("prompt", "completion"), "text": ("text",)}
"""The columns of each form of rows; the first that is there wins."""

_FORMS_OF = {"packing": ("text",), "too_long": ("completion", "messages"), "separator": ("completion",)}
"""The forms of rows for which an option does something."""

_READERS: dict[str, Callable[..., Example]] = {
    "messages": read_chat,
    "completion": read_completion,
    "text": read_text,
}


def _form(columns: list[str]) -> str:
    for form, names in _FORMS.items():
        if set(names) <= set(columns):
            return form
    raise DataError(
        "causal-lm needs a column text, or prompt and completion, or messages; there are "
        f"{', '.join(columns) or 'none'}: name the right ones in data.columns"
    )


def _with_column(rows: Dataset, name: str, values: list[Any]) -> Dataset:
    features = Features({**rows.features, name: rows.features.get(name, Value("string"))})
    return Dataset.from_dict({**rows.to_dict(), name: values}, features=features)


def _columns(rows: Dataset | IterableDataset) -> list[str]:
    return list(rows.column_names or next(iter(rows)))
