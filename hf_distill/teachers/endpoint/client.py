"""A client of an OpenAI-compatible endpoint: many requests under way, answers in order, faults survived or told.

What may pass (no connection, a time-out, 429, 5xx, an answer that cannot be read) is tried again, after a wait that
doubles each time and is drawn from its upper half, or after what the server asks for in Retry-After. What will not pass
(the key, the model, the request itself) is told at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2

from hf_distill.errors import ServerError
from hf_distill.names import shortened
from hf_distill.recipe.server import ServerConfig
from hf_distill.teachers.endpoint.faults import (
    LARGEST_ID,
    MISSHAPEN,
    SHOWN,
    NotServed,
    Passing,
    Unusable,
    check_status,
    content_of,
)
from hf_distill.teachers.endpoint.transport import Transport

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds before the second try, and before any later one."""

LONGEST_ASKED = 600.0
"""Seconds that a server may ask to wait; above that a person is told instead."""

T = TypeVar("T")
R = TypeVar("R")


class Client:
    """Asks one server; its methods may be called by several threads. ``wait`` and ``clock`` count seconds."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._wait, self._pace = wait, _Pace(config.requests_per_minute, wait, clock)
        self._transport = Transport(config)

    def map(self, ask: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """What ``ask`` gives for each item, in their order, up to ``concurrency`` of them under way."""
        pool = ThreadPoolExecutor(self.config.concurrency)
        try:
            return list(pool.map(ask, items))
        finally:
            pool.shutdown(cancel_futures=True)

    def ask(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], R]) -> R:
        """Post a body, or get what needs none; again where a fault may pass."""
        for attempt in range(self.config.retries + 1):
            self._pace()
            try:
                return self._once(path, body, read)
            except Passing as error:
                last = error
            if attempt < self.config.retries:
                self._wait(self._pause(attempt, last.wait))
        tries = f"{self.config.retries + 1} tries" if self.config.retries else "1 try"
        raise ServerError(f"{self._where}: {last} (after {tries}); what was finished is kept: run the command again")

    def _pause(self, attempt: int, asked: float | None) -> float:
        if asked is None:
            return float(min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0))
        if asked > LONGEST_ASKED:
            raise ServerError(
                f"{self._where} asks to wait {asked:,.0f} s before the next request: its limit for this key is used "
                "up; run the command again then, which goes on where it stopped"
            )
        return asked

    def _once(self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], R]) -> R:
        base = self.config.url.rstrip("/")
        address = f"{base.removesuffix('/v1')}{path[1:]}" if path.startswith("//") else f"{base}{path}"
        try:
            reply = self._transport.send(address, body)
        except TimeoutError:
            raise Passing(
                f"no answer within {self.config.timeout:g} s; raise teacher.server.timeout, or lower concurrency or "
                "task.max_length"
            ) from None
        except httpx2.RequestError as error:
            raise Passing(
                f"the server cannot be reached, or broke off ({type(error).__name__}); see that it runs and that "
                "teacher.server.url is its address"
            ) from None
        check_status(reply, self._where, self.config.key_variable, self.has_key)
        try:
            return read(content_of(reply))
        except Unusable as error:
            raise Passing(str(error)) from None

    def models(self) -> dict[str, int | None] | None:
        """What is served, by name, with how many tokens each reads; None where the server does not say."""

        def read(answer: Any) -> dict[str, int | None]:
            try:
                return {_name(each["id"]): _room(each.get("max_model_len")) for each in answer["data"]}
            except MISSHAPEN:
                raise Unusable("its list of models has no data with an id each") from None

        try:
            return self.ask("/models", None, read)
        except NotServed:
            return None

    def check_model(self) -> int | None:
        """Refuse a model that is not served; how many tokens it reads, where the server tells."""
        served = self.models()
        if served is None:
            return None
        if self.config.model not in served:
            raise ServerError(
                f"{self._where} serves no model {self.config.model!r}; it serves {shortened(sorted(served), 5)}: name "
                "one of these in teacher.server.model"
            )
        return served[self.config.model]

    @property
    def has_key(self) -> bool:
        """Whether a key goes along with what is asked."""
        return bool(self._transport.key)

    @property
    def _where(self) -> str:
        return f"the server at {self.config.url}"


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no name")
    return value[:SHOWN]


def _room(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= LARGEST_ID else None


class _Pace:
    """Lets one request begin after the other, at most so many a minute."""

    def __init__(self, per_minute: float | None, wait: Callable[[float], None], clock: Callable[[], float]) -> None:
        self.gap, self.next = 60.0 / per_minute if per_minute else 0.0, 0.0
        self.wait, self.clock, self.lock = wait, clock, threading.Lock()

    def __call__(self) -> None:
        if not self.gap:
            return
        with self.lock:
            now = self.clock()
            self.next = (mine := max(now, self.next)) + self.gap
        if mine > now:
            self.wait(mine - now)
