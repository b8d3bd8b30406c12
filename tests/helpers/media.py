"""Small files of sound and images, whole and broken."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def sine(hertz: float = 440.0, seconds: float = 0.5, rate: int = 16_000, peak: float = 0.5) -> np.ndarray:
    """A tone, float32 of shape [samples]."""
    return (peak * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound_bytes(samples: np.ndarray | None = None, rate: int = 16_000, kind: str = "WAV", subtype: str = "") -> bytes:
    """A file of these samples, [samples] or [samples, channels]; a tone where none are given."""
    file = io.BytesIO()
    soundfile.write(file, sine() if samples is None else samples, rate, format=kind, subtype=subtype or None)
    return file.getvalue()


def write_sound(path: Path, samples: np.ndarray | None = None, rate: int = 16_000) -> Path:
    """A file whose format its ending says, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sine() if samples is None else samples, rate)
    return path


def picture(colour: Any = RED, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", size, colour).convert(mode)


def image_bytes(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (picture() if image is None else image).save(file, format=kind, **options)
    return file.getvalue()


def write_image(path: Path, colour: Any = RED, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(colour, size).save(path)
    return path


def dominant(samples: np.ndarray, rate: int) -> float:
    """The loudest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def image_folder(folder: Path, splits: Sequence[str] = ("train", "test"), each: int = 4) -> Path:
    """Images of two classes, red and blue, each of a shade of its own, in the folders of splits."""
    for shift, split in enumerate(splits):
        for name, (red, green, blue) in (("red", RED), ("blue", BLUE)):
            for i in range(each):
                write_image(folder / split / name / f"{i}.png", (red, green + 5 * i, blue + 20 * shift))
    return folder


def sound_folder(folder: Path, splits: Sequence[str] = ("train", "test"), each: int = 4) -> Path:
    """Tones of two classes, low and high, in the folders of splits."""
    for shift, split in enumerate(splits):
        for name, hertz in (("low", 200), ("high", 2000)):
            for i in range(each):
                write_sound(folder / split / name / f"{i}.wav", sine(hertz + 10 * i + 3 * shift, 0.1))
    return folder
