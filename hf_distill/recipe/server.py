"""``teacher.server`` of a recipe: a teacher behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from typing_extensions import override

from hf_distill.recipe.parse import Section, above_zero, at_least, bound
from hf_distill.recipe.teacher import TeacherConfig
from hf_distill.secrets.references import PREFIX, is_readable

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


@dataclass(frozen=True, kw_only=True)
class ServerConfig(Section, where="recipe.teacher.server"):
    """An OpenAI-compatible endpoint (vLLM and others) that runs the teacher."""

    url: str
    """Of the API: ``http://localhost:8000/v1``."""
    model: str = field(metadata=bound("the teacher's name on the server", bool))
    """The teacher's name on the server."""
    tokenizer: str | None = None
    """A Hub id or folder of the teacher's tokenizer; ``model`` unless given."""
    key_variable: str = "HF_DISTILL_API_KEY"
    """The environment variable that holds the key; its name begins with ``HF_DISTILL_``. No key is sent where it is not
    set, and none over plain http to another machine."""
    top_k: int | None = field(default=None, metadata=at_least(1))
    """How many tokens' log-probabilities are asked for at each position of a text; 20 unless given."""
    concurrency: int = field(default=32, metadata=at_least(1))
    """Requests that are under way at once."""
    timeout: float = field(default=120.0, metadata=above_zero())
    """Seconds that one request may take."""
    retries: int = field(default=5, metadata=at_least(0))
    """How often a request is sent again that failed for a reason that may pass."""
    requests_per_minute: float | None = field(default=None, metadata=above_zero())
    """At most; as many as ``concurrency`` allows unless given."""

    @override
    def check(self) -> None:
        parts = urlsplit(self.url)
        try:
            has_port = parts.port is None or parts.port > 0
        except ValueError:  # It is no number that a port can have.
            has_port = False
        # An address that holds a secret is not shown.
        told = ".url: it holds a user name, a password or parameters, which recipe and card would show; leave them "
        secret = parts.username is not None or parts.password or parts.query or parts.fragment
        self.require(not secret, told + "out, and put a key into the environment variable that key_variable names")
        told = f".url: expected an address such as http://localhost:8000/v1, got {self.url!r}"
        plain = re.fullmatch(r"[\w.:/\[\]~%+-]+", self.url, re.ASCII) is not None  # What programs read in one way.
        self.require(plain and parts.scheme in ("http", "https") and bool(parts.hostname) and has_port, told)
        # Whoever puts the key itself here must not find it in an error, a log or a file.
        self.require(
            is_readable(self.key_variable),
            f".key_variable: expected the name of an environment variable that begins with {PREFIX}, got something "
            "else (not shown, for it may be a key); a recipe may be a stranger's and must not send other secrets to "
            f"the server that it names: put the server's key into {ServerConfig.key_variable}, or another such name",
        )

    @property
    def tokenizer_source(self) -> str:
        """Where the teacher's tokenizer is."""
        return self.tokenizer or self.model

    @property
    def asked(self) -> int:
        """How many tokens' log-probabilities are asked for at each position."""
        return self.top_k or 20  # VLLM's own limit.


@dataclass(frozen=True, kw_only=True)
class ServedTeacher(TeacherConfig):
    """A model behind an endpoint."""

    KEY = "server"
    FOREIGN = "does nothing for a served teacher, which the server loads; remove it"

    server: ServerConfig
    """The endpoint behind which it runs."""

    @override
    def check(self) -> None:
        super().check()
        cache = self.cache_settings
        told = f".cache.scheme: a server gives the likeliest tokens, of which {cache.scheme} cannot be made; set it to "
        self.require(cache.scheme in ("auto", "top_k"), told + "top_k, or remove it")
        for name in ("draws", "k"):
            told = f".cache.{name}: does nothing for a served teacher; teacher.server.top_k tells how many tokens are "
            self.require(getattr(cache, name) is None, told + "kept: remove it")

    @property
    @override
    def endpoint(self) -> ServerConfig:
        return self.server

    @override
    def as_trained(self) -> Self:
        # The same model teaches the same, whichever address it has and however fast it is asked.
        kept = {name: getattr(self.server, name) for name in ("model", "tokenizer", "top_k")}
        return dataclasses.replace(self, server=ServerConfig(url="http://anywhere/v1", **kept))
