"""The order of the training rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

_MOST_BATCHES = 100
"""That are sorted together: twice as many as Transformers', for less padding where a few rows are long."""


class LengthGroupedSampler(Sampler[int]):
    """Rows of like length in the same batch, in an order that only the seed and the epoch decide.

    An epoch is shuffled and cut into at least four parts, of at most 100 batches each, which are sorted by length.

    Transformers' own sampler draws from the global generator, so that dropout changes the order and an interrupted run
    does not go on as it began; and it groups by the micro-batch, so that the order depends on how a batch is split.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of one optimizer step: over accumulation and all processes.
        seed: Of the run.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        batches = max(1, min(len(self.lengths) // (4 * self.batch_size), _MOST_BATCHES))
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, batches, generator))
