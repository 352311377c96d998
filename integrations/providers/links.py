"""What addresses of one tool mean in the records of another: the one place that knows all providers' addresses, as they declare them."""

from __future__ import annotations

import re

from integrations.providers import PROVIDERS
from integrations.providers.base import Link
from integrations.providers.text import MOST_MENTIONS

_LINKS: list[tuple[str, Link, re.Pattern[str]]] = [
    (provider.slug, link, re.compile(f"https://{re.escape(link.host)}/{link.path}", re.ASCII))
    for provider in PROVIDERS.values()
    for link in provider.links
]
# Nearly every record has none: this is all that it costs them.
_ANY = re.compile(b"https://(?:" + b"|".join(sorted({re.escape(link.host).encode() for _, link, _ in _LINKS})) + b")/")


def linked(document: bytes, slug: str) -> list[str]:
    """Keys of the things of other providers than `slug` whose addresses stand in a record's JSON, each once."""
    if _ANY.search(document) is None:
        return []
    text = document.decode("utf-8", "replace")
    keys: dict[str, None] = {}
    for other, link, pattern in _LINKS:
        if other != slug:
            for match in pattern.finditer(text):
                if len(keys) >= MOST_MENTIONS:
                    return list(keys)
                keys[link.key(match)] = None
    return list(keys)
