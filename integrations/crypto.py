"""Documents that are encrypted at rest: credentials, secrets, and records that were kept aside."""

from __future__ import annotations

from typing import Any

import orjson
from cryptography.fernet import InvalidToken

from atom.encryption import box
from integrations.errors import Misconfigured


class UndecipherableError(Misconfigured):
    """Stored bytes that none of ATOM_ENCRYPTION_KEYS opens."""

    def __init__(self) -> None:
        super().__init__("No key of ATOM_ENCRYPTION_KEYS opens what is stored: add the one that it was stored with.")


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
