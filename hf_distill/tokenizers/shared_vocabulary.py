"""Which tokens of two vocabularies mean the same: both are sorted into the same classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from hf_distill.errors import ModelError
from hf_distill.tokenizers.alignment import TokenBytes


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
