"""Chats in a tokenizer's template, and where the assistant speaks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hf_distill.errors import DataError

_render: Any = render_jinja_template  # Its annotation says str; it returns texts and places.

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A chat in a tokenizer's template.

    ``spans`` are the characters of the assistant's turns that count, the mark that ends each among them; ``contents``
    what the assistant says in each, without the template's marks (all of it where a template changes it).
    """

    text: str
    spans: list[tuple[int, int]]
    contents: list[tuple[int, int]]


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]) -> Chat:
    """A chat in the tokenizer's template, and where the assistant speaks in it.

    A template that marks them (``{% generation %}``) is asked; of any other the turns are found by rendering the chat
    up to each of them.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "rows of messages need a chat template, but the tokenizer has none; take an instruction-tuned model's "
            "tokenizer, or turn the rows into prompt and completion"
        )
    if not any(turn["role"] == "assistant" for turn in messages):
        raise DataError("a chat has no assistant's turn, so nothing in it counts; remove such rows")
    turns = [dict(turn) for turn in messages]
    template = tokenizer.get_chat_template()
    if _GENERATION.search(template):
        # The template's own marks, as places in the text: Transformers' token mask runs on to the end of the chat where
        # the last marked character is a blank that belongs to no token.
        words: dict[str, Any] = tokenizer.special_tokens_map
        rendered, marks = _render([turns], chat_template=template, return_assistant_tokens_mask=True, **words)
        text, spans = rendered[0], [tuple(mark) for mark in marks[0]]
    else:
        text = _rendered(tokenizer, turns)
        spans = list(_assistant_spans(tokenizer, turns, text))
    said = [turn["content"].strip() for turn in turns if turn["role"] == "assistant"]
    if len(said) != len(spans):  # The template marks what it likes.
        return Chat(text=text, spans=spans, contents=spans)
    places = [text.find(content, *span) for content, span in zip(said, spans, strict=True)]
    found = zip(places, said, spans, strict=True)
    contents = [(place, place + len(content)) if place >= 0 else span for place, content, span in found]
    return Chat(text=text, spans=spans, contents=contents)


def answered(messages: Sequence[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """A chat up to the assistant's last turn, with this text in its place; of one without, with it at the end."""
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i]["role"] == "assistant"), len(messages))
    turn = {**(messages[last] if last < len(messages) else dict.fromkeys(messages[0])), "content": text}
    return [*map(dict, messages[:last]), {**turn, "role": "assistant"}]


def _assistant_spans(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], text: str
) -> Iterator[tuple[int, int]]:
    """Where the assistant's turns stand in a rendered chat, the token that ends each among them."""
    for i, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = _rendered(tokenizer, turns[:i], add_generation_prompt=True) if i else ""
        until = _rendered(tokenizer, turns[: i + 1])
        if not (text.startswith(until) and until.startswith(before)):
            raise DataError(
                "the chat template renders a turn otherwise once others follow, so the assistant's tokens cannot be "
                "found; use a template that marks them with {% generation %}"
            )
        yield len(before), len(until)


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], **options: Any) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
