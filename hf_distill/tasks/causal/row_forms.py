"""The forms that rows of a causal language model have: texts, completions, chats, prompts alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from hf_distill.errors import DataError
from hf_distill.tasks.encoding import Example, read_chat, read_completion, read_text
from hf_distill.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Form:
    """A form of rows: its columns, what makes tokens of them, and the task's options that do something for them."""

    columns: tuple[str, ...]
    read: Callable[..., list[Example]]
    options: tuple[str, ...]
    beside: tuple[str, ...] = ()  # Columns that may be there, too.


def _completion(tokenizer: Tokenizer, prompt: str, completion: str | None = None, separator: str = "") -> list[Example]:
    return [read_completion(tokenizer, prompt, completion, separator)]


def _text(tokenizer: Tokenizer, text: str) -> list[Example]:
    return [read_text(tokenizer, text)]


FORMS = {
    "messages": Form(columns=("messages",), read=read_chat, options=("too_long", "chat_template"), beside=("tools",)),
    "completion": Form(columns=("prompt", "completion"), read=_completion, options=("too_long", "separator")),
    "text": Form(columns=("text",), read=_text, options=("packing",)),
    "prompt": Form(columns=("prompt",), read=_completion, options=("too_long", "separator")),
}
"""The first whose columns are all there wins."""


def form_of(columns: Collection[str]) -> str:
    """The form of rows with these columns."""
    for name, form in FORMS.items():
        if set(form.columns) <= set(columns):
            return name
    raise DataError(
        "causal-lm needs a column text, or prompt and completion, or messages; there are "
        f"{', '.join(columns) or 'none'}: name the right ones in data.columns"
    )


def columns_read(form: str, columns: Sequence[str]) -> list[str]:
    """The columns that rows of a form are read from, of those that are there."""
    return [*FORMS[form].columns, *(name for name in FORMS[form].beside if name in columns)]
