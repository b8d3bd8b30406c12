"""One chat of any form, read into turns with a role and a content; what is not text stands beside it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hf_distill.errors import DataError

ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
ROLES |= {"developer": "system", "function": "tool", "observation": "tool", "ipython": "tool"}
ROLES |= {name: name for name in ("user", "assistant", "system", "tool")} | {"function_call": "assistant"}
"""What roles are called elsewhere, and here."""

_LEARNED = ("train", "training", "weight")
_TAKEN = ("role", "from", "content", "value", "tool_calls", "function_call")


class Unreadable(DataError):
    """Why a row cannot be read."""


def looks_like_chat(value: Any) -> bool:
    """Whether a value is a list of turns, or the JSON of one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and ("role" in first or "from" in first)


def read_turns(value: Any, *, answered: bool = True) -> list[dict[str, Any]]:
    """The turns of a chat of any form."""
    value = _parsed(value, "messages")
    if not isinstance(value, list):
        raise Unreadable(f"expected a list of turns in messages, got {_short(value)}")
    turns = [_turn(each, f"turn {number}") for number, each in enumerate(value)]
    if not turns:
        raise Unreadable("messages has no turns")
    spoken = [turn for turn in turns if turn["role"] == "assistant"]
    if answered and not spoken:
        raise Unreadable("messages has no assistant's turn, so nothing in it counts")
    if spoken and not any(_speaks(turn) for turn in spoken):
        raise Unreadable("the assistant says nothing in messages: every turn of it is empty")
    if answered and not any(turn.get("train", True) for turn in spoken):
        raise Unreadable("no turn of the assistant is learned: each has weight: 0 or train: false")
    return turns


def read_tools(value: Any) -> str | None:
    """Descriptions of tools as the JSON of a list, each as OpenAI's interface has it; None where there are none."""
    value = _parsed(value, "tools")
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
        raise Unreadable(f"expected a list of objects in tools, got {_short(value)}")
    found = [without_nulls(each) for each in value]
    return json.dumps([each if "function" in each else {"type": "function", "function": each} for each in found])


def _turn(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise Unreadable(f"{where}: expected role and content, got {_short(turn)}")
    given = turn.get("role") if turn.get("role") is not None else turn.get("from")
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        raise Unreadable(f"{where}: its role is {_short(given)}; expected one of {', '.join(sorted(ROLES))}")
    content = turn.get("content") if turn.get("content") is not None else turn.get("value")
    calls = _calls(turn.get("tool_calls"), where)
    if isinstance(called := _parsed(turn.get("function_call"), where), Mapping) and called:
        calls += _calls([called], where)
    if isinstance(given, str) and given.strip().lower() == "function_call":  # What it says is the call.
        content, called = "", _parsed(content, where)
        calls += _calls(called if isinstance(called, list) else [called], where)
    extra = {k: v for k, v in turn.items() if isinstance(v, str) and k not in (*_TAKEN, *_LEARNED)}
    text = _text(content, where)
    if text is None:
        if not calls and not any(extra.get(name) for name in ("reasoning_content", "thinking", "reasoning")):
            told = "is null" if {"content", "value"} & set(turn) else f"is missing (its keys: {', '.join(turn)})"
            raise Unreadable(f"{where} ({given}): its content {told} and it calls no tool, so it says nothing")
        text = ""
    found = {"role": role, "content": text, **extra}
    if calls:
        found["tool_calls"] = json.dumps(calls)
    return found | ({"train": False} if not _is_learned(turn, where) else {})


def _text(content: Any, where: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Unreadable(f"{where}: expected a text as its content, got {_short(content)}")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else None
        if isinstance(part, Mapping) and part.get("type", "text") in ("text", "input_text", "output_text"):
            text = part.get("text")
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise Unreadable(
                f"{where}: its content has a part of type {_short(kind)}, but a text model reads text alone"
            )
        texts.append(text)
    return "".join(texts)


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Calls of tools, their arguments as JSON texts, as OpenAI's interface has them."""
    value = _parsed(value, where)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unreadable(f"{where}: expected a list in tool_calls, got {_short(value)}")
    found = []
    for each in value:
        function = each.get("function", each) if isinstance(each, Mapping) else None
        function = _parsed(function, where)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Unreadable(f"{where}: expected the name of a function in its tool call, got {_short(each)}")
        arguments = function.get("arguments", function.get("parameters"))
        arguments = _parsed(arguments, f"{where}, arguments of {function['name']}") or {}
        if not isinstance(arguments, Mapping):
            raise Unreadable(f"{where}: expected an object as arguments of {function['name']}, got {_short(arguments)}")
        told = json.dumps(without_nulls(arguments), ensure_ascii=False)
        more = {name: each[name] for name in ("id",) if each.get(name) is not None}
        found.append({**more, "type": "function", "function": {"name": function["name"], "arguments": told}})
    return found


def _is_learned(turn: Mapping[str, Any], where: str) -> bool:
    given = {name: turn[name] for name in _LEARNED if turn.get(name) is not None}
    for name, value in given.items():
        if value not in (0, 1):
            raise Unreadable(f"{where}: expected {name} 0 or 1, got {_short(value)}: a turn is learned or it is not")
    return all(given.values())


def _speaks(turn: Mapping[str, Any]) -> bool:
    return any(isinstance(v, str) and bool(v.strip()) for k, v in turn.items() if k != "role")


def _parsed(value: Any, where: str) -> Any:
    """A value, or what its JSON holds where it is a text."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        raise Unreadable(f"{where}: {_short(value)} is no JSON ({error})") from None


def without_nulls(value: Any) -> Any:
    """Plain data without the nulls that Arrow put where other rows have a key."""
    if isinstance(value, Mapping):
        return {name: without_nulls(each) for name, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


def _short(value: Any) -> str:
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
