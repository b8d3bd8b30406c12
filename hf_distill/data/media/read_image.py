"""Images as RGB: of every mode, upright, and not larger than memory allows."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_distill.data.media.cells import MediaError, name_of, needed_for, opened

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 89_478_485
"""Pixels of an image at most: 256 MiB as RGB, from where on Pillow warns of decompression bombs."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is read: some of Pillow's other readers start programs of the machine (EPS), or are for no photographs."""

_FAULTS = (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, MemoryError)
"""What Pillow's readers raise for damaged files."""


def pillow() -> Any:
    """The package PIL with what is used of it; DataError where it is missing."""
    with needed_for("image"):
        import PIL.Image
        import PIL.ImageOps
    return PIL


def read_image(cell: Any) -> Image:
    """The image of a cell as RGB, turned as its EXIF says; of several frames the first.

    What is transparent lies over white, 16 bits become 8 (by 257). Floats of arrays are from 0 to 1, integers from 0 to
    255, those of uint16 to 65535. Colour profiles are not applied.

    Args:
        cell: ``{"bytes", "path"}``, bytes, a path, a PIL image, or an array of shape ``[height, width]`` or
            ``[height, width, channels]`` with 1 to 4 channels.

    Raises:
        MediaError: It is no image, empty, cut, larger than ``MOST_PIXELS``, or its file is missing.
        DataError: Pillow is missing.
    """
    pil = pillow().Image
    if isinstance(cell, pil.Image):
        return _upright_rgb(cell, "the image")
    if isinstance(cell, (np.ndarray, list)):
        return _upright_rgb(image_of(cell), "the array")
    name = name_of(cell, "image")
    with opened(cell, "image") as raw, _opened_image(raw, name) as image:
        return _upright_rgb(image, name)


def check_image(cell: Any) -> tuple[int, int]:
    """The width and height of a cell's image, which is read to its end; of a JPEG it is enough that it has one.

    Raises:
        MediaError: As :func:`read_image`.
    """
    name = name_of(cell, "image")
    with opened(cell, "image") as raw, _opened_image(raw, name) as image:
        size: tuple[int, int] = image.size
        try:
            if image.format == "PNG":
                image.verify()  # Every chunk has a checksum.
            elif image.format != "JPEG" or not _ends(raw):
                image.load()
        except _FAULTS as error:
            raise _damaged(name, error) from error
        return size


def _ends(jpeg: Any) -> bool:
    """Whether the mark of a JPEG's end is the last of it: one that is cut has none, and decoding finds no more."""
    jpeg.seek(0, io.SEEK_END)
    jpeg.seek(max(jpeg.tell() - 64, 0))
    last: bytes = jpeg.read()
    return last.rstrip(b"\0").endswith(b"\xff\xd9")


def as_png(image: Any) -> bytes:
    """The bytes of a file with an image or an array, without loss."""
    pil = pillow().Image
    made = image if isinstance(image, pil.Image) else image_of(image)
    if made.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        made = _upright_rgb(made, "the image")
    file = io.BytesIO()
    made.save(file, format="PNG", **({"exif": made.getexif()} if made.getexif() else {}))
    return file.getvalue()


def image_of(array: Any) -> Image:
    """The image of an array; MediaError where its shape or its values are none of an image."""
    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (2, 3, 4))
    if not fits or not pixels.size or pixels.dtype.kind not in "biuf":
        swapped = (
            " (its channels come first: move them to the end)" if pixels.ndim == 3 and len(pixels) in (1, 3) else ""
        )
        raise MediaError(
            f"expected an array of shape [height, width] or [height, width, channels] with 1 to 4 channels, got "
            f"{pixels.dtype} of shape {pixels.shape}{swapped}"
        )
    return pillow().Image.fromarray(_in_bytes(pixels))


def _in_bytes(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * 255
    least, most = float(pixels.min()), float(pixels.max())
    top = 1 if pixels.dtype.kind == "f" else 65535 if pixels.dtype.str[1:] == "u2" else 255
    if not (least >= 0 and most <= top):
        raise MediaError(
            f"expected {pixels.dtype} pixels from 0 to {top}, got values from {least:g} to {most:g}; scale them, or "
            "give them as uint8"
        )
    return pixels.astype(np.uint8) if top == 255 else np.rint(pixels * (255 / top)).astype(np.uint8)


def _opened_image(raw: Any, name: str) -> Image:
    pil = pillow().Image
    try:
        image: Image = pil.open(raw, formats=FORMATS)
    except pil.UnidentifiedImageError as error:
        raise MediaError(f"{name} is no image that can be read, or is cut in its header") from error
    except pil.DecompressionBombError as error:
        raise MediaError(f"{name} is too large: {error}", "too large") from error
    except _FAULTS as error:
        raise _damaged(name, error) from error
    _check_size(image, name)
    return image


def _check_size(image: Image, name: str) -> None:
    width, height = image.size
    if not width * height:
        raise MediaError(f"{name} is empty: it has {width} x {height} pixels", "empty")
    if width * height > MOST_PIXELS:
        raise MediaError(
            f"{name} is too large: {width} x {height} pixels, expected at most {MOST_PIXELS:,}, as such files use up "
            "memory; make it smaller",
            "too large",
        )


def _upright_rgb(image: Image, name: str) -> Image:
    _check_size(image, name)
    try:
        return _rgb(pillow().ImageOps.exif_transpose(image))
    except _FAULTS as error:
        raise _damaged(name, error) from error


def _rgb(image: Image) -> Image:
    if image.mode.startswith("I") or image.mode == "F":
        return image_of(_deep(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = pillow().Image.new("RGBA", layer.size, "white")
        image.alpha_composite(layer)
    return image.convert("RGB")


def _deep(pixels: np.ndarray) -> np.ndarray:
    """The pixels of a file with more than 8 bits as :func:`image_of` takes them."""
    if pixels.dtype.kind == "f":
        return pixels / 255 if pixels.max(initial=0) > 1 else pixels
    # Integers of 32 bits come of files of 16 bits, and of images of 8 that somebody has converted.
    is_wide = pixels.dtype.itemsize == 4 and pixels.min() >= 0 and 255 < pixels.max() <= 65535
    return pixels.astype(np.uint16) if is_wide else pixels


def _damaged(name: str, error: BaseException) -> MediaError:
    return MediaError(f"{name} is truncated or damaged ({error or type(error).__name__})")
