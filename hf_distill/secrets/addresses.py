"""Which addresses a key may be sent to."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, which no spelling of another can look like: an address in full, or localhost."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:  # A name, or a number in a spelling (0x7f000001, 127.1) that programs read in several ways.
        return False


def keeps_secrets(scheme: str, host: str) -> bool:
    """Whether what is sent can be read by nobody on the way."""
    return scheme == "https" or (scheme == "http" and is_loopback(host))
