"""One request and the whole of its answer, within a time and a size; the key goes to the server's address alone.

Requests run on an event loop of their own, which can give one up at any moment: a server that sends a byte now and then
is never late for a time-out of single reads.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from hf_distill.errors import ServerError
from hf_distill.recipe.server import ServerConfig
from hf_distill.secrets.addresses import keeps_secrets

EXAMPLE = "http://localhost:8000/v1"

MARGIN = 16 * 2**20
"""Bytes that an answer may have beside what was asked for."""

OF_A_LIKELIHOOD, OF_A_TOKEN = 512, 2048
"""Bytes that a server may take to tell one log-probability of a prompt, and one token that it wrote."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends requests to one server; its methods may be called by several threads."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.key = os.environ.get(config.key_variable, "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise ServerError(
                f"the key in {config.key_variable} holds characters that no key has (it may have been copied with "
                "something beside it); set it again"
            )
        try:
            address = httpx2.URL(config.url)
        except httpx2.InvalidURL as error:
            raise ServerError(f"teacher.server.url: expected an address such as {EXAMPLE} ({error})") from None
        if self.key and not keeps_secrets(address.scheme, address.host):
            raise ServerError(
                f"teacher.server.url: {config.url} is plain http to another machine, so that everyone on the way could "
                f"read the key in {config.key_variable}; nothing was sent: use https, or a tunnel (ssh -L "
                f"8000:localhost:8000 HOST, and {EXAMPLE}), or unset the variable if no key is needed"
            )
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=None,  # All of a request has one, see below.
            follow_redirects=False,  # One would carry the key to another address.
            trust_env=address.scheme == "https",  # A proxy would read what goes over plain http.
            limits=httpx2.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(self._loop,), daemon=True).start()
        weakref.finalize(self, _end, self._loop, self._http)

    def send(self, address: str, body: Mapping[str, Any] | None) -> Reply:
        """Post a body, or get what needs none.

        Raises:
            TimeoutError: Where the whole answer is not there in time, however much of it is.
            httpx2.RequestError: Where the server cannot be reached or breaks off.
            ServerError: Where the answer is larger than anything that was asked for.
        """
        return asyncio.run_coroutine_threadsafe(self._send(address, body), self._loop).result()

    async def _send(self, address: str, body: Mapping[str, Any] | None) -> Reply:
        room, found = room_for(body), bytearray()
        async with (
            asyncio.timeout(self.config.timeout),
            self._http.stream("GET" if body is None else "POST", address, json=body) as response,
        ):
            async for part in response.aiter_bytes():
                found += part  # Unpacked, by at most 1 MiB at a time.
                if len(found) > room:
                    raise ServerError(
                        f"the server at {self.config.url} sends more than {room / 2**20:,.0f} MiB, unpacked, where it "
                        "was asked for less; see that teacher.server.url is that of an API"
                    )
        content = bytes(found)
        # What a server repeats of the key goes no further.
        content = content.replace(self.key.encode(), b"[key]") if self.key else content
        return Reply(status=response.status_code, headers=response.headers, body=content)


def room_for(body: Mapping[str, Any] | None) -> int:
    """How many bytes an answer may have: more than a server needs for what it was asked."""
    asked = body or {}
    judged = len(asked.get("prompt", "")) * asked.get("prompt_logprobs", 0)
    return int(MARGIN + OF_A_LIKELIHOOD * judged + OF_A_TOKEN * asked.get("n", 1) * asked.get("max_tokens", 0))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _end(loop: asyncio.AbstractEventLoop, http: httpx2.AsyncClient) -> None:
    closed = asyncio.run_coroutine_threadsafe(http.aclose(), loop)
    closed.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
