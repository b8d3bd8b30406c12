"""Other views of pictures, drawn by a seed."""

from __future__ import annotations

import math
import random

from PIL import Image

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
