"""Recognises the forms of rows that others use, without ``data.columns``: ShareGPT, TRL, Alpaca, pairs of preferences.

What was recognised is told in one line, so that nobody learns from a column by accident.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from hf_distill.data.forms.turns import looks_like_chat

CHATS = ("conversations", "conversation", "chat", "dialogue", "dialog", "turns")
"""What a column of chats is called elsewhere."""

FORMED = ("messages", "prompt", "completion", "text")
"""The task's columns that are made; a recipe that names one of them in ``data.columns`` knows its rows."""

SYSTEM = ("system", "system_prompt")
"""What a column is called that holds the system turn of a chat."""

LOOKED_AT = 50
"""Rows by which a form is told."""

BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class _Form:
    """How the task's columns are made of a row, of which columns, and what is told."""

    make: Callable[[Mapping[str, Any]], dict[str, Any]]
    used: tuple[str, ...]
    told: str


def recognised(rows: Any, named: Collection[str] = ()) -> tuple[Any, list[str]]:
    """Rows with the columns of a language model where they are of another form, and a line that tells it.

    ``named`` are the task's columns that the recipe names itself.
    """
    first = list(rows.select(range(min(LOOKED_AT, len(rows)))) if isinstance(rows, Dataset) else rows.take(LOOKED_AT))
    there = list(rows.column_names or (first[0] if first else ()))
    chats = {name for name in there if any(looks_like_chat(row[name]) for row in first)}
    form = _form(there, chats, named)
    if form is None:
        return rows, []
    made = rows.map(form.make, remove_columns=[name for name in form.used if name in there])
    return made, [f"data: rows have {', '.join(form.used)}{_inner(first, form.used)}: read as {form.told}"]


def _form(there: list[str], chats: set[str], named: Collection[str]) -> _Form | None:
    if set(named) & set(FORMED):
        return None
    pairs = tuple(name for name in ("chosen", "rejected") if name in there)
    if "messages" in there or chats & {"prompt", "completion", "chosen", *CHATS}:
        return _of_chats(there, chats, pairs)
    if {"text", "completion"} & set(there):
        return None
    if "prompt" in there:
        if answer := next((name for name in ("response", "output", "chosen") if name in there), ""):
            used = ("prompt", answer, *(pairs[1:] if answer == "chosen" else ()))
            return _Form(lambda row: {"prompt": row["prompt"], "completion": row[answer]}, used, f"prompt and {answer}")
        return None
    if pairs:
        return _Form(lambda row: {"text": row["chosen"]}, pairs, "text, what was chosen")
    return _instructions(there)


def _of_chats(there: list[str], chats: set[str], pairs: tuple[str, ...]) -> _Form | None:
    systems = tuple(name for name in SYSTEM if name in there)[:1]
    if "messages" in there:
        chats = chats & {"messages"} if systems else set()
    if "prompt" in chats:
        answer = next((name for name in ("completion", "response", "chosen") if name in there), "")
        used = ("prompt", *((answer,) if answer else ()), *(pairs[1:] if answer == "chosen" else ()))
        told = f"messages, the turns of prompt{f' and {answer}' if answer else ' alone, without an answer'}"
        return _Form(lambda row: _chat(row["prompt"], row[answer] if answer else []), used, told)
    if "completion" in chats:
        return _Form(lambda row: _chat(row.get("prompt"), row["completion"]), ("prompt", "completion"), "messages")
    if "chosen" in chats:
        used = (*(("prompt",) if "prompt" in there else ()), *pairs)
        return _Form(lambda row: _chat(row.get("prompt"), row["chosen"]), used, "messages, the turns of chosen")
    if name := next((name for name in ("messages", *CHATS) if name in chats), None):
        return _Form(lambda row: _chat(None, row[name], *map(row.get, systems)), (name, *systems), "messages")
    return None


def _instructions(there: list[str]) -> _Form | None:
    """Alpaca's columns, Dolly's, and others of the kind."""
    asked = next((name for name in ("instruction", "question", "query") if name in there), None)
    answer = next((name for name in ("output", "response", "answer") if name in there), None)
    if asked is None or answer is None:
        return None
    more = tuple(name for name in ("input", "context", "system") if name in there)
    order = (*(name for name in more if name == "system"), asked, *(name for name in more if name != "system"))

    def make(row: Mapping[str, Any]) -> dict[str, Any]:
        parts = [row[name] for name in order]
        texts = [part.strip() for part in parts if isinstance(part, str) and part.strip()]
        # A list where a text is meant is refused later, by its row.
        wrong = next((part for part in parts if part is not None and not isinstance(part, str)), None)
        prompt = wrong if wrong is not None else BLANK_LINE.join(texts) + BLANK_LINE if texts else ""
        return {"prompt": prompt, "completion": row[answer]}

    told = f"prompt ({', '.join(order)}; a blank line behind each) and completion ({answer})"
    return _Form(make, (*order, answer), told)


def _chat(prompt: Any, answer: Any, system: Any = None) -> dict[str, Any]:
    """The JSON of a chat, whose parts may be turns, their JSON or texts; null where one of them is missing."""
    if prompt is None and isinstance(answer, str) and not looks_like_chat(answer):
        return {"messages": answer}  # Nobody knows who says it: it is refused by its row.
    turns = _turns(answer, "assistant")
    before = _turns(prompt, "user")
    if turns is None or before is None:
        return {"messages": None}
    # Of a pair of preferences both may hold the prompt.
    if before and turns[: len(before)] != before and not (isinstance(prompt, str) and _begins(turns)):
        turns = [*before, *turns]
    if isinstance(system, str) and system.strip():
        turns = [{"role": "system", "content": system}, *turns]
    return {"messages": json.dumps(turns, default=str)}


def _turns(value: Any, role: str) -> list[Any] | None:
    if isinstance(value, str):
        if not looks_like_chat(value):
            return [{"role": role, "content": value}]
        value = json.loads(value)
    if value is None:
        return [] if role == "user" else None
    return list(value) if isinstance(value, list) else None


def _begins(turns: list[Any]) -> bool:
    """Whether turns begin with somebody who asks."""
    first = turns[0] if turns else None
    return isinstance(first, Mapping) and (first.get("role") or first.get("from")) not in ("assistant", "gpt", "model")


def _inner(first: list[dict[str, Any]], used: tuple[str, ...]) -> str:
    """The names within turns, where they are not the usual ones."""
    values = (row[name] for row in first for name in used if isinstance(row.get(name), list) and row[name])
    turn = next((value[0] for value in values if isinstance(value[0], Mapping)), {})
    return " (from, value)" if turn.get("from") is not None else ""
