"""What a served model writes: after a chat by ``/chat/completions``, after a plain prompt by ``/completions``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_distill.recipe.server import GENERATION
from hf_distill.teachers.endpoint.client import Client
from hf_distill.teachers.endpoint.faults import MISSHAPEN, SHOWN, Unusable, log_probability

Prompt = Sequence[int] | Mapping[str, Any]
"""Tokens, or a chat: its ``messages``, and ``tools`` where there are some."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One text that a served model wrote, without special tokens."""

    text: str
    mean_log_probability: float | None  # None where the server does not tell.
    ended: bool  # Within the bound.


def sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a server is asked for, of settings for ``generate``: see :data:`GENERATION`."""
    draws = settings.get("do_sample") is True
    asked: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0} if draws else {"temperature": 0.0}
    return asked | {name: settings[key] for key, name in GENERATION.items() if name is not None and key in settings}


def write(client: Client, prompt: Prompt, asked: Mapping[str, Any], texts: int, seed: int) -> list[Answer]:
    """What the model writes after a prompt."""
    body = {"model": client.config.model, "n": texts, "seed": seed, **asked}
    if isinstance(prompt, Mapping):
        path, more = "/chat/completions", {**prompt, "logprobs": True}
    else:
        path, more = "/completions", {"prompt": list(prompt), "logprobs": 1}
    return client.ask(path, {**body, **more}, lambda answer: _answers(answer, texts))


def _answers(answer: Any, texts: int) -> list[Answer]:
    try:
        found = [_answer(choice) for choice in sorted(answer["choices"], key=lambda each: each["index"])]
    except MISSHAPEN:
        raise Unusable("its answer has no choices with a text and an index each") from None
    if len(found) != texts:
        raise Unusable(f"it was asked for {texts} texts and gave {len(found)}; set label.hypotheses to what it gives")
    return found


def _answer(choice: Any) -> Answer:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise Unusable(f"its answer did not come to an end (finish_reason {str(reason)[:SHOWN]})")
    if not isinstance(text, str | None):
        raise TypeError("no text")
    return Answer(text=text or "", mean_log_probability=_mean(choice.get("logprobs")), ended=reason == "stop")


def _mean(given: Any) -> float | None:
    """Of either form of log-probabilities; None where there are none."""
    if not given:
        return None
    chat = given.get("content")
    values = given.get("token_logprobs") if chat is None else [each["logprob"] for each in chat]
    known = [log_probability(value) for value in values or () if value is not None]
    return sum(known) / len(known) if known else None
