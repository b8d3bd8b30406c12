"""What models of sound read of clips: processors taken apart, and clips as a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_distill.errors import ObjectiveError
from hf_distill.tasks.speech.frames import frame_counter
from hf_distill.tokenizers.readers import Reader
from hf_distill.types import Batch

PROBED = (0.6, 1.0, 2.37, 5.03)
"""Seconds of clips by which two models are seen to make as many frames."""


def extractor_of(processor: Any) -> Any:
    """The feature extractor of a processor, or itself."""
    return getattr(processor, "feature_extractor", processor)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, or itself."""
    return getattr(processor, "tokenizer", processor)


def read_clips(extractor: Any, waves: Sequence[np.ndarray]) -> Batch:
    """Samples as a model reads them, padded at the end, with an ``attention_mask`` that tells where.

    The mask is there also for models that are not told it (see :func:`hf_distill.models.forward.reads_padding_mask`):
    only with it is each clip normalized alone, and padded with silence.
    """
    read = extractor(
        list(waves),
        sampling_rate=extractor.sampling_rate,
        padding=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return {**read, "attention_mask": read["attention_mask"].long()}


def amounts_read(extractor: Any, samples: Sequence[int]) -> Tensor:
    """How much a model reads of clips of so many samples: these, or frames of a spectrogram; of long ones about."""
    if "input_values" in extractor.model_input_names:
        return torch.tensor(samples)
    second = extractor.sampling_rate
    short, long = (_amount(extractor, seconds * second) for seconds in (1, 11))
    return ((torch.tensor(samples) / second - 1) * (long - short) / 10 + short).floor().long()


def check_frames(student: Reader, teacher: Reader) -> None:
    """Refuse a teacher that makes another number of frames of a clip than the student (ObjectiveError)."""
    made = []
    for reader in (student, teacher):
        extractor = extractor_of(reader.tokenizer)
        count = frame_counter(reader.model.config)
        amounts = [_amount(extractor, round(seconds * extractor.sampling_rate)) for seconds in PROBED]
        made.append(count(torch.tensor(amounts)).tolist())
    if made[0] != made[1]:
        raise ObjectiveError(
            f"{student} makes {made[0][-1]} frames of {PROBED[-1]} s of sound and {teacher} {made[1][-1]}: they cannot "
            "be compared frame by frame; take a student with the teacher's frames (of its family, its layers, or "
            "student.config with its convolutions)"
        )


def _amount(extractor: Any, samples: int) -> int:
    return int(read_clips(extractor, [np.zeros(samples, dtype=np.float32)])["attention_mask"].sum())
