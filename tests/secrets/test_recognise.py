"""What is a secret, what is none, and what stands in a text in place of one."""

from __future__ import annotations

import base64
import json
import logging
import time
from urllib.parse import quote

import pytest

from hf_distill.artifacts import write_json, write_text
from hf_distill.errors import HfDistillError
from hf_distill.logs import reported
from hf_distill.recipe.yaml_text import write_yaml
from hf_distill.secrets import hidden, hidden_in, speakable, told
from hf_distill.secrets.recognise import is_secret_name

SECRETS = [
    "token", "hf_token", "HF_TOKEN", "hub_token", "access_token", "refresh-token", "sasToken", "sastoken",
    "password", "db_password", "dbPassword2", "PASSWD", "pwd", "passphrase", "secret", "client_secret", "secrets",
    "credential", "credentials", "aws_secret_access_key", "api_key", "apiKey", "APIKEY", "X-Api-Key",
    "private_key", "account_key", "auth", "oauth", "Authorization", "cookie", "jwt", "password_value",
]  # fmt: skip
NONE = [
    "pad_token", "eos_token", "bos_token", "mask_token", "separator_token", "start_token", "eosToken", "tokens",
    "max_new_tokens", "tokenizer", "eos_token_id", "token_type", "token_ids", "key_variable", "author",
    "author_name", "key", "keys", "sort_key", "passes", "secretary", "authors", "max_length", "cookie_jar_path",
    "password_file", "label", "text", "1", "_",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_a_name_tells_a_secret(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", NONE)
def test_a_name_that_is_like_one_tells_none(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa%40ss@host/a", "https://[secret]@host/a"),
        ("https://x-token@host/a", "https://[secret]@host/a"),
        ("s3://b/k?X-Amz-Signature=ab1&X-Amz-Date=2", "s3://b/k?X-Amz-Signature=[secret]&X-Amz-Date=2"),
        ("/a?page=1&sig=a%2Fb&x=1#access_token=c", "/a?page=1&sig=[secret]&x=1#access_token=[secret]"),
        ("/a?access%5Ftoken=c", "/a?access%5Ftoken=[secret]"),
        ("password=hunter2, user=me", "password=[secret], user=me"),
        ('{"api_key": "k1", "pad_token": "[PAD]"}', '{"api_key": "[secret]", "pad_token": "[PAD]"}'),
        ("{'Authorization': 'Basic bWU6eW91'}", "{'Authorization': '[secret] [secret]'}"),
        ("Authorization: Basic bWU6eW91", "Authorization: Basic [secret]"),
        ("sent Bearer abcdefgh", "sent Bearer [secret]"),
        ("hf_" + "aB3" * 9, "[secret]"),
        ("a%3Dhf_" + "aB3" * 9 + "&b", "a%3D[secret]&b"),
        ("see sk-abcdefghijklmnop1 and ghp_" + "a" * 36, "see [secret] and [secret]"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abc-_", "[secret]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- x", "[secret] x"),
    ],
)
def test_a_secret_is_known_by_its_shape_or_its_place(text, shown):
    assert hidden(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hf_distill, hf_hub_download and hf_xet",
        "recipe.hub.token: no such key",
        "expected key=value, such as training.learning_rate=3e-5",
        "'data.arguments.token=$HF_DISTILL_DATA_TOKEN'",
        "a task-specific-risk-assessment of tokens=5, max_new_tokens=8",
        "https://huggingface.co/a/b?download=true",
        "me@example.com",
        "the token: a piece of text",
    ],
)
def test_what_is_no_secret_stays(text):
    assert told(text) == text


@pytest.mark.parametrize(
    "variable", ["HF_TOKEN", "HF_DISTILL_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "HF_DISTILL_X"]
)
def test_what_the_environment_keeps_secret_is_hidden_however_it_is_spelt(variable, monkeypatch):
    secret = 'Zq3/"+ä x'
    monkeypatch.setenv(variable, secret)
    for form in (secret, quote(secret), quote(secret, safe="").lower(), json.dumps(secret)[1:-1], json.dumps([secret])):
        assert "Zq3" not in hidden(f"a{form}b")
    for before in ("", "u", "us", "user:"):
        coded = base64.b64encode(f"{before}{secret}!!".encode()).decode()
        assert "[secret]" in hidden(f"({coded})")


def test_words_and_short_values_of_the_environment_are_no_secrets(monkeypatch):
    for number, value in enumerate(("1", "training", "validation", "2024", "true", "/home/me/key.json")):
        monkeypatch.setenv(f"HF_DISTILL_{number}", value)
    text = "1 training 2024 validation true /home/me/key.json"
    assert hidden(text) == text


def test_the_stored_token_of_the_hub_is_known(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "stored_one")
    assert hidden("with stored_one") == "with [secret]"


@pytest.mark.parametrize(
    "evil",
    [
        "\x1b[31m",
        "\x1b]8;;http://evil\x07",
        "\x9b2J",
        "\x07",
        "\x00",
        "\x08\x08",
        "\r",
        "\n",
        "\u202e",
        "\u2066",
        "\u2028",
        "\ud800",
    ],
)
def test_what_a_terminal_obeys_is_shown_and_not_sent(evil, monkeypatch):
    lines: list[str] = []
    logger = logging.getLogger("hf_distill.test")
    monkeypatch.setattr(
        logging.getLogger("hf_distill"), "propagate", False
    )  # To pytest, which cannot write all of them.
    with reported(lines.append):
        logger.info(f"labels: a{evil}b")
    assert len(lines) == 1
    for text in (told(f"a{evil}b"), str(HfDistillError(f"a{evil}b")), *lines):
        assert text.isprintable()
        assert text.encode()


def test_files_hold_no_secrets_and_their_numbers_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_MINE12")
    value = {"a": ["x hf_MINE12", 1.5, None, True], "hf_MINE12": {"token": "[SEP]"}}
    write_json(tmp_path / "a.json", value)
    write_text(tmp_path / "a.md", "https://a:b@c hf_MINE12")
    write_yaml(value, tmp_path / "a.yaml")
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "a": ["x [secret]", 1.5, None, True],
        "[secret]": {"token": "[SEP]"},
    }
    assert "hf_MINE12" not in (tmp_path / "a.md").read_text() + (tmp_path / "a.yaml").read_text()


def test_an_error_behind_an_error_is_left_out_where_it_tells_a_secret():
    plain = ValueError("no such file")
    assert speakable(plain) is plain
    telling = ValueError("https://me:you@host")
    assert speakable(telling) is None
    behind = OSError("elsewhere")
    behind.__cause__ = telling
    assert speakable(behind) is None
    assert speakable(ValueError("abc"), ["abc"]) is None


@pytest.mark.parametrize(
    "text", ["a" * 300_000, "a=" * 100_000, "://" * 100_000, "?a=b" * 80_000, "eyJ" * 100_000, "hf_" * 100_000]
)
def test_no_text_takes_long(text):
    start = time.process_time()
    hidden_in({"a": text})
    assert time.process_time() - start < 5
