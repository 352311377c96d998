"""Computed ids: who knows a thing's key knows its id, so rows are written without looking anything up.

An id is a keyed BLAKE2b hash of 16 bytes. The key is the tenant (or the connection), so equal keys of two tenants never meet.
"""

from __future__ import annotations

from hashlib import blake2b
from uuid import UUID

# Part of every record's content hash: raise it when extraction changes, and the next full import writes the graph anew.
EXTRACTION_VERSION = b"1"


def entity_id(tenant: bytes, key: str) -> bytes:
    """16 bytes for (tenant, entity key). `tenant`: the tenant's UUID as bytes."""
    return blake2b(key.encode("utf-8", "replace"), digest_size=16, key=tenant).digest()


def record_id(connection: bytes, stream: str, external_id: str) -> bytes:
    """16 bytes for (connection, stream, external id)."""
    return blake2b(f"{stream}\0{external_id}".encode("utf-8", "replace"), digest_size=16, key=connection).digest()


def content_hash(payload: bytes) -> bytes:
    """16 bytes for a record's payload and what extraction makes of it."""
    return blake2b(payload, digest_size=16, key=EXTRACTION_VERSION).digest()


def key_rank(key: str) -> tuple[int, str]:
    """Order of the keys of one thing: the least stands for it. Keys that mean the same in every provider come first."""
    return (0 if key.startswith(("person:", "org:")) else 1, key)


def as_uuid(value: bytes) -> UUID:
    return UUID(bytes=value)
