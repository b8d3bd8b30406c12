"""Push a folder to the Hub: one commit, private unless said otherwise, retried where that can help."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from hf_distill.errors import HubError

IGNORED = ["training_args.bin", "checkpoint-*", "*.partial", ".*"]
"""What a student's folder may hold, but the Hub need not."""

RETRIED = {408, 429, 500, 502, 503, 504}
"""Answers after which the same request may go through."""

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try."""

T = TypeVar("T")


def push_folder(
    folder: Path,
    model_id: str,
    *,
    private: bool = True,
    endpoint: str | None = None,
    token: str | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> str:
    """Upload a model folder in one commit, making the repository where it is not there.

    Args:
        folder: With weights, tokenizer and card.
        model_id: ``user/name``.
        private: Of a repository that is made; one that is there keeps its visibility.
        endpoint: The Hub's address; the environment's unless given.
        token: The login's or ``HF_TOKEN`` unless given.
        wait: Called with the seconds before each further try.

    Returns:
        The address of the model.

    Raises:
        HubError: Where the Hub refuses, or cannot be reached after all tries; nothing local is lost.
    """
    api = HfApi(endpoint=endpoint, token=token)

    def create() -> str:
        return str(api.create_repo(model_id, private=private, exist_ok=True))

    def upload() -> object:
        return api.upload_folder(
            repo_id=model_id,
            folder_path=folder,
            commit_message="Add a student distilled with hf_distill",
            ignore_patterns=IGNORED,
        )

    url = _retried(create, model_id, wait)
    _retried(upload, model_id, wait)
    return url


def _retried(request: Callable[[], T], model_id: str, wait: Callable[[float], None]) -> T:
    for pause in (*WAITS, None):
        try:
            return request()
        except (HfHubHTTPError, httpx2.TransportError, OfflineModeIsEnabled, LocalTokenNotFoundError, RuntimeError) as error:
            if pause is None or not _may_pass(error):
                raise HubError(f"{model_id} was not pushed: {_reason(error)}; the student is kept, push it later with: "
                               "hf-distill push RUN") from None
            wait(pause)
    raise AssertionError("the last try returns or raises")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in RETRIED
    cause = error if isinstance(error, httpx2.TransportError) else error.__cause__
    return isinstance(cause, httpx2.TransportError)


def _reason(error: Exception) -> str:
    """What happened and what to do, without the request: its headers hold the token."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "the Hub does not know you; log in with `hf auth login`, or set HF_TOKEN to a token that can write"
    if status == 403:
        return "you have no permission to write there; use your own user name or an organisation you belong to"
    if status is not None:
        return f"the Hub answered {status}"
    return f"the Hub cannot be reached ({type(error).__name__})"
