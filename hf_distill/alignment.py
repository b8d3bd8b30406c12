"""Where two tokenizers cut a text alike, and which of their tokens stand for the same bytes.

Everything is told in bytes (UTF-8), since a token may hold a part of a character only. A tokenizer is read as what each
of its tokens stands for (:class:`TokenBytes`); a text's tokens then lie end to end over its bytes. Where a token of
each model begins at the same byte, both have read the same text and are about to tell what follows: a meeting.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_distill.errors import ModelError

PROBE = "The Quick brown fox,  it's 12.5% naïve: «déjà-vu» Привет 東京 👩‍🚀 ok?\n\n\tend "
"""A text that comes back as it is from the tokens of a tokenizer that covers all bytes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which bytes of a text a token covers.

    Attributes:
        start: The first.
        end: Behind the last; ``start`` for a token that stands for none (a start token).
        whole: Whether these are all bytes of the token: not so for a first word, before which some tokenizers put a
            space that the text has not.
    """

    start: int
    end: int
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Region:
    """A stretch of bytes that two readings have in common, each at its own place.

    Attributes:
        first: Where it begins in the first text.
        second: Where it begins in the second.
        length: Its bytes.
        ends: Whether what each model says behind it is compared, too: the end of a text, or of a turn.
    """

    first: int
    second: int
    length: int
    ends: bool


@dataclass(frozen=True, kw_only=True)
class TokenBytes:
    """What the tokens of a tokenizer stand for.

    Attributes:
        pieces: By id: the bytes of a token; None for special tokens and ids that no token has.
        special: The text of each special token, by id.
        end: The end token's id, or None.
        name: Of the tokenizer, for messages.
    """

    pieces: Sequence[bytes | None]
    special: Mapping[int, bytes] = field(default_factory=dict)
    end: int | None = None
    name: str = ""

    def places(self, ids: Iterable[int], text: bytes) -> list[Place]:
        """The bytes of the text that each token covers, as far as tokens and text agree.

        The list is shorter than the ids where a tokenizer changed the text: nothing is known of what comes behind.
        """
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
    """Read what each token stands for.

    Byte-level tokenizers write bytes in an alphabet of their own (GPT-2), SentencePiece's write a space as U+2581 and
    bytes that are no piece as ``<0x0A>``.

    Raises:
        ModelError: For a tokenizer whose tokens do not give back every text: it drops spaces or changes letters (most
            WordPiece), knows some characters only, or is written in Python.
    """
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise ModelError(
            f"cross_tokenizer: {name} is a tokenizer in Python, which does not tell how it cuts; take a model with a "
            "fast tokenizer (tokenizer.json)"
        )
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    alphabet = _alphabet() if "ByteLevel" in set(_kinds([state["pre_tokenizer"], state["decoder"]])) else None
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
    first: Sequence[Place],
    second: Sequence[Place],
    regions: Iterable[Region],
    ends: tuple[Iterable[int], Iterable[int]],
) -> list[tuple[int, int]]:
    """The pairs of tokens, one of each reading, that begin at the same byte of a region: where both models meet.

    Between two of them lies the finest span that both readings cut alike: one token on each side, or several. A token
    without bytes takes part in none, but for end tokens, where a region ends. Both grow from one pair to the next.

    Args:
        first: Of the first reading.
        second: Of the second.
        regions: In the order of the text; those that lie beyond what a reading covers are left out.
        ends: Of each reading, which of its tokens are end tokens.
    """
    found: list[tuple[int, int]] = []
    own, other = _starts(first), _starts(second)
    closing = _ending(first, ends[0]), _ending(second, ends[1])
    for region in regions:
        for at in range(region.length):
            i, j = own.get(region.first + at), other.get(region.second + at)
            if i is not None and j is not None and first[i].whole == second[j].whole:
                found.append((i, j))
        i, j = closing[0].get(region.first + region.length), closing[1].get(region.second + region.length)
        if region.ends and i is not None and j is not None:
            found.append((i, j))
    return found


def _starts(places: Sequence[Place]) -> dict[int, int]:
    return {place.start: i for i, place in enumerate(places) if place.end > place.start}


def _ending(places: Sequence[Place], marks: Iterable[int]) -> dict[int, int]:
    return {places[i].start: i for i in marks if i < len(places)}


@dataclass(frozen=True, kw_only=True)
class SharedClasses:
    """Two vocabularies, each sorted into the same classes: the tokens that both have, and one for the rest.

    A token of one alone belongs to the class of a token that both have: the one with which the other tokenizer would
    begin its bytes. A class is then the same event for both models: that the text goes on with those bytes.

    Attributes:
        first: By id, the class; -1 where a token takes no part.
        second: The same of the second vocabulary.
        count: How many classes there are.
        first_exact: By id, whether both vocabularies have the token.
        second_exact: The same of the second.
    """

    first: Sequence[int]
    second: Sequence[int]
    count: int
    first_exact: Sequence[bool]
    second_exact: Sequence[bool]


def shared_classes(
    first: TokenBytes, second: TokenBytes, begins: tuple[Mapping[bytes, bytes], Mapping[bytes, bytes]]
) -> SharedClasses:
    """Sort two vocabularies into classes.

    Tokens with the same bytes share a class; of several with the same bytes (a letter and its byte token) the first
    goes with the first, and so on. End tokens share one, other special tokens do by their text. What nothing shared
    begins, special tokens of one model for one, is the class of the rest; it takes no part where only one has such.

    Args:
        first: The one's tokens.
        second: The other's.
        begins: For bytes that only the first (second) knows as a token, the token with which the second (first) begins
            them, see :func:`beginnings`.

    Raises:
        ModelError: Where no token with bytes is shared.
    """
    sides = (first, second)
    ids = [_by_bytes(side) for side in sides]
    classes: list[dict[int, int]] = [{}, {}]
    of_bytes: dict[bytes, int] = {}
    count = 0
    for text in (text for text in ids[0] if text in ids[1]):
        fewest = min(len(by[text]) for by in ids)
        for by, own in zip(ids, classes, strict=True):
            own |= {number: count + min(i, fewest - 1) for i, number in enumerate(by[text])}
        of_bytes[text], count = count, count + fewest
    if not of_bytes:
        raise ModelError(
            f"cross_tokenizer: the tokenizers of {first.name or 'the student'} and {second.name or 'the teacher'} "
            "share no token, so their distributions cannot be compared; take a student that writes the same script"
        )
    for pair in _special_pairs(first, second):
        for own, number in zip(classes, pair, strict=True):
            own[number] = count
        count += 1
    exact = [set(own) for own in classes]
    rest: list[list[int]] = [[], []]
    for side, (by, own) in enumerate(zip(ids, classes, strict=True)):
        for text, numbers in by.items():
            root = _root(text, side, of_bytes, begins)
            if root is None:
                rest[side] += numbers
            elif text not in of_bytes:
                own |= dict.fromkeys(numbers, root)
        rest[side] += [number for number in sides[side].special if number not in own]
    if all(rest):
        for own, numbers in zip(classes, rest, strict=True):
            own |= dict.fromkeys(numbers, count)
        count += 1
    maps = [[own.get(i, -1) for i in range(len(side.pieces))] for side, own in zip(sides, classes, strict=True)]
    flags = [[i in both for i in range(len(side.pieces))] for side, both in zip(sides, exact, strict=True)]
    return SharedClasses(first=maps[0], second=maps[1], count=count, first_exact=flags[0], second_exact=flags[1])


def beginnings(owner: TokenBytes, other: TokenBytes, tokenizer: PreTrainedTokenizerBase) -> dict[bytes, bytes]:
    """With which token the other tokenizer begins the bytes of each token that only the owner has.

    Read behind a line break, with which no token merges. Of bytes that are no text (a part of a character) or that it
    reads otherwise it is the longest token of the other that they begin with.

    Args:
        owner: Whose tokens these are.
        other: What the tokens of ``tokenizer`` stand for.
        tokenizer: The other one.
    """
    known = {piece for piece in other.pieces if piece}
    alone = [piece for piece in dict.fromkeys(owner.pieces) if piece and piece not in known]
    texts = [piece.decode(errors="ignore") for piece in alone]
    read = tokenizer([f"\n{text}" for text in texts], add_special_tokens=False)["input_ids"] if texts else []
    found: dict[bytes, bytes] = {}
    for piece, text, tokens in zip(alone, texts, read, strict=True):
        whole = f"\n{text}".encode()
        behind = next((p for p in other.places(tokens, whole) if p.start == 1 and p.end > 1), None)
        if text.encode() == piece and behind is not None and whole[1 : behind.end] in known:
            found[piece] = whole[1 : behind.end]
        else:
            longest = next((piece[:n] for n in range(len(piece) - 1, 0, -1) if piece[:n] in known), None)
            found |= {piece: longest} if longest is not None else {}
    return found


def _root(
    text: bytes, side: int, of_bytes: Mapping[bytes, int], begins: tuple[Mapping[bytes, bytes], Mapping[bytes, bytes]]
) -> int | None:
    """The class of a token: its own, or that of the shared token that begins it, each step a shorter one."""
    while text not in of_bytes:
        beginning = begins[side].get(text)
        if beginning is None or len(beginning) >= len(text):
            return None
        text, side = beginning, 1 - side
    return of_bytes[text]


def _special_pairs(first: TokenBytes, second: TokenBytes) -> Iterator[tuple[int, int]]:
    ends = (first.end, second.end)
    has_ends = first.end is not None and second.end is not None
    if first.end is not None and second.end is not None:
        yield first.end, second.end
    names = {mark: number for number, mark in second.special.items()}
    for number, mark in first.special.items():
        if mark in names and not (has_ends and (number == ends[0] or names[mark] == ends[1])):
            yield number, names[mark]


def _by_bytes(side: TokenBytes) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for number, piece in enumerate(side.pieces):
        if piece:
            found.setdefault(piece, []).append(number)
    return found


def _kinds(state: Any) -> Iterator[str]:
    """The types of all parts of a tokenizer's description."""
    if isinstance(state, dict):
        if "type" in state:
            yield state["type"]
        state = list(state.values())
    if isinstance(state, list):
        for each in state:
            yield from _kinds(each)


def _alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: what can be printed stands for itself, all else is numbered from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _bytes_of(token: str, alphabet: Mapping[str, int] | None) -> bytes | None:
    if alphabet is not None:
        return bytes(alphabet[letter] for letter in token) if all(letter in alphabet for letter in token) else None
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()
