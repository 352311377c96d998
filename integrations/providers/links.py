"""What addresses of one tool mean in the records of another: the one place that knows all providers' addresses, as they declare them."""

from __future__ import annotations

import re
from functools import cache

from integrations.providers import PROVIDERS
from integrations.providers.base import Link
from integrations.providers.text import MOST_MENTIONS


def _host(link: Link) -> str:
    return re.escape(link.host).replace(r"\*", "[a-z0-9-]{1,63}+")


class _Others:
    """The addresses that mean something in the records of a provider: those of all others."""

    def __init__(self, slug: str) -> None:
        self.links = [
            (link, re.compile(f"https://{_host(link)}/{link.path}", re.ASCII))
            for provider in PROVIDERS.values()
            for link in provider.links
            if provider.slug != slug
        ]
        hosts = sorted({_host(link).encode() for link, _ in self.links})
        # Nearly every record has none: this is all that it costs them.
        self.any = re.compile(b"https://(?:" + b"|".join(hosts) + b")/")


_others = cache(_Others)


def linked(document: bytes, slug: str) -> dict[str, str | None]:
    """The things of other providers than `slug` whose addresses stand in a record's JSON: key -> None.

    An address that does not say by itself which thing it means stands by a key of its own, with the handle of what it lies in.
    """
    others = _others(slug)
    if others.any.search(document) is None:
        return {}
    text = document.decode("utf-8", "replace")
    keys: dict[str, str | None] = {}
    for link, pattern in others.links:
        for match in pattern.finditer(text):
            if len(keys) >= MOST_MENTIONS:
                return keys
            keys[link.key(match)] = link.within(match) if link.within else None
    return keys


def located(address: str, container: str) -> str | None:
    """Key or handle of the thing that an address means, by the address's own key and the key of what it lies in."""
    provider = PROVIDERS.get(address.partition(":")[0])
    return provider.located(address, container) if provider else None
