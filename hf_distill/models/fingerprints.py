"""Fingerprints of weights, and under which licence weights are."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load

from hf_distill.artifacts import files_digest


def license_of(folder: Path) -> dict[str, str | None]:
    """The licence that the card in a model's folder declares: ``license``, and what names it where that is other."""
    card = folder / "README.md"
    declared: dict[str, Any] = {}
    with suppress(ValueError):
        declared = (metadata_load(card) if card.is_file() else None) or {}
    names = ("license", "license_name", "license_link")
    found: dict[str, str | None] = {name: declared[name] for name in names if isinstance(declared.get(name), str)}
    return found if found.get("license") == "other" else {"license": found.get("license")}


def weights_mark(folder: Path) -> str:
    """The Hub's commit of the weights in a folder (in the Hub's cache it names the folder), else their checksum."""
    is_cached = folder.parent.name == "snapshots"
    return folder.name if is_cached else files_digest(sorted(folder.glob("*.safetensors")))
