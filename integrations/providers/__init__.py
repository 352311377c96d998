"""The registry: every provider that Atom knows, by slug."""

from __future__ import annotations

from integrations.providers.base import Provider

PROVIDERS: dict[str, Provider] = {}


def get(slug: str) -> Provider:
    """The provider of that slug; KeyError if there is none."""
    return PROVIDERS[slug]
