"""What was written beside what was said: words and characters that are equal, wrong, missing or too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_distill.errors import DataError

NOTHING = "(nothing)"
"""Stands for the word that is not there where one is missing or too many."""


@dataclass(frozen=True, kw_only=True)
class Edits:
    """The fewest changes that make the references of texts.

    Attributes:
        wrong: ``[N]``: parts (words or characters) of each row that are wrong, missing or too many.
        said: ``[N]``: parts of each reference.
        pairs: For each row what is said and what is written where the two differ, part by part.
    """

    wrong: np.ndarray
    said: np.ndarray
    pairs: Sequence[Sequence[tuple[str, str]]]

    @property
    def rates(self) -> np.ndarray:
        """``[N]``: errors of each row by what is said, or their number where nothing is."""
        rates: np.ndarray = self.wrong / np.maximum(self.said, 1)
        return rates

    def confusions(self) -> Counter[tuple[str, str]]:
        """How often each part was written in place of another, over all rows."""
        return Counter(pair for row in self.pairs for pair in row)


def edits_of(references: Sequence[str], texts: Sequence[str], *, characters: bool = False) -> Edits:
    """Texts aligned with what is said, by words between blanks or by characters, blanks among them."""
    jiwer = _jiwer()
    align = jiwer.process_characters if characters else jiwer.process_words
    found: Any = align([" ".join(each.split()) for each in references], [" ".join(each.split()) for each in texts])
    pairs = [list(_pairs(*row)) for row in zip(found.alignments, found.references, found.hypotheses, strict=True)]
    return Edits(
        wrong=np.array([len(row) for row in pairs], dtype=np.float64),
        said=np.array([len(row) for row in found.references], dtype=np.float64),
        pairs=pairs,
    )


def _pairs(chunks: Sequence[Any], said: Sequence[str], written: Sequence[str]) -> Iterator[tuple[str, str]]:
    for chunk in chunks:
        first, second = range(chunk.ref_start_idx, chunk.ref_end_idx), range(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if chunk.type == "substitute":
            yield from ((said[i], written[j]) for i, j in zip(first, second, strict=True))
        elif chunk.type == "delete":
            yield from ((said[i], NOTHING) for i in first)
        elif chunk.type == "insert":
            yield from ((NOTHING, written[j]) for j in second)


def _jiwer() -> Any:
    try:
        import jiwer
    except ImportError as error:
        raise DataError(
            f"transcripts are scored with jiwer, which cannot be imported ({error}): pip install 'hf-distill[speech]'"
        ) from error
    return jiwer
