"""How a connection is: what the grant lacks, and when access ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from atom.tenancy import tenant_scope
from integrations.gateway import expiry, grant_expiry
from integrations.health import WARN_AHEAD, health_of, missing_scopes
from integrations.models import ConnectionStatus
from integrations.providers.github import GITHUB
from tests.graphs import make_connection

NOW = datetime(2026, 10, 20, 12, tzinfo=UTC)


def test_what_the_grant_lacks_is_told_by_stream() -> None:
    assert missing_scopes(GITHUB, None) == {}
    assert missing_scopes(GITHUB, ("read:org", "repo")) == {}
    lacking = missing_scopes(GITHUB, ("read:org",))
    assert set(lacking) == {stream.label for stream in GITHUB.streams if stream.needs}
    assert all(lacking.values())


@pytest.mark.parametrize(
    ("days", "soon"), [(None, False), (WARN_AHEAD.days + 1, False), (WARN_AHEAD.days, True), (1, True), (-1, True)]
)
def test_an_end_of_access_is_told_ahead(cast: SimpleNamespace, days: int | None, soon: bool) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        connection.grant_expires_at = None if days is None else NOW + timedelta(days=days)
        health = health_of(connection, NOW)
    assert health.ends_soon is soon
    assert health.ends_at == connection.grant_expires_at
    assert health.is_well is not soon


def test_a_lost_connection_has_one_thing_to_say(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        connection.status, connection.last_error = ConnectionStatus.REAUTH_REQUIRED, "GitHub no longer accepts it."
        connection.scopes, connection.grant_expires_at = [], NOW
        health = health_of(connection, NOW)
    assert not health.is_well
    assert (health.missing, health.ends_soon, health.last_error) == ({}, False, "GitHub no longer accepts it.")


def test_a_grant_that_renews_itself_ends_with_its_refresh_token() -> None:
    assert grant_expiry({"expires_in": 60}) is not None
    assert grant_expiry({"expires_in": 60, "refresh_token": "r"}) is None
    ends = grant_expiry({"expires_in": 60, "refresh_token": "r", "refresh_token_expires_in": 86_400})
    assert ends is not None
    assert timedelta(hours=23) < ends - datetime.now(UTC) < timedelta(hours=25)
    for odd in ("soon", [], "1e400"):
        assert expiry({"expires_in": odd}) is None
