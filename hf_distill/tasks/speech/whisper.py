"""Speech recognition by Whisper and its like: an encoder hears a recording, a decoder writes what was said."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from hf_distill.data.media.read_audio import total_seconds
from hf_distill.errors import DataError, ModelError, ObjectiveError, RecipeError
from hf_distill.models.forward import ENCODED
from hf_distill.models.sanity_checks import check_decoder_inputs, check_head
from hf_distill.recipe.parse import check_choice, check_option
from hf_distill.tasks.encoding import MEDIA, pad_token, padded
from hf_distill.tasks.media.media_rows import beside_media, check_seconds
from hf_distill.tasks.rollout_batches import Prompts
from hf_distill.tasks.sequence_to_sequence import SequenceToSequence
from hf_distill.tasks.speech.hearing import (
    ROUNDED,
    check_heard,
    features_of,
    language_note,
    said_before,
    speaking,
    tell_how_to_write,
)
from hf_distill.tokenizers.processors import vocabulary_of
from hf_distill.tokenizers.readers import Reader
from hf_distill.types import IGNORED, Batch, Collate, Masks, Rows, Tokenizer

_STAMP = re.compile(r"<\|\d+\.\d+\|>")


class SpeechRecognition(SequenceToSequence):
    """Rows of ``audio``, the ``text`` that was said, and perhaps a ``prompt``, the text that was said before.

    The decoder reads ``<|startofprev|>`` and the prompt, where there is one, then the prefix as the tokenizer makes it
    (``<|startoftranscript|>``, language, task, ``<|notimestamps|>``) and the text. Everything behind
    ``<|startoftranscript|>`` counts, the rest of the prefix and the end token among it, as where Whisper is trained
    with Transformers' own examples; a prompt does not count. Teacher and student read the very same decoder inputs,
    prompts among them.

    Whisper hears a fixed length, 30 seconds of the published models: shorter recordings are filled up with silence,
    which its encoder and decoder attend to like anything else. Of longer ones nobody knows which part of their text
    would be heard.

    Args:
        language: What is spoken, as Whisper names it (``en``, ``german``); as the tokenizer has it unless given.
        task: ``transcribe``, or ``translate`` where texts are in English whatever is spoken; ``transcribe`` where a
            language is given.
        timestamps: Whether texts hold Whisper's marks of time (``<|0.00|> one two<|1.20|>``), which are learned and
            written, but not scored.
        max_target_length: Tokens that a decoder reads of a prompt, the prefix and a text. Texts that leave no room are
            cut at their end, prompts at their start, to half of it.
        max_seconds: Of a recording; longer ones are refused or dropped, as ``data.invalid_rows`` says.
    """

    name = "speech-recognition"
    pipeline_tag = "automatic-speech-recognition"
    auto_model = AutoModelForSpeechSeq2Seq
    auto_processor = AutoProcessor
    required = ("audio", "text")
    optional = ("prompt",)
    text_columns = ("text",)
    usage = "pipeline"
    example = '"your_sound.wav"'
    material = "sound"
    scorers = ("wer", "cer")
    encoded_by = ("max_target_length", "language", "task", "timestamps")
    written_after_texts = False

    def __init__(
        self,
        *,
        language: str | None = None,
        task: str | None = None,
        timestamps: bool = False,
        max_target_length: int = 448,
        max_seconds: float = 30.0,
    ) -> None:
        super().__init__(max_target_length=max_target_length)
        check_option("language", language, language is None or isinstance(language, str), "the name of a language")
        check_choice("task", task, (None, "transcribe", "translate"))
        check_option("timestamps", timestamps, isinstance(timestamps, bool), "true or false")
        check_seconds("max_seconds", max_seconds)
        self.seconds = (0.0, max_seconds + ROUNDED)
        self.language, self.timestamps = language, timestamps
        self.task = task or ("transcribe" if language else None)
        self._positions = 0

    @property
    @override
    def length_limit(self) -> str:
        return f"task.max_target_length ({self.max_target_length} tokens)"

    @property
    @override
    def longest_text(self) -> int:
        return max(1, self.max_target_length - self._prefix)

    @property
    def _prefix(self) -> int:
        """How many tokens stand before a text."""
        return 1 + (self.language is not None) + (self.task is not None) + (not self.timestamps)

    @override
    def follow(self, config: PretrainedConfig) -> None:
        """Take over what the model's decoder starts with, and how many positions its encoder has."""
        if config.model_type != "whisper":
            raise ModelError(
                f"{self.name} needs a Whisper, but this is a {config.model_type}, which hears otherwise; take a model "
                "of that kind, or the task speech-recognition-ctc"
            )
        super().follow(config)
        self._positions = config.max_source_positions

    @override
    def seconds_of(self, rows: Dataset) -> float:
        return total_seconds(rows["audio"])

    @override
    def check_model(self, model: PreTrainedModel) -> None:
        generation: Any = model.generation_config
        if getattr(generation, "is_multilingual", True) is False and self.language is not None:
            raise RecipeError(
                f"task.language: {model.config._name_or_path or 'this model'} knows English alone, and its texts do "
                "not begin with a language; remove language and task, or take a multilingual model"
            )
        labels = torch.arange(2, 10, device=model.device)[None] % model.config.vocab_size
        heard = torch.ones(1, 4, model.config.d_model, device=model.device, dtype=model.dtype)
        inputs: Any = {ENCODED: BaseModelOutput(last_hidden_state=heard), "decoder_input_ids": labels}
        inputs["decoder_input_ids"] = self._decoder_inputs(labels)
        check_decoder_inputs(model, inputs, labels)
        check_head(model, inputs)

    @override
    def check_tokenizers(self, by_bytes: bool) -> NoReturn:
        raise ObjectiveError(
            "what is compared are probabilities of tokens, but the teacher's processor is another than the student's: "
            "it has other tokens, or hears other frequencies (num_mel_bins); take a student of the teacher's family "
            "(its layers, or student.config), or let it learn from labels and text that the teacher wrote"
        )

    @override
    def prepare_student(
        self,
        student: PreTrainedModel,
        tokenizer: Any,
        teacher: PreTrainedModel | None,
        teacher_tokenizer: Any,
        texts: Callable[[], Iterable[str]],
    ) -> None:
        """Let whoever loads the student write as it learns to: in this language, by this task."""
        tell_how_to_write(student, self._speaking(tokenizer), self.language, self.task, self.timestamps)

    @override
    def check_rows(self, rows: Dataset, tokenizer: Any) -> Iterator[str]:
        words = self._speaking(tokenizer)
        check_heard(rows, tokenizer, self._positions)
        yield from super().check_rows(rows, tokenizer)
        yield from language_note(words)

    @override
    def encode(self, rows: Rows, tokenizer: Any, teacher_tokenizer: Any = None) -> Rows:
        words = self._speaking(tokenizer)
        limit = min(self.max_target_length, words.model_max_length)

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            texts = words(batch["text"], verbose=False)["input_ids"]
            prompts = batch.get("prompt") or [None] * len(texts)
            made: dict[str, list[Any]] = {name: [] for name in ("decoder_input_ids", "labels", "length", "cut")}
            for text, prompt in zip(texts, prompts, strict=True):
                kept, cut = said_before(words, prompt, limit // 2)
                room = limit - len(kept)
                ids = text if len(text) <= room else [*text[: room - 1], words.eos_token_id]
                made["decoder_input_ids"].append([*kept, *ids[:-1]])
                made["labels"].append([IGNORED] * len(kept) + ids[1:])
                made["length"].append(len(kept) + len(ids) - 1)
                made["cut"].append(cut or len(ids) < len(text))
            return made

        return beside_media(rows, "audio", encode_batch)

    @override
    def collator(self, tokenizer: Any, teacher_tokenizer: Any = None) -> Collate:
        pad = pad_token(self._speaking(tokenizer))

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            fillers = {"decoder_input_ids": pad, "labels": IGNORED}
            read = {
                name: torch.tensor(padded([list(row[name]) for row in rows], filler, False))
                for name, filler in fillers.items()
            }
            return {**features_of(tokenizer, [row[MEDIA] for row in rows]), **read}

        return collate

    @override
    def prompts(self, rows: Dataset, tokenizer: Any) -> Prompts:
        words = self._speaking(tokenizer)
        half = min(self.max_target_length, words.model_max_length) // 2
        said = rows["prompt"] if "prompt" in rows.column_names else [None] * len(rows)
        starts = [[*said_before(words, prompt, half)[0], *words.prefix_tokens] for prompt in said]
        return Prompts(
            input_ids=starts,
            references=[_STAMP.sub("", text or "") for text in rows["text"]],
            row_ids=list(range(len(rows))),
            options={
                "return_timestamps": self.timestamps,
                "no_timestamps_token_id": words.convert_tokens_to_ids("<|notimestamps|>"),
            },
            sources=lambda places: features_of(tokenizer, [rows[place]["audio"] for place in places]),
        )

    @override
    def begun(self, batch: Mapping[str, Any]) -> Batch:
        return {"decoder_input_ids": batch["decoder_input_ids"][:, : self._prefix]}

    @override
    def writing(self, tokenizer: Any, prompt_tokens: int | None = None) -> NoReturn:
        raise RecipeError(
            f"recipe.rollout: a student of {self.name} writes no batches itself; remove it, or let the teacher write "
            "for the training rows (label)"
        )

    @override
    def with_answers(self, rows: Dataset, texts: Sequence[str] | None) -> Dataset:
        kept: Dataset = rows.select_columns([name for name in ("audio", "prompt") if name in rows.column_names])
        return kept.add_column("text", list(texts or [""] * len(rows)))

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Any) -> Batch:
        """Further: a mask of frames; and what the decoder reads, which labels without their prompts do not tell."""
        found = dict(batch)
        if "input_features" in found and found.get("attention_mask") is None:
            heard = found["input_features"]
            found["attention_mask"] = torch.ones(heard.shape[0], heard.shape[-1], dtype=torch.long, device=heard.device)
        labels = found.get("labels")
        if "decoder_input_ids" not in found and isinstance(labels, Tensor) and (labels[:, 0] == IGNORED).any():
            raise DataError(
                "labels: a row of a batch begins with -100 and the batch has no decoder_input_ids, so the prompt that "
                "stood there is lost, and the decoder would read padding; let the data_collator keep decoder_input_ids"
            )
        return super().completed(found, vocabulary_of(tokenizer))

    @property
    @override
    def extra_columns(self) -> tuple[str, ...]:
        return (*super().extra_columns, MEDIA)

    @override
    def row_sizes(self, lengths: Sequence[int]) -> tuple[int, str]:
        line = f"tokens a row: median {lengths[len(lengths) // 2]}, longest {lengths[-1]} in {len(lengths)} rows"
        limit = f"(cut at {self.max_target_length}); {self._positions} frames a recording"
        return max(lengths[-1], self._positions), f"{line} {limit}"

    @override
    def turned(self, batch: Batch, tokenizer: Any) -> Batch:
        return batch  # Frames are filled up at their end, and what decoders read is as the collator made it.

    @override
    def masks(self, batch: Batch) -> Masks:
        # Whisper has no mask of frames: it attends to all, also to those that were filled up.
        is_there = batch["attention_mask"].bool().any(1, keepdim=True)
        return {**super().masks(batch), "sources": is_there.expand(-1, self._positions)}

    @override
    def fit_lengths(self, readers: Sequence[Reader]) -> Iterator[str]:
        yield from self._fit_length("max_target_length", readers, "decoder")

    @override
    def texts(self, rows: Rows) -> Iterator[str]:
        for row in rows:
            yield row["text"]

    @override
    def scored_texts(self, rows: Dataset, tokenizer: Any) -> list[str]:
        return list(rows["text"])

    def _speaking(self, processor: Any) -> Tokenizer:
        return speaking(processor, self.name, self.language, self.task, self.timestamps)
