"""The handwritten digits that scikit-learn carries, as pictures of 8 x 8 pixels: no Hub, no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits

from hf_distill.data.media.read_image import as_png

if TYPE_CHECKING:
    from datasets import DatasetDict


def load(test_rows: int = 500, seed: int = 0) -> DatasetDict:
    """All 1,797 of them (Alpaydin and Kaynak 1998, UCI), drawn apart by the seed.

    Args:
        test_rows: Rows of the test split; all others are the train split.
        seed: Decides which.
    """
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    found = load_digits()
    order = np.random.default_rng(seed).permutation(len(found.target))
    features = Features(
        {
            "image": {"bytes": Value("binary"), "path": Value("string")},
            "label": ClassLabel(names=[str(digit) for digit in range(10)]),
        }
    )

    def rows(numbers: np.ndarray) -> Dataset:
        pixels = np.round(found.images[numbers] * (255 / 16)).astype(np.uint8)
        images = [{"bytes": as_png(each), "path": None} for each in pixels]
        return Dataset.from_dict({"image": images, "label": found.target[numbers].tolist()}, features=features)

    return DatasetDict(train=rows(order[test_rows:]), test=rows(order[:test_rows]))
