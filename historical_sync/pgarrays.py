"""PostgreSQL arrays in the binary wire format, joined from bytes: a column of a page in one parameter, without an object a value.

    cursor.execute("SELECT * FROM unnest(%(ids)s::uuid[], %(names)s::text[])", {"ids": uuids([...]), "names": texts([...])})

Format: PostgreSQL's array_send: dimensions, has-null flag, element type, length, lower bound, then length-prefixed elements.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain, repeat

_HEADER = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_TIMESTAMP = struct.Struct("!iq")
_NULL = _LENGTH.pack(-1)
_SIXTEEN = _LENGTH.pack(16)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_INT4, _TEXT, _JSON, _JSONB, _TIMESTAMPTZ, _UUID = 23, 25, 114, 3802, 1184, 2950


class BinaryArray(bytes):
    """The encoded array. Its subclasses say which type of array it is (`database.py` tells psycopg). oid: of that type."""

    oid: int


class UuidArray(BinaryArray):
    oid = 2951


class Int4Array(BinaryArray):
    oid = 1007


class TextArray(BinaryArray):
    oid = 1009


class TimestamptzArray(BinaryArray):
    oid = 1185


class JsonArray(BinaryArray):
    oid = 199


class JsonbArray(BinaryArray):
    oid = 3807


def _header(count: int, element: int, nulls: bool = False) -> bytes:
    return _HEADER.pack(1, int(nulls), element, count, 1)


def uuids(values: Sequence[bytes]) -> UuidArray:
    """uuid[] of 16-byte values."""
    if not values:
        return UuidArray(struct.pack("!iiI", 0, 0, _UUID))
    return UuidArray(_header(len(values), _UUID) + _SIXTEEN + _SIXTEEN.join(values))


def nullable_uuids(values: Sequence[bytes | None]) -> UuidArray:
    """uuid[] of 16-byte values or None."""
    if not values:
        return uuids(())
    return UuidArray(
        _header(len(values), _UUID, True) + b"".join([_NULL if v is None else _SIXTEEN + v for v in values])
    )


def integers(values: Sequence[int]) -> Int4Array:
    """int4[]."""
    if not values:
        return Int4Array(struct.pack("!iiI", 0, 0, _INT4))
    elements = chain.from_iterable(zip(repeat(4), values))
    return Int4Array(_header(len(values), _INT4) + struct.pack(f"!{2 * len(values)}i", *elements))


def texts(values: Iterable[str]) -> TextArray:
    """text[]. NUL can't be stored in PostgreSQL and becomes U+FFFD."""
    encoded = [value.encode("utf-8", "replace") for value in values]
    if not encoded:
        return TextArray(struct.pack("!iiI", 0, 0, _TEXT))
    if b"\0" in b"".join(encoded):
        encoded = [data.replace(b"\0", "\ufffd".encode()) for data in encoded]
    return TextArray(_header(len(encoded), _TEXT) + _elements(encoded))


def words(values: Sequence[str]) -> TextArray:
    """text[] of a few different values, each encoded once."""
    if not values:
        return texts(())
    encoded = {value: _LENGTH.pack(len(data := value.encode())) + data for value in set(values)}
    return TextArray(_header(len(values), _TEXT) + b"".join([encoded[value] for value in values]))


def timestamps(values: Sequence[datetime | None]) -> TimestamptzArray:
    """timestamptz[] of aware datetimes or None."""
    return instants([None if value is None else instant(value) for value in values])


def instant(value: datetime) -> int:
    """An aware datetime as PostgreSQL counts: microseconds since 2000."""
    delta = value - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def instants(values: Sequence[int | None]) -> TimestamptzArray:
    """timestamptz[] of microseconds since 2000, as `instant` counts them, or None."""
    if not values:
        return TimestamptzArray(struct.pack("!iiI", 0, 0, _TIMESTAMPTZ))
    pack = _TIMESTAMP.pack
    if None in values:
        elements = [_NULL if value is None else pack(8, value) for value in values]
        return TimestamptzArray(_header(len(values), _TIMESTAMPTZ, True) + b"".join(elements))
    return TimestamptzArray(_header(len(values), _TIMESTAMPTZ) + b"".join(map(pack, repeat(8), values)))


def jsons(values: Sequence[bytes]) -> JsonArray:
    """json[] of encoded JSON documents, kept to the letter."""
    if not values:
        return JsonArray(struct.pack("!iiI", 0, 0, _JSON))
    return JsonArray(_header(len(values), _JSON) + _elements(values))


def jsonbs(values: Sequence[bytes]) -> JsonbArray:
    """jsonb[] of encoded JSON documents. The escape for NUL, which jsonb refuses, becomes that of U+FFFD."""
    if not values:
        return JsonbArray(struct.pack("!iiI", 0, 0, _JSONB))
    if b"\\u0000" in b"".join(values):
        values = [_without_nul(value) for value in values]
    version = b"\x01"  # of jsonb's wire format
    return JsonbArray(_header(len(values), _JSONB) + _elements([version + value for value in values]))


def _elements(values: Iterable[bytes]) -> bytes:
    pack = _LENGTH.pack
    return b"".join([pack(len(value)) + value for value in values])


def _without_nul(document: bytes) -> bytes:
    r"""`\u0000` escapes replaced, but not the text `\\u0000`, whose backslash is itself escaped."""
    out: list[bytes] = []
    i = 0
    while (j := document.find(b"\\", i)) >= 0:
        out.append(document[i:j])
        if document.startswith(b"\\u0000", j):
            out.append(b"\\ufffd")
            i = j + 6
        else:
            out.append(document[j : j + 2])
            i = j + 2
    out.append(document[i:])
    return b"".join(out)
