"""What a served model finds likely at each position of a text.

vLLM's ``prompt_logprobs`` beside OpenAI's ``/completions``: for each token of the prompt but the first, an object from
token ids to their log-probabilities and ranks, of the k likeliest and of the token that stands there, which is one more
where it is not among them. OpenAI's own ``echo`` with ``logprobs`` names tokens by their text, from which ids cannot be
told, so it is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hf_distill.errors import ServerError
from hf_distill.teachers.endpoint.client import Client
from hf_distill.teachers.endpoint.faults import (
    MISSHAPEN,
    WITHOUT_LIKELIHOODS,
    Unusable,
    log_probability,
    token_id,
)


class Position(NamedTuple):
    """What a model finds likely to stand at one place of a text."""

    ids: list[int]  # Of the k likeliest tokens, the likeliest first.
    log_probabilities: list[float]  # Theirs.
    actual: float  # Of the token that stands there.


LARGEST_SUM = 1.1
"""Of the probabilities at one position; they are rounded."""


def prompt_likelihoods(client: Client, ids: Sequence[int], k: int) -> list[Position]:
    """What the model finds likely at the second token of a text, the third, and so on: one less than it has tokens."""
    body = {"model": client.config.model, "prompt": list(ids), "max_tokens": 1, "temperature": 0.0}
    return client.ask("/completions", {**body, "prompt_logprobs": k}, lambda answer: _positions(answer, ids, k))


def _positions(answer: Any, ids: Sequence[int], k: int) -> list[Position]:
    try:
        found = answer["choices"][0].get("prompt_logprobs")
    except MISSHAPEN:
        raise Unusable("its answer has no choices") from None
    if found is None:
        raise ServerError(f"the server {WITHOUT_LIKELIHOODS}")
    if not isinstance(found, list) or len(found) != len(ids):
        count = len(found) if isinstance(found, list) else 0
        raise Unusable(f"its answer is cut off: log-probabilities of {count} of {len(ids)} tokens")
    return [_position(entry, token, k) for entry, token in zip(found[1:], ids[1:], strict=True)]


def _position(entry: Any, token: int, k: int) -> Position:
    try:
        values = {_token(name): log_probability(each["logprob"]) for name, each in entry.items()}
    except MISSHAPEN:
        raise Unusable("its answer has log-probabilities that cannot be read") from None
    if token not in values:
        raise ServerError(
            f"the server read another token than {token}, which it was sent: it serves a model with another tokenizer, "
            "or changes what it is sent; see teacher.server.model"
        )
    if (total := sum(map(math.exp, values.values()))) > LARGEST_SUM:
        raise Unusable(f"its answer has probabilities that add up to {total:.2f}")
    ordered = sorted(values, key=lambda each: (-values[each], each))[:k]
    return Position(ids=ordered, log_probabilities=[values[each] for each in ordered], actual=values[token])


def _token(name: str) -> int:
    """A token of an object's key, which is its number in decimal and nothing else."""
    if not name.isascii() or str(found := token_id(int(name))) != name:
        raise ValueError("no token")
    return found
