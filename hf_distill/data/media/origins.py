"""Where the files are that rows name, and which of them rows may read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import datasets
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from hf_distill.errors import DataError


@dataclass(frozen=True)
class Origin:
    """Where rows come from, which decides what the paths in them mean.

    Attributes:
        folder: Where relative paths begin: of a manifest its folder, else where the run was started.
        hub_id: The data set of the Hub whose rows these are. A stranger wrote its paths, so that they may name files
            that were downloaded with it, and no others of this machine; local rows may name any file.
    """

    folder: str = ""
    hub_id: str = ""

    def found(self, path: str) -> str:
        """The file that a row names; a row of the Hub's that names another than its own is refused (DataError)."""
        if "://" in path:
            if self.hub_id and path.rpartition("::")[2].startswith(f"hf://datasets/{self.hub_id}@"):
                return path
            raise DataError(
                f"a row names the address {path}, and only files are read; download what it names, and name the files"
            )
        if not self.hub_id:
            return os.path.normpath(os.path.join(self.folder, path)) if path else path
        if os.path.isabs(path) and any(_is_within(path, folder) for folder in _downloaded(self.hub_id)):
            return path
        raise DataError(
            f"data.path: a row of {self.hub_id} names the file {path}, which is none that was downloaded with it, and "
            "rows of the Hub may not read files of this machine; download the data set and name its folder in data.path"
        )


def _is_within(path: str, folder: str) -> bool:
    whole, outer = os.path.realpath(path), os.path.realpath(folder)
    return Path(outer) in Path(whole).parents


def _downloaded(hub_id: str) -> tuple[str, ...]:
    """The folders that hold what was downloaded of a data set: its own, and where archives are unpacked."""
    config = datasets.config
    own = os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=hub_id, repo_type="dataset"))
    return own, str(config.DOWNLOADED_DATASETS_PATH), str(config.EXTRACTED_DATASETS_PATH)
