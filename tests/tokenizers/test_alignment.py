"""Two tokenizers over one text: every byte is covered, and both meet wherever they begin a token at the same byte."""

from __future__ import annotations

import itertools

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_distill.errors import ModelError
from hf_distill.tokenizers.alignment import Region, TokenBytes, meetings, token_bytes
from hf_distill.tokenizers.shared_vocabulary import beginnings, shared_classes
from tests.helpers import tiny
from tests.helpers.byte_tokenizers import KINDS, byte_level, sentencepiece, texts

PAIRS = list(itertools.combinations_with_replacement(KINDS, 2))


def read(made, text: str):
    return token_bytes(made).places(made(text, add_special_tokens=False)["input_ids"], text.encode())


def met(first, second, text: str) -> list[tuple[int, int]]:
    whole = Region(first=0, second=0, length=len(text.encode()), ends=False)
    return meetings(read(first, text), read(second, text), [whole], ((), ()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_a_text_in_any_script_cover_all_its_bytes_end_to_end(kind):
    made = KINDS[kind]()
    for text in texts(200):
        places = read(made, text)
        assert len(places) == len(made(text, add_special_tokens=False)["input_ids"])
        assert places[0].start == 0
        assert places[-1].end == len(text.encode())
        assert all(before.end == after.start for before, after in itertools.pairwise(places))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_spans_between_two_meetings_are_the_same_bytes_on_both_sides_and_the_finest_there_are(pair):
    first, second = (KINDS[name]() for name in pair)
    for text in texts(100, seed=1):
        own, other = read(first, text), read(second, text)
        found = met(first, second, text)
        assert all(i < k and j < m for (i, j), (k, m) in itertools.pairwise(found))
        assert [own[i].start for i, _ in found] == [other[j].start for _, j in found]
        starts = [{p.start: p.whole for p in places if p.end > p.start} for places in (own, other)]
        both = [at for at in sorted(starts[0].keys() & starts[1].keys()) if starts[0][at] == starts[1][at]]
        assert [own[i].start for i, _ in found] == both


@pytest.mark.parametrize("kind", KINDS)
def test_one_tokenizer_meets_itself_at_every_token(kind):
    made = KINDS[kind]()
    for text in texts(50, seed=2):
        covering = [i for i, place in enumerate(read(made, text)) if place.end > place.start]
        assert met(made, made, text) == [(i, i) for i in covering]


def test_a_space_that_a_tokenizer_puts_before_a_text_is_no_byte_of_it_and_meets_only_its_like():
    text = "the card is good"
    first = read(sentencepiece(), text)[0]
    assert (first.start, first.whole) == (0, False)
    assert (0, 0) not in met(sentencepiece(), byte_level(), text)
    assert (0, 0) in met(sentencepiece(), sentencepiece(vocab_size=350), text)


def test_start_tokens_cover_nothing_and_the_end_is_met_where_the_text_ends():
    text, made = "the card", byte_level()
    ids = made(text)["input_ids"]
    places = token_bytes(made).places(ids, text.encode())
    assert (places[0].start, places[0].end) == (0, 0)
    region, last = Region(first=0, second=0, length=len(text), ends=True), len(ids) - 1
    assert meetings(places, places, [region], ((last,), (last,)))[-1] == (last, last)
    assert meetings(places, places, [region], ((last,), ()))[-1] != (last, last)


def test_what_follows_letters_that_a_tokenizer_changed_is_not_covered():
    made = byte_level()
    ids = made("the bank is good", add_special_tokens=False)["input_ids"]
    places = token_bytes(made).places(ids, b"the card is good")
    assert places[-1].end <= 4


def changed(normalizer) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def known_characters() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE({"a": 0, "[UNK]": 1}, [], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@pytest.mark.parametrize(
    "made",
    [tiny.tokenizer, tiny.wordpiece, lambda: changed(normalizers.Lowercase()), known_characters],
    ids=["whole words", "WordPiece", "lower case", "few characters"],
)
def test_a_tokenizer_that_does_not_give_texts_back_is_refused_by_name(made):
    made = made()
    made.name_or_path = "someone/words"
    with pytest.raises(ModelError, match="the tokens of someone/words do not give back every text"):
        token_bytes(made)


def classes_of(first, second):
    own, other = token_bytes(first), token_bytes(second)
    return own, other, shared_classes(own, other, (beginnings(own, other, second), beginnings(other, own, first)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_vocabulary_has_a_class_for_each_token(kind):
    own, _, classes = classes_of(KINDS[kind](), KINDS[kind]())
    assert list(classes.first) == list(classes.second)
    assert sorted(classes.first) == list(range(classes.count))
    assert classes.count == len(own.pieces)
    assert all(classes.first_exact)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[0] != pair[1]], ids=" and ".join)
def test_tokens_share_a_class_by_their_bytes_and_others_count_as_a_shared_token_that_begins_them(pair):
    own, other, classes = classes_of(*(KINDS[name]() for name in pair))
    of_class = {c: own.pieces[i] for i, c in enumerate(classes.first) if classes.first_exact[i]}
    assert 256 <= sum(classes.first_exact) <= len(own.pieces)
    for side, sorted_into, exact in (
        (own, classes.first, classes.first_exact),
        (other, classes.second, classes.second_exact),
    ):
        for number, piece in enumerate(side.pieces):
            if piece:
                root = of_class[sorted_into[number]]
                assert root == piece if exact[number] else (piece.startswith(root) and root != piece)
    ends = (classes.first[own.end], classes.second[other.end])
    assert ends[0] == ends[1] >= 0


def test_a_longer_token_counts_as_the_one_with_which_the_other_tokenizer_would_begin_it():
    own = TokenBytes(pieces=[b"a", b"b", b"ab", b"abab", None], special={4: b"<e>"}, end=4)
    other = TokenBytes(pieces=[b"a", b"b", b"aba", None, None], special={3: b"</s>", 4: b"<pad>"}, end=3)
    begins = ({b"ab": b"a", b"abab": b"aba"}, {b"aba": b"ab"})
    classes = shared_classes(own, other, begins)
    assert list(classes.first) == [0, 1, 0, 0, 2]  # abab begins with aba, that with ab, and that with a.
    assert list(classes.second) == [0, 1, 0, 2, -1]  # What only one has, and nothing begins, takes no part.
    assert classes.count == 3


def test_where_both_have_tokens_that_nothing_shared_begins_they_are_one_class_of_the_rest():
    own = TokenBytes(pieces=[b"a", b"x", None], special={2: b"<one>"})
    other = TokenBytes(pieces=[b"a", b"y"])
    classes = shared_classes(own, other, ({}, {}))
    assert (list(classes.first), list(classes.second), classes.count) == ([0, 1, 1], [0, 1], 2)


def test_vocabularies_with_nothing_in_common_are_refused_by_name():
    first, second = (TokenBytes(pieces=[name[:1].encode()], name=name) for name in ("one/model", "two/model"))
    with pytest.raises(ModelError, match="tokenizers of one/model and two/model share no token"):
        shared_classes(first, second, ({}, {}))
