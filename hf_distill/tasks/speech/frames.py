"""How many frames a model makes of a clip, which its config tells; no model runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCTC, PretrainedConfig

from hf_distill.errors import ModelError
from hf_distill.types import IGNORED

Count = Callable[[Tensor], Tensor]
"""From how much of each row a model reads (samples, or frames of a spectrogram) to how many frames it makes of it."""

_COUNTS = ("_get_feat_extract_output_lengths", "_get_subsampling_output_length")
"""What Transformers' models call what counts them; it reads the model's config alone."""


def _counting(config: PretrainedConfig) -> str | None:
    kind: Any = AutoModelForCTC._model_mapping.get(type(config), None)
    return next((each for each in _COUNTS if hasattr(kind, each)), None)


def makes_frames(config: PretrainedConfig) -> bool:
    """Whether it is known how many frames models of a kind make of a clip."""
    return _counting(config) is not None


def frame_counter(config: PretrainedConfig, *, of_states: bool = False) -> Count:
    """What counts the frames of a model with a CTC head; never below 0.

    Args:
        config: Of the model.
        of_states: Whether hidden states are counted, of which an adapter makes fewer outputs (``add_adapter``), and of
            which SEW has fewer than outputs (``squeeze_factor``).
    """
    kind: Any = AutoModelForCTC._model_mapping.get(type(config), None)
    name = _counting(config)
    if name is None:
        raise ModelError(
            f"{config.model_type}: expected a model with a CTC head that tells how many frames it makes of a clip "
            "(wav2vec2, HuBERT, WavLM, Parakeet, ...), got one that does not; take another"
        )
    given = SimpleNamespace(config=config)
    more = {"add_adapter": False} if of_states and getattr(config, "add_adapter", False) else {}
    squeezed = getattr(config, "squeeze_factor", 1) if of_states else 1

    def count(lengths: Tensor) -> Tensor:
        found: Tensor = getattr(kind, name)(given, lengths, **more)
        return found.long().clamp(min=0) // squeezed

    return count


def frame_mask(mask: Tensor, count: Count) -> Tensor:
    """``[B, T]``: which frames are of a clip, from the mask ``[B, S]`` of what a model reads, padded at the end."""
    frames = count(mask.sum(-1))
    widest = int(count(torch.tensor(mask.shape[1])))
    return torch.arange(widest, device=mask.device) < frames[:, None]


def frames_needed(labels: Tensor) -> Tensor:
    """``[B]``: how many frames labels ``[B, L]`` take at least; two equal ones have a blank between them."""
    there = labels != IGNORED
    repeated = (labels[:, 1:] == labels[:, :-1]) & there[:, 1:]
    return there.sum(-1) + repeated.sum(-1)


def best_paths(logits: Tensor, frames: Tensor, blank: int) -> list[list[int]]:
    """The labels of the likeliest class of each frame of a row: repeated ones once, then without the blank.

    Args:
        logits: ``[B, T, C]``.
        frames: ``[B, T]``, which of them are of the clip.
        blank: The class that stands for no label.
    """
    best = logits.argmax(-1)
    changes = torch.ones_like(frames)
    changes[:, 1:] = best[:, 1:] != best[:, :-1]
    kept = frames & changes & (best != blank)
    return [row[chosen].tolist() for row, chosen in zip(best, kept, strict=True)]
