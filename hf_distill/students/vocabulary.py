"""Cuts a student's vocabulary to the tokens that a corpus needs: tokenizer, embeddings, output head and config."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import StudentError
from hf_distill.models.sizes import sizes_of
from hf_distill.students.pruning.slicing import selected
from hf_distill.students.request import Student, refused_as, set_options
from hf_distill.tokenizers.prune import Vocabulary, check_same_cut

if TYPE_CHECKING:
    from hf_distill.recipe import VocabularyConfig

# Settings of generation that name tokens, beside those whose names end in ``_token_id``.
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
_SAMPLE = 100  # How many texts verify that they are cut as before.


def cut_vocabulary(student: Student, setting: VocabularyConfig, texts: Callable[[], Iterable[str]]) -> Student:
    """A student without the tokens that its training texts do not need; all others mean what they meant."""
    model, tokenizer = student.model, student.tokenizer
    kind = type(model.config).__name__
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise StudentError(
            f"student.vocabulary: {kind} reads images or sounds, and only what reads texts can drop tokens; remove it"
        )
    if not hasattr(sizes_of(model.config), "vocab_size"):
        raise StudentError(f"student.vocabulary: {kind} tells no size of the vocabulary; remove student.vocabulary")
    vocabulary = Vocabulary(tokenizer)
    if not (counts := vocabulary.count(texts())):
        raise StudentError("student.vocabulary: the training texts hold no token to keep; add rows, or remove it")
    always = vocabulary.always | (set(_named_ids(model)) & set(vocabulary.ids.values()))
    order = vocabulary.order(_kept(vocabulary, always, counts, setting))
    smaller = vocabulary.smaller(tokenizer, order)
    check_same_cut(tokenizer, smaller, islice(texts(), _SAMPLE))
    made = _with_tokens(model, order)
    saved = model.num_parameters() - made.num_parameters()
    origin = f"of {len(order):,} of {len(tokenizer):,} tokens ({saved:,} parameters fewer) {student.origin}"
    found = {"tokens": len(order), "of": len(tokenizer), "parameters_saved": saved}
    report = {**(student.report or {}), "vocabulary": found}
    return dataclasses.replace(student, model=made, tokenizer=smaller, origin=origin, report=report)


def _kept(vocabulary: Vocabulary, always: set[int], counts: Counter[int], setting: VocabularyConfig) -> set[int]:
    kept = always | set(vocabulary.ancestors(always))
    if setting.size is None:
        used = {i for i, count in counts.items() if count >= setting.least}
        return kept | used | set(vocabulary.ancestors(used))
    total = len(vocabulary.ids)
    if not len(kept) <= setting.size <= total:
        raise StudentError(
            f"student.vocabulary.size: expected {len(kept):,} (special tokens and single characters, without which "
            f"texts could not be encoded) to {total:,} tokens (all), got {setting.size:,}"
        )
    for i in sorted(vocabulary.ids.values(), key=lambda i: (-counts[i], i)):
        more = {i, *vocabulary.ancestors([i])} - kept
        if len(kept) + len(more) <= setting.size:
            kept |= more
    return kept


def _with_tokens(model: PreTrainedModel, order: list[int]) -> PreTrainedModel:
    """A copy of a model whose token ``i`` is the model's token ``order[i]``."""
    new = {old: i for i, old in enumerate(order)}
    config = copy.deepcopy(model.config)
    with refused_as("student.vocabulary"):
        set_options(config, {"name_or_path": ""})
        for each in _settings(config):
            sizes = {name: len(order) for name in ("vocab_size", "decoder_vocab_size") if hasattr(each, name)}
            set_options(each, {**_moved_ids(each, new), **sizes})
        made = selected(model, config, lambda name, dimension: order)
    if model.can_generate():
        made.generation_config = copy.deepcopy(model.generation_config)
        for name, value in _moved_ids(model.generation_config, new).items():
            setattr(made.generation_config, name, value)
    return made


def _named_ids(model: PreTrainedModel) -> Iterator[int]:
    """Ids that a model's settings and its table of positions depend on."""
    generation = [model.generation_config] if model.can_generate() else []
    for config in (*_settings(model.config), *generation):
        for name, value in vars(config).items():
            if name.endswith("_token_id"):
                yield from [value] if isinstance(value, int) else value or []
    for name, module in model.named_modules():
        # RoBERTa and its like count positions from the padding id on, so it must stay what it is.
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings") and module.padding_idx is not None:
            yield from range(module.padding_idx + 1)


def _settings(config: PretrainedConfig) -> list[PretrainedConfig]:
    """A config, and the one nested in it that is of the text."""
    return [config] if sizes_of(config) is config else [config, sizes_of(config)]


def _moved_ids(config: PretrainedConfig | GenerationConfig, new: dict[int, int]) -> dict[str, Any]:
    """The settings that name tokens, with their new ids; tokens that are gone are left out."""
    return {
        name: _moved(value, new)
        for name, value in vars(config).items()
        if value is not None and (name.endswith("_token_id") or name in _LISTS)
    }


def _moved(value: Any, new: dict[int, int]) -> Any:
    if isinstance(value, int):
        return new.get(value)
    if any(isinstance(each, list) for each in value):
        return [_moved(each, new) for each in value if new.keys() >= set(each)]
    return [new[each] for each in value if each in new]
