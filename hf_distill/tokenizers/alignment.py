"""Finds where two tokenizers cut a text alike.

All places are in bytes (UTF-8), since a token may hold a part of a character only. A tokenizer is read as the bytes of
each of its tokens (:class:`TokenBytes`); a text's tokens then lie end to end over its bytes. Where a token of each
model begins at the same byte, both have read the same text and predict what follows: a meeting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hf_distill.errors import ModelError

PROBE = "The Quick brown fox,  it's 12.5% naïve: «déjà-vu» Привет 東京 👩‍🚀 ok?\n\n\tend "
"""A text that comes back as it is from the tokens of a tokenizer that covers all bytes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The bytes of a text that a token covers, none for a start token.

    ``whole`` tells whether these are all bytes of the token; not of a first word before which a tokenizer puts a space.
    """

    start: int
    end: int
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Region:
    """A stretch of bytes that two texts share, each at its own place."""

    first: int
    second: int
    length: int
    ends: bool  # Whether predictions behind it are compared, too: of the end of a text, or of a turn.


@dataclass(frozen=True, kw_only=True)
class TokenBytes:
    """The bytes of a tokenizer's tokens, by id."""

    pieces: Sequence[bytes | None]  # None for special tokens and ids that no token has.
    special: Mapping[int, bytes] = field(default_factory=dict)
    end: int | None = None
    name: str = ""  # The tokenizer's, for messages.

    def places(self, ids: Iterable[int], text: bytes) -> list[Place]:
        """The bytes of the text that each token covers, up to where a tokenizer changed the text."""
        # Whether a first space is the text's own cannot be told from it alone, but from what follows.
        ids = list(ids)
        return max((self._places(ids, text, skips) for skips in (False, True)), key=len)

    def _places(self, ids: Iterable[int], text: bytes, skips: bool) -> list[Place]:
        found: list[Place] = []
        at, fresh = 0, True  # Whether a space may have been put before the next token.
        for token in ids:
            piece = self.pieces[token] if token < len(self.pieces) else None
            if piece is None:
                mark = self.special.get(token)
                if mark is None:
                    break
                # A start token is not of the text; one that a chat template writes is.
                width = len(mark) if mark and text.startswith(mark, at) else 0
                found.append(Place(start=at, end=at + width))
                at, fresh = at + width, True
                continue
            put = fresh and piece[:1] == b" " and text.startswith(piece[1:], at)
            if not put and not text.startswith(piece, at):
                break
            width = len(piece) - (put and (skips or not text.startswith(piece, at)))
            found.append(Place(start=at, end=at + width, whole=width == len(piece)))
            at, fresh = at + width, False
        return found


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    """Read the bytes of each token.

    Byte-level tokenizers write bytes in an alphabet of their own (GPT-2), SentencePiece's write a space as U+2581 and
    bytes that are no piece as ``<0x0A>``.
    """
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise ModelError(
            f"cross_tokenizer: {name} is a tokenizer in Python, which does not tell how it cuts; take a model with a "
            "fast tokenizer (tokenizer.json)"
        )
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    is_byte_level = '"type": "ByteLevel"' in json.dumps([state["pre_tokenizer"], state["decoder"]])
    alphabet = {letter: byte for byte, letter in bytes_to_unicode().items()} if is_byte_level else None
    added = tokenizer.added_tokens_decoder
    vocabulary = tokenizer.get_vocab()
    pieces: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if number not in added:
            pieces[number] = _bytes_of(token, alphabet)
        elif not added[number].special:
            pieces[number] = added[number].content.encode()
    special = {number: each.content.encode() for number, each in added.items() if each.special}
    read = TokenBytes(pieces=pieces, special=special, end=tokenizer.eos_token_id, name=name)
    covered = read.places(tokenizer(PROBE, add_special_tokens=False)["input_ids"], PROBE.encode())
    if not covered or covered[-1].end != len(PROBE.encode()):
        at = covered[-1].end if covered else 0
        raise ModelError(
            f"cross_tokenizer: the tokens of {name} do not give back every text (of a probe they lose what follows "
            f"{PROBE.encode()[:at].decode(errors='ignore')[-12:]!r}), so they cannot be compared byte by byte; take "
            "a model whose tokenizer works on bytes (byte-level BPE, or SentencePiece with byte fallback)"
        )
    return read


def meetings(
    first: Sequence[Place], second: Sequence[Place], regions: Iterable[Region], ends: Sequence[Iterable[int]]
) -> list[tuple[int, int]]:
    """The pairs of tokens, one of each reading, that begin at the same byte of a region: where both models meet.

    Between two of them lies the finest span that both readings cut alike: one token on each side, or several. Tokens
    without bytes take no part, except end tokens (``ends``: their places in each reading) where a region ends. Both
    places grow from one pair to the next.
    """
    found: list[tuple[int, int]] = []
    both = (first, second)
    own, other = ({place.start: i for i, place in enumerate(places) if place.end > place.start} for places in both)
    closing = [{p[i].start: i for i in marks if i < len(p)} for p, marks in zip(both, ends, strict=True)]
    for region in regions:
        for at in range(region.length):
            i, j = own.get(region.first + at), other.get(region.second + at)
            if i is not None and j is not None and first[i].whole == second[j].whole:
                found.append((i, j))
        i, j = closing[0].get(region.first + region.length), closing[1].get(region.second + region.length)
        if region.ends and i is not None and j is not None:
            found.append((i, j))
    return found


def _bytes_of(token: str, alphabet: Mapping[str, int] | None) -> bytes | None:
    if alphabet is not None:
        return bytes(alphabet[letter] for letter in token) if all(letter in alphabet for letter in token) else None
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()
