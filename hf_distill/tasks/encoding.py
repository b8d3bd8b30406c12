"""From texts, completions and chats to tokens and the tokens that count; packing, cutting, padding, collating."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NoReturn

import torch
from transformers import BatchEncoding

from hf_distill.errors import DataError, ObjectiveError, RecipeError
from hf_distill.models.forward import SEGMENTS
from hf_distill.tokenizers.chat import Chat, render_chats
from hf_distill.tokenizers.compare import knows_segments
from hf_distill.types import IGNORED, TAUGHT_BY, Batch, Rows, Tokenizer

MEDIA = "media"
"""The column of encoded rows that holds a picture or a sound as it lies on disk, which the collator decodes."""

PREPARED = ("pixel_values", "input_values", "input_features")
"""What models call the pictures and sounds that they read."""

READ = ("input_ids", "inputs_embeds", MEDIA, *PREPARED)
"""Columns of encoded rows, one of which every row has: a model reads it, or what the collator makes of it."""

Example = tuple[list[int], list[int], list[int]]
"""Token ids; labels: the id where the token counts, else :data:`IGNORED`; and the bytes of the text that each stands
for. All of the same length, and not shifted."""


def read_text(tokenizer: Tokenizer, text: str) -> Example:
    """A text, every token of which counts, and the end token."""
    return _ended(tokenizer, _tokens(tokenizer, text, [(0, len(text))], special=True))


def read_completion(tokenizer: Tokenizer, prompt: str, completion: str | None, separator: str = "") -> Example:
    """A prompt and its completion, cut into tokens as one text; only the completion and the end token count.

    Nothing counts where the completion is null: somebody is to write it.
    """
    prompt += separator
    if completion is None:
        return _unended(tokenizer, _tokens(tokenizer, prompt, [], special=True))
    spans = [(len(prompt), len(prompt) + len(completion))]
    return _ended(tokenizer, _tokens(tokenizer, prompt + completion, spans, special=True))


def read_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> list[Example]:
    """A chat in the tokenizer's template, perhaps in several parts; only the assistant's turns count, see
    :func:`render_chats`."""
    return [read_rendered(tokenizer, chat) for chat in render_chats(tokenizer, messages, tools)]


def read_rendered(tokenizer: Tokenizer, chat: Chat) -> Example:
    """The tokens of a rendered chat."""
    return _tokens(tokenizer, chat.text, chat.spans, special=False, scored=chat.contents)


def pack(examples: Sequence[Example], length: int) -> dict[str, list[Any]]:
    """Lay texts end to end and cut them into blocks.

    A text that goes on in the next block starts there anew: its positions count from 0, and the first token of each
    piece is nobody's target.
    """
    blocks: dict[str, list[Any]] = {"input_ids": [], "labels": [], "position_ids": []}
    scored: list[int] = []
    room = 0
    for ids, labels, sizes in examples:
        start = 0
        while start < len(ids):
            if room == 0:
                for columns in blocks.values():
                    columns.append([])
                scored.append(0)
                room = length
            piece = slice(start, start + room)
            taken = len(ids[piece])
            blocks["input_ids"][-1] += ids[piece]
            blocks["labels"][-1] += [IGNORED, *labels[piece][1:]]
            blocks["position_ids"][-1] += range(taken)
            scored[-1] += sum(sizes[start + 1 : start + room])
            start, room = start + taken, room - taken
    return {**blocks, "length": [len(block) for block in blocks["input_ids"]], "bytes": scored}


def fit(example: Example, length: int, is_text: bool, too_long: str) -> Iterator[slice]:
    """An example in rows of at most so many tokens: a text in several pieces; else one row, or none."""
    ids, labels, _ = example
    if is_text:
        for start in range(0, len(ids), length):
            yield slice(start, min(start + length, len(ids)))
        return
    start = 0
    first = next((i for i, label in enumerate(labels) if label != IGNORED), len(ids))
    if first >= length:
        if too_long == "drop":
            return
        # Half of the room at most goes to what is left of the prompt.
        start = first - max(length // 2, length - (len(ids) - first))
    yield slice(start, min(start + length, len(ids)))


def last_turn(labels: Sequence[int]) -> int:
    """Where the last run of tokens that count begins; the length where none counts."""
    end = next((i for i in range(len(labels), 0, -1) if labels[i - 1] != IGNORED), 0)
    return next((i for i in range(end, 0, -1) if labels[i - 1] == IGNORED), 0) if end else len(labels)


def asked_segments(tokenizer: Tokenizer) -> dict[str, bool]:
    """What asks a tokenizer for segments, also where it does not give them by itself: another model may read them."""
    return {"return_token_type_ids": SEGMENTS in tokenizer.model_input_names or knows_segments(tokenizer)}


def were_cut(encoded: BatchEncoding, limit: int) -> list[bool]:
    """Which texts were longer than the limit; of a tokenizer that does not tell (in Python), those that fill it."""
    if encoded.encodings is not None:
        return [bool(each.overflowing) for each in encoded.encodings]
    return [len(ids) >= limit for ids in encoded["input_ids"]]


def padded(rows: Sequence[list[int]], filler: int, left: bool) -> list[list[int]]:
    """Rows as long as the longest, filled up on one side."""
    longest = max(map(len, rows))
    fillings = [[filler] * (longest - len(row)) for row in rows]
    return [filling + row if left else row + filling for row, filling in zip(rows, fillings, strict=True)]


def pad_token(tokenizer: Tokenizer) -> int:
    """What rows are filled up with."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (tokenizer.eos_token_id or 0)


def pads_left(tokenizer: Tokenizer) -> bool:
    """Whether rows that are read begin with their padding: only of XLNet and its like, which answer at the last token.

    All others read a row as it stands alone where its padding comes last: GPT-2, BART and others count what stands
    before it as positions. A tokenizer's own ``padding_side`` is for whoever writes with the model.
    """
    answers = tokenizer.cls_token_id
    return tokenizer.padding_side == "left" and answers is not None and tokenizer("a")["input_ids"][-1] == answers


def columns_of(rows: Rows) -> list[str]:
    """The columns of rows, for which a stream that does not know them is asked for its first row."""
    return list(rows.column_names or next(iter(rows)))


def label_column(columns: Collection[str], usual: str) -> str:
    """What the labels are called: as the task does, or by another of Transformers' names; refused under two names."""
    found = [name for name in ("label", "labels", "label_ids") if name in columns]
    if len(found) > 1:
        raise DataError(f"columns {' and '.join(found)}: expected the labels once, got them twice; remove one of them")
    return found[0] if found else usual


def replaced(rows: Rows) -> list[str]:
    """The columns that tokens take the place of: all but :data:`TAUGHT_BY`."""
    return [name for name in columns_of(rows) if name != TAUGHT_BY]


def carried(batch: Mapping[str, list[Any]], pieces: Sequence[int]) -> dict[str, list[Any]]:
    """:data:`TAUGHT_BY` of rows that became so many rows each, 0 where one was dropped; nothing without the column."""
    if TAUGHT_BY not in batch:
        return {}
    return {TAUGHT_BY: [member for member, n in zip(batch[TAUGHT_BY], pieces, strict=True) for _ in range(n)]}


def check_apart(columns: Sequence[str], packed: bool) -> None:
    """Refuse to lay texts end to end that several teachers teach."""
    if packed and TAUGHT_BY in columns:
        raise RecipeError(
            "task.packing: texts that are laid end to end share a row, and each row is taught by one teacher; set it "
            "to false, or remove teacher.route"
        )


def refuse_other_tokens(task: str) -> NoReturn:
    """Refuse a teacher with other tokens than the student's in a task where models answer for each token."""
    raise ObjectiveError(
        f"in {task} a model answers for each token, but teacher and student cut a text into different tokens; "
        "take a student with the teacher's tokenizer (of its family, its layers, or student.config)"
    )


def check_offsets(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that cannot tell which characters its tokens stand for."""
    if not tokenizer.is_fast:
        raise DataError(
            f"a {type(tokenizer).__name__} does not tell which characters its tokens stand for, without which labels "
            "cannot be set on tokens; take a model with a fast tokenizer (tokenizer.json)"
        )


def padded_inputs(
    rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, prefix: str = "", more: Sequence[str] = ()
) -> Batch:
    """The token columns of rows, padded to the longest, under their prefixed names."""
    if tokenizer.pad_token_id is None:
        raise DataError(
            "the tokenizer has no pad token, so that texts of several lengths make no batch; set tokenizer.pad_token "
            "(to its eos_token, say) and model.config.pad_token_id"
        )
    read = dict.fromkeys((*tokenizer.model_input_names, SEGMENTS, *more))
    names = [prefix + name for name in read if prefix + name in rows[0]]
    features = [{name.removeprefix(prefix): row[name] for name in names} for row in rows]
    filled = tokenizer.pad(features, return_tensors="pt", padding_side="left" if pads_left(tokenizer) else "right")
    return {prefix + name: value for name, value in filled.items()}


def with_row_ids(collate: Callable[..., Batch]) -> Callable[..., Batch]:
    """Let batches carry the ids by which a cache knows their rows, and which of several teachers teaches each.

    Rows may hold tensors and arrays in place of lists.
    """

    def collate_with_ids(rows: list[dict[str, Any]]) -> Batch:
        rows = [
            {k: v.tolist() if hasattr(v, "tolist") and k not in PREPARED else v for k, v in row.items()} for row in rows
        ]
        if not {*READ} & {*rows[0]}:
            raise DataError(
                f"a row has no input_ids, but {', '.join(rows[0]) or 'nothing'}; tokenise the rows, give them as a "
                "datasets.Dataset with the task's columns, or pass the data_collator that reads them"
            )
        batch = collate(rows)
        carried = [name for name in ("row_id", TAUGHT_BY) if name in rows[0]]
        return {**batch, **{name: torch.tensor([row[name] for row in rows]) for name in carried}}

    return collate_with_ids


def mask_of(row: Mapping[str, Any]) -> list[int]:
    """A row's own attention mask; of ones where it has none."""
    return list(row.get("attention_mask") or [1] * len(row["input_ids"]))


def check_one_a_token(batch: Batch, *names: str) -> None:
    """Refuse columns of a batch that do not have one value a token (DataError)."""
    shape = batch["attention_mask"].shape
    for name in names:
        if name in batch and batch[name].shape != shape:
            raise DataError(
                f"{name}: expected one value a token, {list(shape)}, got {list(batch[name].shape)}: they would belong "
                "to other tokens; let the data_collator pad them as it pads input_ids"
            )


def _tokens(
    tokenizer: Tokenizer,
    text: str,
    spans: Sequence[tuple[int, int]],
    *,
    special: bool,
    scored: Sequence[tuple[int, int]] | None = None,
) -> Example:
    """Tokens of a text; those that hold a character of a span count.

    Each stands for the bytes from the end of the one before it, blanks that no token holds included, as far as these
    are of ``scored``: by default of the spans.
    """
    # Not verbose: a text longer than the model reads is cut later.
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoded["input_ids"]
    labels = [
        token if any(start < last and end > first and end > start for first, last in spans) else IGNORED
        for token, (start, end) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    ends = [0, *accumulate((end for _, end in encoded["offset_mapping"]), max)]
    sizes = [
        sum(len(text[max(start, a) : min(end, b)].encode(errors="surrogatepass")) for a, b in scored or spans)
        for start, end in pairwise(ends)
    ]
    return ids, labels, sizes


def _ended(tokenizer: Tokenizer, example: Example) -> Example:
    """With the end token, which counts: a student that never sees it never stops."""
    ids, labels, sizes = example
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError(
            "the tokenizer has no end token, so a student would never learn to stop; set its eos_token and save it"
        )
    if ids and ids[-1] == end:
        return ids, [*labels[:-1], end], sizes
    return [*ids, end], [*labels, end], [*sizes, 0]


def _unended(tokenizer: Tokenizer, example: Example) -> Example:
    """Without the end token that a tokenizer may add by itself: a text that is to go on."""
    is_ended = len(example[0]) > 1 and example[0][-1] == tokenizer.eos_token_id
    ids, labels, sizes = (part[:-1] if is_ended else part for part in example)
    return ids, labels, sizes
