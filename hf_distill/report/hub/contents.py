"""What a student's folder sends to the Hub, and which files of a repository decide what is loaded from it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_distill.errors import HubError
from hf_distill.names import is_hub_id, shortened
from hf_distill.report.card import address

CARD = "README.md"

LOADED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "*_config.json", "modules.json",
    "config_sentence_transformers.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "*_vocab.json", "merges.txt", "dict.txt", "bpe.codes", "*.model", "*.spm", "*.tiktoken", "normalizer.json",
    "*.jinja", "chat_template.json",
)  # fmt: skip
"""Files that ``from_pretrained`` and sentence-transformers read, and that a student may have."""

BESIDE = (CARD, "LICENSE*", "NOTICE*")
"""What a student's folder holds beside them for people."""

OTHER_FORMATS = (
    "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.h5", "*.msgpack",
    "*.onnx", "*.onnx_data", "*.gguf", "*.xml", "*.py",
)  # fmt: skip
"""Weights in formats that a student never has, and code: in a repository they would be loaded in its place."""

MODULE = r"[0-9]+_[A-Za-z]\w*"  # Of sentence-transformers.
PLACES = re.compile(rf"|{MODULE}|additional_chat_templates")
"""Folders of a student whose files are loaded; the empty one is the student's own."""

OTHER_PLACES = re.compile(r"onnx|openvino|custom_generate")
"""Folders of a repository where libraries look, too."""

FIGURE = re.compile(r"figures/[\w.-]+\.png")


@dataclass(frozen=True, kw_only=True)
class StudentFiles:
    """The files of a student.

    Attributes:
        folder: Where they lie.
        paths: Those that are sent, by their names in the repository.
        left_out: What else lies there, and is not sent.
    """

    folder: Path
    paths: tuple[str, ...]
    left_out: tuple[str, ...]

    def content(self, path: str, model_id: str) -> Path | bytes:
        """What is sent of a file; the card names the repository that it will lie in."""
        if path != CARD:
            return self.folder / path
        return address((self.folder / path).read_text(encoding="utf-8"), model_id).encode()


def is_loaded(path: str) -> bool:
    """Whether a file of a student decides what is loaded."""
    place, _, name = path.rpartition("/")
    return PLACES.fullmatch(place) is not None and any(fnmatchcase(name, pattern) for pattern in LOADED)


def decides(path: str) -> bool:
    """Whether a file of a repository may decide what is loaded from it, whoever wrote it."""
    place, _, name = path.rpartition("/")
    known = PLACES.fullmatch(place) is not None or OTHER_PLACES.fullmatch(place) is not None
    return known and any(fnmatchcase(name, pattern) for pattern in (*LOADED, *OTHER_FORMATS))


def same_content(content: Path | bytes, known: str) -> bool:
    """Whether a file has the content that the Hub knows by a name: SHA-256 of large files, git's name of all others."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    found = hashlib.sha256() if len(known) == 64 else hashlib.sha1(b"blob %d\0" % size)
    if isinstance(content, bytes):
        found.update(content)
    else:
        with content.open("rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
    return found.hexdigest() == known


def student_files(folder: Path) -> StudentFiles:
    """Find what of a folder is sent, and refuse one that nobody could load; reads nothing outside of it."""

    def refuse(error: OSError) -> None:
        raise HubError(f"{error.filename} cannot be read ({error.strerror}); name the folder of a student") from error

    paths: list[str] = []
    left_out: list[str] = []
    links: list[str] = []
    for place, folders, names in os.walk(folder, onerror=refuse):  # Which does not follow links.
        for entry in (Path(place, name) for name in sorted([*folders, *names])):
            path = entry.relative_to(folder).as_posix()
            belongs = is_loaded(path) or FIGURE.fullmatch(path) or any(fnmatchcase(path, known) for known in BESIDE)
            if entry.is_symlink():
                (links if belongs or PLACES.fullmatch(path) or path == "figures" else left_out).append(path)
            elif not entry.is_dir():
                (paths if belongs and entry.is_file() else left_out).append(path)
    if links:
        raise HubError(
            f"{folder}: {shortened(links)} would be sent, but links lead elsewhere and are not followed; put the files "
            "themselves there"
        )
    files = StudentFiles(folder=folder, paths=tuple(sorted(paths)), left_out=tuple(sorted(left_out)))
    _check_whole(files)
    return files


def _check_whole(files: StudentFiles) -> None:
    """Refuse a student that lacks weights or a config, or that only this machine could load."""
    folder, paths = files.folder, files.paths
    if not any(path.endswith(".safetensors") for path in paths):
        raise HubError(
            f"{folder} holds no files with weights (*.safetensors); expected a folder that save_pretrained wrote"
        )
    if not {"config.json", "adapter_config.json"} & set(paths):
        raise HubError(f"{folder} holds no config.json; expected a folder that save_pretrained wrote")
    for path in paths:
        if path.endswith(".json"):
            content = _read_json(folder / path)
            shards = set(content.get("weight_map", {}).values()) if path.endswith(".index.json") else set()
            if missing := sorted(shards - set(paths)):
                raise HubError(f"{folder} lacks {shortened(missing)}, which {path} names; save the student again")
            if path == "adapter_config.json":
                _check_base(folder, content)
    if CARD in paths:
        try:
            ModelCard((folder / CARD).read_text(encoding="utf-8"), ignore_metadata_errors=False)
        except Exception as error:  # The parser of YAML raises errors of its own.
            reason = " ".join(str(error).split())
            raise HubError(
                f"{folder / CARD}: the metadata cannot be read ({reason}); mend the YAML at its top"
            ) from error


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise HubError(f"{path} is no whole JSON file ({error}); save the student again") from error
    return content if isinstance(content, dict) else {}


def _check_base(folder: Path, adapter: Mapping[str, Any]) -> None:
    """Refuse adapters of which only this machine has the model beside which they learned."""
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str) or Path(base).is_dir() or not is_hub_id(base):
        raise HubError(
            f"{folder} holds adapters beside the folder {base}, which others do not have; train beside a model of the "
            "Hub, or set student.lora.merge: true to push a whole model"
        )
