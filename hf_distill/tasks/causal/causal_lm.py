"""Causal language modelling: plain text, prompts with completions, and chats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from hf_distill.data.forms.chat_rows import numbers_of
from hf_distill.errors import RecipeError
from hf_distill.models.sanity_checks import check_packing
from hf_distill.recipe.parse import check_option, checked_length
from hf_distill.tasks.causal.after_prompts import FIRST, AfterPromptsTask
from hf_distill.tasks.causal.row_checks import at_row, lines_of, none_left
from hf_distill.tasks.causal.row_forms import FORMS, columns_read, form_of
from hf_distill.tasks.encoding import (
    Example,
    carried,
    check_apart,
    columns_of,
    fit,
    pack,
    read_rendered,
)
from hf_distill.tasks.language import PACKED_TOGETHER, PLACES
from hf_distill.tasks.task import TEACHER_PREFIX
from hf_distill.tokenizers.chat import Chat
from hf_distill.tokenizers.cross_reader import TeacherReader
from hf_distill.tokenizers.templates import read_template
from hf_distill.types import IGNORED, Rows, Tokenizer


class CausalLanguageModeling(AfterPromptsTask):
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
        chat_template: Only for ``messages``: the template itself, a file of it (.jinja), or a tokenizer's folder or Hub
            id; it takes the place of each model's own, and is saved with the student.
    """

    name = "causal-lm"
    pipeline_tag = "text-generation"
    auto_model = AutoModelForCausalLM
    required = ()
    optional = ("text", "prompt", "completion", "messages", "tools")
    text_columns = ("text", "prompt", "completion")
    reads_served = True
    encoded_by = ("max_length", "packing", "too_long", "separator")

    def __init__(
        self,
        *,
        max_length: int = 512,
        packing: bool | None = None,
        too_long: Literal["drop", "truncate"] | None = None,
        separator: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.max_length = checked_length(max_length)
        check_option("too_long", too_long, too_long in ("drop", "truncate", None), "drop or truncate")
        check_option("separator", separator, isinstance(separator, str | None), "a text")
        check_option("packing", packing, isinstance(packing, bool | None), "true or false")
        is_template = chat_template is None or (isinstance(chat_template, str) and bool(chat_template.strip()))
        check_option("chat_template", chat_template, is_template, "a text that says something")
        given = {"packing": packing, "too_long": too_long, "separator": separator, "chat_template": chat_template}
        self._given = given
        self.chat_template = None if chat_template is None else read_template(chat_template)
        self._first: list[tuple[int, dict[str, Any]]] = []  # Chats that tell how turns end.
        self.packing = packing is not False
        self.too_long = too_long or "drop"
        self.separator = separator or ""
        self.form: str | None = None

    @override
    def read_labels(self, train: Rows) -> None:
        self._read_form(columns_of(train))
        if self.form == "messages":
            first = train.select(range(min(FIRST, len(train)))) if isinstance(train, Dataset) else train.take(FIRST)
            self._first = [(numbers_of(train)(number), dict(row)) for number, row in enumerate(first)]

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return super().settings | ({} if self.chat_template is None else {"chat_template": self.chat_template})

    @override
    def check_model(self, model: PreTrainedModel) -> None:
        super().check_model(model)
        if self.packing and self.form in (None, "text"):
            check_packing(model)

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        """Tokenise rows; adds ``length``, ``labels``, ``bytes`` and ``position_ids`` where rows are packed.

        ``bytes`` are those that the tokens stand for that count. Where rows are not packed there are ``cut`` and
        ``source``, the row that each is of. For a teacher with another tokenizer there are its tokens of the same bytes
        and, for each of the student's, where among them the one stands that begins with it: ``teacher_places``.
        """
        columns = columns_of(rows)
        form = self._read_form(columns)
        limit = min(self.max_length, tokenizer.model_max_length)
        packed = form == "text" and self.packing
        check_apart(columns, packed)
        if teacher_tokenizer is not None:
            self._check_not_packed()
        reader = None
        if teacher_tokenizer is not None:
            reader = TeacherReader(self._with_template(tokenizer), self._with_template(teacher_tokenizer))
        if form == "messages" and not self._first:
            self.read_labels(rows)
        numbered, names = numbers_of(rows), columns_read(form, columns)

        def encode_batch(batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
            given = [list(values) for values in zip(*(batch[name] for name in names), strict=True)]
            if packed:
                return pack([example for values in given for example in self._read(tokenizer, form, values)], limit)
            made: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, *(_READ_BESIDE if reader else ()))}
            pieces = []
            for number, values in zip(numbers, given, strict=True):
                with at_row(numbered(number)):
                    examples = list(self._examples(tokenizer, form, values, reader))
                before = len(made["source"])
                for found in self._pieces(examples, limit, form == "text"):
                    for column, value in zip(made.values(), (*found[:5], number, *found[5:]), strict=True):
                        column.append(value)
                pieces.append(len(made["source"]) - before)
            return {**made, **carried(batch, pieces)}

        size = PACKED_TOGETHER if packed else 1000
        encoded: Rows = rows.map(encode_batch, batched=True, with_indices=True, batch_size=size, remove_columns=columns)
        if isinstance(encoded, Dataset) and not len(encoded):
            raise none_left(len(rows), limit)
        return encoded

    @override
    def check_rows(self, rows: Dataset, tokenizer: Tokenizer) -> Iterator[str]:
        form = form_of(columns_of(rows))
        if self.form is not None and form != self.form:
            own, other = (" and ".join(FORMS[each].columns) for each in (form, self.form))
            yield f"warning: its rows are {own}, those that are learned from {other}: other tokens count in them"
        if form == "text":
            return
        limit, names = min(self.max_length, tokenizer.model_max_length), columns_read(form, rows.column_names)

        def read(row: Mapping[str, Any]) -> tuple[list[Chat], list[Example]]:
            values = [row[name] for name in names]
            chats = self._chats(tokenizer, values) if form == "messages" else []
            return chats, [read_rendered(tokenizer, chat) for chat in chats] or self._read(tokenizer, form, values)

        yield from lines_of(rows, read, lambda example: list(fit(example, limit, False, self.too_long)), limit)

    def _pieces(
        self, examples: list[tuple[Example, Callable[[slice], tuple[Any, ...]]]], limit: int, is_text: bool
    ) -> Iterator[tuple[Any, ...]]:
        """The rows that examples make: tokens, labels, length, whether it was cut, bytes, and what a teacher reads."""
        for example, read_beside in examples:
            for row in fit(example, limit, is_text, self.too_long):
                ids, labels, sizes = (part[row] for part in example)
                labels = [IGNORED, *labels[1:]] if is_text else labels
                counted = sum(size for size, label in zip(sizes, labels, strict=True) if label != IGNORED)
                cut = not is_text and len(example[0]) > limit
                yield (ids, labels, len(ids), cut, counted, *read_beside(row))

    def _examples(
        self, tokenizer: Tokenizer, form: str, values: list[Any], reader: TeacherReader | None
    ) -> Iterator[tuple[Example, Callable[[slice], tuple[Any, ...]]]]:
        """The examples of a row, each with what reads a part of it with the teacher's tokenizer, if that is another."""
        if reader is None:
            yield from ((example, lambda row: ()) for example in self._read(tokenizer, form, values))
        elif form != "messages":
            (example,) = self._read(tokenizer, form, values)
            yield example, partial(reader.of_text, self.separator.join(map(str, values)), example[0])
        else:
            chats, others = self._chats(tokenizer, values), self._chats(reader.tokenizer, values)
            if len(chats) != len(others):
                chats, others = (self._chats(each, values, apart=True) for each in (tokenizer, reader.tokenizer))
            for chat, other in zip(chats, others, strict=True):
                example = read_rendered(tokenizer, chat)
                yield example, partial(reader.of_chat, chat, other, example[0])

    def _check_not_packed(self) -> None:
        if self.packing and self.form in (None, "text"):
            raise RecipeError(
                "task.packing: a teacher with another tokenizer cuts texts that are laid end to end into other blocks "
                "than the student's; set it to false"
            )

    @override
    def check_tokenizers(self, by_bytes: bool) -> None:
        if not by_bytes:
            super().check_tokenizers(by_bytes)
        self._check_not_packed()

    @override
    def compare_tokenizers(
        self, sample: Dataset | None, evaluated: Dataset, student: Tokenizer, teacher: Tokenizer
    ) -> Iterator[str]:
        own, other = (set(self.encode(evaluated, tokenizer)["source"]) for tokenizer in (student, teacher))
        if own != other:
            raise RecipeError(
                f"task.max_length: {len(own ^ other):,} of {len(evaluated):,} evaluated rows fit in the tokens of one "
                "model only, so that the two would be scored on different texts; raise it, or set task.too_long to "
                "truncate"
            )
        if sample is not None:
            encoded = self.encode(sample, student, teacher)
            masks = self.masks(self.collator(student, teacher)(list(encoded)))
            met = float(masks["positions"].sum() / masks["labels"].sum().clamp(min=1))
            yield f"cross_tokenizer: {met:.1%} of the student's tokens begin where one of the teacher's does: compared"

    @override
    def scored_texts(self, rows: Dataset, tokenizer: Tokenizer) -> list[str]:
        encoded = self.encode(rows, tokenizer)
        if "source" not in encoded.column_names:
            return super().scored_texts(rows, tokenizer)
        left = set(encoded["source"])
        return [text for i, text in enumerate(self.texts(rows)) if i in left]

    @override
    def texts(self, rows: Rows) -> Iterator[str]:
        for row in rows:
            if row.get("messages") is not None:
                turns = ((turn["role"], turn["content"], turn.get("tool_calls")) for turn in row["messages"])
                yield "\n".join(f"{role}: {content or calls or ''}" for role, content, calls in turns)
            else:
                yield row["text"] if row.get("text") is not None else row["prompt"] + (row.get("completion") or "")


_COLUMNS = ("input_ids", "labels", "length", "cut", "bytes", "source")  # Of encoded rows that are not packed.
_READ_BESIDE = (TEACHER_PREFIX + "input_ids", PLACES)  # Beside them, where the teacher has another tokenizer.
