"""Whom every client that this deployment speaks HTTPS with by httpx2 trusts."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2


@cache
def authorities() -> ssl.SSLContext:
    """What each client would read for itself, which takes longer than the rest of a request. It is safe to share between threads."""
    return httpx2.create_ssl_context()
