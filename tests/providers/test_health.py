"""How a connection is: what the grant lacks, and when access ends; what a grant is asked for."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from atom.tenancy import tenant_scope
from integrations.gateway import expiry, grant_expiry
from integrations.health import WARN_AHEAD, health_of, missing_scopes
from integrations.models import ConnectionStatus
from integrations.oauth import authorize_query
from integrations.providers import PROVIDERS
from integrations.providers.base import Provider
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


# What is asked for besides what streams need, and why.
ASKED_BESIDES = {
    "salesforce": {"refresh_token", "openid", "email"},  # to stay connected, and who it is
    "hubspot": {"oauth"},  # has to be in every app
    "jira": {"read:me", "offline_access"},  # who it is, and to stay connected
    "google": {"openid", "https://www.googleapis.com/auth/userinfo.email"},  # who it is
    "asana": {"teams:read", "tags:read"},  # names of a project's team and of a task's tags
    "microsoft365": {"offline_access", "openid", "profile", "email", "User.Read"},  # to stay connected, and who it is
}


def asked_of(provider: Provider) -> set[str]:
    """The scopes that the vendor's page of consent is asked for, whatever the parameter."""
    query = authorize_query(provider, "our-id", "https://atom.test/back", "some-state", "v" * 64)
    lists = (query.get(name, "") for name in ("scope", "optional_scope", "user_scope"))
    return {scope for asked in lists for scope in re.split("[ ,]", asked) if scope}


@pytest.mark.parametrize("slug", [slug for slug, provider in PROVIDERS.items() if provider.oauth])
def test_all_that_streams_need_is_asked_for_and_nothing_that_no_request_needs(slug: str) -> None:
    provider = PROVIDERS[slug]
    needed = {need.split("|")[0] for stream in provider.streams for need in stream.needs}
    if asked := asked_of(provider):  # of the others it is set on the app itself
        assert asked - needed == ASKED_BESIDES.get(slug, set())
        assert needed <= asked
