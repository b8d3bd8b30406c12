"""What goes wrong with a server, as its answers tell: what may pass, what will not, and what to do about it."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import httpx2

from hf_distill.errors import ServerError

PASSING = frozenset({408, 409, 425, 429})
"""Statuses below 500 after which a request is sent again."""

SHOWN = 200
"""Characters of a server's own words that are shown."""

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


def check_status(response: httpx2.Response, where: str, variable: str, key: str) -> None:
    """Raise what an answer's status means, unless it is one of success."""
    status = response.status_code
    if status < 300:
        return
    if status in (401, 403):
        sent = "was refused" if key else "was not sent, for the variable is not set"
        raise ServerError(f"{where} answers {status}: the key in {variable} {sent}; set it to a key of this server")
    if status < 400:
        raise ServerError(f"{where} answers {status}, a redirect; set teacher.server.url to where it leads")
    said = _said(response, key)
    if status == 429:
        raise Passing(
            f"the server still answers 429, too many requests{said}; lower teacher.server.concurrency, or set "
            "requests_per_minute",
            _retry_after(response),
        )
    if status in PASSING or status >= 500:
        raise Passing(f"the server answers {status}{said}", _retry_after(response))
    if status == 404:
        raise NotServed(f"{where} answers 404{said}; see that teacher.server.url and model are right")
    raise ServerError(f"{where} refuses the request with {status}{said}{_advice(said)}")


def _said(response: httpx2.Response, key: str) -> str:
    """A server's own words about a fault, shortened and without the key."""
    try:
        content = response.json()
    except ValueError:
        return ""
    for name in ("error", "message", "detail"):
        content = content.get(name, content) if isinstance(content, dict) else content
    if not isinstance(content, str):
        return ""
    text = content.replace(key, "[key]") if key else content
    return f" ({text if len(text) <= SHOWN else text[:SHOWN] + '...'})"


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds: the header holds these, or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _advice(said: str) -> str:
    if "logprobs" in said and "max allowed" in said:
        return "; start vLLM with --max-logprobs of at least teacher.server.top_k, or lower top_k"
    if "prompt_logprobs" in said:
        return f"; it {WITHOUT_LIKELIHOODS}"
    if "context length" in said or "max_model_len" in said or "maximum model length" in said:
        return "; lower task.max_length, or start the server with a longer context"
    return ""
