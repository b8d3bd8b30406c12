"""Texts as a model can write them: letters in the case that it knows, without what is not in its vocabulary."""

from __future__ import annotations

import inspect
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hf_distill.errors import DataError
from hf_distill.types import Tokenizer

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
"""How Unicode's names of letters begin that are written without blanks between words."""


class Spelling:
    """Writes texts as a tokenizer knows them.

    A letter that is known in the other case alone is written in that; any other that is not known is left out. So a
    vocabulary of capital letters can be taught by texts of a newspaper. ``left_out`` counts what was left out so far.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, str] = {}
        self.left_out: Counter[str] = Counter()
        self.letters = 0

    def __call__(self, text: str) -> str:
        """The text, one blank between words."""
        written = []
        for letter in text:
            if letter.isspace():
                written.append(" ")
                continue
            if letter not in self._known:
                self._known[letter] = next(filter(self._knows, (letter, letter.lower(), letter.upper())), "")
            self.letters += 1
            written.append(self._known[letter])
            if not self._known[letter]:
                self.left_out[letter] += 1
        return " ".join("".join(written).split())

    def ids(self, text: str) -> list[int]:
        """The text's tokens, without special ones."""
        return list(self._tokenizer(self(text), add_special_tokens=False)["input_ids"])

    def told(self, of: str) -> Iterator[str]:
        """A line on what was left out of texts; refused where it is most of them (DataError)."""
        lost, usual = self.left_out.total(), ", ".join(repr(letter) for letter, _ in self.left_out.most_common(5))
        if 2 * lost > self.letters:
            raise DataError(
                f"{lost:,} of the {self.letters:,} letters in the texts are not in the model's vocabulary (most often "
                f"{usual}): the texts are of another language or script; take a model of theirs, or map the right "
                "column in data.columns"
            )
        if lost:
            yield (
                f"texts {of}: {lost:,} of {self.letters:,} letters are not in the model's vocabulary and are left out "
                f"where it learns (most often {usual})"
            )

    def _knows(self, letters: str) -> bool:
        tokenizer: Any = self._tokenizer
        if letters == getattr(tokenizer, "word_delimiter_token", None):
            return False
        special = {None, *tokenizer.all_special_ids}
        ids = tokenizer(letters, add_special_tokens=False)["input_ids"]
        return bool(ids) and special.isdisjoint(ids)


def written_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of labels that are collapsed already, which a tokenizer made for CTC would do once more."""
    collapses = "group_tokens" in inspect.signature(tokenizer._decode).parameters
    more = {"group_tokens": False} if collapses else {}
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, **more)
    return text.strip()


def are_unspaced(texts: Iterable[str]) -> bool:
    """Whether most letters of texts are of scripts without blanks between words (Chinese, Japanese, Thai, ...)."""
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    unspaced = sum(n for letter, n in letters.items() if unicodedata.name(letter, "").startswith(_UNSPACED))
    return 2 * unspaced > letters.total()
