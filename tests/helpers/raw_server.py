"""A server on loopback that answers with any bytes, at any pace, whatever HTTP says."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

ENOUGH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
"""How an answer begins that has a body."""


@dataclass
class Raw:
    """Where it is, and the heads of the requests that came."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def raw_server(answer: bytes | Callable[[socket.socket, Raw], None]) -> Iterator[Raw]:
    """Answer every request so, and close its connection, until the context ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        raw = Raw(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):  # The client may have had enough.
                # All of the request: a connection that is closed before is reset, and the answer lost.
                with connection.makefile("rb") as request:
                    head = b"".join(iter(request.readline, b"\r\n"))
                    size = re.search(rb"(?i)content-length: (\d+)", head)
                    request.read(int(size[1]) if size else 0)
                raw.requests.append(head)
                if callable(answer):
                    answer(connection, raw)
                else:
                    connection.sendall(answer)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield raw
        finally:
            raw.stopped.set()


def with_body(body: bytes, *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"Content-Length: {len(body)}", *headers]
    return ENOUGH + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def dripping(first: bytes, piece: bytes = b" ", seconds: float = 0.02) -> Callable[[socket.socket, Raw], None]:
    """Something at once, and then a piece now and then for ever."""

    def answer(connection: socket.socket, raw: Raw) -> None:
        connection.sendall(first)
        while not raw.stopped.wait(seconds):
            connection.sendall(piece)

    return answer
