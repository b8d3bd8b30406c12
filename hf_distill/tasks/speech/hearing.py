"""What Whisper hears and reads: features of recordings, and the settings by which it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from hf_distill.data.forms.chat_rows import numbers_of
from hf_distill.data.lost_rows import LOOKED_AT, of_rows
from hf_distill.data.media.read_audio import audio_facts, read_audio
from hf_distill.errors import DataError, ModelError, RecipeError
from hf_distill.tokenizers.processors import vocabulary_of
from hf_distill.types import Batch, Tokenizer

POSITIONS_A_SECOND = 50
"""Of the encoder of any Whisper: frames of 10 ms, two of which become one."""

ROUNDED = 0.01
"""Seconds by which a recording may be longer than what is heard: where rates differ, lengths are rounded."""


def speaking(processor: Any, name: str, language: str | None, task: str | None, timestamps: bool) -> Tokenizer:
    """The tokenizer of a task's processor, which begins each text as the task's options say."""
    words: Any = vocabulary_of(processor)
    if not hasattr(words, "set_prefix_tokens") or not hasattr(processor, "feature_extractor"):
        raise ModelError(
            f"{name} needs a WhisperProcessor (a feature extractor and a tokenizer), got a "
            f"{type(processor).__name__}; save the model's own processor beside it, or pass that"
        )
    try:
        words.set_prefix_tokens(language=language, task=task, predict_timestamps=timestamps)
    except ValueError as error:
        raise RecipeError(f"task.language: {str(error).splitlines()[0]}") from error
    assert isinstance(words, PreTrainedTokenizerBase)
    return words


def features_of(processor: Any, cells: Sequence[Mapping[str, Any]]) -> Batch:
    """``input_features`` ``[B, mels, frames]``, and an ``attention_mask`` ``[B, frames]`` of those not filled up."""
    extractor = processor.feature_extractor
    rate = extractor.sampling_rate
    heard = [read_audio(cell, rate) for cell in cells]
    for place, samples in enumerate(heard):
        if len(samples) > extractor.n_samples + ROUNDED * rate:
            raise DataError(
                f"audio: row {place} of a batch has {len(samples) / rate:.1f} seconds; this model hears at most "
                f"{extractor.chunk_length}, and its text would tell what was not heard; cut the recording together "
                "with its text, or remove the row"
            )
    found = extractor(heard, sampling_rate=rate, return_attention_mask=True, return_tensors="pt")
    return {"input_features": found["input_features"], "attention_mask": found["attention_mask"].long()}


def check_heard(rows: Dataset, processor: Any, positions: int) -> None:
    """Refuse a processor that makes features of another length than a model hears, and recordings that are longer.

    Nobody knows which part of the texts of such recordings the model would hear.
    """
    seconds, made = positions / POSITIONS_A_SECOND, processor.feature_extractor.chunk_length
    if made != seconds:
        raise ModelError(
            f"the processor makes features of {made} seconds, but the model hears {seconds:g} (max_source_positions: "
            f"{positions}), no more and no less; set chunk_length in its preprocessor config, or student.processor"
        )
    looked_at, numbered = rows.select(range(min(LOOKED_AT, len(rows)))), numbers_of(rows)
    lengths = [audio_facts(cell).seconds for cell in looked_at["audio"]]
    longer = [number for number, each in enumerate(lengths) if each > seconds + ROUNDED]
    if longer:
        raise DataError(
            f"audio: {len(longer):,} {of_rows(len(looked_at), len(rows))} are longer than the {seconds:g} seconds that "
            f"this model hears (the first is row {numbered(longer[0])}, of {lengths[longer[0]]:.1f} s), and their "
            "texts would tell what it did not hear; cut these recordings together with their texts, or remove the rows"
        )


def language_note(words: Any) -> Iterator[str]:
    """A line on texts that name no language though their tokenizer knows some."""
    if words.language is None and words.convert_tokens_to_ids("<|en|>") != words.unk_token_id:
        began = " ".join(words.convert_ids_to_tokens(words.prefix_tokens))
        yield (
            f"task.language: none is given, so texts begin with {began}; a multilingual Whisper knows them with a "
            "language: give it, unless the model is of English alone"
        )


def said_before(words: Any, prompt: str | None, limit: int) -> tuple[list[int], bool]:
    """``<|startofprev|>`` and the tokens of what was said before, at most so many, and whether its start was cut.

    Nothing where nothing was said.
    """
    if not prompt or not prompt.strip():
        return [], False
    try:
        found: list[int] = words.get_prompt_ids(prompt).tolist()
    except ValueError as error:
        raise DataError(f"prompt: {error} It holds the text alone: {prompt[:80]!r}") from error
    cut = len(found) > limit
    return ([found[0], *found[len(found) - limit + 1 :]] if cut else found), cut


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
