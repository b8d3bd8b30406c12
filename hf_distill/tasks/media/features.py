"""What models read of pictures and sounds, made once and kept on disk, beside what `datasets` keeps there."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, Features, Value
from torch import Tensor

from hf_distill.artifacts import digest
from hf_distill.data.media.digests import fingerprint
from hf_distill.tasks.encoding import MEDIA
from hf_distill.types import Batch

logger = logging.getLogger(__name__)

AT_ONCE = 32
"""Rows that are prepared together."""


def kept_features(media: Dataset, prepare: Callable[[Sequence[Any]], Batch], names: Sequence[str], how: Any) -> Dataset:
    """Columns with what models read of each row, from disk where it was made before.

    Args:
        media: Rows with the column :data:`MEDIA` alone.
        prepare: Makes what models read of cells, ``[B, ...]`` each.
        names: What that is called.
        how: Plain data on which it depends; other features have another file.
    """
    mark = digest([fingerprint([media]), how])
    path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_distill" / f"features-{mark[:32]}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        logger.info(f"features: of {len(media):,} rows, made once and kept in {path.parent}")

    def packed(batch: Mapping[str, list[Any]]) -> dict[str, list[bytes]]:
        made = prepare(batch[MEDIA])
        return {name: [_bytes_of(each) for each in made[name]] for name in names}

    return media.map(
        packed,
        batched=True,
        batch_size=AT_ONCE,
        remove_columns=[MEDIA],
        features=Features({name: Value("binary") for name in names}),
        cache_file_name=str(path),
        new_fingerprint=mark[:32],
    )


def unpacked(value: Any) -> Tensor:
    """A tensor of what was packed, or of what somebody prepared."""
    return torch.from_numpy(np.load(io.BytesIO(value))) if isinstance(value, bytes) else torch.as_tensor(value)


def _bytes_of(value: Tensor) -> bytes:
    file = io.BytesIO()
    np.save(file, value.numpy())
    return file.getvalue()
