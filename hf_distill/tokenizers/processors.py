"""What makes rows readable for a model: a tokenizer, or what prepares pictures and sounds, perhaps with a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_distill.artifacts import digest
from hf_distill.errors import ModelError
from hf_distill.models.loading import as_model_error

_PARTS = ("image_processor", "feature_extractor")
"""What a processor calls those of its parts that are no tokenizer."""

_NAMES = ("name_or_path", "processor_class", "image_processor_type", "feature_extractor_type", "transformers_version")
"""Settings that change nothing of what is prepared."""

_BACKENDS = ("Fast", "Pil")


def load_processor(auto_processor: Any, name: str, revision: str | None = None) -> Any:
    """Load what prepares a model's rows, by the class that a task names (``AutoTokenizer``, ``AutoImageProcessor``)."""
    if auto_processor is AutoTokenizer:
        return load_tokenizer(name, revision)
    with as_model_error("preprocessor config", name, revision):
        return auto_processor.from_pretrained(name, revision=revision or "main", trust_remote_code=False)


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model."""
    with as_model_error("tokenizer", name, revision):
        tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    # Without tokenizer files Transformers makes one of the right kind that knows the special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{name} holds no tokenizer; save one there, or name another in student.tokenizer")
    return tokenizer


def vocabulary_of(processor: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer: the processor itself, or the part of it that knows tokens; None where nothing does."""
    found = processor if isinstance(processor, PreTrainedTokenizerBase) else getattr(processor, "tokenizer", None)
    return found if isinstance(found, PreTrainedTokenizerBase) else None


def tokens_known(processor: Any) -> int:
    """How many tokens a processing class knows; 0 where it knows none."""
    tokenizer = vocabulary_of(processor)
    return 0 if tokenizer is None else len(tokenizer)


def preparation_of(processor: Any) -> dict[str, Any]:
    """How pictures or sounds are prepared, as plain data: equal where two processors give the same; empty of texts."""
    if processor is None or isinstance(processor, PreTrainedTokenizerBase):
        return {}
    parts = [part for name in _PARTS if (part := getattr(processor, name, None)) is not None] or [processor]
    return {_kind_of(part): {k: v for k, v in part.to_dict().items() if k not in _NAMES} for part in parts}


def processor_mark(processors: Sequence[Any]) -> str:
    """A digest of how rows are prepared: vocabulary, cutting, special tokens, chat template; pictures and sounds."""
    parts: list[Any] = []
    for processor in processors:
        if (tokenizer := vocabulary_of(processor)) is not None:
            parts.append(_marked(tokenizer))
        if prepared := preparation_of(processor):
            parts.append(json.loads(json.dumps(prepared, sort_keys=True, default=str)))
    return digest(parts)


def _marked(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    state: Any = sorted(tokenizer.get_vocab())
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # A tokenizer remembers how it last cut and padded; that is no part of it.
        whole = json.loads(backend.to_str())
        state = {name: value for name, value in whole.items() if name not in ("truncation", "padding")}
    return [state, tokenizer.special_tokens_map, tokenizer.chat_template]


def _kind_of(part: Any) -> str:
    """Its class, whichever library computes it."""
    name = type(part).__name__
    for backend in _BACKENDS:
        name = name.removesuffix(backend)
    return name
