"""Small tokenizers that cover all bytes, trained in memory, and texts in many scripts."""

from __future__ import annotations

import copy
import functools
import json
import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_distill.tokenizers.trained import train_tokenizer
from tests.helpers import tiny

PARTS = [
    *("the", "card", " is", "good", "Bank", "naïve", "déjà-vu", "e\u0301", "Привет", "мир", "東京", "猫が好き"),
    *("العربية", "מה", "👩\u200d🚀", "👍🏽", "🇩🇪", "हिन्दी", "ไทย", " ", "  ", "\n", "\n\n\t", "12.5%", "it's", "«"),
    *("…", "\u200d", "x" * 9),
]


def texts(count: int, seed: int = 0) -> list[str]:
    """Random texts of all these parts."""
    generator = random.Random(seed)
    return ["".join(generator.choices(PARTS, k=generator.randint(1, 25))) for _ in range(count)]


def sentences(count: int = 200, seed: int = 0) -> list[str]:
    return tiny.rows(count, seed)["text"]


@functools.cache
def byte_level(vocab_size: int = 300) -> PreTrainedTokenizerBase:
    """BPE over bytes, as GPT-2 and Llama 3 have it."""
    return train_tokenizer(lambda: [*sentences(), *texts(100, 5)], vocab_size=vocab_size, kind="bpe")


@functools.cache
def sentencepiece(kind: str = "bpe", vocab_size: int = 400) -> PreTrainedTokenizerBase:
    """BPE or unigrams of characters, with a token for each byte, and a space before the first word."""
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    scratch = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
    scratch.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    common = {"vocab_size": vocab_size, "special_tokens": special, "show_progress": False}
    if kind == "bpe":
        # Without words, whose borders it does not know, it would learn whole sentences.
        scratch.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        scratch.train_from_iterator(sentences(), trainers.BpeTrainer(**common))
        state = json.loads(scratch.to_str())["model"]
        vocabulary = {token: i for i, token in enumerate([*special, *fallback])}
        vocabulary |= {
            token: i for i, token in enumerate((t for t in state["vocab"] if t not in special), len(vocabulary))
        }
        merges = [tuple(pair) for pair in state["merges"]]
        made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    else:
        scratch.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        scratch.train_from_iterator(sentences(), trainers.UnigramTrainer(**common, unk_token="<unk>"))
        state = json.loads(scratch.to_str())["model"]
        pieces = [(token, score) for token, score in state["vocab"] if token not in special]
        listed = [*((token, 0.0) for token in special), *((token, -30.0) for token in fallback), *pieces]
        made = Tokenizer(models.Unigram(listed, unk_id=0, byte_fallback=True))
    made.normalizer = scratch.normalizer
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def chatty(made: PreTrainedTokenizerBase, template: str) -> PreTrainedTokenizerBase:
    """The same with a chat template."""
    made = copy.deepcopy(made)
    made.chat_template = template
    return made


KINDS = {
    "byte-level BPE": byte_level,
    "another byte-level BPE": lambda: byte_level(420),
    "SentencePiece BPE": sentencepiece,
    "SentencePiece unigrams": lambda: sentencepiece("unigram"),
}
