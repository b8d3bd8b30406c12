"""Where rows come from: the Hub, files, a saved folder, or a callable."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from httpx2 import TransportError
from huggingface_hub import HfApi

from hf_distill.data.local_files import reason
from hf_distill.data.media.cells import Kind
from hf_distill.data.media.columns_of_media import as_cells, audio_as_given
from hf_distill.data.media.manifests import rows_of_files, splits_of_folder
from hf_distill.data.media.origins import Origin
from hf_distill.errors import DataError, HfDistillError
from hf_distill.names import plug_in
from hf_distill.secrets import hidden, speakable
from hf_distill.secrets.references import resolved, variables

if TYPE_CHECKING:
    from hf_distill.recipe import DataConfig

Splits = Mapping[str, "Dataset | IterableDataset"]


def splits_of(config: DataConfig, used: Collection[str] = (), media: Mapping[str, Kind] | None = None) -> Splits:
    """All splits that a recipe's data have, as they are.

    Args:
        config: Where they are.
        used: The columns that are needed of files.
        media: The columns that hold sound or images, which become cells: ``{"bytes", "path"}``, not decoded.
    """
    media = media or {}
    folder = config.files if isinstance(config.files, str) else config.path
    splits: Splits | None = splits_of_folder(folder, config, media) if isinstance(folder, str) else None
    if splits is not None:
        return splits
    if config.files is not None:
        return {
            split: rows_of_files(files, split, config, used, media) for split, files in config.files_by_split.items()
        }
    assert config.path is not None
    splits = _called(config.path, config.arguments) if ":" in config.path else _loaded(config)
    return (
        {name: as_cells(rows, media, _origin(config.path), name) for name, rows in splits.items()} if media else splits
    )


def _origin(path: str) -> Origin:
    """What the paths mean that rows of a data set hold."""
    if ":" in path:
        return Origin()
    return Origin(folder=os.path.abspath(path)) if os.path.exists(path) else Origin(hub_id=path)


def _called(path: str, arguments: Mapping[str, Any]) -> Splits:
    function = plug_in(path, "data.path", DataError)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise DataError(f"data.arguments: {path} does not take them: {error}") from error
    splits = _given(path, function, arguments)
    if not isinstance(splits, (DatasetDict, IterableDatasetDict)):
        raise DataError(f"data.path: {path} must return a datasets.DatasetDict, it returned {type(splits).__name__}")
    return splits


def _given(path: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What a callable gives for arguments in which variables are read; its errors show nothing of these."""
    names = sorted(variables(arguments))
    if unset := [name for name in names if not os.environ.get(name)]:
        raise DataError(
            f"data.arguments: the recipe has {', '.join(unset)} in place of a secret, and no environment variable of "
            "this name is set; set it to what the callable needs"
        )
    try:
        return function(**resolved(arguments))
    except HfDistillError:
        raise
    except Exception as error:
        secrets = [os.environ[name] for name in names]
        told = hidden(f"{type(error).__name__}: {reason(error)}", secrets)
        raise DataError(f"data.path: {path} failed: {told}; see where with --debug") from speakable(error, secrets)


def _loaded(config: DataConfig) -> Splits:
    assert config.path is not None
    folder = Path(config.path)
    try:
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(folder))
        if (folder / "state.json").is_file():
            return {config.train_split: datasets.load_from_disk(str(folder))}
        with audio_as_given():
            return datasets.load_dataset(config.path, config.name, revision=config.revision, streaming=config.streaming)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise DataError(
            f"data.path: {config.path} is neither a folder here nor a data set on the Hub that can be reached: check "
            "the spelling and the connection, or log in with `hf auth login` if it is private"
        ) from speakable(error)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(f"data.path: {config.path} cannot be loaded: {reason(error)}") from speakable(error)


def source_of(config: DataConfig) -> tuple[str, str | None]:
    """The source in words, and its Hub id, or None."""
    if config.test is not None:
        shown, dataset_id = source_of(dataclasses.replace(config, test=None))
        return f"{shown}, test: {source_of(config.test.source())[0]}", dataset_id
    if config.files is not None:
        parts = {split: [files] if isinstance(files, str) else files for split, files in config.files_by_split.items()}
        return ", ".join(f"{split}: {', '.join(Path(f).name for f in files)}" for split, files in parts.items()), None
    assert config.path is not None
    if ":" in config.path:
        return config.path, None
    if Path(config.path).exists():
        return Path(config.path).name, None
    name, revision = (f"{mark}{value}" if value else "" for mark, value in (("/", config.name), ("@", config.revision)))
    return f"{config.path}{name}{revision}", config.path


def is_public(config: DataConfig) -> bool:
    """Whether it is known that anybody can read a recipe's rows: those of loaders of ours, and of data sets on the Hub
    that a stranger sees and need not ask for."""
    if config.test is not None and not is_public(config.test.source()):
        return False
    if config.path is not None and ":" in config.path:
        return config.path.startswith("hf_distill.")
    _, dataset_id = source_of(dataclasses.replace(config, test=None))
    if dataset_id is None:
        return False
    try:
        found = HfApi(token=False).dataset_info(dataset_id, timeout=10)
    except (OSError, ValueError, TransportError):  # Not to be seen, or no network.
        return False
    return not (found.private or found.gated or found.disabled)
