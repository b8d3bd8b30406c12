"""The one place that decides what is a secret: by the name that a value has, by its shape, or since it is known."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

_STRONG = re.compile(
    r"(?:password|passwd|passphrase|pwd|secret|credential|cookie|jwt|bearer|auth|authori[sz]ation)s?$"
    r"|(?:api|access|auth|private|secret|account|sign(?:ing|ature)|encryption|shared|master|subscription|service|"
    r"storage|deploy|license|client|consumer|ssh|sas)keys?$"
)
_WEAK = frozenset({"key", "sig", "signature", "pass", "pin", "code"})
_OF_TEXTS = frozenset(
    re.findall(
        r"\w+",
        "pad eos bos sep separator cls mask unk unknown image video audio start begin end stop special first last next "
        "new prev previous prefix suffix infix middle turn think reasoning tool sentinel split join space newline "
        "language lang word target source per empty dummy fill delimiter boundary blank draft decoder",
    )
)
"""What stands before ``token`` where that is a piece of a text."""

_IN_ADDRESSES = re.compile(
    r"(?:token|secret|pass(?:word)?|pwd|sig|signature|credential|auth|key|jwt|code|policy)$", re.I
)
_OPAQUE = re.compile(r"(?=\S*[0-9A-Z])\S{8,}")

SHAPES = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))(?:"
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[opusr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
"""Tokens of the Hub and of services that people use beside it, and private keys."""


@functools.cache
def is_secret_name(name: str) -> bool:
    """Whether what is called so is a secret: ``password``, ``api_key``, ``hfToken``; not ``pad_token``."""
    words = _words(name)
    if not words:
        return False
    if words[-1].endswith("token"):
        before = words[-1].removesuffix("token") or (words[-2] if len(words) > 1 else "")
        return before not in _OF_TEXTS
    return _STRONG.search("".join(words[-2:])) is not None


def may_be_secret(name: str, value: str) -> bool:
    """Whether a value is one by a name that may mean something else (``key``), as it looks like nothing else."""
    words = _words(name)
    return bool(words) and words[-1] in _WEAK and _OPAQUE.fullmatch(value) is not None


def is_secret_parameter(name: str) -> bool:
    """Whether a parameter of an address is one: ``sig``, ``access_token``, ``X-Amz-Signature``."""
    return _IN_ADDRESSES.search(name) is not None


def known_secrets() -> frozenset[str]:
    """The secrets that this process has: of its environment, and the token that the Hub's client keeps."""
    found = {
        value.strip() for name, value in os.environ.items() if name.startswith("HF_DISTILL_") or is_secret_name(name)
    }
    # Nothing can show the stored token where nobody has the client that reads it.
    stored = getattr(sys.modules.get("huggingface_hub"), "get_token", lambda: None)()
    found.add(stored or "")
    return frozenset(filter(_can_be_told, found))


def spellings(secret: str) -> Iterator[str]:
    """A secret as it may stand in a text: as it is, escaped, in an address, and within anything in base64."""
    yield from (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1])
    for coded in (quote(secret), quote(secret, safe=""), quote_plus(secret)):
        yield from (coded, re.sub("%..", lambda found: found[0].lower(), coded))
    raw = secret.encode("utf-8", "surrogateescape")
    for shift, first in enumerate((0, 2, 3)):
        coded = base64.b64encode(bytes(shift) + raw).decode().rstrip("=")
        # The ends share their letters with what stands beside it.
        whole = coded[first : len(coded) - ((shift + len(raw)) % 3 > 0)]
        if len(whole) >= 6:
            yield from {whole, whole.replace("+", "-").replace("/", "_")}


def _words(name: str) -> list[str]:
    """Of ``hfToken2`` or ``HF_TOKEN``: hf, token."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    return words[:-1] if len(words) > 1 and words[-1] in ("value", "string") else words


def _can_be_told(secret: str) -> bool:
    """Whether it differs from what stands in any text: ``1``, ``training``, ``2024``; a path is no secret."""
    if len(secret) < 6 or secret.startswith("/"):
        return False
    return len(secret) >= 16 or not (secret.isdigit() or (secret.isalpha() and secret.islower()))
