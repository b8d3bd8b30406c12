"""The one call of a model's ``generate``: whoever asks, its own settings, modes and random numbers stay as they are."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    WhisperTimeStampLogitsProcessor,
)

from hf_distill.models.forward import ROUTER_LOGITS, accepted_inputs, evaluated, in_dtype
from hf_distill.tasks.encoding import padded
from hf_distill.types import Batch, Tokenizer

DECODER_BEGINS = "decoder_input_ids"
"""What a decoder is given to begin with, as Transformers calls it."""

STAMPS = frozenset({"return_timestamps", "no_timestamps_token_id"})
"""Settings by which Whisper writes marks of time, which other generation configs do not have."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Generated:
    """What a model wrote: tokens that follow each prompt; of an encoder-decoder further the one before them."""

    tokens: Tensor  # [N, T]
    beams: Tensor | None  # [N, T], the beam that each token came from, -1 behind the end; None where it did not search.


def generate(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor | int],
    settings: Mapping[str, Any],
    *,
    own: GenerationConfig | None = None,
    seed: int | None = None,
    processors: Sequence[LogitsProcessor] = (),
) -> Generated:
    """Let a model write, in eval mode and without gradients."""
    generation: Any = copy.deepcopy(model.generation_config if own is None else own)
    for name in STAMPS & settings.keys():
        setattr(generation, name, settings[name])  # Only Whisper's own have them.
    if settings.get("max_new_tokens") is not None:
        generation.max_length = None  # It would count for nothing, and be warned of.
    read = {name: in_dtype(value, model.dtype) for name, value in inputs.items()}
    tensors = generation.update(**{**read, **settings, "return_dict_in_generate": True})
    processors = [*_stamping(generation, inputs), *processors]
    # Whisper's own generate draws nothing where it is told to, gives the likeliest beam several times, and copies all
    # keys and values from a GPU. What it finds out before it writes, inputs with a beginning tell.
    given: Any = model
    writer: Any = functools.partial(GenerationMixin.generate, given) if DECODER_BEGINS in inputs else given.generate
    with evaluated(model), _only(model, generation), _drawing(seed, model.device):
        more = {**tensors, **beam_cache(model, generation), "logits_processor": LogitsProcessorList(processors)}
        # What balances experts is about whole texts: with a cache Transformers fails to compute it.
        more |= accepted_inputs(model, {ROUTER_LOGITS: False})
        found = writer(**more, generation_config=generation)
    return Generated(tokens=found.sequences[:, _start(model, inputs) :], beams=getattr(found, "beam_indices", None))


def with_length(settings: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """Settings that draw nothing and stop somewhere, unless they say otherwise."""
    bounded = "max_new_tokens" in settings or "max_length" in settings
    return {"do_sample": False, **({} if bounded else {"max_new_tokens": longest}), **settings}


def writer_inputs(
    model: PreTrainedModel, tokenizer: Tokenizer, rows: list[list[int]], sources: Batch | None = None
) -> dict[str, Any]:
    """What ``generate`` reads of rows of tokens: padded, with their mask, and the token that pads.

    ``sources``: what an encoder reads in their place; the rows, all of one length, are then what a decoder begins with.
    """
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if sources is not None:
        read = {name: value.to(model.device) for name, value in sources.items()}
        return {**read, DECODER_BEGINS: torch.tensor(rows, device=model.device), "pad_token_id": pad}
    # A decoder goes on where the row ends, so nothing may stand behind it; its positions are counted from the mask.
    left = not model.config.is_encoder_decoder
    ids = torch.tensor(padded(rows, pad, left), device=model.device)
    mask = torch.tensor(padded([[1] * len(row) for row in rows], 0, left), device=model.device)
    return {"input_ids": ids, "attention_mask": mask, "pad_token_id": pad}


def _start(model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
    """Where, in what ``generate`` gives, that begins which is given on."""
    if DECODER_BEGINS in inputs:
        return int(inputs[DECODER_BEGINS].shape[1]) - 1
    return 0 if model.config.is_encoder_decoder else int(inputs["input_ids"].shape[1])


def _stamping(generation: Any, inputs: Mapping[str, Any]) -> list[LogitsProcessor]:
    """What lets Whisper write marks of time in pairs and in order, where it writes any."""
    if DECODER_BEGINS not in inputs or not getattr(generation, "return_timestamps", False):
        return []
    return [WhisperTimeStampLogitsProcessor(generation, begin_index=inputs[DECODER_BEGINS].shape[1])]


@contextmanager
def _only(model: PreTrainedModel, generation: GenerationConfig) -> Iterator[None]:
    """Hide the model's own settings: ``generate`` fills in from them what it is not told."""
    kept, model.generation_config = model.generation_config, generation
    try:
        yield
    finally:
        model.generation_config = kept


@contextmanager
def _drawing(seed: int | None, device: torch.device) -> Iterator[None]:
    """Random numbers of a seed, and afterwards those of before: dropout does not notice that anything was drawn."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class _SourceCache(DynamicCache):
    """Keys and values of the source: all beams of a row read the same, so nothing moves when beams are reordered."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        pass


def beam_cache(model: PreTrainedModel, generation: GenerationConfig) -> dict[str, Any]:
    """The cache that spares beams from carrying their source around; empty where that does not apply."""
    writer: Any = model
    special = generation.use_cache is False or generation.cache_implementation not in (None, "dynamic")
    plain = special or (generation.num_beams or 1) == 1 or not model.config.is_encoder_decoder
    if plain or not writer._supports_default_dynamic_cache():
        return {}
    config = model.config.get_text_config(decoder=True)
    return {"past_key_values": EncoderDecoderCache(DynamicCache(config=config), _SourceCache(config=config))}
