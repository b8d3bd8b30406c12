"""Sort two vocabularies into the same classes of tokens that mean the same."""

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
    """

    first: Sequence[int]  # The class of each id of the first vocabulary; -1 where a token takes no part.
    second: Sequence[int]
    count: int
    first_exact: Sequence[bool]  # Whether both vocabularies have the token, by id of the first.
    second_exact: Sequence[bool]


def shared_classes(
    first: TokenBytes, second: TokenBytes, begins: tuple[Mapping[bytes, bytes], Mapping[bytes, bytes]]
) -> SharedClasses:
    """Sort two vocabularies into classes.

    Tokens with the same bytes share a class; of several with the same bytes (a letter and its byte token) the first
    goes with the first, and so on. End tokens share one, other special tokens do by their text. Tokens that no shared
    one begins, special tokens of one model for example, form the last class; they take part only where both have some.
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
    flags = [[i in own for i in range(len(side.pieces))] for side, own in zip(sides, classes, strict=True)]
    rest: list[list[int]] = []
    for side, (by, own) in enumerate(zip(ids, classes, strict=True)):
        roots = {text: _root(text, side, of_bytes, begins) for text in by if text not in of_bytes}
        own |= {number: root for text, root in roots.items() if root is not None for number in by[text]}
        alone = [number for text, root in roots.items() if root is None for number in by[text]]
        rest.append(alone + [number for number in sides[side].special if number not in own])
    if all(rest):
        for own, numbers in zip(classes, rest, strict=True):
            own |= dict.fromkeys(numbers, count)
        count += 1
    maps = [[own.get(i, -1) for i in range(len(side.pieces))] for side, own in zip(sides, classes, strict=True)]
    return SharedClasses(first=maps[0], second=maps[1], count=count, first_exact=flags[0], second_exact=flags[1])


def beginnings(owner: TokenBytes, other: TokenBytes, tokenizer: PreTrainedTokenizerBase) -> dict[bytes, bytes]:
    """With which token the other tokenizer begins the bytes of each token that only the owner has.

    The bytes are read behind a line break, with which no token merges. Where they are no text (a part of a character),
    or are read otherwise, it is the longest token of the other that they begin with.
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
    """The class of the shared token that begins a text, found over ever shorter ones."""
    while text not in of_bytes:
        beginning = begins[side].get(text)
        if beginning is None or len(beginning) >= len(text):
            return None
        text, side = beginning, 1 - side
    return of_bytes[text]


def _special_pairs(first: TokenBytes, second: TokenBytes) -> Iterator[tuple[int, int]]:
    ends = None
    if first.end is not None and second.end is not None:
        yield (ends := (first.end, second.end))
    names = {mark: number for number, mark in second.special.items()}
    for number, mark in first.special.items():
        if mark in names and (ends is None or (number != ends[0] and names[mark] != ends[1])):
            yield number, names[mark]


def _by_bytes(side: TokenBytes) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for number, piece in enumerate(side.pieces):
        if piece:
            found.setdefault(piece, []).append(number)
    return found
