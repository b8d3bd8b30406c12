"""The student's tokenizer: loaded, the teacher's, or trained on the data's texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_distill.errors import StudentError
from hf_distill.tokenizers.processors import load_tokenizer

_WORDPIECE = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
_BPE = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
_ALPHABET = 1000  # How many characters a trained tokenizer knows at most; rarer ones become [UNK].


def choose_tokenizer(
    setting: str | dict[str, Any] | None, default: PreTrainedTokenizerBase | None, texts: Callable[[], Iterable[str]]
) -> PreTrainedTokenizerBase:
    """The tokenizer that ``student.tokenizer`` names, or trains with options of :func:`train_tokenizer`."""
    if isinstance(setting, str):
        return load_tokenizer(setting)
    if isinstance(setting, dict):
        unknown = [key for key in setting if key not in ("kind", "vocab_size", "lowercase")]
        if unknown:
            raise StudentError(f"student.tokenizer.{unknown[0]}: no such key; it knows kind, vocab_size and lowercase")
        return train_tokenizer(texts, **setting)
    if default is None:
        raise StudentError(
            "student.tokenizer: without a teacher it must be said; name one, or train {vocab_size: 8000}"
        )
    return default


def train_tokenizer(
    texts: Callable[[], Iterable[str]],
    vocab_size: int = 8000,
    lowercase: bool | None = None,
    kind: Literal["wordpiece", "bpe"] = "wordpiece",
) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts; the same texts give the same one, in every process.

    Args:
        texts: Gives the texts, again at each call; they are read twice.
        vocab_size: Tokens, special ones included; more only where the single characters alone need it.
        lowercase: Whether ``wordpiece`` drops case and accents; yes unless given.
        kind: ``wordpiece`` of BERT (``[CLS] A [SEP] B [SEP]``), for models that read; ``bpe`` of bytes of GPT-2 and
            BART (``<s> A </s>``), for models that write: every text comes back as it was.
    """
    if kind == "bpe":
        if lowercase is not None:
            raise StudentError("student.tokenizer.lowercase: does nothing for kind: bpe, which keeps texts; remove it")
        return _train_bpe(texts, vocab_size)
    if kind != "wordpiece":
        raise StudentError(f"student.tokenizer.kind: expected wordpiece or bpe, got {kind!r}")
    if vocab_size < 2 * len(_WORDPIECE):
        raise StudentError(f"student.tokenizer.vocab_size: expected at least {2 * len(_WORDPIECE)}, got {vocab_size}")
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=lowercase is not False)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet, inner = _characters(pieces, texts())
    if not alphabet:
        raise StudentError("student.tokenizer: the training texts hold no word to train a tokenizer on")
    # The trainer numbers inner characters in the order of a hash map, which differs in each process and decides between
    # equally frequent pieces. Named here as special, they have numbers already; the vocabulary alone is then kept.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*_WORDPIECE.values(), *(f"##{character}" for character in inner)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    scratch = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    scratch.normalizer, scratch.pre_tokenizer = pieces.normalizer, pieces.pre_tokenizer
    scratch.train_from_iterator(texts(), trainer)
    pieces.model = models.WordPiece(scratch.get_vocab(), unk_token="[UNK]")
    pieces.decoder = decoders.WordPiece()
    ids = [(token, pieces.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=pieces, model_input_names=names, **_WORDPIECE)


def _train_bpe(texts: Callable[[], Iterable[str]], vocab_size: int) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < (least := len(alphabet) + len(_BPE)):
        raise StudentError(f"student.tokenizer.vocab_size: expected at least {least} for kind: bpe, got {vocab_size}")
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(_BPE.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    pieces.train_from_iterator(texts(), trainer)
    ids = [(token, pieces.token_to_id(token)) for token in ("<s>", "</s>")]
    pieces.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=pieces, model_input_names=names, **_BPE)


def _characters(pieces: Tokenizer, texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """The most frequent characters, and those of them that also occur inside words."""
    counts: Counter[str] = Counter()
    inner: set[str] = set()
    for text in texts:
        for word, _ in pieces.pre_tokenizer.pre_tokenize_str(pieces.normalizer.normalize_str(text)):
            counts.update(word)
            inner.update(word[1:])
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:_ALPHABET]
    return sorted(frequent), sorted(inner.intersection(frequent))
