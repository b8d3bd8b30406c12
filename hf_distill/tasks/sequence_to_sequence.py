"""Translation and summarisation: an encoder reads the source, a decoder writes the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from typing_extensions import override

from hf_distill.errors import ModelError, RecipeError, TeacherError
from hf_distill.models.sanity_checks import check_decoder_inputs, check_head
from hf_distill.recipe.parse import check_option
from hf_distill.tasks.batches import on_the_right
from hf_distill.tasks.encoding import columns_of, mask_of, pad_token, padded, were_cut
from hf_distill.tasks.language import LanguageTask
from hf_distill.tasks.rollout_batches import WRITTEN, AfterSources, Prompts
from hf_distill.tasks.task import Usage
from hf_distill.tokenizers.readers import Reader
from hf_distill.types import IGNORED, Batch, Collate, LogitSource, Masks, Rows, Tokenizer, View

ROTATING = ("mbart", "plbart")
"""Model types whose decoder starts with the target's own last token, which names a language or ends the text."""


class SequenceToSequence(LanguageTask, abstract=True):
    """Rows of ``source`` and ``target``; the decoder learns each token of the target from those before it.

    Teacher and student read the same source and the same decoder inputs: the target, shifted by one behind the token
    that the models' decoders start with.

    Args:
        max_length: Tokens of a source; longer ones are cut at their end. 128 unless given, 1,024 of summaries.
        max_target_length: Tokens of a target; longer ones are cut at their end. As many are written at most, unless
            ``evaluate.generation`` says otherwise.
        prefix: Stands before every source, as T5 needs it (``"summarize: "``).
        source_language: For a tokenizer that marks languages (mBART, M2M100, NLLB), as it calls the source's.
        target_language: The same for the target's.
    """

    auto_model: ClassVar[Any] = AutoModelForSeq2SeqLM
    required = ("source", "target")
    text_columns: ClassVar[tuple[str, ...]] = ("source", "target")
    usage: ClassVar[Usage] = "generate"
    timed_as = "generate"
    encoded_by: ClassVar[tuple[str, ...]] = (
        "max_length",
        "max_target_length",
        "prefix",
        "source_language",
        "target_language",
    )
    _shows_special = False
    _usual_length: ClassVar[int] = 128

    def __init__(
        self,
        *,
        max_length: int | None = None,
        max_target_length: int = 128,
        prefix: str = "",
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> None:
        max_length = self._usual_length if max_length is None else max_length
        for name, value in (("max_length", max_length), ("max_target_length", max_target_length)):
            check_option(name, value, type(value) is int and value >= 2, "a whole number of at least 2")
        check_option("prefix", prefix, isinstance(prefix, str), "a text")
        if (source_language is None) != (target_language is None):
            raise RecipeError("task: expected both of source_language and target_language, or none; got one")
        self.max_length, self.max_target_length, self.prefix = max_length, max_target_length, prefix
        self.source_language, self.target_language = source_language, target_language
        self._start: int | None = None
        self._pad = 0
        self._rotates = False

    @property
    @override
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "start": self._start, "rotates": self._rotates}

    @property
    @override
    def longest_text(self) -> int:
        return self.max_target_length

    @property
    @override
    def length_limit(self) -> str:
        return f"{super().length_limit} or task.max_target_length ({self.max_target_length})"

    @property
    @override
    def is_bound(self) -> bool:
        """Whether it is known what decoders start with."""
        return self._rotates or self._start is not None

    @override
    def follow(self, config: PretrainedConfig) -> None:
        """Take over what the model's decoder starts with."""
        if not config.is_encoder_decoder:
            raise ModelError(
                f"{self.name} needs an encoder and a decoder, but {config.model_type} is no such model; take T5, BART, "
                "Marian or their like, or use the task causal-lm"
            )
        self._rotates = config.model_type in ROTATING
        self._pad = config.pad_token_id or 0
        self._start = None if self._rotates else getattr(config, "decoder_start_token_id", None)
        if not self.is_bound:
            raise ModelError(
                f"the config of this {config.model_type} does not tell its decoder_start_token_id, without which no "
                "decoder can be taught; add it to its config.json"
            )

    @override
    def check_mixture(self) -> None:
        raise TeacherError(
            f"several teachers: in {self.name} models are judged by what they write, and an ensemble scores texts but "
            "writes none; take one teacher, or causal-lm"
        )

    @override
    def check_model(self, model: PreTrainedModel) -> None:
        ids = torch.arange(2, 10, device=model.device)[None] % model.config.vocab_size
        labels = ids.flip(1)
        inputs = {"input_ids": ids, "decoder_input_ids": self._decoder_inputs(labels)}
        check_decoder_inputs(model, inputs, labels)
        check_head(model, inputs)

    @override
    def encode(self, rows: Rows, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Rows:
        self._speak(tokenizer)
        limit = min(self.max_length, tokenizer.model_max_length)
        target_limit = min(self.max_target_length, tokenizer.model_max_length)

        def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            sources = tokenizer([self.prefix + text for text in batch["source"]], truncation=True, max_length=limit)
            targets = tokenizer(text_target=batch["target"], truncation=True, max_length=target_limit)
            return {
                "input_ids": sources["input_ids"],
                "labels": [self._without_start(ids) for ids in targets["input_ids"]],
                "length": [len(ids) for ids in sources["input_ids"]],
                "cut": [*map(any, zip(were_cut(sources, limit), were_cut(targets, target_limit), strict=True))],
            }

        return rows.map(encode_batch, batched=True, remove_columns=columns_of(rows))

    @override
    def collator(self, tokenizer: Tokenizer, teacher_tokenizer: Tokenizer | None = None) -> Collate:
        pad = pad_token(tokenizer)

        def collate(rows: list[Mapping[str, Any]]) -> Batch:
            made: Batch = {
                "input_ids": torch.tensor(padded([list(row["input_ids"]) for row in rows], pad, False)),
                "attention_mask": torch.tensor(padded(list(map(mask_of, rows)), 0, False)),
            }
            if "labels" in rows[0]:
                made["labels"] = torch.tensor(padded([list(row["labels"]) for row in rows], IGNORED, False))
            return self.completed(made, tokenizer)

        return collate

    @override
    def prompts(self, rows: Dataset, tokenizer: Tokenizer) -> Prompts:
        ids, row_ids = list(self.encode(rows, tokenizer)["input_ids"]), list(range(len(rows)))
        options = self._first_token(tokenizer)
        return Prompts(input_ids=ids, references=list(rows["target"]), row_ids=row_ids, options=options)

    @override
    def writing(self, tokenizer: Tokenizer | None, prompt_tokens: int | None = None) -> AfterSources:
        if prompt_tokens is not None:
            raise RecipeError("recipe.rollout.prompt_tokens: the source is the prompt in this task; remove it")
        start = {} if self._rotates else {"decoder_start_token_id": self._start}
        return AfterSources({**start, **(self._first_token(tokenizer) if tokenizer is not None else {})})

    @override
    def with_answers(self, rows: Dataset, texts: Sequence[str] | None) -> Dataset:
        sources: Dataset = rows.select_columns(["source"])
        return sources.add_column("target", list(texts or [""] * len(rows)))

    @override
    def completed(self, batch: Mapping[str, Any], tokenizer: Tokenizer | None) -> Batch:
        """Further: what the decoder reads, made of the labels."""
        found = super().completed(batch, tokenizer)
        if "labels" in found and not {"decoder_input_ids", "decoder_inputs_embeds", WRITTEN} & found.keys():
            found["decoder_input_ids"] = self._read_by_decoder(found["labels"], tokenizer)
        return found

    @override
    def fit_lengths(self, readers: Sequence[Reader]) -> Iterator[str]:
        yield from self._fit_length("max_length", readers, "encoder")
        yield from self._fit_length("max_target_length", readers, "decoder")

    @override
    def turned(self, batch: Batch, tokenizer: Tokenizer | None) -> Batch:
        """Further: labels, unless others than they decide what the decoder reads."""
        found = super().turned(batch, tokenizer)
        labels, read = found.get("labels"), found.get("decoder_input_ids")
        if not isinstance(labels, Tensor) or labels.ndim != 2 or "decoder_inputs_embeds" in found:
            return found
        moved = on_the_right(found, labels != IGNORED, ["labels"])
        if not moved or not (read is None or torch.equal(read, self._read_by_decoder(labels, tokenizer))):
            return found
        return {**{k: v for k, v in found.items() if not k.startswith("decoder_")}, **moved}

    @override
    def masks(self, batch: Batch) -> Masks:
        if WRITTEN in batch or "labels" in batch:
            given = batch[WRITTEN] if WRITTEN in batch else batch["labels"] != IGNORED
        else:
            read = batch["decoder_input_ids"]
            given = batch.get("decoder_attention_mask", torch.ones_like(read)).bool()
        counted = given & batch["attention_mask"].bool().any(1, keepdim=True)
        positions = counted.flatten()
        labels = positions if "labels" in batch and WRITTEN not in batch else torch.zeros_like(positions)
        sources = batch["attention_mask"].bool()
        return {"labels": labels, "positions": positions, "tokens": counted, "sources": sources}

    @override
    def view(self, logits: Tensor | LogitSource, hidden_states: tuple[Tensor, ...] | None, batch: Batch) -> View:
        return self._view_of_tokens(logits, hidden_states, batch, batch.get("labels"))

    @override
    def texts(self, rows: Rows) -> Iterator[str]:
        for row in rows:
            yield self.prefix + row["source"]
            yield row["target"]

    def _read_by_decoder(self, labels: Tensor, tokenizer: Tokenizer | None) -> Tensor:
        pad = pad_token(tokenizer) if tokenizer is not None else self._pad
        return self._decoder_inputs(labels).masked_fill(_shifted(labels, 0) == IGNORED, pad)

    def _decoder_inputs(self, labels: Tensor) -> Tensor:
        """``[B, T]``: each row's labels behind its start; what stands behind the last label is arbitrary."""
        if not self._rotates:
            return _shifted(labels, self._start or 0).clamp(min=0)
        places = torch.arange(labels.shape[1], device=labels.device)
        last = places.masked_fill(labels == IGNORED, 0).amax(1, keepdim=True)
        return _shifted(labels, 0).scatter(1, torch.zeros_like(last), labels.gather(1, last)).clamp(min=0)

    def _without_start(self, ids: list[int]) -> list[int]:
        """A tokenizer may begin a target with the very token that decoders start with; it would be predicted twice."""
        return ids[1:] if ids and ids[0] == self._start else ids

    def _speak(self, tokenizer: Tokenizer) -> None:
        """Let the tokenizer mark both languages, where it marks any."""
        for name, key in (("source_language", "src_lang"), ("target_language", "tgt_lang")):
            language = getattr(self, name)
            if language is None:
                return
            if not hasattr(tokenizer, key) or _language_id(tokenizer, language) is None:
                raise RecipeError(
                    f"task.{name}: {type(tokenizer).__name__} knows no language {language!r}; name it as the tokenizer "
                    "does (de_DE, deu_Latn, de), or remove both languages"
                )
            setattr(tokenizer, key, language)

    def _first_token(self, tokenizer: Tokenizer) -> dict[str, int]:
        """What makes a model write in the target's language: its mark as the first token, or as the decoder's start."""
        if self.target_language is None:
            return {}
        mark = _language_id(tokenizer, self.target_language)
        assert mark is not None
        leads = tokenizer(text_target="a")["input_ids"][0] == mark
        return {"forced_bos_token_id" if leads else "decoder_start_token_id": mark}


class Translation(SequenceToSequence):
    """Sentences and their translations, scored by BLEU and chrF; see :class:`SequenceToSequence`."""

    name = "translation"
    pipeline_tag = "translation"
    scorers = ("bleu", "chrf")


class Summarization(SequenceToSequence):
    """Texts and their summaries, scored by ROUGE; see :class:`SequenceToSequence`."""

    name = "summarization"
    pipeline_tag = "summarization"
    scorers = ("rouge",)
    _usual_length = 1024


def _shifted(labels: Tensor, start: int) -> Tensor:
    return torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)


def _language_id(tokenizer: Tokenizer, language: str) -> int | None:
    """The token that marks a language; M2M100 writes ``__de__`` for ``de``."""
    token = getattr(tokenizer, "lang_code_to_token", {}).get(language, language)
    found: Any = tokenizer.convert_tokens_to_ids(token)
    return None if found is None or found == tokenizer.unk_token_id else int(found)
