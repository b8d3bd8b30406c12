"""The one layer of retries: the client sends a request once, and what may pass is tried again, told and bounded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import Any, TypeVar

import httpx2
from huggingface_hub import get_token, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import _http, hf_raise_for_status, parse_ratelimit_headers
from huggingface_hub.utils import logging as client_logging

from hf_distill.errors import HubError
from hf_distill.secrets import hidden, speakable

logger = logging.getLogger(__name__)

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may go through."""

BUSY = "another conflicting operation is in progress"
"""What the Hub says, with 409, of a repository that is being made; the client would ask again for ever, at once."""

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, where the Hub names none."""

LONGEST_WAIT = 300.0
"""Seconds that the Hub may ask to wait before the next try: the windows of its limits are as long."""

TIMEOUT = httpx2.Timeout(300.0, connect=30.0)
"""Seconds without a byte after which a request has failed; the client itself would wait for ever."""

SHOWN = 200
"""Characters of the Hub's own words that are shown."""

Wait = Callable[[float], None]
T = TypeVar("T")


class Unreachable(ConnectionError):
    """A request that got no answer; of a kind that the client does not try again by itself."""


def persistently(attempt: Callable[[], T], subject: str, token: str | None, wait: Wait) -> T:
    """Call a function that may be called again after any failure, until it succeeds or fails for good.

    Raises:
        HubError: With what happened and what to do, as one line about the subject.
    """
    with _sending_once():
        for number in range(len(WAITS) + 1):
            try:
                return attempt()
            except HubError as error:
                secrets = _secrets(token)
                cause = error.__cause__ and speakable(error.__cause__, secrets)
                raise HubError(hidden(str(error), secrets)) from cause
            except Exception as error:  # What is none of the Hub's answers makes the client raise nearly anything.
                # The client wraps what fails while a file is sent (RuntimeError) or read (FileNotFoundError).
                wrapped = isinstance(error, (RuntimeError, FileNotFoundError)) and error.__cause__
                cause = wrapped or error
                secrets = _secrets(token)
                reason = hidden(_reason(cause), secrets)
                if number == len(WAITS) or not _may_pass(cause):
                    raise HubError(
                        f"{subject} was not pushed: {reason}. The student is kept; push it later with: "
                        "hf-distill push RUN"
                    ) from speakable(error, secrets)
            pause = min(max(WAITS[number], _asked_to_wait(cause)), LONGEST_WAIT)
            what = reason.partition(";")[0]
            logger.info(f"{what}; trying again in {pause:.0f} s ({number + 1} of {len(WAITS)})")
            wait(pause)
    raise AssertionError  # The last try has returned or raised.


@contextmanager
def _sending_once() -> Iterator[None]:
    """Have the client send every request once: its own waits are silent, and would multiply with ours."""
    before, verbosity = _http._GLOBAL_CLIENT_FACTORY, client_logging.get_verbosity()

    def factory() -> httpx2.Client:
        client = before()
        send = client.send

        def once(request: httpx2.Request, **options: Any) -> httpx2.Response:
            try:
                answer = send(request, **options)
                if answer.status_code >= 400:
                    answer.read()
            except httpx2.TransportError as error:
                raise Unreachable(type(error).__name__) from error
            if answer.status_code in RETRIED or (answer.status_code == 409 and BUSY in answer.text):
                hf_raise_for_status(answer)
            return answer

        vars(client)["send"] = once
        client.timeout = TIMEOUT
        return client

    set_client_factory(factory)
    client_logging.set_verbosity_error()  # It would name the addresses that large files are sent to, which are secrets.
    try:
        yield
    finally:
        set_client_factory(before)
        client_logging.set_verbosity(verbosity)


def _secrets(token: str | None) -> list[str]:
    return [each for each in (token, get_token()) if each]


def status_of(error: BaseException) -> int | None:
    """The status that the Hub answered with, where it did answer."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def said(error: HfHubHTTPError) -> str:
    """The Hub's own words, in brackets."""
    words = " ".join((error.server_message or "").split())
    return f" ({words if len(words) <= SHOWN else words[:SHOWN] + '...'})" if words else ""


def _may_pass(cause: BaseException) -> bool:
    if isinstance(cause, OfflineModeIsEnabled):
        return False
    if isinstance(cause, HfHubHTTPError):
        return status_of(cause) in RETRIED or BUSY in said(cause)
    # JSONDecodeError: a page in HTML, as proxies give when the Hub behind them is down.
    return isinstance(cause, (ConnectionError, TimeoutError, JSONDecodeError))


def _asked_to_wait(cause: BaseException) -> float:
    """Seconds until the Hub wants to be asked again: of its limits, or a number, or a date (RFC 9110, 10.2.3)."""
    if not isinstance(cause, HfHubHTTPError):
        return 0.0
    limit = parse_ratelimit_headers(cause.response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = cause.response.headers.get("Retry-After", "")
    try:
        return float(value) if value.isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0


def _reason(cause: BaseException) -> str:
    """What happened and, after a semicolon, what to do; never the request, whose headers hold the token."""
    status = status_of(cause)
    if isinstance(cause, LocalTokenNotFoundError) or status == 401:
        return "the Hub does not know you; log in with `hf auth login`, or set HF_TOKEN to a token that can write"
    if isinstance(cause, HfHubHTTPError):
        if status == 403:
            return (
                f"you have no permission to write there{said(cause)}; use your own user name or an organisation you "
                "belong to, and a token that can write"
            )
        return f"the Hub answered {status}{said(cause)}"
    if isinstance(cause, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE when there is a network"
    if isinstance(cause, (ConnectionError, TimeoutError)):
        return f"the Hub cannot be reached ({str(cause) or type(cause).__name__}); see whether there is a network"
    if isinstance(cause, (JSONDecodeError, LookupError, TypeError, AttributeError)):
        return (
            f"the answer is none that the Hub gives ({type(cause).__name__}: {cause}); see that HF_ENDPOINT names a "
            "Hub, and that no proxy answers in its place"
        )
    return f"the client refused ({type(cause).__name__}: {cause})"
