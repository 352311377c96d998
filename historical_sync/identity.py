"""Computed ids: who knows a thing's key knows its id, so rows are written without looking anything up.

An id is 16 bytes, made with keyed BLAKE2b; the hash's key is the tenant (or the connection), so equal keys of two tenants never meet.
Most keys of the same sort differ in the number they end with, and numbers grow as things are made. Such ids keep that order:

    3 bytes  hash of the key without its number     things of one sort lie together
    6 bytes  the number                             neighbours in time are neighbours in every index
    7 bytes  more of the same hash

A page's rows so go to a few index pages instead of one each, which is what keeps the cost of a record flat as tables grow. Keys that
end otherwise are hashed whole.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b, sha256

# Part of every record's content hash: raise it when extraction changes, and the next full import writes the graph anew.
EXTRACTION_VERSION = b"4"
_DIGITS = "0123456789"
_MOST_DIGITS = 14  # of a number that fits into 6 bytes


@lru_cache(maxsize=16_384)
def _sort(owner: bytes, text: str) -> tuple[bytes, bytes]:
    whole = blake2b(text.encode("utf-8", "replace"), digest_size=10, key=owner).digest()
    return whole[:3], whole[3:]


def _id(owner: bytes, text: str) -> bytes:
    head = text.rstrip(_DIGITS)
    digits = text[len(head) :]
    # A number that is written in another way than the usual one is part of the text.
    if not 0 < len(digits) <= _MOST_DIGITS or (digits[0] == "0" and digits != "0"):
        return blake2b(text.encode("utf-8", "replace"), digest_size=16, key=owner).digest()
    first, rest = _sort(owner, head)
    return first + int(digits).to_bytes(6, "big") + rest


def entity_id(tenant: bytes, key: str) -> bytes:
    """16 bytes for (tenant, entity key). `tenant`: the tenant's UUID as bytes."""
    return _id(tenant, key)


def record_id(connection: bytes, stream: str, external_id: str) -> bytes:
    """16 bytes for (connection, stream, external id)."""
    return _id(connection, f"{stream}\0{external_id}")


def content_hash(payload: bytes) -> bytes:
    """16 bytes for a record's payload and what extraction makes of it."""
    return sha256(EXTRACTION_VERSION + payload).digest()[:16]  # half the time of BLAKE2b where processors know SHA


def placeholder(key: str) -> str:
    """What a thing is called of which only the key is known."""
    return key.rpartition(":")[2]


def name_rank(key: str, kind: str, name: str) -> tuple[bool, int, str, str]:
    """Order of what mentions call a thing: the greatest is kept, whoever comes first. What says more than the key counts more."""
    return (not key.endswith(name), len(name), name, kind)


# The same in SQL. {e}: the row's alias.
NAME_RANK = (
    "(right({e}.key, char_length({e}.name)) <> {e}.name, char_length({e}.name), "
    '{e}.name COLLATE "C", {e}.kind COLLATE "C")'
)
