"""Audio classification: what is heard in a sound, or who speaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
from typing_extensions import override

from hf_distill.data.classes import ProblemType
from hf_distill.data.lost_rows import LOOKED_AT, of_rows, told_lost
from hf_distill.data.media.read_audio import audio_facts, read_audio
from hf_distill.recipe.parse import check_option
from hf_distill.tasks.media.media_classification import MediaClassification
from hf_distill.tasks.media.media_rows import check_seconds
from hf_distill.tasks.speech.frames import Count, frame_counter, frame_mask, makes_frames
from hf_distill.tokenizers.readers import Reader
from hf_distill.types import Batch, Collate, Masks

SHORTEST = 0.03
"""Seconds: shorter sounds are filled up, for a spectrogram has no frame of less."""


class AudioClassification(MediaClassification):
    """Rows of ``audio`` and ``label``, see :class:`RowClassification`.

    Sounds are decoded as one channel, resampled to the rate of the model's feature extractor and prepared by it, while
    batches are made. All rows are filled up to ``max_seconds``: most models of sounds cannot tell silence that fills a
    row from silence that was heard (wav2vec2 normalises over the whole row), so that what a row gives would depend on
    what stands beside it in the batch.

    Args:
        max_seconds: Seconds of one row; longer ones are cut at their end.
        keep_features: Whether what models read is made once and kept on disk, where `datasets` keeps its own: worth it
            for spectrograms, which take long to make.
        problem_type: As in text-classification.
        out_of_scope: As in text-classification.
        labels: As in text-classification.
    """

    name = "audio-classification"
    pipeline_tag = "audio-classification"
    example = '"your_sound.wav"'
    material = "sound"
    auto_model = AutoModelForAudioClassification
    auto_processor = AutoFeatureExtractor
    column = "audio"
    required = ("audio", "label")
    length_unit = "tenths of a second"
    _count: Count | None = None
    encoded_by = ("max_seconds", "problem_type", "out_of_scope")

    def __init__(
        self,
        *,
        max_seconds: float = 10.0,
        keep_features: bool = False,
        problem_type: ProblemType | None = None,
        out_of_scope: str | None = None,
        labels: list[str] | None = None,
    ) -> None:
        super().__init__(problem_type, out_of_scope, labels)
        check_seconds("max_seconds", max_seconds)
        self.max_seconds, self.keep_features = float(max_seconds), keep_features
        check_option("keep_features", keep_features, isinstance(keep_features, bool), "true or false")

    @property
    @override
    def length_limit(self) -> str:
        return f"task.max_seconds ({self.max_seconds:g} s)"

    @override
    def decoded(self, cell: Any, processor: Any) -> np.ndarray:
        rate = processor.sampling_rate
        samples = read_audio(cell, rate)[: round(self.max_seconds * rate)]
        return np.pad(samples, (0, max(0, round(SHORTEST * rate) - len(samples))))

    @override
    def decoding(self, processor: Any) -> int:
        return int(processor.sampling_rate)

    @override
    def prepared(self, media: Sequence[Any], processor: Any) -> Batch:
        rate = processor.sampling_rate
        made = processor(
            list(media),
            sampling_rate=rate,
            padding="max_length",
            max_length=self._frames(processor),
            truncation=True,
            return_tensors="pt",
        )
        return dict(made)

    def _frames(self, processor: Any) -> int:
        """The length that rows are filled up to, in what the extractor counts: samples, or frames of a spectrogram."""
        of_extractor = getattr(processor, "n_samples", None) or getattr(processor, "max_length", None)
        return int(of_extractor) if of_extractor else round(self.max_seconds * processor.sampling_rate)

    @override
    def blank(self, processor: Any) -> np.ndarray:
        return np.zeros(round(self.max_seconds * processor.sampling_rate), dtype=np.float32)

    @override
    def collator(self, tokenizer: Any, teacher_tokenizer: Any = None) -> Collate:
        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            return {**self.inputs(rows, (tokenizer, teacher_tokenizer)), "labels": self._label_tensor(rows)}

        return collate

    @override
    def fit_lengths(self, readers: Sequence[Reader]) -> Iterator[str]:
        yield from super().fit_lengths(readers)
        for reader in readers:
            longest = _longest(reader.tokenizer)
            if longest is not None and longest < self.max_seconds:
                yield f"task.max_seconds: sounds are cut at {longest:g} s: {reader} reads no more"
                self.max_seconds = longest
        frames = readers[0].model.config
        self._count = frame_counter(frames, of_states=True) if makes_frames(frames) else None

    @override
    def masks(self, batch: Batch) -> Masks:
        masks = super().masks(batch)
        if "attention_mask" not in batch or self._count is None or self._positions is None:
            return masks
        return {**masks, "tokens": frame_mask(batch["attention_mask"], self._count)}  # Silence that fills a row up.

    @override
    def check_rows(self, rows: Dataset, tokenizer: Any) -> Iterator[str]:
        looked_at = rows.select(range(min(LOOKED_AT, len(rows))))
        cut = sum(audio_facts(cell).seconds > self.max_seconds for cell in looked_at["audio"])
        yield from told_lost(0, cut, of_rows(len(looked_at), len(rows)), self.length_limit, "will be")

    @override
    def row_sizes(self, lengths: Sequence[int]) -> tuple[int, str]:
        positions = self._positions or 1
        return positions, f"sounds: filled up to {self.max_seconds:g} s, {positions} positions in each layer"

    @override
    def scored_lengths(self, rows: Dataset, texts: Sequence[str]) -> list[int]:
        return [round(10 * audio_facts(cell).seconds) for cell in rows["audio"]]


def _longest(processor: Any) -> float | None:
    """How many seconds a feature extractor reads at most; None where it reads any number."""
    if (chunk := getattr(processor, "chunk_length", None)) is not None:
        return float(chunk)
    frames = getattr(processor, "max_length", None)  # Of an AST, a frame each 10 ms.
    return None if frames is None else frames / 100
