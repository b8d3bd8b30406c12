"""How rows of a causal language model are read, and what models write after them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, Features, Value
from typing_extensions import override

from hf_distill.errors import RecipeError
from hf_distill.tasks.causal.row_checks import at_row
from hf_distill.tasks.causal.row_forms import FORMS, columns_read, form_of
from hf_distill.tasks.encoding import Example, columns_of, fit, last_turn
from hf_distill.tasks.language import CausalTask
from hf_distill.tasks.rollout_batches import AfterPrompts, Prompts, check_prompt_tokens
from hf_distill.tokenizers.chat import Chat, answered, for_server, last_spoken, render_chats, turn_end
from hf_distill.types import Tokenizer

logger = logging.getLogger(__name__)

FIRST = 16
"""Chats that tell how the assistant's turns end."""


class AfterPromptsTask(CausalTask, abstract=True):
    """The part of the task that reads single rows and lets models write after their prompts."""

    max_length: int
    packing: bool
    too_long: str
    separator: str
    chat_template: str | None
    form: str | None
    _given: Mapping[str, Any]  # Options that do something for some forms of rows only.
    _first: list[tuple[int, dict[str, Any]]]
    _warned: bool = False

    @override
    def turn_ends(self, tokenizer: Tokenizer) -> list[int]:
        found = []
        for number, row in self._first:
            turns = row["messages"]
            written = turns if last_spoken(turns) < len(turns) else answered(turns, ".")
            with at_row(number):
                chat = render_chats(self._with_template(tokenizer), written, row.get("tools"))[-1]
            found.append(turn_end(tokenizer, chat))
        ends = list(dict.fromkeys(end for end in found if end is not None))
        if found and not ends and not self._warned:
            self._warned = True
            logger.warning(
                "ends: the assistant's turns end with no token of its own that counts, so that a model learns no end "
                "and writes as long as it may; set task.chat_template to one that ends turns with a special token"
            )
        return ends

    @override
    def prompts(self, rows: Dataset, tokenizer: Tokenizer) -> Prompts:
        """Prompts without their completion, chats without the assistant's last turn."""
        form = self._read_form(columns_of(rows))
        if form == "text":
            raise RecipeError(
                "recipe.evaluate.scorers: plain text has no prompt to write after; remove them, or give rows of prompt "
                "and completion, or of messages"
            )
        limit, names = min(self.max_length, tokenizer.model_max_length), columns_read(form, rows.column_names)
        input_ids: list[list[int]] = []
        references, row_ids, chats = [], [], []
        for number, row in enumerate(rows):
            with at_row(number):
                example = self._read(tokenizer, form, [row[name] for name in names])[-1]
            if not list(fit(example, limit, False, self.too_long)):
                continue
            input_ids.append(example[0][: last_turn(example[1])][-limit:])
            row_ids.append(number)
            if form != "messages":
                references.append(row.get("completion") or "")
                continue
            turns, last = row["messages"], last_spoken(row["messages"])
            references.append(turns[last]["content"] if last < len(turns) else "")
            tools = {"tools": json.loads(row["tools"])} if row.get("tools") else {}
            chats.append({"messages": for_server(turns[:last]), **tools})
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

    def _with_template(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer, which from now on has the template that the recipe names."""
        if self.chat_template is not None and tokenizer.chat_template != self.chat_template:
            tokenizer.chat_template = self.chat_template
        return tokenizer

    def _read(self, tokenizer: Tokenizer, form: str, values: list[Any]) -> list[Example]:
        options = {"separator": self.separator} if form in ("completion", "prompt") else {}
        return FORMS[form].read(self._with_template(tokenizer), *values, **options)

    def _chats(self, tokenizer: Tokenizer, values: list[Any], **options: Any) -> list[Chat]:
        return render_chats(self._with_template(tokenizer), *values, **options)

    def _read_form(self, columns: list[str]) -> str:
        """What the rows are made of; refused where an option does nothing for them."""
        self.form = form = form_of(columns)
        told = " and ".join(FORMS[form].columns)
        for name, value in self._given.items():
            if value is not None and name not in FORMS[form].options:
                raise RecipeError(f"task.{name}: does nothing for rows of {told}; remove it")
        return form


def _with_column(rows: Dataset, name: str, values: list[Any]) -> Dataset:
    features = Features({**rows.features, name: rows.features.get(name, Value("string"))})
    return Dataset.from_dict({**rows.to_dict(), name: values}, features=features)
