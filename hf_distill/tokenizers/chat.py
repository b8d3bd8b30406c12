"""Chats in a tokenizer's template, and where the assistant speaks in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hf_distill.errors import DataError

_render: Any = render_jinja_template  # Its annotation says str; it returns texts and places.

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_THINKING = re.compile(r"</?think(?:ing)?>")
_PROBE = "\ue000"  # Of private use: no template writes it.

UNSAID = ("train", "weight")
"""Keys of a turn that say how it is learned; no template sees them."""

SAID = ("content", "reasoning_content", "reasoning", "thinking")
"""Keys of a turn that hold what is said."""


class ChatError(DataError):
    """A template does not take a chat."""


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A chat in a tokenizer's template.

    ``spans`` are the characters of the assistant's turns that count, the mark that ends each among them; ``contents``
    what the assistant says in each, without the template's marks (all of it where a template changes it). ``left_out``
    are the keys of which the template leaves out something; ``is_mute``: nothing that the assistant says is left.
    """

    text: str
    spans: list[tuple[int, int]]
    contents: list[tuple[int, int]]
    left_out: frozenset[str] = frozenset()
    is_mute: bool = False


def render_chats(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], tools: Any = None, *, apart: bool = False
) -> list[Chat]:
    """A chat in the tokenizer's template, and where the assistant speaks in it; a prompt alone where it never does.

    A template that marks the turns (``{% generation %}``) is asked; of any other they are found by rendering the chat
    up to each of them. Where it renders earlier turns otherwise than the last (Qwen3 drops what they thought), or where
    all are asked for ``apart``, each turn is a chat of its own: what the model sees when it writes that turn.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "rows of messages need a chat template, but the tokenizer has none; take an instruction-tuned "
            "model's tokenizer, name a template in task.chat_template, or turn the rows into prompt and completion"
        )
    turns = [_for_template(turn) for turn in messages]
    tools = (json.loads(tools) if isinstance(tools, str) else tools) or None
    spoken = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    learned = [i for i in spoken if is_learned(messages[i])]
    if not spoken:
        return [Chat(text=_rendered(tokenizer, turns, tools, add_generation_prompt=True), spans=[], contents=[])]
    if not apart and _GENERATION.search(tokenizer.get_chat_template(tools=tools)):
        text, spans = _marked(tokenizer, turns, tools)
        if not spans:
            raise ChatError(
                "the chat template has {% generation %}, but marks nothing of what the assistant says; set "
                "task.chat_template to one that marks each of its turns"
            )
        if len(spans) == len(spoken):
            spans = [span for i, span in zip(spoken, spans, strict=True) if i in learned]
        elif learned != spoken:
            raise ChatError(
                f"the chat template marks {len(spans)} places where the assistant speaks in {len(spoken)} turns, so "
                "that those with weight: 0 or train: false cannot be told; take a template that marks each turn once"
            )
        return [_chat(text, spans, turns, learned, tools)]
    text = _rendered(tokenizer, turns, tools)
    spans = [] if apart else list(_spans(tokenizer, turns, tools, spoken, text))
    if len(spans) == len(spoken):
        spans = [span for i, span in zip(spoken, spans, strict=True) if i in learned]
        return [_chat(text, spans, turns, learned, tools)]
    alone = []
    for i in learned:
        until = _rendered(tokenizer, turns[: i + 1], tools)
        span = _start(tokenizer, turns[:i], tools, until), len(until)
        alone.append(_chat(until, [span], turns[: i + 1], [i], tools))
    return alone


def is_learned(turn: Mapping[str, Any]) -> bool:
    """Whether an assistant's turn counts: it does unless it has ``weight: 0`` or ``train: false``."""
    return turn.get("weight") != 0 and turn.get("train") is not False


def last_spoken(messages: Sequence[Mapping[str, Any]]) -> int:
    """The place of the assistant's last turn that counts; the length of a chat that has none."""
    counted = [i for i, turn in enumerate(messages) if turn["role"] == "assistant" and is_learned(turn)]
    return counted[-1] if counted else len(messages)


def answered(messages: Sequence[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """A chat up to the assistant's last turn, with this text in its place; of one without, with it at the end."""
    last = last_spoken(messages)
    turn = dict.fromkeys(messages[min(last, len(messages) - 1)])
    return [*map(dict, messages[:last]), {**turn, "role": "assistant", "content": text}]


def for_server(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A chat as OpenAI's interface takes it: the arguments of tools as JSON texts."""
    turns = [{k: v for k, v in turn.items() if v is not None and k not in UNSAID} for turn in messages]
    return [{**turn, "tool_calls": _calls(turn)} if turn.get("tool_calls") else turn for turn in turns]


def turn_end(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> int | None:
    """The token that ends the last of the turns that count; None where no token of its own does."""
    if not chat.spans:
        return None
    encoded = tokenizer(chat.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    first, last = chat.spans[-1]
    inside = [
        token
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if first <= start < end <= last and chat.text[start:end].strip()
    ]
    known = tokenizer.added_tokens_decoder.keys() - {tokenizer.unk_token_id}
    return inside[-1] if inside and inside[-1] in known else None


def _for_template(turn: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in turn.items() if value is not None and name not in UNSAID}
    if calls := [
        {**call, "function": {**call["function"], "arguments": _mapping(call["function"].get("arguments"))}}
        for call in _calls(turn)
    ]:
        kept["tool_calls"] = calls
    return {"content": "", **kept}


def _calls(turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = turn.get("tool_calls") or []
    found: list[dict[str, Any]] = json.loads(calls) if isinstance(calls, str) else calls
    return found


def _mapping(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) and arguments.strip() else arguments or {}


def _marked(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], tools: Any
) -> tuple[str, list[tuple[int, int]]]:
    """The template's own marks, as places in the text.

    Transformers' token mask runs on to the end of the chat where the last marked character is a blank that belongs to
    no token.
    """
    words: dict[str, Any] = tokenizer.special_tokens_map
    template = tokenizer.get_chat_template(tools=tools)
    with _TemplateErrors(turns):
        rendered, marks = _render(
            [turns], tools=tools, chat_template=template, return_assistant_tokens_mask=True, **words
        )
    return rendered[0], [(start, end) for start, end in marks[0]]


def _chat(
    text: str, spans: list[tuple[int, int]], turns: Sequence[dict[str, Any]], learned: Sequence[int], tools: Any
) -> Chat:
    """A rendered chat, with what it leaves out of what the assistant says in the turns that are learned, and others."""
    said = [turns[i] for i in learned]
    given = [("tools", str(tool.get("function", tool).get("name", ""))) for tool in tools or ()]
    given += [(turn["role"], turn["content"]) for turn in turns if turn["role"] != "assistant"]
    whole = _close(text)
    others = frozenset(name for name, part in given if not _is_in(part, whole))
    if len(said) != len(spans):  # The template marks what it likes.
        fewer = {"assistant's turns without {% generation %}"} if len(spans) < len(said) else frozenset[str]()
        return Chat(text=text, spans=spans, contents=spans, left_out=others | fewer)
    places = [text.find(turn["content"].strip(), *span) for turn, span in zip(said, spans, strict=True)]
    found = zip(places, said, spans, strict=True)
    contents = [(at, at + len(turn["content"].strip())) if at >= 0 else span for at, turn, span in found]
    parts = [
        (name, _is_in(part, _close(text[slice(*span)])))
        for turn, span in zip(said, spans, strict=True)
        for name, part in _parts(turn)
    ]
    left_out = others | {name for name, is_there in parts if not is_there}
    is_mute = bool(parts) and not any(is_there for _, is_there in parts)
    return Chat(text=text, spans=spans, contents=contents, left_out=left_out, is_mute=is_mute)


def _parts(turn: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the assistant says in a turn, by key; a thought within its content is a part of its own."""
    for name in SAID:
        if isinstance(turn.get(name), str):
            yield from ((name, part) for part in _THINKING.split(turn[name]) if part.strip())
    yield from (("tool_calls", str(call["function"].get("name", ""))) for call in turn.get("tool_calls", ()))


def _close(text: str) -> str:
    return "".join(text.split())


def _is_in(part: str, close: str) -> bool:
    """Whether a text without its blanks holds a part, whatever blanks this has, or as JSON writes it."""
    written = (json.dumps(part, ensure_ascii=is_ascii)[1:-1] for is_ascii in (True, False))
    return any(_close(each) in close for each in (part, *written))


def _spans(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], tools: Any, spoken: Sequence[int], text: str
) -> Iterator[tuple[int, int]]:
    """Where the assistant's turns stand in a rendered chat, up to the first that is rendered otherwise there."""
    for i in spoken:
        until = _rendered(tokenizer, turns[: i + 1], tools)
        if not text.startswith(until):
            return
        yield _start(tokenizer, turns[:i], tools, until), len(until)


def _start(tokenizer: PreTrainedTokenizerBase, before: list[dict[str, Any]], tools: Any, until: str) -> int:
    """Where the last turn of a rendered chat begins."""
    prompt = _rendered(tokenizer, before, tools, add_generation_prompt=True) if before else ""
    if before and until.startswith(prompt):
        return len(prompt)
    # The prompt may open a block (<think>) that a turn does not have: it begins where any turn would.
    probe = _rendered(tokenizer, [*before, {"role": "assistant", "content": _PROBE}], tools)
    if not before:  # Templates render no chat of no turns.
        return _common(until, probe)
    start = _common(prompt, probe)
    if start < len(_rendered(tokenizer, before, tools)) or not until.startswith(prompt[:start]):
        raise ChatError(
            "the chat template begins an assistant's turn otherwise than its own generation prompt does, so what the "
            "assistant says cannot be told from the prompt; set task.chat_template to one that marks it with "
            "{% generation %}"
        )
    return start


def _common(text: str, other: str) -> int:
    """How many characters two texts begin with together."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((place for place, (one, another) in pairs if one != another), min(len(text), len(other)))


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]], tools: Any, **options: Any) -> str:
    with _TemplateErrors(turns):
        return str(tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, **options))


class _TemplateErrors:
    """What a template raises, as a DataError with its words and the way out."""

    def __init__(self, turns: Sequence[Mapping[str, Any]]) -> None:
        self.roles = [turn["role"] for turn in turns]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # A template is code of others, which may raise anything.
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            return
        ways = []
        if "system" in self.roles:
            ways.append("merge the system turn into the first user turn")
        if any(one == other for one, other in zip(self.roles, self.roles[1:], strict=False)):
            ways.append("merge turns of one role that follow each other")
        way = ", or ".join([*ways, "set task.chat_template to one that takes such chats"])
        words = (str(error) or type(error).__name__).splitlines()[0]
        raise ChatError(f"the chat template refuses a chat of {', '.join(self.roles)}: {words}; {way}") from error
