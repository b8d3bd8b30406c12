"""Fingerprints of weights and tokenizers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase


def weights_mark(folder: Path) -> str:
    """The Hub's commit of the weights in a folder (in the Hub's cache it names the folder), else their checksum."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def tokenizer_mark(tokenizers: Sequence[PreTrainedTokenizerBase]) -> str:
    """A digest of vocabulary, way of cutting, special tokens and chat template."""
    parts = []
    for tokenizer in tokenizers:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        parts.append(
            [
                _settings(json.loads(backend.to_str())) if backend is not None else sorted(tokenizer.get_vocab()),
                tokenizer.special_tokens_map,
                tokenizer.chat_template,
                tokenizer.padding_side,
            ]
        )
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _settings(state: dict[str, Any]) -> dict[str, Any]:
    # A tokenizer remembers how it last cut and padded; that is no part of it.
    return {name: value for name, value in state.items() if name not in ("truncation", "padding")}
