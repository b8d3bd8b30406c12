"""What Whisper hears and reads: features of recordings, and the settings by which it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from hf_distill.data.media import read_audio
from hf_distill.errors import DataError
from hf_distill.types import Batch


def features_of(processor: Any, cells: Sequence[Mapping[str, Any]]) -> Batch:
    """``input_features`` ``[B, mels, frames]``, and an ``attention_mask`` ``[B, frames]`` of those not filled up."""
    extractor = processor.feature_extractor
    rate = extractor.sampling_rate
    heard = [read_audio(cell, rate) for cell in cells]
    for place, samples in enumerate(heard):
        # Resampling may round up.
        if not 0 < len(samples) <= extractor.n_samples + extractor.hop_length:
            raise DataError(
                f"audio: row {place} of a batch has {len(samples) / rate:.1f} seconds; this model hears more than 0 "
                f"and at most {extractor.chunk_length}, and its text would tell what was not heard; cut the recording "
                "together with its text, or remove the row"
            )
    found = extractor(heard, sampling_rate=rate, return_attention_mask=True, return_tensors="pt")
    return {"input_features": found["input_features"], "attention_mask": found["attention_mask"].long()}


def of_length(prompt: list[int], limit: int) -> list[int]:
    """The mark that begins a prompt and the end of the prompt: tokens of both together, at most."""
    return prompt if len(prompt) <= limit else [prompt[0], *prompt[len(prompt) - limit + 1 :]]


def tell_how_to_write(
    model: PreTrainedModel, words: Any, language: str | None, task: str | None, timestamps: bool
) -> None:
    """Let a generation config say how texts begin, and what Whisper's ``generate`` must know to begin them so."""
    generation: Any = model.generation_config

    def token(name: str) -> int:
        return int(words.convert_tokens_to_ids(f"<|{name}|>"))

    known = {f"<|{code}|>": token(code) for code in LANGUAGES if token(code) != words.unk_token_id}
    told: dict[str, Any] = {
        "no_timestamps_token_id": token("notimestamps"),
        "prev_sot_token_id": token("startofprev"),
    }
    if language is not None:
        told |= {"task_to_id": {name: token(name) for name in ("transcribe", "translate")}, "lang_to_id": known}
        generation.language, generation.task, generation.is_multilingual = language, task, True
    for name, value in told.items():
        if getattr(generation, name, None) is None:
            setattr(generation, name, value)
    generation.return_timestamps, generation.forced_decoder_ids = timestamps, None
