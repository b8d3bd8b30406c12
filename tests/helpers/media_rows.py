"""Rows of small pictures and sounds of three classes, and what prepares them."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.helpers.media import image_bytes, sine, sound_bytes
from tests.helpers.media_models import FRAMES, MEL_BINS, NAMES, SAMPLES, SIDE

RATE = 16_000


def image_processor(side: int = SIDE) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": side, "width": side})


def waves() -> Wav2Vec2FeatureExtractor:
    return Wav2Vec2FeatureExtractor(return_attention_mask=False)


def spectrograms() -> ASTFeatureExtractor:
    return ASTFeatureExtractor(num_mel_bins=MEL_BINS, max_length=FRAMES)


def pictures(count: int = 24, seed: int = 0, size: tuple[int, int] = (20, 14)) -> Dataset:
    """Noise whose brightness tells the class."""
    from PIL import Image

    draw, rows = np.random.default_rng(seed), []
    for number in range(count):
        pixels = draw.integers(0, 90, (*size, 3)) + 80 * (number % 3)
        rows.append(image_bytes(Image.fromarray(pixels.astype(np.uint8))))
    return _labelled("image", rows)


def sounds(count: int = 24, seed: int = 0) -> Dataset:
    """Tones whose height tells the class, of lengths of their own."""
    draw, rows = np.random.default_rng(seed), []
    for number in range(count):
        samples = sine(300.0 * 4 ** (number % 3), (SAMPLES + draw.integers(-200, 200)) / RATE)
        rows.append(sound_bytes(samples + draw.normal(0, 0.01, len(samples)).astype(np.float32)))
    return _labelled("audio", rows)


def _labelled(column: str, files: list[bytes]) -> Dataset:
    cells = [{"bytes": content, "path": None} for content in files]
    return Dataset.from_dict({column: cells, "label": [NAMES[i % 3] for i in range(len(files))]})


def picture_splits(train: int = 48, test: int = 24) -> DatasetDict:
    return DatasetDict(train=pictures(train), test=pictures(test, 1))


def sound_splits(train: int = 48, test: int = 24) -> DatasetDict:
    return DatasetDict(train=sounds(train), test=sounds(test, 1))
