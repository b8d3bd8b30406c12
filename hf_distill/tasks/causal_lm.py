"""Causal language modelling: plain text, prompts with completions, and chats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from datasets import Dataset, Features, Value
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from hf_distill.errors import DataError, RecipeError
from hf_distill.models.sanity_checks import check_packing
from hf_distill.recipe.parse import check_option, checked_length
from hf_distill.tasks.encoding import Example, carried, check_apart, columns_of, fit, last_turn, pack
from hf_distill.tasks.language import FORMS, PACKED_TOGETHER, PLACES, CausalTask, form_of
from hf_distill.tasks.rollout_batches import AfterPrompts, Prompts, check_prompt_tokens
from hf_distill.tasks.task import TEACHER_PREFIX
from hf_distill.tokenizers.chat import answered, render_chat
from hf_distill.tokenizers.cross_reader import Reading, TeacherReader
from hf_distill.types import IGNORED, Rows, Tokenizer


class CausalLanguageModeling(CausalTask):
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
    """

    name = "causal-lm"
    pipeline_tag = "text-generation"
    auto_model = AutoModelForCausalLM
    required = ()
    optional = ("text", "prompt", "completion", "messages")
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
    ) -> None:
        self.max_length = checked_length(max_length)
        check_option("too_long", too_long, too_long in ("drop", "truncate", None), "drop or truncate")
        check_option("separator", separator, isinstance(separator, str | None), "a text")
        check_option("packing", packing, isinstance(packing, bool | None), "true or false")
        self._given = {"packing": packing, "too_long": too_long, "separator": separator}
        self.packing = packing is not False
        self.too_long = too_long or "drop"
        self.separator = separator or ""
        self.form: str | None = None

    @override
    def read_labels(self, train: Rows) -> None:
        self._read_form(columns_of(train))

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
        reader = None if teacher_tokenizer is None else TeacherReader(tokenizer, teacher_tokenizer)

        def encode_batch(batch: Mapping[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
            given = [list(values) for values in zip(*(batch[name] for name in FORMS[form].columns), strict=True)]
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

        size = PACKED_TOGETHER if packed else 1000
        encoded: Rows = rows.map(encode_batch, batched=True, with_indices=True, batch_size=size, remove_columns=columns)
        if isinstance(encoded, Dataset) and not len(encoded):
            raise DataError(
                f"none of {len(rows)} rows is left: every prompt fills the {limit} tokens of task.max_length; raise "
                "it, or set task.too_long to truncate"
            )
        return encoded

    @override
    def prompts(self, rows: Dataset, tokenizer: Tokenizer) -> Prompts:
        """Prompts without their completion, chats without the assistant's last turn."""
        form = self._read_form(columns_of(rows))
        if form == "text":
            raise RecipeError(
                "recipe.evaluate.scorers: plain text has no prompt to write after; remove them, or give rows of prompt "
                "and completion, or of messages"
            )
        limit = min(self.max_length, tokenizer.model_max_length)
        input_ids: list[list[int]] = []
        references, row_ids, chats = [], [], []
        for number, row in enumerate(rows):
            example = self._read(tokenizer, form, [row[name] for name in FORMS[form].columns])
            if not list(fit(example, limit, False, self.too_long)):
                continue
            input_ids.append(example[0][: last_turn(example[1])][-limit:])
            turns = [turn for turn in row.get("messages") or () if turn["role"] == "assistant"]
            references.append(turns[-1]["content"] if turns else row["completion"])
            row_ids.append(number)
            if turns:
                chats.append(answered(row["messages"], "")[:-1])
        return Prompts(input_ids=input_ids, references=references, row_ids=row_ids, chats=chats or None)

    @override
    def with_answers(self, rows: Dataset, texts: Sequence[str] | None) -> Dataset:
        """Other completions, or another last turn of the assistant."""
        if "messages" in rows.column_names:
            chats = map(answered, rows["messages"], texts or ["."] * len(rows))
            return _with_column(rows, "messages", list(chats))
        if "prompt" in rows.column_names:
            return _with_column(rows, "completion", list(texts or [""] * len(rows)))
        raise RecipeError(
            "recipe.label: plain text has no prompt that a teacher could write after; remove it, or give rows of "
            "prompt (with or without a completion), or of messages"
        )

    @override
    def writing(self, tokenizer: Tokenizer | None, prompt_tokens: int | None = None) -> AfterPrompts:
        check_prompt_tokens(prompt_tokens, self.form)
        if self.form == "text" and self.packing:
            raise RecipeError(
                "task.packing: of texts that are laid end to end most have no beginning to write after; set it to "
                "false, or remove rollout"
            )
        return AfterPrompts(prompt_tokens)

    def _read(self, tokenizer: Tokenizer, form: str, values: list[Any]) -> Example:
        options = {"separator": self.separator} if form == "completion" else {}
        return FORMS[form].read(tokenizer, *values, **options)

    def _read_beside(
        self, reader: TeacherReader, tokenizer: Tokenizer, form: str, values: list[Any], ids: list[int], row: slice
    ) -> Reading:
        if form == "messages":
            return reader.of_chat(render_chat(tokenizer, *values), render_chat(reader.tokenizer, *values), ids, row)
        return reader.of_text(self.separator.join(values), ids, row)

    def _check_not_packed(self) -> None:
        if self.packing and self.form in (None, "text"):
            raise RecipeError(
                "task.packing: a teacher with another tokenizer cuts texts that are laid end to end into other blocks "
                "than the student's; set it to false"
            )

    def _read_form(self, columns: list[str]) -> str:
        """What the rows are made of; refused where an option does nothing for them."""
        self.form = form = form_of(columns)
        told = " and ".join(FORMS[form].columns)
        for name, value in self._given.items():
            if value is not None and name not in FORMS[form].options:
                raise RecipeError(f"task.{name}: does nothing for rows of {told}; remove it")
        return form

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
                yield "\n".join(f"{turn['role']}: {turn['content']}" for turn in row["messages"])
            else:
                yield row["text"] if row.get("text") is not None else row["prompt"] + row["completion"]


_COLUMNS = ("input_ids", "labels", "length", "cut", "bytes", "source")  # Of encoded rows that are not packed.
_READ_BESIDE = (TEACHER_PREFIX + "input_ids", PLACES)  # Beside them, where the teacher has another tokenizer.


def _with_column(rows: Dataset, name: str, values: list[Any]) -> Dataset:
    features = Features({**rows.features, name: rows.features.get(name, Value("string"))})
    return Dataset.from_dict({**rows.to_dict(), name: values}, features=features)
