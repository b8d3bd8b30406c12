"""Sound of every format, rate and number of channels becomes samples, and what is none is refused by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hf_distill.data.media.cells import MediaError
from hf_distill.data.media.read_audio import audio_facts, read_audio
from hf_distill.errors import DataError
from tests.helpers.media import dominant, sine, sound_bytes

FORMATS = [
    ("WAV", "PCM_U8", 1e-2),
    ("WAV", "PCM_16", 1e-4),
    ("WAV", "PCM_24", 1e-6),
    ("WAV", "PCM_32", 1e-6),
    ("WAV", "FLOAT", 0),
    ("WAV", "DOUBLE", 0),
    ("WAV", "ULAW", 3e-2),
    ("FLAC", "PCM_16", 1e-4),
    ("AIFF", "PCM_16", 1e-4),
    ("AU", "PCM_16", 1e-4),
    ("OGG", "VORBIS", 5e-2),
    ("OGG", "OPUS", 1e-1),
    ("MP3", "MPEG_LAYER_III", 5e-2),
]
"""Formats, and how far a sample may be from what was written."""

LOSSLESS = [(kind, subtype) for kind, subtype, off in FORMATS if off < 1e-3]


@pytest.mark.parametrize(("kind", "subtype", "off"), FORMATS)
def test_every_format_gives_its_samples(kind, subtype, off):
    content = sound_bytes(sine(), kind=kind, subtype=subtype)
    samples = read_audio({"bytes": content, "path": None}, 16_000)
    assert samples.dtype == np.float32
    assert samples.shape == sine().shape
    assert np.abs(samples - sine())[500:-500].max() <= off
    facts = audio_facts(content)
    assert (facts.seconds, facts.rate, facts.channels, facts.is_silent) == (0.5, 16_000, 1, False)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_another_rate_is_resampled_and_keeps_length_and_pitch(rate):
    content = sound_bytes(sine(440, 1.0, rate), rate)
    samples = read_audio({"bytes": content, "path": None}, 16_000)
    assert abs(len(samples) - 16_000) <= 1
    assert dominant(samples, 16_000) == pytest.approx(440, abs=1)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.02)


def test_resampling_leaves_out_what_the_lower_rate_cannot_hold():
    content = sound_bytes(sine(11_000, 1.0, 48_000), 48_000)
    samples = read_audio(content, 16_000)
    assert np.abs(samples[1000:-1000]).max() < 1e-3


@pytest.mark.parametrize(("kind", "subtype"), LOSSLESS)
def test_several_channels_are_averaged(kind, subtype):
    both = np.stack([sine(), np.zeros_like(sine())], axis=1)
    samples = read_audio(sound_bytes(both, kind=kind, subtype=subtype), 16_000)
    assert np.allclose(samples, sine() / 2, atol=1e-4)


def test_every_form_of_a_cell_is_read_alike(tmp_path):
    content = sound_bytes(kind="FLAC")
    path = tmp_path / "sound.without.an.ending"
    path.write_bytes(content)
    cells = [content, bytearray(content), path, str(path), {"bytes": None, "path": str(path)}]
    cells += [{"bytes": content, "path": "/no/such/file.wav"}, {"bytes": content}, {"path": str(path)}]
    expected = read_audio(cells[0], 16_000)
    for cell in cells[1:]:
        assert np.array_equal(read_audio(cell, 16_000), expected)


SCALES = [np.int16, np.int32, np.float32, np.float64, np.int64, np.uint8]


@pytest.mark.parametrize("kind", SCALES)
def test_arrays_of_integers_are_scaled_by_their_type(kind):
    scale = {np.int16: 2**15, np.int32: 2**31, np.int64: 2**15, np.uint8: 128}.get(kind, 1)
    array = (sine().astype(np.float64) * scale + (128 if kind is np.uint8 else 0)).astype(kind)
    assert np.allclose(read_audio(array, 16_000), sine(), atol=1e-2)
    cell = {"array": array, "sampling_rate": 8_000, "path": None}
    assert len(read_audio(cell, 16_000)) == 2 * len(array)


@pytest.mark.parametrize("shape", ["channels first", "channels last"])
def test_arrays_of_several_channels_are_averaged(shape):
    both = np.stack([sine(), -sine() / 2])
    samples = read_audio(both if shape == "channels first" else both.T, 16_000)
    assert np.allclose(samples, sine() / 4, atol=1e-6)


def broken(kind: str, tmp_path: Path) -> object:
    whole = sound_bytes()
    nan = sine()
    nan[7000] = np.nan
    infinite = np.full(100, np.inf, np.float32)
    folder = tmp_path / "folder.wav"
    folder.mkdir()
    return {
        "no bytes": {"bytes": b"", "path": "a.wav"},
        "no samples": sound_bytes(np.zeros(0, np.float32)),
        "text": b"<html>404 Not Found</html>" * 50,
        "noise": np.random.default_rng(0).bytes(20_000),
        "an image": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "m4a": b"\x00\x00\x00 ftypM4A " + bytes(500),
        "webm": b"\x1aE\xdf\xa3" + bytes(500),
        "header cut": whole[:30],
        "nothing": None,
        "empty cell": {"bytes": None, "path": None},
        "no file": {"bytes": None, "path": str(tmp_path / "none.wav")},
        "a folder": str(folder),
        "null in path": "a\0b.wav",
        "a number": 3,
        "nan": sound_bytes(nan, subtype="FLOAT"),
        "infinite array": {"array": infinite, "sampling_rate": 8000},
        "empty array": {"array": [], "sampling_rate": 8000},
        "no rate": {"array": [0.1] * 10},
        "three dimensions": np.zeros((2, 2, 100)),
        "words": {"array": ["a", "b"], "sampling_rate": 8000},
        "integers beyond 16 bits": np.array([0, 1 << 20]),
        "too short": sound_bytes(sine(440, 0.00003, 48_000)),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("no bytes", "a.wav is empty: it has 0 bytes"),
        ("no samples", "is empty: it holds no samples"),
        ("text", "no audio that can be read"),
        ("noise", "no audio that can be read"),
        ("an image", "no audio that can be read"),
        ("m4a", "is MPEG-4.*convert it to wav or flac"),
        ("webm", "is Matroska.*convert it to wav or flac"),
        ("header cut", "cut in its header"),
        ("nothing", "the row has no audio"),
        ("empty cell", "the row has no audio"),
        ("no file", "none.wav: its file .* cannot be read \\(No such file or directory\\)"),
        ("a folder", "folder.wav: its file .* cannot be read"),
        ("null in path", "cannot be read"),
        ("a number", "expected audio as bytes, a path or {bytes, path}, got int"),
        ("nan", "samples that are no numbers"),
        ("infinite array", "samples that are no numbers"),
        ("empty array", "array of samples is empty"),
        ("no rate", "expected a sampling_rate"),
        ("three dimensions", "one or two dimensions"),
        ("words", "expected an array of samples"),
        ("integers beyond 16 bits", "integers beyond 16 bits"),
    ],
)
def test_what_is_no_sound_is_refused_and_says_why(kind, told, tmp_path):
    with pytest.raises(MediaError, match=told):
        read_audio(broken(kind, tmp_path), 16_000)


def test_sound_of_which_resampling_leaves_nothing_is_refused():
    with pytest.raises(MediaError, match="too short: nothing is left of it at 100 Hz") as refused:
        read_audio(sound_bytes(sine(440, 0.001)), 100)
    assert refused.value.fault == "too short"


CUT = ["WAV", "FLAC", "AIFF", "AU", "OGG", "MP3", "W64", "CAF"]


@pytest.mark.parametrize("look", [lambda cell: read_audio(cell, 16_000), audio_facts], ids=["read", "facts"])
@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("kind", CUT)
def test_a_file_that_ends_too_early_is_refused(kind, share, look):
    content = sound_bytes(sine(seconds=2.0), kind=kind)
    with pytest.raises(MediaError):
        look({"bytes": content[: int(len(content) * share)], "path": "a.wav"})


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_file_that_was_streamed_has_no_length_in_its_header_and_is_read(length):
    content = bytearray(sound_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = length.to_bytes(4, "little")
    assert len(read_audio(bytes(content), 16_000)) == len(sine())
    assert audio_facts(bytes(content)).seconds == 0.5


@pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (5e-5, True), (2e-4, False)])
def test_silence_is_found_wherever_sound_begins(peak, silent):
    late = np.concatenate([np.zeros(40_000, np.float32), sine(peak=peak)])
    assert audio_facts(sound_bytes(late, subtype="FLOAT")).is_silent == silent


@pytest.mark.parametrize("name", ["soundfile", "soxr"])
def test_a_missing_library_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=rf"{name}.*pip install 'hf-distill\[speech\]'") as refused:
        read_audio(sound_bytes(rate=8_000), 16_000)
    assert not isinstance(refused.value, MediaError)  # No fault of the row, which would be dropped.
