"""What the outputs of models with a CTC head stand for, and how those of two models belong together, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_distill.errors import LabelError, ModelError
from hf_distill.names import shortened
from hf_distill.tasks.speech.listening import tokenizer_of
from hf_distill.tokenizers.readers import Reader, named


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of a model's outputs.

    Attributes:
        name: The model's, for messages.
        tokens: The output of each token that texts are written with.
        special: Those of all others but the blank, which models call by different names.
        blank: The output that stands for no token.
        size: How many outputs there are; some may be of no token.
    """

    name: str
    tokens: Mapping[str, int]
    special: Mapping[str, int]
    blank: int
    size: int

    @classmethod
    def of(cls, reader: Reader) -> Vocabulary:
        """That of a model and its tokenizer, refused where these do not belong together (ModelError)."""
        tokenizer, config = tokenizer_of(reader.tokenizer), reader.model.config
        size, blank = int(config.vocab_size), int(config.pad_token_id)
        if tokenizer.pad_token_id != blank:
            raise ModelError(
                f"{reader}: its blank is output {blank} (config.pad_token_id), but its tokenizer's pad token, which "
                f"stands for the blank, is {tokenizer.pad_token_id}; set one to the other, or take the tokenizer that "
                "belongs to the model"
            )
        written = getattr(tokenizer, "word_delimiter_token", None)
        marks = {token for token in tokenizer.all_special_tokens if token != written}
        tokens, special = {}, {}
        for token, number in tokenizer.get_vocab().items():
            if token not in marks:
                tokens[token] = number
            elif number != blank and number < size:
                special[token] = number
        if beyond := {token: number for token, number in tokens.items() if number >= size}:
            raise ModelError(
                f"{reader} has {size:,} outputs, but its tokenizer has tokens beyond them: {named(beyond)}; take the "
                "tokenizer that belongs to the model"
            )
        return cls(name=str(reader), tokens=tokens, special=special, blank=blank, size=size)

    def order_of(self, teacher: Vocabulary) -> tuple[list[int] | None, list[str]]:
        """For each output the teacher's of the same token, -1 where it has none; and lines on what is not compared.

        None where the order is the same. Tokens that texts are written with must be the same (LabelError).
        """
        for first, second, whose in ((self, teacher, "the teacher"), (teacher, self, "the student")):
            if lacking := sorted(first.tokens.keys() - second.tokens.keys()):
                raise LabelError(
                    f"{first.name} writes {shortened(lacking)}, which {whose} does not know: their outputs cannot be "
                    f"compared frame by frame; take a student with the teacher's processor, or a teacher of the same "
                    "letters"
                )
        known = {**teacher.special, **teacher.tokens}
        found = {number: known.get(token, -1) for token, number in {**self.special, **self.tokens}.items()}
        found[self.blank] = teacher.blank
        order = [found.get(number, -1) for number in range(self.size)]
        unasked = sorted(self.special.keys() ^ teacher.special.keys())
        alike = order == list(range(teacher.size)) and self.blank == teacher.blank
        note = f"vocabularies: compared by token, without special ones that one model alone has: {shortened(unasked)}"
        return None if alike else order, [note] if unasked and not alike else []


def same_order(orders: Sequence[list[int] | None]) -> Tensor | None:
    """The order of all teachers' outputs, refused where they have several (LabelError)."""
    if any(order != orders[0] for order in orders):
        raise LabelError(
            "several teachers write the same letters in different orders, and are mixed output by output; take "
            "teachers of one processor, or one teacher"
        )
    return torch.tensor(orders[0]) if orders and orders[0] is not None else None
