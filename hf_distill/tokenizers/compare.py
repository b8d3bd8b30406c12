"""Whether two tokenizers are the same, and how one fits a model."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.models.forward import SEGMENTS, reads_segments
from hf_distill.models.sizes import position_limit
from hf_distill.tokenizers.processors import preparation_of, vocabulary_of


def same_tokenizer(first: Any, second: Any) -> bool:
    """Whether two tokenizers give the same ids: the same cutting of a probe, and the same ids of all that both know.

    One of them may know more tokens than the other, as models of one family do that differ by special ones. Processors
    further prepare pictures and sounds alike.
    """
    if first is None or second is None or first is second:
        return True
    if preparation_of(first) != preparation_of(second):
        return False
    first, second = vocabulary_of(first), vocabulary_of(second)
    if first is None or second is None:
        return first is second
    probe = "The quick Brown fox, it's 12.5% naïve: «déjà-vu» 東京 ok?"
    fewer, more = sorted((first.get_vocab(), second.get_vocab()), key=len)
    read = [each(probe, verbose=False)["input_ids"] for each in (first, second)]  # No warning of a short limit.
    return fewer.items() <= more.items() and read[0] == read[1]


def lacking(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> dict[str, int]:
    """Tokens of a student's tokenizer that a teacher's lacks; its padding aside, which nobody looks at."""
    known, padding = teacher.get_vocab(), student.pad_token
    return {token: at for token, at in student.get_vocab().items() if token not in known and token != padding}


def reads_alike(student: Any, teacher: Any) -> bool:
    """Whether a teacher can read what a student does: the same, and no token that the teacher's tokenizer lacks."""
    if student is None or teacher is None or student is teacher:
        return True
    own, other = vocabulary_of(student), vocabulary_of(teacher)
    return same_tokenizer(student, teacher) and (own is None or other is None or not lacking(other, own))


def knows_segments(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer tells the texts of a pair apart, or special tokens from others, where it is asked to."""
    return any(tokenizer("a", "a", return_token_type_ids=True)[SEGMENTS])


def fitted(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy of it, that gives a model what it can read, and no more.

    Texts are cut at the model's last position. Segments are left out where the model does not read them (DistilBERT,
    RoBERTa), and asked for where it does and the tokenizer knows them (since Transformers 5 that of an ALBERT does not
    give them by itself); a tokenizer that is saved keeps that.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer  # What prepares pictures or sounds is made for its model.
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
