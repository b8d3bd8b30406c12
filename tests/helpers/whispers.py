"""Tiny Whispers with a real tokenizer and feature extractor, and recordings for them, made in memory."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

RATE = 16_000
SECONDS = 1
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)


def processor(seconds: int = SECONDS, mels: int = 8, longest: int = 64) -> WhisperProcessor:
    """Digits in words are a token each, other text its letters; special tokens stand in Whisper's own order."""
    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", ".", "<", "|", ">", *"0123456789"]
    vocabulary = {piece: number for number, piece in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = ["Ġ", *word]
        while len(pieces) > 1:
            merged = pieces[0] + pieces[1]
            if merged not in vocabulary:
                vocabulary[merged] = len(vocabulary)
                merges.append((pieces[0], pieces[1]))
            pieces = [merged, *pieces[2:]]
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges, pad_token="<|endoftext|>", model_max_length=longest)
    tokenizer.add_special_tokens({"additional_special_tokens": [*_SPECIAL]})
    tokenizer.add_tokens([f"<|{place * 0.02:.2f}|>" for place in range(seconds * 50 + 1)])
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds), tokenizer)


def whisper(
    encoder: int = 2, decoder: int = 2, seed: int = 0, made: WhisperProcessor | None = None, **options: Any
) -> WhisperForConditionalGeneration:
    """With random weights, and a generation config as the published ones have."""
    made = made or processor()
    tokenizer = made.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("endoftext", "startoftranscript")}
    settings = {
        "vocab_size": len(tokenizer),
        "d_model": 16,
        "encoder_layers": encoder,
        "decoder_layers": decoder,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_mel_bins": made.feature_extractor.feature_size,
        "max_source_positions": made.feature_extractor.chunk_length * 50,
        "max_target_positions": tokenizer.model_max_length,
        "decoder_start_token_id": ids["startoftranscript"],
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), ids["endoftext"]),
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
        "init_std": 0.4,
        **options,
    }
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**settings)).eval()
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids["startoftranscript"],
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), ids["endoftext"]),
        begin_suppress_tokens=[tokenizer.convert_tokens_to_ids("Ġ"), ids["endoftext"]],
        suppress_tokens=[tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL[1:]],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": tokenizer.convert_tokens_to_ids(f"<|{code}|>") for code in LANGUAGES},
        task_to_id={name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("transcribe", "translate")},
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids("<|notimestamps|>"),
        prev_sot_token_id=tokenizer.convert_tokens_to_ids("<|startofprev|>"),
        alignment_heads=[[0, 0], [decoder - 1, 1]],
        max_length=tokenizer.model_max_length,
        return_timestamps=False,
    )
    return model


def samples(seed: int = 0, seconds: float = 0.5) -> np.ndarray:
    """Noise around a tone, rounded to 16 bits as a file has it."""
    generator = np.random.default_rng(seed)
    count = int(seconds * RATE)
    tone = 0.5 * np.sin(2 * np.pi * generator.uniform(200, 2000) * np.arange(count) / RATE)
    rounded = ((tone + 0.05 * generator.standard_normal(count)) * 20_000).astype("<i2")
    return (rounded / 32_768).astype(np.float32)


def recording(seed: int = 0, seconds: float = 0.5) -> dict[str, Any]:
    """:func:`samples` as ``datasets`` stores undecoded audio."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples(seed, seconds) * 32_768).astype("<i2").tobytes())
    return {"bytes": stream.getvalue(), "path": None}


def rows(count: int = 8, prompts: bool = False, seed: int = 0, **columns: Any) -> Dataset:
    """Recordings and texts of one to four digits; every second has the text that was said before, where asked."""
    generator = np.random.default_rng(seed)
    texts = [" ".join(generator.choice(WORDS, generator.integers(1, 5))) for _ in range(count)]
    made: dict[str, Any] = {"audio": [recording(seed + i, 0.3 + 0.05 * (i % 8)) for i in range(count)], "text": texts}
    if prompts:
        made["prompt"] = ["nine nine one" if i % 2 else None for i in range(count)]
    return Dataset.from_dict({**made, **columns})


def splits(train: int = 12, held_out: int = 6) -> DatasetDict:
    """Train, validation and test, as a recipe's ``path: tests.helpers.whispers:splits`` takes them."""
    return DatasetDict(train=rows(train), validation=rows(held_out, seed=50), test=rows(held_out, seed=90))


def save(folder: Any, **options: Any) -> None:
    """A model with its processor, as a recipe names it."""
    made = processor()
    whisper(made=made, **options).save_pretrained(folder)
    made.save_pretrained(folder)
