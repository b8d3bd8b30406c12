"""Push a student to the Hub: look, judge, and make one commit on top of what was judged."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_distill.errors import HubError
from hf_distill.names import is_hub_id, shortened
from hf_distill.report.hub.contents import StudentFiles, decides, same_content, student_files
from hf_distill.report.hub.repository import (
    TITLE,
    Repository,
    check_contents,
    check_ignored,
    check_visibility,
    look_or_create,
)
from hf_distill.report.hub.retries import Wait, persistently, said, status_of

logger = logging.getLogger(__name__)


def push_folder(
    folder: Path,
    model_id: str,
    *,
    run: str | None = None,
    private: bool = True,
    force: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
    wait: Wait = time.sleep,
) -> str:
    """Upload a student's folder in one commit, making the repository where it is not there.

    What failed on the way is tried again. What would be loaded from the repository and is not the student's is deleted
    in the same commit; the card that is uploaded names the repository in its example.

    Args:
        folder: What ``save_pretrained`` wrote; nothing outside of it is read.
        model_id: ``user/name``; a name alone is one of the user's.
        run: Whose student this is, the repository's name unless given: the next push of the run may take its place.
        private: Whether a new repository is private, and a public one refused.
        force: Whether the student takes the place of whatever the repository holds.
        endpoint: The Hub; the client's own unless given.
        token: The client's own unless given.
        wait: Waits for so many seconds before another try.

    Returns:
        Where the repository can be seen.

    Raises:
        HubError: Where the push is refused, by us or by the Hub; the line tells why and what to do.
    """
    if not is_hub_id(model_id):
        raise HubError(
            f"the name {model_id!r} is refused by the Hub; expected user/name, of letters, digits, '-', '_' and '.'"
        )
    files = student_files(folder)
    if files.left_out:
        logger.info(f"not sent, for no student has such files: {shortened(files.left_out)}")
    api = HfApi(endpoint=endpoint, token=token)
    attempt = partial(_attempt, api, files, model_id, run, private, force)
    return persistently(attempt, model_id, token, wait)


def _attempt(api: HfApi, files: StudentFiles, model_id: str, run: str | None, private: bool, force: bool) -> str:
    """One try, which may follow another that came to any point: it does only what is left to do."""
    full_id = model_id if "/" in model_id else f"{api.whoami()['name']}/{model_id}"
    run = run or full_id.split("/")[1]
    there = look_or_create(api, full_id, private)
    check_visibility(there, private)
    check_ignored(there)
    if not force:
        check_contents(api, there, run)
    shown = f"{api.endpoint}/{there.model_id} ({'private' if there.private else 'public'}"
    changes = _changes(files, there)
    if not changes:
        logger.info(f"pushed: {shown}, commit {str(there.commit)[:8]}, which holds this student already)")
        return f"{api.endpoint}/{there.model_id}"
    deleted = [change.path_in_repo for change in changes if isinstance(change, CommitOperationDelete)]
    try:
        made = api.create_commit(there.model_id, changes, commit_message=TITLE.format(run), parent_commit=there.commit)
    except HfHubHTTPError as error:
        if status_of(error) not in (409, 412):
            raise
        raise HubError(
            f"{there.model_id} was not pushed: the Hub answered {status_of(error)}{said(error)}: another commit came "
            "first; see what it changed, and push again"
        ) from error
    if deleted:
        logger.info(
            f"deleted there, for the student has no such files and they decide what is loaded: {shortened(deleted)}"
        )
    if kept := sorted(there.files.keys() - set(deleted) - set(files.paths) - {".gitattributes"}):
        logger.info(f"kept there beside the student: {shortened(kept)}")
    if not private and there.private:
        logger.info(f"{there.model_id} stays private, as it was: publish it in its settings")
    logger.info(f"pushed: {shown}, commit {made.oid[:8]})")
    return f"{api.endpoint}/{there.model_id}"


def _changes(files: StudentFiles, there: Repository) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What makes the repository hold this student, and nothing else that would be loaded."""
    contents = {path: files.content(path, there.model_id) for path in files.paths}
    additions = [
        CommitOperationAdd(path, content)
        for path, content in contents.items()
        if path not in there.files or not same_content(content, there.files[path])
    ]
    stale = [path for path in sorted(there.files) if decides(path) and path not in contents]
    return [*additions, *(CommitOperationDelete(path, is_folder=False) for path in stale)]
