"""What goes wrong with a server, as its answers tell: what may pass, what will not, and what to do about it."""

from __future__ import annotations

import json
import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

from hf_distill.errors import ServerError
from hf_distill.teachers.endpoint.transport import Reply

PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which a request is sent again."""

SHOWN = 200
"""Characters of a server's own words that are shown."""

MISSHAPEN = (TypeError, LookupError, AttributeError, ValueError, OverflowError)
"""What reading an answer of another form than the expected one raises."""

LARGEST_ID = 2**31 - 1
"""Of a token, and of how many tokens a model reads."""

WITHOUT_LIKELIHOODS = (
    "gives no log-probabilities of prompts (prompt_logprobs, which vLLM has beside OpenAI's API), so objectives cannot "
    "compare with it and it cannot be scored; serve the model with vLLM, or let it write with hf-distill label and "
    "train on its texts"
)


class Unusable(Exception):
    """An answer that cannot be used, and may be usable the next time; what is wrong with it."""


class Passing(Exception):
    """A request that failed for a reason that may pass; with the seconds that the server asks to wait, if it does."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class NotServed(ServerError):
    """There is nothing under this address, or no model of this name."""


def content_of(reply: Reply) -> Any:
    """What an answer's JSON holds; NaN and Infinity, which Python reads, are none."""
    try:
        return json.loads(reply.body, parse_constant=_refuse_constant)
    except RecursionError:
        raise Unusable("the answer is nested too deep") from None
    except ValueError:
        told = "the answer is not JSON; see that teacher.server.url is that of an API, which mostly ends with /v1"
        raise Unusable(told) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def log_probability(value: Any) -> float:
    """The number that a server gives for one."""
    if type(value) not in (int, float) or not math.isfinite(float(value)):
        raise ValueError("no number")
    if value > 1e-4:
        raise Unusable("its answer has log-probabilities above 0")
    return float(value)


def token_id(value: Any) -> int:
    """The token that a server means by a number."""
    if type(value) is not int or not 0 <= value <= LARGEST_ID:
        raise ValueError("no token")
    return value


def check_status(reply: Reply, where: str, variable: str, has_key: bool) -> None:
    """Raise what an answer's status means, unless it is one of success."""
    status = reply.status
    if 200 <= status < 300:
        return
    if status in (401, 403):
        sent = "was refused" if has_key else "was not sent, for the variable is not set"
        raise ServerError(f"{where} answers {status}: the key in {variable} {sent}; set it to a key of this server")
    if status < 400:
        raise ServerError(f"{where} answers {status}, a redirect; set teacher.server.url to where it leads")
    said = _said(reply)
    if status == 429:
        raise Passing(
            f"the server still answers 429, too many requests{said}; lower teacher.server.concurrency, or set "
            "requests_per_minute",
            _retry_after(reply),
        )
    if status in PASSING or status >= 500:
        raise Passing(f"the server answers {status}{said}", _retry_after(reply))
    if status == 404:
        raise NotServed(f"{where} answers 404{said}; see that teacher.server.url and model are right")
    raise ServerError(f"{where} refuses the request with {status}{said}{_advice(said)}")


def _said(reply: Reply) -> str:
    """A server's own words about a fault, shortened."""
    try:
        content = content_of(reply)
    except Unusable:
        return ""
    for name in ("error", "message", "detail"):
        content = content.get(name, content) if isinstance(content, dict) else content
    if not isinstance(content, str):
        return ""
    return f" ({content if len(content) <= SHOWN else content[:SHOWN] + '...'})"


def _retry_after(reply: Reply) -> float | None:
    """Seconds: the header holds these, or a date (RFC 9110, 10.2.3)."""
    value = reply.headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except MISSHAPEN:
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)


def _advice(said: str) -> str:
    if "logprobs" in said and "max allowed" in said:
        return "; start vLLM with --max-logprobs of at least teacher.server.top_k, or lower top_k"
    if "prompt_logprobs" in said:
        return f"; it {WITHOUT_LIKELIHOODS}"
    if "context length" in said or "max_model_len" in said or "maximum model length" in said:
        return "; lower task.max_length, or start the server with a longer context"
    return ""
