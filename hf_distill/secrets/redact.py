"""The one function through which texts go before they leave, and its forms for data, lines and errors."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import unquote

from hf_distill.secrets.recognise import SHAPES, is_secret_name, is_secret_parameter, known_secrets, spellings

HIDDEN = "[secret]"
"""What stands in place of a secret."""

_USER = re.compile(r"(?<=://)[^\s/?#\"'<>]+@")
_PARAMETER = re.compile(r"([?&#;])([\w.~%-]+)=(?!\$)([^\s&#\"'<>`]+)")
_PAIR = re.compile(r"(?<![\w.-])([\w.-]{1,80})([\"']\s*:\s*|[\"']?\s*=\s*)([\"']?)(?!\$)([^\s\"',;&}`]+)")
_HEADER = re.compile(
    r"(?i)(\bbearer\s+|authorization[\"']?\s*[:=]\s*[\"']?(?:basic|token|digest)\s+)(?!\$)[^\s\"',;}`]{6,}"
)

_COMMANDS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Characters that move a cursor, start a terminal's commands, turn the direction of writing, or cannot be written."""


def hidden(text: str, also: Collection[str] = ()) -> str:
    """The text without the secrets in it; ``also`` are more that are known to be."""
    return _hidden(text, _known(known_secrets() | frozenset(filter(None, also))))


def hidden_in(value: Any) -> Any:
    """Plain data whose texts hold no secrets."""
    known = _known(known_secrets())

    def within(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {_hidden(key, known) if isinstance(key, str) else key: within(item) for key, item in part.items()}
        if isinstance(part, (list, tuple)):
            return [within(item) for item in part]
        return _hidden(part, known) if isinstance(part, str) else part

    return within(value)


def printable(text: str) -> str:
    """The text on one line that does nothing to a terminal: control characters are shown, not sent."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def told(text: str) -> str:
    """A line for a person: nothing secret, and nothing that a terminal obeys."""
    return printable(hidden(text))


def speakable(error: BaseException, also: Collection[str] = ()) -> BaseException | None:
    """The error, for ``raise ... from``; None where what it says, or one behind it, holds a secret."""
    here: BaseException | None = error
    while here is not None:
        if hidden(str(here), also) != str(here):
            return None
        here = here.__cause__ or here.__context__
    return error


class Discreet:
    """A stream that shows no secrets, also those in tracebacks and in what libraries say."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text without its secrets."""
        return int(self._stream.write(hidden(text)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _hidden(text: str, known: re.Pattern[str] | None) -> str:
    if known is not None:
        text = known.sub(HIDDEN, text)
    text = _HEADER.sub(rf"\g<1>{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))
    text = _PARAMETER.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN}" if is_secret_parameter(unquote(m[2])) else m[0], text)
    text = _PAIR.sub(lambda m: f"{m[1]}{m[2]}{m[3]}{HIDDEN}" if is_secret_name(m[1].rpartition(".")[2]) else m[0], text)
    return SHAPES.sub(HIDDEN, text)


@functools.lru_cache(maxsize=8)
def _known(secrets: frozenset[str]) -> re.Pattern[str] | None:
    forms = sorted({form for secret in secrets for form in spellings(secret)}, key=lambda form: (-len(form), form))
    return re.compile("|".join(map(re.escape, forms))) if forms else None
