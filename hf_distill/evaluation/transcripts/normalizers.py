"""Texts made alike before they are compared: Whisper's two ways, as Transformers has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

NORMALIZERS: Mapping[str, Callable[[], Callable[[str], str]]] = {
    "basic": BasicTextNormalizer,
    # The table of British and American spellings lies beside Whisper's weights; without it both stay as they are.
    "english": lambda: EnglishTextNormalizer({}),
}
"""By the name that tasks use: no case, no punctuation, nothing in brackets; of English also one way to write numbers
and contractions."""


def normalized(texts: Iterable[str], name: str) -> list[str]:
    """Texts as the normalizer of a name writes them, one blank between words."""
    make = NORMALIZERS[name]()
    return [" ".join(make(text).split()) for text in texts]
