"""What addresses of one tool mean in the records of another: the one place that knows all providers' addresses, as they declare them."""

from __future__ import annotations

import re

from integrations.providers import PROVIDERS
from integrations.providers.base import Link
from integrations.providers.text import MOST_MENTIONS


def _host(link: Link) -> str:
    return re.escape(link.host).replace(r"\*", "[a-z0-9-]{1,63}")


_LINKS: list[tuple[str, Link, re.Pattern[str]]] = [
    (provider.slug, link, re.compile(f"https://{_host(link)}/{link.path}", re.ASCII))
    for provider in PROVIDERS.values()
    for link in provider.links
]
# Nearly every record has none: this is all that it costs them.
_ANY = re.compile(b"https://(?:" + b"|".join(sorted({_host(link).encode() for _, link, _ in _LINKS})) + b")/")


def linked(document: bytes, slug: str) -> dict[str, str | None]:
    """The things of other providers than `slug` whose addresses stand in a record's JSON: key -> None.

    An address that does not say by itself which thing it means stands by a key of its own, with the handle of what it lies in.
    """
    if _ANY.search(document) is None:
        return {}
    text = document.decode("utf-8", "replace")
    keys: dict[str, str | None] = {}
    for other, link, pattern in _LINKS:
        if other != slug:
            for match in pattern.finditer(text):
                if len(keys) >= MOST_MENTIONS:
                    return keys
                keys[link.key(match)] = link.within(match) if link.within else None
    return keys


def located(address: str, container: str) -> str | None:
    """Key or handle of the thing that an address means, by the address's own key and the key of what it lies in."""
    provider = PROVIDERS.get(address.partition(":")[0])
    return provider.located(address, container) if provider else None
