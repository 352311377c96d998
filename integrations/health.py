"""How a connection is: when it last worked, when access ends, and what it may not read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from integrations.models import Connection, ConnectionStatus
from integrations.providers.base import Provider

WARN_AHEAD = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Health:
    """What a connection's card says about its state.

    last_success_at: when an import last completed. ends_at: when access ends unless somebody renews it; None: not known, or
    never. ends_soon: within WARN_AHEAD, or past. missing: label of a stream -> the permissions that it needs and the grant
    lacks; empty where the provider does not tell what was granted.
    """

    status: str
    last_success_at: datetime | None
    last_error: str
    ends_at: datetime | None
    ends_soon: bool
    missing: Mapping[str, tuple[str, ...]]

    @property
    def is_well(self) -> bool:
        """Whether nobody has to do anything."""
        return self.status == ConnectionStatus.CONNECTED and not self.ends_soon and not self.missing


def health_of(connection: Connection, now: datetime | None = None) -> Health:
    """The connection's health, from what is stored: asks nobody."""
    now = now or timezone.now()
    connected = connection.status == ConnectionStatus.CONNECTED
    ends_at = connection.grant_expires_at if connected else None
    return Health(
        connection.status,
        connection.last_success_at,
        connection.last_error,
        ends_at,
        ends_at is not None and ends_at - now <= WARN_AHEAD,
        missing_scopes(connection.provider, connection.scopes) if connected else {},
    )


def missing_scopes(provider: Provider, granted: Collection[str] | None) -> dict[str, tuple[str, ...]]:
    """Label of a stream -> scopes that it needs and that were not granted. {} when it is not known what was granted."""
    if granted is None:
        return {}
    lacking: dict[str, tuple[str, ...]] = {}
    for stream in provider.streams:
        missing = tuple(need for need in stream.needs if not set(need.split("|")) & set(granted))
        if missing:
            lacking[stream.label] = tuple(" or ".join(need.split("|")) for need in missing)
    return lacking
