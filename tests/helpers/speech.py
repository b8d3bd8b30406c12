"""Tiny models that listen, their processors, and clips of tones that spell words, made in memory."""

from __future__ import annotations

import functools
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch
from datasets import Audio, Dataset
from transformers import (
    AutoConfig,
    AutoModelForCTC,
    ParakeetFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

RATE = 16_000
LETTERS = ("|", "a", "b", "c", "d", "e")
TOKENS = (*LETTERS, "<unk>", "<pad>")
"""The blank stands last: it is no output 0."""

TONES = dict(zip("abcde", (400, 700, 1100, 1700, 2600), strict=True))
TEXTS = ("ab", "bad cab", "dead", "a bee", "cc d", "added")


def ctc_tokenizer(tokens: tuple[str, ...] = TOKENS) -> Wav2Vec2CTCTokenizer:
    """Letters, with no sentence marks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        return Wav2Vec2CTCTokenizer(str(path), bos_token="<s>" if "<s>" in tokens else None, eos_token=None)


def processor(tokens: tuple[str, ...] = TOKENS, **options: Any) -> Wav2Vec2Processor:
    """Of wav2vec2."""
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(**options), ctc_tokenizer(tokens))


SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 8, 8),
    "conv_stride": (5, 8, 8),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "vocab_size": len(TOKENS),
    "pad_token_id": TOKENS.index("<pad>"),
    "initializer_range": 0.2,
    **dict.fromkeys(
        (
            "hidden_dropout",
            "attention_dropout",
            "activation_dropout",
            "feat_proj_dropout",
            "final_dropout",
            "layerdrop",
        ),
        0.0,
    ),
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
"""A frame is 20 ms, as of the models that people use."""


OF_SPECTROGRAMS: dict[str, dict[str, Any]] = {
    "wav2vec2-bert": {"feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 5},
    "parakeet_ctc": {"num_mel_bins": 80, "subsampling_conv_channels": 8, "conv_kernel_size": 5},
}
_OF_PARAKEET = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def reads_spectrograms(kind: str) -> Any:
    """The processor of a model that reads no samples, but a spectrogram."""
    extractor = SeamlessM4TFeatureExtractor() if kind == "wav2vec2-bert" else ParakeetFeatureExtractor(feature_size=80)
    return SimpleNamespace(feature_extractor=extractor, tokenizer=ctc_tokenizer())


def listener(kind: str = "wav2vec2", seed: int = 0, **options: Any) -> Any:
    """A model with a CTC head, random weights and no dropout, in eval mode."""
    torch.manual_seed(seed)
    shape = {**SHAPE, **OF_SPECTROGRAMS.get(kind, {}), **options}
    if kind == "parakeet_ctc":
        inner = {name: shape[name] for name in (*_OF_PARAKEET, *OF_SPECTROGRAMS[kind])}
        shape = {name: shape[name] for name in ("vocab_size", "pad_token_id")}
        shape["encoder_config"] = {**inner, **dict.fromkeys(("dropout", "attention_dropout", "layerdrop"), 0.0)}
    return AutoModelForCTC.from_config(AutoConfig.for_model(kind, **shape)).eval()


def spoken(text: str, seed: int = 0, seconds: float = 0.12) -> np.ndarray:
    """A tone a letter, silence for a blank, noise below both."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    parts = [np.sin(2 * np.pi * TONES[letter] * time) if letter in TONES else 0 * time for letter in text]
    wave = np.concatenate(parts) * 0.3
    return (wave + generator.normal(0, 0.01, len(wave))).astype(np.float32)


def cell(wave: np.ndarray, rate: int = RATE) -> dict[str, Any]:
    """A clip as `datasets` keeps it undecoded."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype="FLOAT")
    return {"bytes": file.getvalue(), "path": None}


def rows(texts: tuple[str | None, ...] = TEXTS, repeats: int = 1) -> Dataset:
    """Clips of what their texts say; where a text is None, of something."""
    cells = [cell(spoken(text or "abc", seed)) for seed, text in enumerate(texts * repeats)]
    made = Dataset.from_dict({"audio": cells, "text": list(texts) * repeats})
    return made.cast_column("audio", Audio(decode=False))


@functools.cache
def _batch(texts: tuple[str | None, ...], kind: str) -> dict[str, torch.Tensor]:
    task, made = bound(), reads_spectrograms(kind) if kind in OF_SPECTROGRAMS else processor()
    return task.collator(made)(list(task.encode(rows(texts), made)))


def batch(texts: tuple[str | None, ...] = TEXTS, kind: str = "wav2vec2") -> dict[str, torch.Tensor]:
    """Clips collated by the task for a kind of model."""
    return {name: value.clone() for name, value in _batch(texts, kind).items()}


def bound(model: Any = None, **options: Any) -> Any:
    """The task, bound to a model's frames and blank."""
    from hf_distill.tasks.speech.ctc import CTCSpeechRecognition

    task = CTCSpeechRecognition(**options)
    task.follow((listener() if model is None else model).config)
    return task
