"""Whether two tokenizers are the same, and how one fits a model."""

from __future__ import annotations

import copy

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.models.forward import SEGMENTS, reads_segments


def same_tokenizer(first: PreTrainedTokenizerBase | None, second: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers give the same ids: the same cutting of a probe, and the same ids of all that both know.

    One of them may know more tokens than the other, as models of one family do that differ by special ones.
    """
    if first is None or second is None or first is second:
        return True
    probe = "The quick Brown fox, it's 12.5% naïve: «déjà-vu» 東京 ok?"
    fewer, more = sorted((first.get_vocab(), second.get_vocab()), key=len)
    return fewer.items() <= more.items() and first(probe)["input_ids"] == second(probe)["input_ids"]


POSITIONS = ("position_embeddings", "wpe", "embed_positions")
"""What modules are called that hold one vector for each position."""


def position_limit(model: PreTrainedModel) -> int | None:
    """How many tokens a model can read at most; None where its config does not tell."""
    table = position_table(model)
    limit: int | None = getattr(model.config, "max_position_embeddings", None) if table is None else table
    return limit


def position_table(model: PreTrainedModel) -> int | None:
    """How many positions a model has vectors for; None where it computes them, or knows distances alone.

    RoBERTa and its like count positions from the padding id on, so that two of their 514 serve nothing; others begin
    at an offset.
    """
    told = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if name.endswith(POSITIONS) and isinstance(weight, Tensor) and weight.ndim == 2:
            first = getattr(module, "padding_idx", None)
            limit = len(weight) - (getattr(module, "offset", 0) if first is None else first + 1)
            return limit if told is None else min(limit, told)
    return None


def knows_segments(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer tells the texts of a pair apart, or special tokens from others, where it is asked to."""
    return any(tokenizer("a", "a", return_token_type_ids=True)[SEGMENTS])


def fitted(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy of it, that gives a model what it can read, and no more.

    Texts are cut at the model's last position. Segments are left out where the model does not read them (DistilBERT,
    RoBERTa), and asked for where it does and the tokenizer knows them (since Transformers 5 that of an ALBERT does not
    give them by itself); a tokenizer that is saved keeps that.
    """
    limit = position_limit(model)
    names = [name for name in tokenizer.model_input_names if name != SEGMENTS or reads_segments(model)]
    if SEGMENTS not in names and reads_segments(model) and knows_segments(tokenizer):
        names.append(SEGMENTS)
    if names == tokenizer.model_input_names and (limit is None or tokenizer.model_max_length <= limit):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit or tokenizer.model_max_length)
    return tokenizer
