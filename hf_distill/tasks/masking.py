"""Which tokens of a row are hidden, and what is shown in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_distill.errors import DataError
from hf_distill.tasks.encoding import IGNORED

SHOWN_MASK, SHOWN_OTHER = 0.8, 0.1
"""Of the tokens to be told: the share in whose place the mask stands, and that in whose place any token does. The rest
stands there as it is (Devlin et al. 2019, section 3.1)."""


class Masking:
    """Hides tokens of rows; what it hides of a row follows from the row's tokens and a number alone.

    So the same row is hidden alike in whatever batch, process or order it comes, and nothing is drawn from a generator
    whose state a run that was broken off would have to restore.

    Args:
        tokenizer: Tells the mask and the special tokens, of which none is hidden.
        probability: Of each token to be told.

    Raises:
        DataError: For a tokenizer without a mask.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, probability: float) -> None:
        if tokenizer.mask_token_id is None:
            raise DataError(
                f"the tokenizer of {tokenizer.name_or_path or 'the student'} has no mask token, so nothing can be "
                "hidden; take a model that was trained with masks (BERT, RoBERTa, ...)"
            )
        self.mask: int = tokenizer.mask_token_id
        self.special = np.array(tokenizer.all_special_ids)
        self.tokens = len(tokenizer)
        self.probability = probability

    def __call__(self, ids: Sequence[int], draw: Sequence[int] = ()) -> tuple[list[int], list[int]]:
        """What is shown of a row, and its labels.

        Args:
            ids: Of the row's tokens.
            draw: Another one hides other tokens.
        """
        tokens = np.asarray(ids, dtype=np.int64)
        digest = hashlib.blake2b(tokens.tobytes() + repr(tuple(draw)).encode(), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(digest, "little"))
        chance, fate = generator.random((2, len(tokens)))
        told = (chance < self.probability) & ~np.isin(tokens, self.special)
        other = told & (fate >= 1 - SHOWN_OTHER)
        shown = np.where(told & (fate < SHOWN_MASK), self.mask, tokens)
        shown[other] = generator.integers(self.tokens, size=int(other.sum()))
        return shown.tolist(), np.where(told, tokens, IGNORED).tolist()
