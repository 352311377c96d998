"""Giving up access: what is stopped, forgotten, taken back at the provider, and told to whoever did it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import async_to_sync
from django.db import transaction

from atom import audit
from atom.access import Actor
from atom.db.giving_way import again_after_giving_way
from atom.members import Granted
from atom.models import Tenant, User
from atom.tenancy import across_tenants
from integrations import gateway
from integrations.errors import ProviderError, ReauthRequired
from integrations.http import Api, make_client
from integrations.models import Connection, ConnectionStatus
from integrations.providers.base import OAuth, Revocation

log = logging.getLogger(__name__)

REVOKE_TIMEOUT = 10.0  # seconds; a provider that does not answer must not keep us from forgetting its tokens
REVOKED_AT_ONCE = 16  # of what somebody who leaves had connected

# What other packages do when access is about to be given up, with what it brought or without; they fill these in when they are ready.
disconnecting_hooks: list[Callable[[Actor, Connection], None]] = []
removing_hooks: list[Callable[[Actor, Connection], None]] = []


def granted_by(tenant: Tenant, user: User) -> list[Granted]:
    """What the user was the last to connect in the tenant and is not disconnected."""
    found = Connection.objects.of(tenant).live().filter(created_by=user)
    return [Granted(str(row.id), str(row)) for row in found]


def give_up(actor: Actor, connection_ids: Sequence[str]) -> dict[str, str]:
    """Disconnects what a member connected, keeping its data; as `disconnect` what tools go on to honour, by id. What is gone meanwhile
    is left out.

    Tools are asked when all are given up, and at once: whoever waits for it waits for the slowest, and not for one after the other.
    """
    given_up: list[Connection] = []
    try:
        for connection_id in connection_ids:
            if row := Connection.objects.of(actor.tenant).live().filter(id=connection_id).first():
                _let_go(actor, row, delete_data=False)
                given_up.append(row)
    finally:  # also of those before one that can't be given up
        ways = [_way_to_revoke(row) for row in given_up]
        with ThreadPoolExecutor(REVOKED_AT_ONCE, thread_name_prefix="revoke") as pool:
            honoured = list(pool.map(_revoked, given_up, ways))
    return {str(row.id): words for row, words in zip(given_up, honoured, strict=True)}


def disconnect(actor: Actor, connection: Connection, *, delete_data: bool = False) -> str:
    """Gives up access: stops imports, revokes the grant at the provider (best effort), wipes the tokens. Returns what the provider goes on
    to honour and why, in words; "" where nothing.

    History is kept, unless `delete_data`: then what only this connection brought is removed, in the background.
    """
    _let_go(actor, connection, delete_data)
    # After it was given up: of two workspaces that disconnect an account at once, one sees that nobody goes on by the grant.
    return try_to_revoke(connection)


def _let_go(actor: Actor, connection: Connection, delete_data: bool) -> None:
    for hook in disconnecting_hooks:
        hook(actor, connection)
    _give_up(actor, connection, delete_data)
    # What a schedule or a program started meanwhile would wait for a reconnect.
    for hook in disconnecting_hooks:
        hook(actor, connection)


@again_after_giving_way
@transaction.atomic
def _give_up(actor: Actor, connection: Connection, delete_data: bool) -> None:
    """`connection` has then the last credentials that there were: no refresh stores, or begins, another."""
    gateway.lock_token(connection)
    row = Connection.objects.of(actor.tenant).select_for_update().get(id=connection.id)
    connection.sealed_credentials = row.sealed_credentials
    row.set_credentials("")
    row.status = ConnectionStatus.DISCONNECTED
    row.last_error = ""
    if delete_data:
        row.prompted_at = None  # connected again it is as new
    row.save(
        update_fields=["sealed_credentials", "token_expires_at", "status", "last_error", "prompted_at", "updated_at"]
    )
    if delete_data:
        for hook in removing_hooks:
            hook(actor, row)
    detail = "with what it brought" if delete_data else ""
    audit.record(row.tenant_id, actor.label, "connection.disconnected", str(row), detail)


def try_to_revoke(connection: Connection) -> str:
    """Revokes the connection's grant at the provider, or says, in the log as well, why not. As `disconnect`."""
    return _revoked(connection, _way_to_revoke(connection))


def _revoked(connection: Connection, way: Callable[[], None] | str) -> str:
    """Goes the way to revoke it, which asks the provider and no database; why there is none, or it led nowhere, in words."""
    if isinstance(way, str):
        return way
    try:
        way()
    except (ProviderError, TimeoutError, OSError) as error:
        return _not_revoked(connection, error)
    return ""


def _way_to_revoke(connection: Connection) -> Callable[[], None] | str:
    """What revokes the connection's grant at the provider; in words why nothing does, "" where there is nothing to revoke."""
    try:
        return _revocation(connection)
    except ProviderError as error:
        return _not_revoked(connection, error)


def _not_revoked(connection: Connection, error: Exception) -> str:
    log.warning("could not revoke %s at the provider: %s", connection.id, error)
    why = str(error).rstrip(".") or "it takes too long to answer"
    return f"what {connection.provider_name} granted could not be taken back: {why}"


def _revocation(connection: Connection) -> Callable[[], None] | str:
    """As `_way_to_revoke`, but raises."""
    provider, name = connection.provider, connection.provider_name
    if not connection.by_oauth:
        return f"it was connected by a token, which {name} takes until somebody revokes it there"
    if provider.oauth is None or provider.oauth.revoke is None:
        return f"{name} has no way for Atom to give its access back: somebody has to take it away there"
    revoke, credentials = provider.oauth.revoke, connection.credentials
    if not credentials.get("access_token"):
        return ""
    config = gateway.configured(provider, connection.facts)
    if config is None:
        return f"{name}'s app is not configured here any more: somebody has to take away its access there"
    if _goes_on_elsewhere(connection, provider.oauth, credentials["access_token"]):
        log.info("not revoked at the provider: what %s was granted is another connection's as well", connection.id)
        return f"what {name} granted is left as it is: who granted it can take it away there"  # whose else it is is theirs to tell

    async def call(access_token: str, refresh_token: str) -> None:
        async with asyncio.timeout(REVOKE_TIMEOUT), make_client(allow_private=True) as client:
            root = config.auth_url if config.auth_url == config.api_url else gateway.api_root(connection)
            await revoke(
                Revocation(
                    Api(provider, root, client, facts=connection.facts),
                    Api(provider, config.token_root, client, facts=connection.facts),
                    config.auth_url,
                    root,
                    config.client_id,
                    config.client_secret,
                    access_token,
                    refresh_token,
                )
            )

    def ask() -> None:
        refresh_token = credentials.get("refresh_token", "")
        try:
            async_to_sync(call)(credentials["access_token"], refresh_token)
        except ReauthRequired:
            # The access token has expired, as most have by then, and some vendors take a grant back by a good one only.
            if not refresh_token:
                raise
            token = gateway.renewed(config, provider, refresh_token)
            async_to_sync(call)(token["access_token"], token.get("refresh_token") or refresh_token)

    return ask


def _goes_on_elsewhere(connection: Connection, oauth: OAuth, token: str) -> bool:
    """Whether to revoke it would end the access of another connection to the same account, whichever tenant's.

    It would where the vendor then ends all that the account granted, and where it gave both the same token.
    """
    with across_tenants("an account at a provider may be connected in several workspaces"):
        others = Connection.objects.filter(
            provider_slug=connection.provider_slug,
            external_account_id=connection.external_account_id,
            by_oauth=True,
            sandbox=connection.sandbox,
            status=ConnectionStatus.CONNECTED,
        ).exclude(id=connection.id)
        return any(oauth.revokes_all or other.credentials["access_token"] == token for other in others)
