"""Other views of pictures, and mixtures of two, drawn by a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

_TRIES = 10
_SIDES = 3 / 4, 4 / 3
"""Width by height of a view, at least and at most (Szegedy et al. 2015, Going Deeper with Convolutions, section 6)."""


def view_of(picture: Image.Image, draw: random.Random, crop: float, flip: bool) -> Image.Image:
    """A part of a picture, perhaps mirrored.

    Args:
        picture: Any size and mode.
        draw: Decides which; the same for the same state.
        crop: The smallest share of the area that is kept; 1 keeps all of it.
        flip: Whether it is mirrored in half of the cases.
    """
    if crop < 1:
        picture = picture.crop(_box(picture.size, draw, crop))
    if flip and draw.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture


def _box(size: tuple[int, int], draw: random.Random, crop: float) -> tuple[int, int, int, int]:
    """Left, upper, right and lower of a part that lies within a picture; all of it where none was found."""
    for _ in range(_TRIES):
        area = draw.uniform(crop, 1.0) * size[0] * size[1]
        sides = math.exp(draw.uniform(*map(math.log, _SIDES)))
        width, height = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
        if 0 < width <= size[0] and 0 < height <= size[1]:
            left, upper = draw.randint(0, size[0] - width), draw.randint(0, size[1] - height)
            return left, upper, left + width, upper + height
    return 0, 0, *size


def mixed(
    pixels: Tensor, labels: Tensor, draws: Sequence[random.Random], mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Pictures mixed with the next of their batch, the last with the first, and what their labels become.

    Args:
        pixels: ``[B, C, H, W]``.
        labels: ``[B, ...]`` floats, of which mixtures can be taken; NaN where there are none.
        draws: One for each row: whether it is mixed, how, and how much of it is left.
        mixup: The share of rows that become ``k * own + (1 - k) * next`` with ``k`` from 0 to 1 (Zhang et al. 2018,
            mixup: Beyond Empirical Risk Minimization, equation 1; uniform, as Beyer et al. 2022, section 3.1).
        cutmix: The share of rows of which a box is the next picture's (Yun et al. 2019, CutMix, equation 1).
    """
    others, other_labels = pixels.roll(-1, 0), labels.roll(-1, 0)
    found, found_labels = pixels.clone(), labels.clone()
    for row, draw in enumerate(draws):
        kind, kept = draw.random(), draw.random()
        places = draw.random(), draw.random()
        if kind < mixup:
            found[row] = kept * pixels[row] + (1 - kept) * others[row]
        elif kind < mixup + cutmix:
            rows, columns = (_part(size, kept, place) for size, place in zip(pixels.shape[-2:], places, strict=True))
            found[row, :, rows, columns] = others[row, :, rows, columns]
            kept = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / pixels[row, 0].numel()
        else:
            continue
        found_labels[row] = kept * labels[row] + (1 - kept) * other_labels[row]
    return found, found_labels


def _part(size: int, kept: float, place: float) -> slice:
    """So much of a side that a box of both sides has the share of the area that is not kept."""
    length = round(size * math.sqrt(1 - kept))
    start = round((size - length) * place)
    return slice(start, start + length)
