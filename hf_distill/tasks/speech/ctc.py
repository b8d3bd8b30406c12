"""Speech recognition by models that say of each frame which letter is heard, or none (CTC)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCTC, AutoProcessor, PretrainedConfig, PreTrainedModel
from typing_extensions import override

from hf_distill.data.forms.chat_rows import numbers_of
from hf_distill.data.lost_rows import LOOKED_AT, of_rows, told_lost
from hf_distill.data.media.read_audio import audio_facts, read_audio
from hf_distill.errors import DataError
from hf_distill.recipe.parse import check_choice
from hf_distill.tasks.encoding import MEDIA
from hf_distill.tasks.media.media_rows import check_seconds
from hf_distill.tasks.speech.frames import Count, best_paths, frame_counter, frame_mask, frames_needed
from hf_distill.tasks.speech.listening import (
    amounts_read,
    check_frames,
    extractor_of,
    read_clips,
    tokenizer_of,
)
from hf_distill.tasks.speech.transcribing import Transcribed
from hf_distill.tasks.speech.transcripts import Spelling, are_unspaced, written_text
from hf_distill.tasks.speech.vocabularies import Vocabulary, same_order
from hf_distill.tokenizers.readers import Reader
from hf_distill.types import IGNORED, Batch, Collate, LogitSource, Masks, Rows, View

Unit = Literal["words", "characters"]
Normalizer = Literal["basic", "english"]

FRAMES_A_SECOND = 50
"""Of most models (wav2vec2, HuBERT, WavLM)."""


class CTCSpeechRecognition(Transcribed):
    """Rows of ``audio`` and ``text``, what is said in it. Rows whose text is None or empty are unlabelled.

    A text is learned as the vocabulary can write it: letters in the case that is known, others left out, which is
    counted and told. A clip that is longer than ``max_seconds`` is cut there; its text, which would then say too much,
    is not learned, nor is one that needs more frames than its clip has: the teacher alone teaches on such rows.

    Args:
        max_seconds: Of one clip.
        unit: What errors are counted in where models are scored: ``words``, or ``characters`` in languages without
            blanks between words; unless given, what the training texts look like.
        normalizer: Of Whisper's two, the one that makes texts alike before they are compared a second time: ``basic``
            (no case, no punctuation), or ``english`` (also numbers, contractions and spellings).
    """

    name = "speech-recognition-ctc"
    pipeline_tag = "automatic-speech-recognition"
    example = '"your_sound.wav"'
    material = "sound"
    auto_model = AutoModelForCTC
    auto_processor = AutoProcessor
    column = "audio"
    required = ("audio", "text")
    text_columns = ("text",)
    distribution = "ctc"
    scored_as = "transcripts"
    counted = "clips"
    length_unit = "milliseconds"
    encoded_by = ("max_seconds",)
    by_token = ("input_values", "input_features", "attention_mask")

    def __init__(
        self, *, max_seconds: float = 30.0, unit: Unit | None = None, normalizer: Normalizer = "basic"
    ) -> None:
        check_seconds("max_seconds", max_seconds)
        check_choice("unit", unit, (*get_args(Unit), None))
        check_choice("normalizer", normalizer, get_args(Normalizer))
        self.max_seconds = float(max_seconds)
        self.max_length = int(self.max_seconds * FRAMES_A_SECOND)
        self.unit: Unit = unit or "words"
        self.normalizer: Normalizer = normalizer
        self._asked_unit = unit
        self._frames: Count | None = None
        self._states: Count | None = None
        self._blank = 0
        self._order: Tensor | None = None

    @property
    @override
    def problem_type(self) -> str:
        """What is counted decides which metrics there are."""
        return f"transcribed {self.unit}"

    @property
    @override
    def is_bound(self) -> bool:
        return self._frames is not None

    @property
    @override
    def length_limit(self) -> str:
        return f"task.max_seconds ({self.max_seconds:g} s)"

    @override
    def read_labels(self, train: Rows) -> None:
        if self._asked_unit is None and isinstance(train, Dataset):
            texts = train.select(range(min(LOOKED_AT, len(train))))["text"]
            self.unit = "characters" if are_unspaced(filter(None, texts)) else "words"

    @override
    def label_notes(self, train: Rows) -> Iterator[str]:
        if self._asked_unit is None and self.unit == "characters":
            yield (
                "errors are counted in characters, since the texts are of a script without blanks between words "
                "(task.unit)"
            )

    @override
    def follow(self, config: PretrainedConfig) -> None:
        """Take how many frames the student makes of a clip, and which of its outputs is the blank."""
        self._frames, self._states = frame_counter(config), frame_counter(config, of_states=True)
        self._blank = int(config.pad_token_id)

    @override
    def fit_lengths(self, readers: Sequence[Reader]) -> Iterator[str]:
        """Take frames and vocabulary of the student, the first, and how its teachers' outputs belong to its own."""
        student, *teachers = readers
        self.follow(student.model.config)
        if student.tokenizer is None:
            return
        own = Vocabulary.of(student)
        orders = []
        for teacher in teachers:
            check_frames(student, teacher)
            order, note = own.order_of(Vocabulary.of(teacher))
            orders.append(order)
            yield from note
        self._order = same_order(orders)

    @override
    def decoded(self, cell: Any, processor: Any) -> np.ndarray:
        rate = extractor_of(processor).sampling_rate
        return read_audio(cell, rate)[: round(self.max_seconds * rate)]

    @override
    def prepared(self, media: Sequence[Any], processor: Any) -> Batch:
        return read_clips(extractor_of(processor), media)

    @override
    def blank(self, processor: Any) -> np.ndarray:
        return np.zeros(round(self.max_seconds * extractor_of(processor).sampling_rate), dtype=np.float32)

    @override
    def check_layers(self, names: Sequence[str]) -> None:
        """All layers have a vector for each frame."""

    @override
    def texts(self, rows: Rows) -> Iterator[str]:
        for row in rows:
            yield row.get("text") or ""

    @override
    def encode(self, rows: Rows, tokenizer: Any, teacher_tokenizer: Any = None) -> Rows:
        """The clips as they are, ``labels``, ``length`` (of what the model reads) and ``cut``."""
        spelling, extractor = Spelling(tokenizer_of(tokenizer)), extractor_of(tokenizer)
        rate = extractor.sampling_rate

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            seconds = [audio_facts(cell).seconds for cell in batch[MEDIA]]
            cut = [each > self.max_seconds for each in seconds]
            texts = batch.get("text", [None] * len(seconds))
            labels = [[] if too_long else spelling.ids(text or "") for text, too_long in zip(texts, cut, strict=True)]
            read = amounts_read(extractor, [round(min(each, self.max_seconds) * rate) for each in seconds])
            return {
                "labels": [ids or [IGNORED] for ids in labels],
                "length": read.tolist(),
                "cut": cut,
            }

        return self.with_media(rows, encode_batch, (tokenizer, teacher_tokenizer), looks=True)

    @override
    def collator(self, tokenizer: Any, teacher_tokenizer: Any = None) -> Collate:
        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            batch = self.inputs(rows, (tokenizer, teacher_tokenizer))
            labels = [torch.tensor(row.get("labels") or [IGNORED]) for row in rows]
            return {**batch, "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED)}

        return collate

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Any) -> Batch:
        found = super().completed(batch, tokenizer)
        read = found.get("input_values", found.get("input_features"))
        if read is None:
            raise DataError(
                f"a batch has {', '.join(found)}, but neither input_values nor input_features; collate the clips with "
                "the model's feature extractor"
            )
        ones = torch.ones(read.shape[:2], dtype=torch.long, device=read.device)
        return {"attention_mask": ones, **found}

    @override
    def turned(self, batch: Batch, tokenizer: Any) -> Batch:
        return super().turned(batch, None)  # No model of sound reads its padding first.

    @override
    def masks(self, batch: Batch) -> Masks:
        assert self._frames is not None, "follow or fit_lengths comes first"
        assert self._states is not None
        mask, labels = batch["attention_mask"], batch.get("labels")
        frames = frame_mask(mask, self._frames)
        labelled = torch.zeros(len(frames), dtype=torch.bool, device=frames.device)
        if labels is not None:
            labelled = (labels != IGNORED).any(-1) & (frames_needed(labels) <= frames.sum(-1))
        return {"labels": labelled, "positions": frames.flatten(), "tokens": frame_mask(mask, self._states)}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        assert isinstance(logits, Tensor)
        return self._view(logits.flatten(0, 1), hidden_states, batch, batch.get("labels"), blank=self._blank)

    @override
    def teacher_logits(
        self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch
    ) -> Tensor | LogitSource:
        """The teacher's logits in the order of the student's vocabulary, ``-inf`` of what the teacher lacks."""
        assert isinstance(logits, Tensor)
        flat = logits.flatten(0, 1)
        if self._order is None:
            return flat
        lacking = functional.pad(flat, (0, 1), value=-torch.inf)  # The order says -1 of what is not there.
        return lacking[:, self._order.to(flat.device)]

    @override
    def row_sizes(self, lengths: Sequence[int]) -> tuple[int, str]:
        assert self._frames is not None, "follow or fit_lengths comes first"
        median, longest = (int(self._frames(torch.tensor(lengths[i]))) for i in (len(lengths) // 2, -1))
        return longest, f"frames a clip: median {median}, longest {longest} in {len(lengths)} rows"

    @override
    def scored_lengths(self, rows: Dataset, texts: Sequence[str]) -> list[int]:
        return [round(1000 * audio_facts(cell).seconds) for cell in rows["audio"]]

    @override
    def check_rows(self, rows: Dataset, tokenizer: Any) -> Iterator[str]:
        looked_at = rows.select(range(min(LOOKED_AT, len(rows))))
        encoded, of = self.encode(looked_at, tokenizer), of_rows(len(looked_at), len(rows))
        yield from told_lost(0, sum(encoded["cut"]), of, self.length_limit, "will be")
        if "text" not in looked_at.column_names:
            return
        yield from self._unheard(encoded, of)
        spelling = Spelling(tokenizer_of(tokenizer))
        for text in looked_at["text"]:
            spelling(text or "")
        yield from spelling.told(of)

    def _unheard(self, encoded: Dataset, of: str) -> Iterator[str]:
        """Lines on rows whose text is not learned."""
        labels = [torch.tensor(ids) for ids in encoded["labels"]]
        bare = sum(bool(ids[0] == IGNORED) and not cut for ids, cut in zip(labels, encoded["cut"], strict=True))
        if bare:
            yield f"{bare:,} {of} have no text that can be written: the teacher alone teaches on them"
        if self._frames is None:
            return
        frames = self._frames(torch.tensor(encoded["length"]))
        needed = torch.cat([frames_needed(ids[None]) for ids in labels])
        if short := int((needed > frames).sum()):
            yield (
                f"{short:,} {of} have texts of more letters than their clips have frames: the texts are not learned, "
                "the teacher alone teaches on these rows"
            )

    @override
    def check_evaluated(self, rows: Dataset) -> None:
        numbered = numbers_of(rows)
        for number, (cell, text) in enumerate(zip(rows["audio"], rows["text"], strict=True)):
            if not (text or "").strip():
                raise DataError(
                    f"row {numbered(number)} of the evaluated split has no text to compare with; remove it, or add it"
                )
            seconds = audio_facts(cell).seconds
            if seconds > self.max_seconds:
                raise DataError(
                    f"row {numbered(number)} of the evaluated split has {seconds:.1f} s, above {self.length_limit}: "
                    "its end would not be heard, and count as errors; raise it, or remove or split the row"
                )

    def written(self, logits: Tensor, batch: Batch, model: PreTrainedModel, tokenizer: Any) -> list[str]:
        """What a model's logits ``[B, T, C]`` say of each clip: its likeliest labels, as a text."""
        frames = frame_mask(batch["attention_mask"], frame_counter(model.config))
        paths = best_paths(logits, frames, int(model.config.pad_token_id))
        return [written_text(tokenizer_of(tokenizer), path) for path in paths]
