"""Fingerprints of weights and tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_distill.artifacts import digest, files_digest


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
