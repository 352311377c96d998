"""Encryption at rest. The newest key encrypts, every listed key decrypts, so that keys can be rotated."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import orjson
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from integrations.errors import Misconfigured


class UndecipherableError(Misconfigured):
    """Stored bytes that none of ATOM_ENCRYPTION_KEYS opens."""

    def __init__(self) -> None:
        super().__init__("No key of ATOM_ENCRYPTION_KEYS opens what is stored: add the one that it was stored with.")


@lru_cache(maxsize=4)
def _box(keys: tuple[str, ...]) -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError as error:
        raise ImproperlyConfigured(
            "ATOM_ENCRYPTION_KEYS must be comma-separated Fernet keys (32 bytes, URL-safe base64), newest first"
        ) from error


def box() -> MultiFernet:
    return _box(tuple(settings.ENCRYPTION_KEYS))


def encrypt(value: Any) -> bytes:
    """JSON `value`, encrypted with the newest key."""
    return encrypt_document(orjson.dumps(value))


def encrypt_document(document: bytes) -> bytes:
    """JSON that is encoded already, encrypted with the newest key."""
    return box().encrypt(document)


def decrypt(data: bytes | memoryview) -> Any:
    """What `encrypt` was given; UndecipherableError when no key fits."""
    try:
        return orjson.loads(box().decrypt(bytes(data)))
    except InvalidToken as error:
        raise UndecipherableError from error


def rotate(data: bytes | memoryview) -> bytes:
    """The same secret under the newest key."""
    try:
        return box().rotate(bytes(data))
    except InvalidToken as error:
        raise UndecipherableError from error
