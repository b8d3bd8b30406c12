"""A repository as it stands on the Hub: what it holds, who wrote that, and whether a student may take its place."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hf_distill.errors import HubError
from hf_distill.names import shortened
from hf_distill.report.hub.contents import CARD, decides
from hf_distill.report.hub.retries import BUSY, said, status_of

TITLE = "Add {}, distilled with hf_distill"
"""Of a commit of a run: it tells the next push whose student the repository holds."""

STUB = frozenset({".gitattributes", CARD})
"""What the Hub puts into a new repository; the card then names a licence and no more."""

LICENSE_KEYS = frozenset({"license", "license_name", "license_link"})


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What the Hub tells of a repository.

    Attributes:
        model_id: ``user/name``, as the Hub spells it.
        private: Whether only its owner sees it.
        commit: The last one; None where there is none.
        files: What the Hub calls the content of each file, by its path.
    """

    model_id: str
    private: bool
    commit: str | None
    files: Mapping[str, str]


def look(api: HfApi, model_id: str) -> Repository | None:
    """Ask for a repository; None where there is none, as far as the token can see."""
    try:
        info = api.model_info(model_id)
    except RepositoryNotFoundError as error:
        # The Hub answers 401 to a stranger, whether or not there is such a repository.
        if isinstance(error, GatedRepoError) or status_of(error) != 404:
            raise
        return None
    if not isinstance(info.private, bool) or not isinstance(info.id, str):
        raise TypeError("it does not tell whether the repository is private")
    files = _files(api, info.id, info.sha) if info.sha is not None else {}
    # A listing that lacks files would make a repository of others look empty.
    if unlisted := {each.rfilename for each in info.siblings or ()} - files.keys():
        raise LookupError(f"its listing lacks {shortened(sorted(unlisted))}")
    return Repository(model_id=info.id, private=info.private, commit=info.sha, files=files)


def look_or_create(api: HfApi, model_id: str, private: bool) -> Repository:
    """Ask for a repository, and make it where there is none."""
    there = look(api, model_id)
    if there is not None:
        return there
    try:
        api.create_repo(model_id, private=private)
    except HfHubHTTPError as error:
        if status_of(error) != 409 or BUSY in said(error):
            raise
        # Somebody made it in between, or this token cannot see it.
        there = look(api, model_id)
        if there is None:
            raise HubError(
                f"{model_id} is there{said(error)}, but this token cannot see it; use one that can read and write it"
            ) from error
        return there
    there = look(api, model_id)
    if there is None:
        raise HubError(
            f"{model_id} was made, but the Hub does not show it; see {api.endpoint}/{model_id} and push again"
        )
    return there


def check_visibility(there: Repository, private: bool) -> None:
    """Refuse to publish a student that is to be private."""
    if private and not there.private:
        raise HubError(
            f"{there.model_id} is public, and the student is to be private; make the repository private in its "
            "settings, name another, or publish the student: --public (hub.private: false)"
        )


def check_ignored(there: Repository) -> None:
    """Refuse a repository whose .gitignore could keep files out of the commit, without a word."""
    if ".gitignore" in there.files:
        raise HubError(
            f"{there.model_id} has a .gitignore, for which the Hub leaves files out of a commit; delete it there and "
            "push again"
        )


def check_contents(api: HfApi, there: Repository, run: str) -> None:
    """Refuse a repository that holds anything but an earlier push of the same run, or nothing."""
    if there.commit is None or _is_stub(api, there):
        return
    deciding = sorted(path for path in there.files if decides(path) or path == CARD)
    held = shortened(deciding or sorted(set(there.files) - STUB))
    way_out = "name another repository, or let the student take its place: --force (hub.force: true)"
    for commit in api.list_repo_commits(there.model_id, revision=there.commit):
        if found := re.fullmatch(re.escape(TITLE).replace(r"\{\}", "(.+)"), commit.title):
            if found[1] != run:
                raise HubError(f"{there.model_id} holds the student of the run {found[1]} ({held}); {way_out}")
            pushed = _files(api, there.model_id, commit.commit_id)
            changed = [
                path
                for path in sorted(pushed.keys() | there.files.keys())
                if (decides(path) or path == CARD) and pushed.get(path) != there.files.get(path)
            ]
            if changed:
                raise HubError(
                    f"{there.model_id} has changed since this run was pushed to it ({shortened(changed)}), which a "
                    f"push would undo; {way_out}"
                )
            return
    raise HubError(f"{there.model_id} holds what no push of this run put there ({held}); {way_out}")


def _files(api: HfApi, model_id: str, commit: str) -> dict[str, str]:
    entries = api.list_repo_tree(model_id, recursive=True, revision=commit)
    return {each.path: each.lfs.sha256 if each.lfs else each.blob_id for each in entries if isinstance(each, RepoFile)}


def _is_stub(api: HfApi, there: Repository) -> bool:
    if not there.files.keys() <= STUB:
        return False
    if CARD not in there.files:
        return True
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(there.model_id, CARD, revision=there.commit, local_dir=folder)
        card = ModelCard(Path(path).read_text(encoding="utf-8"), ignore_metadata_errors=True)
    return not card.text.strip() and card.data.to_dict().keys() <= LICENSE_KEYS
