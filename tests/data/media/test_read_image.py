"""Images of every format and mode become RGB, upright, and what is none is refused by name."""

from __future__ import annotations

import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from hf_distill.data.media import read_image as module
from hf_distill.data.media.cells import MediaError
from hf_distill.data.media.read_image import check_image, read_image
from hf_distill.errors import DataError
from tests.helpers.media import RED, image_bytes, picture

GREY = 81
"""What RED is without colour."""

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"]


def noise(height: int = 60, width: int = 80) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind):
    content = image_bytes(picture(size=(32, 24)), kind)
    image = read_image({"bytes": content, "path": None})
    assert (image.mode, image.size, check_image(content)) == ("RGB", (32, 24), (32, 24))
    assert np.allclose(image.getpixel((3, 3)), RED, atol=6)


MODES = {
    "1": (0, 0, 0),
    "L": (GREY,) * 3,
    "LA": (GREY,) * 3,
    "P": (204, 51, 51),  # The nearest of the web's palette.
    "RGBA": RED,
    "CMYK": RED,
    "YCbCr": RED,
    "HSV": RED,
    "I": (GREY,) * 3,
    "F": (GREY,) * 3,
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode):
    image = read_image(picture(mode="L" if mode == "1" else "RGB").convert(mode, dither=Image.Dither.NONE))
    assert image.mode == "RGB"
    assert np.allclose(image.getpixel((0, 0)), MODES[mode], atol=2)


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("L", "JPEG"), ("P", "GIF")])
def test_modes_of_files_become_rgb(mode, kind):
    image = read_image(image_bytes(picture(size=(16, 16), mode=mode), kind))
    expected = (GREY,) * 3 if mode == "L" else RED
    assert np.allclose(image.getpixel((5, 5)), expected, atol=25)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("value", [0, 30_000, 65_535])
def test_sixteen_bits_become_eight(kind, value):
    content = image_bytes(Image.fromarray(np.full((6, 8), value, np.uint16)), kind)
    assert read_image(content).getpixel((0, 0)) == (round(value / 257),) * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_lies_over_white(mode):
    image = Image.new("RGBA", (4, 4), (200, 30, 30, 0))
    image.putpixel((0, 0), (200, 30, 30, 255))
    converted = image.quantize() if mode == "P" else image.convert("P").convert("PA") if mode == "PA" else image
    converted = image.convert("LA") if mode == "LA" else converted
    if mode == "PA":
        converted.putalpha(image.getchannel("A"))
    content = image_bytes(converted) if mode != "PA" else converted
    made = read_image(content)
    assert made.getpixel((3, 3)) == (255, 255, 255)
    assert made.getpixel((0, 0))[1] < 100


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(orientation):
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste((0, 0, 0), (0, 0, 8, 8))  # Black in the upper left corner.
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP"):
        image = read_image(image_bytes(stored, kind, exif=exif))
        assert image.size == (32, 16)
        assert max(image.getpixel((3, 3))) < 60
        assert min(image.getpixel((28, 3))) > 200


def test_every_form_of_a_cell_is_read_alike(tmp_path):
    content = image_bytes(noise())
    path = tmp_path / "image"
    path.write_bytes(content)
    cells = [content, path, str(path), {"bytes": None, "path": str(path)}, {"bytes": content, "path": "/no/such.png"}]
    cells += [noise(), np.asarray(noise()), np.asarray(noise()).tolist(), np.asarray(noise(), np.float32) / 255]
    for cell in cells:
        assert np.array_equal(np.asarray(read_image(cell)), np.asarray(noise()))


def test_the_given_image_is_not_changed_and_does_not_change_what_was_read():
    given = picture()
    made = read_image(given)
    made.putpixel((0, 0), (0, 0, 0))
    assert given.getpixel((0, 0)) == RED


ARRAYS = {
    "grey": (np.full((6, 8), 80, np.uint8), (80,) * 3),
    "grey with an axis": (np.full((6, 8, 1), 80, np.uint8), (80,) * 3),
    "grey with alpha": (np.full((6, 8, 2), (80, 0), np.uint8), (255,) * 3),
    "of bools": (np.ones((6, 8), bool), (255,) * 3),
    "of 16 bits": (np.full((6, 8), 65_535, np.uint16), (255,) * 3),
    "of floats": (np.full((6, 8, 3), 0.2), (51,) * 3),
    "of a list's integers": (np.full((6, 8, 3), 7), (7,) * 3),
    "transparent": (np.zeros((6, 8, 4), np.uint8), (255,) * 3),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_images(kind):
    array, expected = ARRAYS[kind]
    image = read_image(array)
    assert image.size == (8, 6)
    assert image.getpixel((0, 0)) == expected


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((3, 6, 8), np.uint8), "its channels come first: move them to the end"),
        (np.zeros((6, 8, 7), np.uint8), "1 to 4 channels"),
        (np.zeros(6, np.uint8), "shape \\[height, width\\]"),
        (np.zeros((0, 8), np.uint8), "shape"),
        (np.full((6, 8), 256), "from 0 to 255, got values from 256 to 256"),
        (np.full((6, 8), -1.0), "from 0 to 1, got values from -1"),
        (np.full((6, 8), np.nan), "from 0 to 1, got values from nan"),
        (np.full((6, 8), "a"), "expected an array of shape"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array, told):
    with pytest.raises(MediaError, match=told):
        read_image(array)


LOOKS = pytest.mark.parametrize("look", [read_image, check_image])


@LOOKS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_ends_too_early_is_refused(kind, share, look):
    content = image_bytes(noise(), kind)
    with pytest.raises(MediaError, match=r"a\.jpg is (truncated or damaged|no image)"):
        look({"bytes": content[: int(len(content) * share)], "path": "a.jpg"})


@LOOKS
@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ({"bytes": b"", "path": "a.png"}, "a.png is empty: it has 0 bytes"),
        (b"<html>404 Not Found</html>" * 50, "is no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image that can be read"),
        (None, "the row has no image"),
        ({"bytes": None, "path": None}, "the row has no image"),
        ("/no/such/file.png", "file.png: its file .* cannot be read"),
        (3, "expected image as bytes, a path"),
    ],
)
def test_what_is_no_image_is_refused_and_says_why(cell, told, look):
    with pytest.raises(MediaError, match=told):
        look(cell)


def test_a_png_whose_pixels_were_changed_is_found_by_its_checksums():
    content = bytearray(image_bytes(noise()))
    content[len(content) // 2] ^= 0xFF
    with pytest.raises(MediaError, match="truncated or damaged"):
        check_image(bytes(content))


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@LOOKS
@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [(10_000, 9_000), (100_000, 100_000)])
def test_an_image_that_would_use_up_memory_is_refused_before_it_is_decoded(size, look):
    with pytest.raises(MediaError, match="too large") as refused:
        look(bomb(*size))
    assert refused.value.fault == "too large"


def test_a_set_number_of_pixels_is_the_bound(monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 48)
    assert read_image(picture(size=(8, 6))).size == (8, 6)
    with pytest.raises(MediaError, match="too large: 8 x 7 pixels, expected at most 48"):
        read_image(image_bytes(picture(size=(8, 7))))


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match=r"PIL.*pip install 'hf-distill\[vision\]'") as refused:
        read_image(b"x")
    assert not isinstance(refused.value, MediaError)


@LOOKS
def test_what_stands_behind_the_end_of_a_jpeg_does_no_harm(look):
    content = image_bytes(noise(), "JPEG")
    for more in (b"\0" * 20, b"camera's own data" * 20):
        assert look(content + more) is not None
