"""Fingerprints of weights and tokenizers, and under which licence weights are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load
from transformers import PreTrainedTokenizerBase

from hf_distill.artifacts import digest, files_digest


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


def tokenizer_mark(tokenizers: Sequence[PreTrainedTokenizerBase]) -> str:
    """A digest of vocabulary, way of cutting, special tokens and chat template."""
    parts = []
    for tokenizer in tokenizers:
        state: Any = sorted(tokenizer.get_vocab())
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            # A tokenizer remembers how it last cut and padded; that is no part of it.
            whole = json.loads(backend.to_str())
            state = {name: value for name, value in whole.items() if name not in ("truncation", "padding")}
        parts.append([state, tokenizer.special_tokens_map, tokenizer.chat_template])
    return digest(parts)
