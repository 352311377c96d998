"""Which addresses secrets may go to."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_sealed(address: object, *, with_query: bool = False) -> bool:
    """Whether it is an https address of a host, or a plain one of this very machine. with_query: it may have one."""
    if not isinstance(address, str) or not address.isprintable() or " " in address:
        return False
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or "@" in parts.netloc or parts.fragment or (parts.query and not with_query):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
