"""Sound as samples: every format that libsndfile reads, of any number of channels and any rate."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_distill.data.media.cells import MediaError, name_of, needed_for, opened

SILENT = 1e-4
"""Sound whose samples are all below this (of 1.0, the loudest) is silence: -80 dB."""

FOREIGN = {b"ftyp": "MPEG-4 (m4a, mp4)", b"\x1aE\xdf\xa3": "Matroska (webm, mka)", b"0&\xb2u": "Windows Media (wma)"}
"""Formats that libsndfile does not read, by what stands in the first bytes."""

_CUT = re.compile(r"(?:\bdata|SSND|Data [Ss]ize|\briff|Riff size)\s*: (\d+) \(should be (\d+)\)")
"""How libsndfile logs that a file ends before what its header promises."""

_STREAMED = 0x7FFFF000
"""Lengths from here on stand in headers of files whose length was not known when they were begun."""

_MOST_CHANNELS = 64


@dataclass(frozen=True)
class AudioFacts:
    """What a header says, and whether nothing is to be heard."""

    seconds: float
    rate: int
    channels: int
    is_silent: bool


def soundfile_library() -> Any:
    """The module soundfile; DataError where it is missing."""
    with needed_for("audio"):
        import soundfile
    return soundfile


def read_audio(cell: Any, rate: int) -> np.ndarray:
    """The samples of a cell, float32 of shape ``[samples]``, from -1 to 1.

    Several channels are averaged; another rate is resampled (soxr, quality HQ). Integers of arrays are scaled by their
    type's range; int64, which `datasets` makes of lists, are 16-bit samples.

    Args:
        cell: ``{"bytes", "path"}``, bytes, a path, ``{"array", "sampling_rate"}``, or an array of that rate.
        rate: Samples per second that are wanted.

    Raises:
        MediaError: It is no sound, empty, cut, holds NaN, or its file is missing.
        DataError: A library is missing.
    """
    if isinstance(cell, Mapping) and "array" in cell:
        samples, own = checked_samples(cell["array"]), int(cell.get("sampling_rate") or 0)
        if own <= 0:
            raise MediaError(f"expected a sampling_rate beside the array of samples, got {cell.get('sampling_rate')!r}")
    elif isinstance(cell, (np.ndarray, list)):
        samples, own = checked_samples(cell), rate
    else:
        samples, own = _decoded(cell)
    if own != rate:
        with needed_for("audio"):
            import soxr
        samples = soxr.resample(samples, own, rate)
        if not len(samples):
            told = f"{name_of(cell, 'audio')} is too short: nothing is left of it at {rate} Hz"
            raise MediaError(told, "too short")
    return np.ascontiguousarray(samples, dtype=np.float32)


def audio_facts(cell: Any) -> AudioFacts:
    """What a cell's header says; of its samples no more are decoded than it takes to find one that is not silent.

    Raises:
        MediaError: As :func:`read_audio`; what a file of floats holds after its first sound is not looked at.
    """
    name = name_of(cell, "audio")
    with opened(cell, "audio") as raw, _sound(raw, name) as file:
        _check_whole(file, name)
        try:
            file.seek(0)
            is_silent = all(_peak(block, name) < SILENT for block in file.blocks(file.samplerate, dtype="float32"))
        except RuntimeError as error:
            raise _cut(name, error) from error
        return AudioFacts(file.frames / file.samplerate, file.samplerate, file.channels, is_silent)


def total_seconds(cells: Iterable[Any]) -> float:
    """How long sounds are together."""
    return sum(audio_facts(cell).seconds for cell in cells)


def checked_samples(array: Any) -> np.ndarray:
    """An array of samples as float32 of one channel; MediaError where it cannot be one."""
    samples = np.asarray(array)
    if samples.dtype.kind not in "iuf" or samples.ndim not in (1, 2):
        raise MediaError(
            f"expected an array of samples of one or two dimensions, got {samples.dtype} of shape {samples.shape}"
        )
    if not samples.size:
        raise MediaError("the array of samples is empty", "empty")
    if samples.dtype.kind != "f":
        samples = _scaled(samples)
    if samples.ndim == 2:  # Channels first, as torchcodec and torchaudio give them, or last, as soundfile does.
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    samples = samples.astype(np.float32)
    _peak(samples, "the array of samples")
    return samples


def as_wav(array: Any, rate: Any) -> bytes:
    """The bytes of a file with these samples, as float32, so that nothing of them is lost."""
    if not isinstance(rate, (int, float, np.number)) or rate <= 0:
        raise MediaError(f"expected a sampling_rate beside the array of samples, got {rate!r}; give both in the row")
    file = io.BytesIO()
    soundfile_library().write(file, checked_samples(array), int(rate), format="WAV", subtype="FLOAT")
    return file.getvalue()


def _scaled(samples: np.ndarray) -> np.ndarray:
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype not in (np.int16, np.int32, np.int64):
        raise MediaError(f"expected samples as float, int16, int32 or uint8, got {samples.dtype}")
    if samples.dtype == np.int64 and np.abs(samples).max() > 1 << 15:
        raise MediaError("the samples are integers beyond 16 bits; give them as float from -1 to 1, or as int32")
    return samples / (1 << 31 if samples.dtype == np.int32 else 1 << 15)


def _decoded(cell: Any) -> tuple[np.ndarray, int]:
    """The samples of a file, its channels averaged, and its rate."""
    name = name_of(cell, "audio")
    with opened(cell, "audio") as raw, _sound(raw, name) as file:
        _check_whole(file, name)
        try:
            file.seek(0)
            samples = file.read(dtype="float32", always_2d=True)
        except RuntimeError as error:
            raise _cut(name, error) from error
        if len(samples) < _promised(file):
            raise _cut(name, f"{len(samples):,} of {file.frames:,} samples are there")
        _peak(samples, name)
        return samples.mean(axis=1), file.samplerate


def _sound(raw: Any, name: str) -> Any:
    soundfile = soundfile_library()
    start = raw.read(12)
    raw.seek(0)
    try:
        file = soundfile.SoundFile(raw)
    except (RuntimeError, TypeError) as error:  # TypeError: a file called .raw has no header.
        foreign = next((told for mark, told in FOREIGN.items() if mark in start), "")
        if foreign:
            raise MediaError(
                f"{name} is {foreign}, which libsndfile does not read; convert it to wav or flac"
            ) from error
        told = str(error).rpartition(": ")[2].rstrip(".") or type(error).__name__
        raise MediaError(f"{name} is no audio that can be read, or is cut in its header ({told})") from error
    if not file.frames:
        raise MediaError(f"{name} is empty: it holds no samples", "empty")
    if file.channels > _MOST_CHANNELS:
        raise MediaError(f"{name} has {file.channels} channels; expected at most {_MOST_CHANNELS}")
    return file


def _check_whole(file: Any, name: str) -> None:
    """Refuse a file that ends before what its header promises."""
    for promised, found in _CUT.findall(file.extra_info):
        if int(found) + 1 < int(promised) < _STREAMED:
            raise _cut(name, f"its header promises {int(promised):,} bytes, {int(found):,} are there")
    try:
        file.seek(_promised(file) - 1)
        is_there = len(file.read(1))
    except RuntimeError as error:
        raise _cut(name, error) from error
    if not is_there:
        raise _cut(name, f"its header promises {file.frames:,} samples")


def _promised(file: Any) -> int:
    """The samples that must be there: all, or of an MP3 all but the last two frames, which hold its padding."""
    frames: int = file.frames
    return max(1, frames - 2 * 1152) if file.format in ("MP3", "MPEG") else frames


def _peak(samples: np.ndarray, name: str) -> float:
    peak = float(np.abs(samples).max(initial=0))
    if not np.isfinite(peak):
        raise MediaError(f"{name} holds samples that are no numbers (NaN or infinite)")
    return peak


def _cut(name: str, why: Any) -> MediaError:
    return MediaError(f"{name} is truncated or damaged ({str(why) or 'its end cannot be decoded'})")
