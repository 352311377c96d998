"""What mail says, whichever vendor keeps it: who stands in an address header, the text of its parts, which message it is."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.utils import getaddresses

from integrations.providers.base import JSON, Entity
from integrations.providers.text import MOST_TEXT, email_key, plain

_DEEPEST = 50  # parts within parts
_MOST_CODED = 10_000  # characters of a header's words that are decoded; some of the charsets that they may name take seconds for more
_MESSAGE_ID = re.compile(r"<([^<>\s]{1,250})>")


def message_ids(*headers: str | None) -> list[str]:
    """The messages that a header names (Message-ID, In-Reply-To, References), without their brackets."""
    return [found for header in headers for found in _MESSAGE_ID.findall(header or "")]


def message_entity(ns: str, message_id: str | None, here: str, name: str, known: JSON) -> Entity:
    """A message is what its Message-ID names, the same in every mailbox that has it. here: the mailbox's own name for it."""
    ids, own = message_ids(message_id), message_key(ns, here)
    return (
        Entity("message", message_key(ns, ids[0]), name, known, (own,)) if ids else Entity("message", own, name, known)
    )


def message_key(ns: str, message_id: str) -> str:
    return f"{ns}:message:{message_id}"


def words(header: str) -> str:
    """A header's words, which are mostly decoded already."""
    try:
        return str(make_header(decode_header(header))) if "=?" in header and len(header) <= _MOST_CODED else header
    except (ValueError, LookupError, HeaderParseError):
        return header


def addressed(headers: Iterable[str]) -> list[tuple[str, str]]:
    """(name, address) of whom address headers name."""
    return [(words(name).strip(), address) for header in headers for name, address in getaddresses([header])]


def people(named: Iterable[tuple[object, object]]) -> list[Entity]:
    """Of (name, address) those with an address that is one, each once. Undisclosed recipients, say, are nobody."""
    found: dict[str, Entity] = {}
    for name, address in named:
        if key := email_key(address):
            found.setdefault(key, Entity("person", key, str(name or "").strip() or key.rpartition(":")[2]))
    return list(found.values())


def text_of(part: JSON) -> str:
    """What a MIME part, as Gmail gives it, says in text; as HTML only if there is nothing else."""
    return _first(part, "text/plain") or plain(_first(part, "text/html"))


def files_of(part: JSON, left: int = _DEEPEST) -> Iterator[tuple[str, str]]:
    """(part's id, file's name) of what is attached in a MIME part, as Gmail gives it; pictures within the text are not."""
    named = {str(header.get("name")).lower(): str(header.get("value")) for header in part.get("headers") or ()}
    called = str(part.get("filename") or "").strip()
    if called and not named.get("content-disposition", "").strip().lower().startswith("inline"):
        yield str(part.get("partId") or "0"), called
    for inner in part.get("parts") or () if left else ():
        yield from files_of(inner, left - 1)


def _first(part: JSON, kind: str, left: int = _DEEPEST) -> str:
    data = (part.get("body") or {}).get("data")
    if data and part.get("mimeType") == kind and not part.get("filename"):
        try:
            return base64.urlsafe_b64decode(data + "=" * (-len(data) % 4)).decode("utf-8", "replace")[:MOST_TEXT]
        except (binascii.Error, ValueError):
            return ""
    inner = part.get("parts") or () if left else ()
    return next((text for one in inner if (text := _first(one, kind, left - 1))), "")
