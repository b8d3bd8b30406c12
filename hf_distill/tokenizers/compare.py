"""Whether two tokenizers are the same, and how one fits a model."""

from __future__ import annotations

import copy
import inspect

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def same_tokenizer(first: PreTrainedTokenizerBase | None, second: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers give the same ids: the same cutting of a probe, and the same ids of all that both know.

    One of them may know more tokens than the other, as models of one family do that differ by special ones.
    """
    if first is None or second is None or first is second:
        return True
    probe = "The quick Brown fox, it's 12.5% naïve: «déjà-vu» 東京 ok?"
    fewer, more = sorted((first.get_vocab(), second.get_vocab()), key=len)
    return fewer.items() <= more.items() and first(probe)["input_ids"] == second(probe)["input_ids"]


def position_limit(model: PreTrainedModel) -> int | None:
    """How many tokens a model can read at most; None where its config does not tell.

    RoBERTa and its like count positions from the padding id on, so that two of their 514 serve nothing.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    return limit


def fitted(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy of it, that gives a model no more than it can read.

    Texts are cut at the model's last position. Segment ids are left out where its forward does not take them
    (DistilBERT), or where it knows one segment only (RoBERTa), for which id 1 is out of range.
    """
    limit = position_limit(model)
    names = list(tokenizer.model_input_names)
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    if "token_type_ids" in names and not (takes_types and getattr(model.config, "type_vocab_size", 2) >= 2):
        names.remove("token_type_ids")
    if names == tokenizer.model_input_names and (limit is None or tokenizer.model_max_length <= limit):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = names
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit or tokenizer.model_max_length)
    return tokenizer
