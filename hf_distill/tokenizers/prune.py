"""Takes tokens out of a fast tokenizer, which cuts all texts of kept tokens as before."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from hf_distill.errors import StudentError

_BATCH = 1000
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # How SentencePiece writes a byte of an unknown character.
_CHAT = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}]


class Vocabulary:
    """The tokens of a fast tokenizer, and which of them need which others.

    ``ids`` has those of all tokens; ``always`` those that must stay so that every text can be encoded: special and
    added tokens, single characters and bytes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not tokenizer.is_fast or backend is None:
            raise StudentError(
                f"student.vocabulary: {type(tokenizer).__name__} is a slow tokenizer, whose tokens cannot be taken "
                "out; use one that has a tokenizer.json, or remove student.vocabulary"
            )
        self.content: dict[str, Any] = json.loads(backend.to_str())
        self.content |= {"truncation": None, "padding": None}
        self._model = self.content["model"]
        self._kind = self._model["type"]
        affix = self._model.get("end_of_word_suffix") or (
            self._kind == "BPE" and self._model.get("continuing_subword_prefix")
        )
        if self._kind not in ("WordPiece", "BPE", "Unigram", "WordLevel") or affix:
            raise StudentError(
                f"student.vocabulary: expected WordPiece, Unigram or BPE without affixes, got {self._kind}"
                f"{' with ' + repr(affix) if affix else ''}; remove student.vocabulary"
            )
        self._scratch = Tokenizer.from_str(json.dumps(self.content))
        vocabulary = self._model["vocab"]
        pairs = enumerate(vocabulary) if self._kind == "Unigram" else ((i, [token]) for token, i in vocabulary.items())
        self._own: dict[str, int] = {token: i for i, (token, *_) in pairs}
        self._added = {each["content"]: each["id"] for each in self.content["added_tokens"]}
        self.ids = {**self._added, **self._own}
        self._merges = {tuple(pair): rank for rank, pair in enumerate(self._model.get("merges", ()))}
        marks = [tokenizer.chat_template and _rendered(tokenizer, turns) for turns in (_CHAT, [{**_CHAT[0]}])]
        self.always = self._needed() | self.count(mark for mark in marks if mark).keys()

    def count(self, texts: Iterable[str]) -> Counter[int]:
        """How often each token occurs in texts, by its id."""
        counts: Counter[int] = Counter()
        iterator = iter(texts)
        while batch := list(islice(iterator, _BATCH)):
            for encoding in self._scratch.encode_batch(batch, add_special_tokens=False):
                counts.update(encoding.ids)
        return counts

    def ancestors(self, ids: Iterable[int]) -> Iterator[int]:
        """The tokens that BPE merges on its way to other tokens."""
        if not self._merges:
            return
        tokens = {i: token for token, i in self._own.items()}
        for i in ids:
            parts = list(tokens.get(i, ""))
            while len(parts) > 1:
                pairs = [(self._merges.get(pair, len(self._merges)), at) for at, pair in enumerate(pairwise(parts))]
                rank, at = min(pairs)
                if rank == len(self._merges):
                    break
                yield from (self._own[part] for part in parts[at : at + 2])
                parts[at : at + 2] = [parts[at] + parts[at + 1]]

    def order(self, kept: set[int]) -> list[int]:
        """The old ids of kept tokens, in the order of their new ones: tokens of the model first, as before."""
        own = sorted(i for i in self._own.values() if i in kept)
        return own + sorted(kept - set(own))

    def smaller(self, tokenizer: PreTrainedTokenizerBase, order: list[int]) -> PreTrainedTokenizerBase:
        """A copy of a tokenizer with some of its tokens."""
        new = {old: i for i, old in enumerate(order)}
        content = copy.deepcopy(self.content)
        model = content["model"]
        if self._kind == "Unigram":
            model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
            model["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
        else:
            model["vocab"] = {token: new[i] for token, i in self._own.items() if i in new}
        if self._kind == "BPE":
            model["merges"] = [[a, b] for a, b in model["merges"] if {a, b, a + b} <= model["vocab"].keys()]
        for token in content["added_tokens"]:
            token["id"] = new[token["id"]]
        _renumber(content["post_processor"], new)
        made: Any = copy.deepcopy(tokenizer)
        made._tokenizer = Tokenizer.from_str(json.dumps(content))
        made.init_kwargs.pop("added_tokens_decoder", None)
        if made.get_vocab() != {token: new[i] for token, i in self.ids.items() if i in new}:
            kind = type(tokenizer).__name__
            raise StudentError(
                f"student.vocabulary: tokens of {kind} cannot be numbered anew; remove student.vocabulary"
            )
        return made

    def _needed(self) -> set[int]:
        prefix = self._model.get("continuing_subword_prefix") or ""
        needed = {*self._added.values(), *({self._model.get("unk_id")} - {None})}
        for token, i in self._own.items():
            is_single = 1 in (len(token), len(token.removeprefix(prefix))) or _BYTE.fullmatch(token)
            if (is_single and self._kind != "WordLevel") or token == self._model.get("unk_token"):
                needed.add(i)
        return needed


def check_same_cut(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, texts: Iterable[str]) -> None:
    """Refuse a smaller tokenizer that cuts a text of kept tokens into others."""
    kept = new.get_vocab().keys()
    for text in texts:
        before, after = old.tokenize(text), new.tokenize(text)
        if kept >= set(before) and before != after:
            raise StudentError(
                f"student.vocabulary: {text[:40]!r} would be cut into {after[:8]} and no more into {before[:8]}; "
                "remove student.vocabulary"
            )


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=len(turns) == 1))
    except TemplateError:
        return ""


def _renumber(part: Any, new: dict[int, int]) -> None:
    """Put new ids into a post-processor, wherever it names tokens."""
    if isinstance(part, list):
        for each in part:
            _renumber(each, new)
    elif isinstance(part, dict):
        for name in ("sep", "cls"):
            if name in part:
                part[name][1] = new[part[name][1]]
        for token in (part.get("special_tokens") or {}).values():
            token["ids"] = [new[i] for i in token["ids"]]
        _renumber(part.get("processors"), new)
