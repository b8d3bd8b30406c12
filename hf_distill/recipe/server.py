"""``teacher.server`` of a recipe: a teacher behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from hf_distill.recipe.parse import refuse_unless

GENERATION = {
    "do_sample": None,
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "repetition_penalty": "repetition_penalty",
}
"""Settings of ``GenerationConfig`` that a server can be asked for, and what it calls them; ``top_k``, ``min_tokens``
and ``repetition_penalty`` are vLLM's, the others OpenAI's."""

TOP_K = 20
"""Tokens a position whose log-probabilities are asked for unless the recipe says otherwise: vLLM's own limit."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """An OpenAI-compatible endpoint (vLLM and others) that runs the teacher."""

    url: str
    """Of the API: ``http://localhost:8000/v1``."""
    model: str
    """The teacher's name on the server."""
    tokenizer: str | None = None
    """A Hub id or folder of the teacher's tokenizer; ``model`` unless given."""
    key_variable: str = "HF_DISTILL_API_KEY"
    """The environment variable that holds the key; no key is sent where it is not set."""
    top_k: int | None = None
    """How many tokens' log-probabilities are asked for at each position of a text; 20 unless given."""
    concurrency: int = 32
    """Requests that are under way at once."""
    timeout: float = 120.0
    """Seconds that one request may take."""
    retries: int = 5
    """How often a request is sent again that failed for a reason that may pass."""
    requests_per_minute: float | None = None
    """At most; as many as ``concurrency`` allows unless given."""

    def __post_init__(self) -> None:
        where = "recipe.teacher.server"
        self._check_url(where)
        refuse_unless(self.model != "", f"{where}.model: expected the teacher's name on the server, got an empty text")
        # Whoever puts the key itself here must not find it in an error, a log or a file.
        refuse_unless(
            re.fullmatch(r"[A-Z][A-Z0-9_]*", self.key_variable) is not None,
            f"{where}.key_variable: expected the name of an environment variable in capitals, such as "
            "HF_DISTILL_API_KEY, got something else (not shown, for it may be a key); the key itself is never in a "
            "recipe",
        )
        for name, least in (("top_k", 1), ("concurrency", 1), ("retries", 0)):
            value = getattr(self, name)
            refuse_unless(value is None or value >= least, f"{where}.{name}: expected at least {least}, got {value}")
        for name in ("timeout", "requests_per_minute"):
            value = getattr(self, name)
            refuse_unless(
                value is None or 0.0 < value < float("inf"), f"{where}.{name}: expected a number above 0, got {value}"
            )

    def _check_url(self, where: str) -> None:
        parts = urlsplit(self.url)
        # An address that holds a secret is not shown.
        refuse_unless(
            not (parts.username or parts.password or parts.query or parts.fragment),
            f"{where}.url: it holds a user name, a password or parameters, which recipe and card would show; leave "
            "them out, and put a key into the environment variable that key_variable names",
        )
        refuse_unless(
            parts.scheme in ("http", "https") and bool(parts.hostname) and _has_port(parts),
            f"{where}.url: expected an address such as http://localhost:8000/v1, got {self.url!r}",
        )

    @property
    def tokenizer_source(self) -> str:
        """Where the teacher's tokenizer is."""
        return self.tokenizer or self.model

    @property
    def asked(self) -> int:
        """How many tokens' log-probabilities are asked for at each position."""
        return self.top_k or TOP_K


def check_served_generation(settings: Mapping[str, Any], hypotheses: int, where: str) -> None:
    """Refuse ways of writing that a server cannot be asked for.

    Args:
        settings: Of a recipe, for ``GenerationConfig``.
        hypotheses: How many texts each row is to get.
        where: The settings' key.

    Raises:
        RecipeError: By name.
    """
    beams = settings.get("num_beams", 1)
    refuse_unless(
        beams == 1,
        f"{where}.num_beams: a served teacher does not search with beams, got {beams}; remove it (the likeliest token "
        "each time), or set do_sample: true",
    )
    for name in settings:
        refuse_unless(
            name in GENERATION or name == "num_beams",
            f"{where}.{name}: a served teacher cannot be asked for it; it knows {', '.join(GENERATION)}: remove it",
        )
    draws = settings.get("do_sample") is True
    refuse_unless(
        draws or hypotheses == 1,
        "recipe.label.hypotheses: a served teacher that does not draw writes the same text each time; set "
        "label.generation.do_sample: true, or hypotheses: 1",
    )
    for name in ("temperature", "top_p", "top_k"):
        refuse_unless(
            draws or name not in settings, f"{where}.{name}: does nothing without do_sample: true; set it, or remove it"
        )


def _has_port(parts: SplitResult) -> bool:
    """Whether the port, if there is one, is a number that a port can have."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False
