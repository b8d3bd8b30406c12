"""Push a folder to the Hub: one commit, private unless said otherwise, retried where that can help."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from json import JSONDecodeError
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import filter_repo_objects

from hf_distill.errors import HubError
from hf_distill.report.card import address
from hf_distill.secrets import hidden, speakable

IGNORED = ("training_args.bin", "checkpoint-*", "*/checkpoint-*", "*.partial", ".*", "*/.*")
"""What a student's folder may hold, but the Hub need not."""

RETRIED = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which the same request may go through."""

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try."""

FAILURES = (HfHubHTTPError, httpx2.TransportError, LocalTokenNotFoundError, ConnectionError, RuntimeError, ValueError)
"""What the client raises when the Hub refuses or cannot be reached."""

Wait = Callable[[float], None]
T = TypeVar("T")


def push_folder(
    folder: Path,
    model_id: str,
    *,
    private: bool = True,
    endpoint: str | None = None,
    token: str | None = None,
    wait: Wait = time.sleep,
) -> str:
    """Upload a model folder in one commit, making the repository where it is not there.

    What failed on the way is tried again, and the card that is uploaded names the repository in its example.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    paths = list(filter_repo_objects(files, ignore_patterns=list(IGNORED)))
    if not paths:
        raise HubError(f"{folder} holds no files to push; expected a folder that save_pretrained wrote")
    _check_adapters(folder)
    api = HfApi(endpoint=endpoint, token=token)
    message = f"Add {model_id.split('/')[-1]}, distilled with hf_distill"

    # upload_folder makes several commits where hf_xet is installed; create_commit never does.
    def commit() -> object:
        additions = [_addition(folder, path, model_id) for path in paths]
        return api.create_commit(model_id, additions, commit_message=message)

    url = _retried(lambda: api.create_repo(model_id, private=private, exist_ok=True), model_id, token, wait)
    _retried(commit, model_id, token, wait)
    return str(url)


def _check_adapters(folder: Path) -> None:
    """Refuse adapters of which only this machine has the model beside which they learned."""
    path = folder / "adapter_config.json"
    base = json.loads(path.read_text())["base_model_name_or_path"] if path.is_file() else None
    if base is not None and Path(base).is_dir():
        raise HubError(
            f"{folder} holds adapters beside the folder {base}, which others do not have; train beside a model of the "
            "Hub, or set student.lora.merge: true to push a whole model"
        )


def _addition(folder: Path, path: str, model_id: str) -> CommitOperationAdd:
    if path == "README.md":
        return CommitOperationAdd(path, address((folder / path).read_text(encoding="utf-8"), model_id).encode())
    return CommitOperationAdd(path, folder / path)


def _retried(request: Callable[[], T], model_id: str, token: str | None, wait: Wait) -> T:
    waits = iter(WAITS)
    while True:
        try:
            return request()
        except FAILURES as error:
            # The client wraps what fails while a large file is sent into a RuntimeError.
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            pause = next(waits, None) if _may_pass(cause) else None
            if pause is None:
                secrets = [each for each in (token, get_token()) if each]
                reason = hidden(_reason(cause), secrets)
                raise HubError(
                    f"{model_id} was not pushed: {reason}. The student is kept; push it later with: hf-distill push RUN"
                ) from speakable(error, secrets)
        wait(pause)


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def _may_pass(cause: BaseException) -> bool:
    if isinstance(cause, OfflineModeIsEnabled):
        return False
    # JSONDecodeError: a page in HTML, as proxies give when the Hub behind them is down.
    return _status(cause) in RETRIED or isinstance(cause, (httpx2.TransportError, ConnectionError, JSONDecodeError))


def _reason(cause: BaseException) -> str:
    """What happened and what to do; never the request, whose headers hold the token."""
    status = _status(cause)
    if isinstance(cause, LocalTokenNotFoundError) or status == 401:
        return "the Hub does not know you; log in with `hf auth login`, or set HF_TOKEN to a token that can write"
    if status == 403:
        return "you have no permission to write there; use your own user name or an organisation you belong to"
    if isinstance(cause, HfHubHTTPError):
        said = f" ({cause.server_message})" if cause.server_message else ""
        return f"the Hub answered {status}{said}"
    if isinstance(cause, OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE when there is a network"
    if _may_pass(cause):
        return f"the Hub cannot be reached ({type(cause).__name__}); see whether there is a network"
    return f"the client refused ({' '.join(str(cause).split())})"
