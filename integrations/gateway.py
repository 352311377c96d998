"""How a connection reaches its provider: which address, whose client credentials, and a token that is kept fresh."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx2
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection as database
from django.db import transaction

from atom.authorities import authorities
from atom.home import running_address
from atom.tenancy import tenant_scope
from integrations import grants
from integrations.errors import Misconfigured, PartlyDenied, ReauthRequired, Unavailable
from integrations.http import Api, Limiter, make_client
from integrations.models import Connection, ConnectionStatus
from integrations.providers import PROVIDERS
from integrations.providers.base import Partition, Provider
from integrations.transport import USER_AGENT, Client

TOKEN_TIMEOUT = 30.0  # seconds for the token endpoint
REFRESH_AHEAD = timedelta(minutes=2)  # before the known expiry
SANDBOX_SECRET = "sandbox-secret"
MOST_TOKEN_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """This deployment's access to a provider. sandbox: the built-in stand-in answers. token_url: the token endpoint."""

    api_url: str
    auth_url: str
    token_root: str
    token_url: str
    client_id: str
    client_secret: str
    sandbox: bool


def _variable(provider: Provider, name: str) -> str:
    return f"ATOM_PROVIDER_{provider.slug.upper()}_{name}"


def needed_variables(provider: Provider) -> tuple[str, str]:
    """The two environment variables that configure OAuth for the provider."""
    return _variable(provider, "CLIENT_ID"), _variable(provider, "CLIENT_SECRET")


def sandbox_root() -> str:
    """Where the stand-ins answer, "" when they don't: "http://127.0.0.1:8000/sandbox"."""
    if not settings.SANDBOX:
        return ""
    if given := os.environ.get("ATOM_SANDBOX_URL"):
        return given.rstrip("/")
    address = running_address(settings.ATOM_HOME)
    return f"{address}/sandbox" if address else ""


def configured(provider: Provider, facts: Mapping[str, Any] | None = None) -> ProviderConfig | None:
    """The provider's OAuth set-up in this deployment; None when it has none and nothing stands in.

    facts: the answers to `provider.asks`, on which the address may depend; None, where nobody has answered yet: the addresses are
    those before any answer, and may not be usable. Raises Misconfigured for answers that make no address.
    """
    oauth = provider.oauth
    if oauth is None:
        return None
    client_id, client_secret = (os.environ.get(name, "") for name in needed_variables(provider))
    if client_id and client_secret:
        given = os.environ.get(_variable(provider, "AUTH_URL"), "").rstrip("/")
        auth_url, token_root = provider.auth_url, oauth.token_root
        if facts is not None and not given:
            auth_url, token_root = provider.auth_root(auth_url, facts), oauth.token_root_of(token_root, facts)
        elsewhere = given if urlsplit(given).netloc != urlsplit(provider.auth_url).netloc else ""
        auth_url = given or auth_url.rstrip("/")
        token_root = elsewhere or token_root.rstrip("/") or auth_url
        return ProviderConfig(
            _api_url(provider),
            auth_url,
            token_root,
            token_root + oauth.token_path,
            client_id,
            client_secret,
            sandbox=False,
        )
    root = sandbox_root()
    if root:
        url = f"{root}/{provider.slug}"
        return ProviderConfig(
            url, url, url, url + oauth.token_path, f"sandbox-{provider.slug}", SANDBOX_SECRET, sandbox=True
        )
    return None


def _api_url(provider: Provider) -> str:
    return (os.environ.get(_variable(provider, "BASE_URL")) or provider.api_url).rstrip("/")


def api_root(connection: Connection) -> str:
    """The address that the connection's requests go to."""
    provider = connection.provider
    if provider.slug not in PROVIDERS:
        raise Misconfigured(f"Atom knows no {provider.name} any more.")
    if connection.base_url:
        return connection.base_url.rstrip("/")
    if connection.sandbox:
        root = sandbox_root()
        if not root:
            raise Misconfigured(
                f"This {provider.name} connection belongs to the built-in sandbox, which is not running."
            )
        return f"{root}/{provider.slug}"
    return provider.api_root(_api_url(provider), connection.facts)


def limit_a_minute(connection: Connection) -> int | None:
    """The provider's limit on any minute, where the connection's requests go to the vendor's own servers."""
    provider = connection.provider
    own = not (connection.base_url or connection.sandbox) and _api_url(provider) == provider.api_url
    return provider.budget.a_minute if own else None


def namespace(provider: Provider, base_url: str, account: str = "") -> str:
    """Prefix of the account's keys in the graph: ids of a self-hosted server are its own, those of some providers an account's.

    account: the connection's `external_account_id`.
    """
    if provider.ids_by_account and account:
        return f"{provider.slug}@{account}"
    return f"{provider.slug}@{urlsplit(base_url).netloc}" if base_url else provider.slug


def private_allowed(*, base_url: str, private_host_allowed: bool) -> bool:
    """Whether requests may leave for private networks: only addresses that a person typed are suspect."""
    return not base_url or private_host_allowed or settings.ALLOW_PRIVATE_HOSTS


def _may_reach_private(connection: Connection) -> bool:
    return private_allowed(base_url=connection.base_url, private_host_allowed=connection.private_host_allowed)


_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, Client]] = weakref.WeakKeyDictionary()


def _client(allow_private: bool) -> Client:
    """The event loop's client: connections to a provider are kept open between pages and chunks."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if allow_private not in clients:
        clients[allow_private] = make_client(allow_private=allow_private)
    return clients[allow_private]


async def close_clients() -> None:
    """Closes this event loop's clients; for a worker that ends."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.aclose()


@asynccontextmanager
async def visit_api(connection: Connection) -> AsyncIterator[Api]:
    """The connection's API for a few questions, with connections of its own that end with the block. Raises as `open_api`."""
    async with make_client(allow_private=_may_reach_private(connection)) as client:
        yield await open_api(connection, client=client)


async def open_api(
    connection: Connection,
    *,
    limiter: Limiter | None = None,
    client: Client | None = None,
    longest_wait: timedelta = timedelta(0),
) -> Api:
    """The connection's API for a worker, with a token that refreshes itself. limiter, longest_wait: as `Api` has them.

    Raises ReauthRequired when access is gone, Misconfigured when this deployment can't reach the provider.
    """
    if connection.status != ConnectionStatus.CONNECTED:
        raise ReauthRequired(f"Access to {connection} was lost or given up.")
    credentials = connection.credentials
    token = credentials["access_token"]
    can_refresh = bool(credentials.get("refresh_token"))

    async def refresh(old: str) -> str:
        return await sync_to_async(_refresh_in_thread, thread_sensitive=False)(connection, old)

    expires = connection.token_expires_at
    if can_refresh and expires is not None and expires - REFRESH_AHEAD <= datetime.now(UTC):
        token = await refresh(token)
    return Api(
        connection.provider,
        api_root(connection),
        client or _client(_may_reach_private(connection)),
        token,
        refresh if can_refresh else None,
        limiter,
        connection.facts,
        namespace(connection.provider, connection.base_url, connection.external_account_id),
        longest_wait=longest_wait,
    )


def _refresh_in_thread(connection: Connection, old: str) -> str:
    try:
        return refresh_token(connection, old)
    finally:
        database.close()  # this thread is nobody's: give its connection back


def refresh_token(connection: Connection, old: str) -> str:
    """A token newer than `old`: refreshed once, whoever comes first, and the others wait for it.

    The provider may take back the old refresh token at once, so the new one is stored before anybody uses the new token. The
    connection's row is not locked while the provider answers: whoever counts its budget wants it.
    """
    with tenant_scope(connection.tenant_id):
        gone: ReauthRequired | None = None
        with transaction.atomic():
            lock_token(connection)
            row = Connection.objects.get(tenant_id=connection.tenant_id, id=connection.id)
            if row.status != ConnectionStatus.CONNECTED:
                raise ReauthRequired(f"Access to {row} was lost or given up.")
            credentials = row.credentials
            if credentials["access_token"] != old:
                return credentials["access_token"]
            config = configured(row.provider, row.facts)
            if config is None:
                raise Misconfigured(
                    f"{row.provider_name} is not configured: set {' and '.join(needed_variables(row.provider))}."
                )
            token: dict[str, Any] = {}
            try:
                token = renewed(config, row.provider, credentials["refresh_token"])
            except ReauthRequired as error:
                gone = error
            row = Connection.objects.select_for_update().get(tenant_id=connection.tenant_id, id=connection.id)
            if row.status != ConnectionStatus.CONNECTED:
                raise ReauthRequired(f"Access to {row} was given up meanwhile.")
            if row.credentials["access_token"] != old:
                return row.credentials["access_token"]  # somebody connected anew meanwhile
            if gone is not None:
                row.status = ConnectionStatus.REAUTH_REQUIRED
                row.last_error = str(gone)
                row.save(update_fields=["status", "last_error", "updated_at"])
            else:
                # Who does not rotate refresh tokens names none again: the one that is kept is the grant, not the new access token.
                token["refresh_token"] = token.get("refresh_token") or credentials["refresh_token"]
                row.set_credentials(token["access_token"], token["refresh_token"], expiry(token))
                known = row.grant_expires_at
                # An end that has passed was none.
                row.grant_expires_at = grant_expiry(token) or (known if known and known > datetime.now(UTC) else None)
                if row.provider.oauth and row.provider.oauth.token_facts:
                    row.facts = connection.facts = {**row.facts, **row.provider.oauth.token_facts(token)}
                row.save(
                    update_fields=["sealed_credentials", "token_expires_at", "grant_expires_at", "facts", "updated_at"]
                )
        if gone is not None:
            raise gone
        return str(token["access_token"])


def lock_token(connection: Connection) -> None:
    """Until the transaction ends nobody else has the connection's token refreshed; waits for who is at it."""
    with database.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('token ' || %s, 0))", [str(connection.id)])


def exchange_code(
    config: ProviderConfig, provider: Provider, *, code: str, verifier: str, redirect_uri: str
) -> Mapping[str, Any]:
    """The token response for an authorization code. Raises ReauthRequired (bad code), Misconfigured, Throttled or Unavailable."""
    assert provider.oauth is not None
    proof = {"code_verifier": verifier} if provider.oauth.pkce else {}
    try:
        return _token_request(config, provider, "authorization_code", code=code, redirect_uri=redirect_uri, **proof)
    except ReauthRequired:
        raise ReauthRequired(f"{provider.name} did not accept the sign-in. Try again.") from None


def renewed(config: ProviderConfig, provider: Provider, refresh_token: str) -> dict[str, Any]:
    """The token response for a refresh token, which the provider may take back at once. Raises as `exchange_code`."""
    return _token_request(config, provider, "refresh_token", refresh_token=refresh_token)


def _token_request(config: ProviderConfig, provider: Provider, grant_type: str, **arguments: str) -> dict[str, Any]:
    fields = {"grant_type": grant_type, **arguments}
    headers, content = grants.token_request(provider, config.client_id, config.client_secret, fields)
    headers["User-Agent"] = USER_AGENT
    body, until = b"", time.monotonic() + TOKEN_TIMEOUT
    try:
        with (
            httpx2.Client(timeout=TOKEN_TIMEOUT, follow_redirects=False, verify=authorities()) as client,
            client.stream("POST", config.token_url, headers=headers, content=content) as reply,
        ):
            for part in reply.iter_bytes():
                body += part
                if len(body) > MOST_TOKEN_BYTES or time.monotonic() > until:
                    raise Unavailable(f"{provider.name}'s sign-in service does not answer properly.")
    except (httpx2.HTTPError, httpx2.InvalidURL):
        raise Unavailable(f"{provider.name}'s sign-in service does not answer properly.") from None
    return grants.read_token(provider, reply.status_code, reply.headers, body)


async def partitions_of(connection: Connection, api: Api) -> list[Partition]:
    """The partitions that the connection imports, each once: the provider's, or those of them that it is narrowed to.

    A list that is paged by number shifts when something is added while it is read, and names one twice. Raises PartlyDenied where
    some may lie in a place that refuses to list them, with those that do not.
    """
    if connection.provider.partitions is None:
        return []
    refusal = ""
    try:
        listed = await connection.provider.partitions(api)
    except PartlyDenied as error:
        listed, refusal = list(error.found), str(error)
    found = {part.key: part for part in listed}
    only = None if connection.only is None else frozenset(connection.only)
    imported = [part for key, part in found.items() if only is None or key in only]
    if only is not None and found.keys() >= only:  # what else there may be, nobody chose
        refusal, api.notices = "", []
    if refusal:
        raise PartlyDenied(refusal, imported)
    return imported


async def partitions_to_choose(provider: Provider, api: Api) -> list[Partition]:
    """All partitions that are listed to the account just now, for a person: without those of a place that refuses, which is in
    `api.notices` then."""
    if provider.partitions is None:
        return []
    try:
        return await provider.partitions(api)
    except PartlyDenied as error:
        api.notices = [*api.notices, str(error)]
        return list(error.found)


def expiry(token: Mapping[str, Any]) -> datetime | None:
    """When the access token ends, None when the provider does not say."""
    return _in_seconds(token.get("expires_in"))


def grant_expiry(token: Mapping[str, Any]) -> datetime | None:
    """When the grant ends unless it is used, None when the provider does not say: it then lasts until somebody ends it."""
    if not token.get("refresh_token"):
        return expiry(token)
    return _in_seconds(token.get("refresh_token_expires_in"))


def _in_seconds(seconds: Any) -> datetime | None:
    try:
        return datetime.now(UTC) + timedelta(seconds=float(seconds)) if seconds else None
    except (TypeError, ValueError, OverflowError):
        return None
