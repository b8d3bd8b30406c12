"""A server that answers with anything but what it was asked for: one line each, in time, and nothing large is held."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from hf_distill.errors import HfDistillError, ServerError
from hf_distill.recipe import ServerConfig
from hf_distill.secrets.addresses import is_loopback
from hf_distill.teachers.endpoint import Client, prompt_likelihoods, write
from hf_distill.teachers.endpoint.transport import Reply, room_for
from hf_distill.teachers.endpoint.verify import _tokens_of_server
from tests.helpers.raw_server import ENOUGH, dripping, raw_server, with_body

KEY = "sk-the-secret-of-this-test"
IDS = [5, 9]


def silent(line: object) -> None:
    """Nobody reads it."""


def client(url: str, **keys: Any) -> Client:
    return Client(ServerConfig(url=url, model="m", **{"retries": 0, "timeout": 20.0, **keys}), wait=silent)


def refusal(url: str, **keys: Any) -> str:
    """The one line with which a request ends."""
    with pytest.raises(ServerError) as raised:
        prompt_likelihoods(client(url, **keys), IDS, 3)
    told = str(raised.value)
    assert told.isprintable()
    assert len(told) < 700
    return told


def likelihoods(entry: str) -> bytes:
    return with_body(b'{"choices": [{"prompt_logprobs": [null, %s]}]}' % entry.encode())


def likely(token: str, number: str = "-1.0") -> bytes:
    return likelihoods(f'{{"9": {{"logprob": -1.0}}, "{token}": {{"logprob": {number}}}}}')


GOOD = likely("12", "-1")
NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1" * 5000,
    "-" + "1" * 400,
    "true",
    '"-1.0"',
    "null",
    "[]",
]
TOKENS = ["-1", "1_2", " 12", "012", "+12", "\\u0665", "1e3", "1.0", str(2**31), str(2**63), "1" * 5000, ""]
ANSWERS = {
    "HTML": (with_body(b"<html><body>Sign in</body></html>", "Content-Type: text/html"), "not JSON"),
    "nothing": (with_body(b""), "not JSON"),
    "no UTF-8": (with_body(b'{"a": "\xff\xfe"}'), "not JSON"),
    "half of it": (with_body(b'{"choices": ['), "not JSON"),
    "deep lists": (with_body(b"[" * 100_000 + b"]" * 100_000), "nested too deep"),
    "deep objects": (with_body(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested too deep"),
    **{f"the number {n[:9]}": (likely("12", n), "cannot be read|not JSON") for n in NUMBERS},
    **{f"the token {t[:9]!r}": (likely(t), "cannot be read") for t in TOKENS},
    "a probability above 1": (likely("12", "0.5"), "above 0"),
    "probabilities above 1": (likely("12", "0.0"), r"add up to 1\.37"),
    "a cut chunk": (ENOUGH + b"Transfer-Encoding: chunked\r\n\r\nff\r\n{", "broke off"),
    "no chunk": (ENOUGH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", "broke off"),
    "less than its length": (ENOUGH + b"Content-Length: 500\r\n\r\n{}", "broke off"),
    "more than its length": (ENOUGH + b"Content-Length: 3\r\n\r\n" + b'{"choices": []}', "not JSON"),
    "a length below 0": (ENOUGH + b"Content-Length: -1\r\n\r\n{}", "broke off"),
    "endless headers": (ENOUGH + b"X-More: and more\r\n" * 20_000, "broke off"),
    "an endless header": (ENOUGH + b"X-More: " + b"a" * 300_000, "broke off"),
    "no HTTP": (b"220 mail.example.com ESMTP\r\n", "broke off"),
    "gzip that is none": (with_body(b"no gzip", "Content-Encoding: gzip"), "broke off"),
    "its own address": (b"HTTP/1.1 302 Found\r\nLocation: /v1/completions\r\nContent-Length: 0\r\n\r\n", "a redirect"),
    "another machine": (
        b"HTTP/1.1 307 Temporary\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
        "a redirect; set teacher",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_no_answer_is_told_in_one_line(name):
    answer, told = ANSWERS[name]
    with raw_server(answer) as raw:
        assert re.search(told, refusal(raw.url))
        assert len(raw.requests) == 1


def test_a_good_answer_of_this_form_is_read():
    with raw_server(GOOD) as raw:
        assert prompt_likelihoods(client(raw.url), IDS, 3)[0].ids == [9, 12]


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (b"", b"H"),
        (ENOUGH, b"X-More: 1\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (ENOUGH + b"Content-Length: 100000\r\n\r\n{", b" "),
        (ENOUGH + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n", b" "),
    ],
    ids=["the status", "headers", "continue", "a body", "chunks", "a fault"],
)
def test_a_server_that_sends_a_little_now_and_then_is_given_up_in_time(first, piece):
    with raw_server(dripping(first, piece)) as raw:
        assert "no answer within 0.3 s" in refusal(raw.url, timeout=0.3, retries=1)
        assert len(raw.requests) == 2


@pytest.mark.parametrize("packed", ["identity", "gzip", "deflate"])
def test_an_answer_that_is_far_too_large_is_given_up_while_it_comes(packed, monkeypatch):
    monkeypatch.setattr("hf_distill.teachers.endpoint.transport.MARGIN", 2**20)
    pack = {"identity": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[packed]
    with raw_server(with_body(pack(b" " * 2**24), f"Content-Encoding: {packed}")) as raw:
        assert "sends more than 1 MiB, unpacked" in refusal(raw.url, retries=3)
        assert len(raw.requests) == 1


def test_the_room_of_an_answer_grows_with_what_is_asked_for():
    few, many = ({"prompt": IDS * n, "prompt_logprobs": 20} for n in (1, 100))
    assert room_for(None) < room_for(few) < room_for(many) < room_for({"prompt": IDS, "n": 4, "max_tokens": 4096})


def test_packed_answers_are_read():
    body = GOOD.partition(b"\r\n\r\n")[2]
    with raw_server(with_body(gzip.compress(body), "Content-Encoding: gzip")) as raw:
        assert prompt_likelihoods(client(raw.url), IDS, 3)[0].ids == [9, 12]


def variants(value: Any) -> Iterator[Any]:
    """The same with each of its parts replaced by what does not belong there."""
    yield from (None, True, -1, 1e308, 2**70, "x", "\x1b[31m", [], {}, [[]], {"x": 1}, [None])
    if isinstance(value, dict):
        for key in value:
            yield {name: item for name, item in value.items() if name != key}
            yield from ({**value, key: changed} for changed in variants(value[key]))
    if isinstance(value, list):
        for place in range(len(value)):
            yield value[:place] + value[place + 1 :]
            yield from ([*value[:place], changed, *value[place + 1 :]] for changed in variants(value[place]))


READERS = {
    "likelihoods": (
        lambda asked: prompt_likelihoods(asked, IDS, 3),
        {"choices": [{"prompt_logprobs": [None, {"9": {"logprob": -1.0, "rank": 1}, "3": {"logprob": -2.0}}]}]},
    ),
    "texts": (
        lambda asked: write(asked, IDS, {}, 1, 0),
        {"choices": [{"index": 0, "text": "a", "finish_reason": "stop", "logprobs": {"token_logprobs": [-1.0]}}]},
    ),
    "chats": (
        lambda asked: write(asked, [{"role": "user", "content": "a"}], {}, 1, 0),
        {
            "choices": [
                {
                    "index": 0,
                    "message": {"content": "a"},
                    "finish_reason": "stop",
                    "logprobs": {"content": [{"logprob": -1.0}]},
                }
            ]
        },
    ),
    "models": (lambda asked: asked.check_model(), {"data": [{"id": "m", "max_model_len": 80}]}),
    "tokens": (
        _tokens_of_server,
        {"tokens": [1, 2], "choices": [{"prompt_token_ids": [1]}], "usage": {"prompt_tokens": 1}},
    ),
    "a fault": (_tokens_of_server, {"error": {"message": "no", "code": 400}}),
}


@pytest.mark.parametrize("name", READERS)
def test_an_answer_of_any_other_form_is_read_or_told_and_never_a_traceback(name, monkeypatch):
    ask, right = READERS[name]
    asking, refused = client("http://127.0.0.1:9/v1"), 0
    for status, answer in [
        (400 if name == "a fault" else 200, each) for each in (right, *variants(copy.deepcopy(right)))
    ]:
        reply = Reply(status=status, headers={}, body=json.dumps(answer).encode())
        monkeypatch.setattr(asking._transport, "send", lambda address, body, reply=reply: reply)
        with contextlib.suppress(ServerError):
            ask(asking)
            continue
        refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "1e999", "x", "", "Thu, 01 Jan 99999 00:00:00 GMT", "0" * 5000, "-5"]
)
def test_any_retry_after_is_survived(value):
    closed = "Connection: close\r\n"  # Else the second try may be sent over the connection that is being closed.
    answer = f"HTTP/1.1 503 No\r\n{closed}Retry-After: {value}\r\nContent-Length: 0\r\n\r\n"
    with raw_server(answer.encode()) as raw:
        assert "503" in refusal(raw.url, retries=1) or "asks to wait" in refusal(raw.url, retries=1)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("field", ["error", "message", "detail"])
def test_what_a_server_says_reaches_nobody_with_the_key_or_a_terminals_commands(status, field, monkeypatch):
    monkeypatch.setenv("HF_DISTILL_API_KEY", KEY)
    said = (
        f"\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe\r\nhf-distill: all is well Bearer {KEY} {KEY.replace('-', '%2D')}"
    )
    body = json.dumps({field: said}, ensure_ascii=False).encode()
    with raw_server(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body) as raw:
        told = refusal(raw.url)
        assert f"Authorization: Bearer {KEY}".encode() in raw.requests[0]
    assert KEY not in told


# --- where a key may go ---------------------------------------------------------------------------------------------

ELSEWHERE = [
    "0.0.0.0", "10.0.0.1", "192.168.1.5", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost.evil.com",
    "127.0.0.1.evil.com", "notlocalhost", "localhost.", "[::]", "[fe80::1]", "[::ffff:8.8.8.8]", "gpu-box",
    "%6c%6fcalhost",
]  # fmt: skip
HERE = ["127.0.0.1", "127.8.9.10", "localhost", "LocalHost", "[::1]"]


@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_key_is_not_sent_over_plain_http_to_another_machine(host, monkeypatch):
    monkeypatch.setattr("httpx2.AsyncClient.stream", lambda *_, **__: pytest.fail("a request was sent"))
    monkeypatch.setenv("HF_DISTILL_API_KEY", KEY)
    with pytest.raises(
        HfDistillError, match=r"plain http to another machine.*nothing was sent|expected an address"
    ) as raised:
        client(f"http://{host}:8000/v1")
    assert KEY not in str(raised.value)
    monkeypatch.delenv("HF_DISTILL_API_KEY")
    if host not in ("%6c%6fcalhost", "0177.0.0.1"):  # Which are no addresses, with or without a key.
        assert not client(f"http://{host}:8000/v1").has_key


@pytest.mark.parametrize("address", [*(f"http://{host}:8000/v1" for host in HERE), "https://api.example.com/v1"])
def test_a_key_may_go_to_this_machine_and_over_https(address, monkeypatch):
    monkeypatch.setenv("HF_DISTILL_API_KEY", KEY)
    assert client(address).has_key


@pytest.mark.parametrize(
    "url", ["http://localhost@evil.com/v1", "http://localhost\\@evil.com/v1", "http://localhost#@evil.com/"]
)
def test_an_address_that_looks_like_this_machine_is_refused(url):
    with pytest.raises(HfDistillError, match=r"server\.url"):
        ServerConfig(url=url, model="m")


def test_only_numbers_in_full_are_this_machine():
    assert [host for host in [*ELSEWHERE, *HERE] if is_loopback(host)] == HERE


def test_a_proxy_of_the_environment_does_not_see_a_key(monkeypatch):
    monkeypatch.setenv("HF_DISTILL_API_KEY", KEY)
    with raw_server(GOOD) as proxy, raw_server(GOOD) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert prompt_likelihoods(client(server.url), IDS, 3)
        assert (len(server.requests), len(proxy.requests)) == (1, 0)


def test_a_redirect_takes_the_key_nowhere(monkeypatch):
    monkeypatch.setenv("HF_DISTILL_API_KEY", KEY)
    with raw_server(GOOD) as other:
        for status in (301, 302, 303, 307, 308):
            there = f"HTTP/1.1 {status} Moved\r\nLocation: {other.url}/completions\r\nContent-Length: 0\r\n\r\n"
            with raw_server(there.encode()) as server:
                assert "a redirect" in refusal(server.url, retries=2)
        assert not other.requests


def test_no_variable_but_ours_is_read(monkeypatch):
    for name in (
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "PATH",
        "HF_DISTIL_KEY",
        "hf_distill_key",
        "HF_DISTILL_",
        "XHF_DISTILL_A",
    ):
        monkeypatch.setenv(name, KEY)
        with pytest.raises(HfDistillError, match=r"server\.key_variable: expected.*begins with HF_DISTILL_") as raised:
            ServerConfig(url="https://api.example.com/v1", model="m", key_variable=name)
        assert KEY not in str(raised.value)
