"""Granting access: what a person does on the integrations page, or an operator on the command line. `disconnecting` gives it up."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import DataError, transaction

from atom import audit
from atom.access import Actor
from atom.db.giving_way import again_after_giving_way
from atom.errors import InvalidInput, Refused
from atom.models import Tenant
from atom.plans import cheapest
from atom.turns import turn
from integrations import gateway
from integrations.disconnecting import try_to_revoke
from integrations.errors import UNMAPPABLE, Misconfigured, ProviderError, ReauthRequired
from integrations.grants import granted_scopes
from integrations.health import health_of
from integrations.http import Api, check_address, check_public_address, make_client
from integrations.models import Connection, ConnectionQuerySet, ConnectionStatus
from integrations.narrowing import NOT_ITS_OWN, resolve, widened
from integrations.patience import patiently
from integrations.providers.base import Account, Partition, Provider

log = logging.getLogger(__name__)

IDENTIFY_TIMEOUT = 20.0  # seconds for all of them: a thread and a connection to the database wait meanwhile

# What other packages do when access comes back; they fill it in when they are ready.
reconnected_hooks: list[Callable[[Actor, Connection], None]] = []


def connections_of(tenant: Tenant) -> ConnectionQuerySet:
    """The tenant's connections."""
    return Connection.objects.of(tenant)


def get_connection(tenant: Tenant, connection_id: UUID | str) -> Connection:
    """The tenant's connection; Connection.DoesNotExist for another tenant's as for none."""
    return connections_of(tenant).get(id=connection_id)


def connect_with_token(
    actor: Actor,
    provider: Provider,
    token: str,
    *,
    base_url: str = "",
    label: str = "",
    private_host_allowed: bool = False,
    facts: Mapping[str, str] | None = None,
    only: Sequence[str] | None = None,
) -> Connection:
    """A connection from a personal or service token, verified against the provider.

    facts: answers to what the provider asks before connecting. only: keys or labels of the partitions to import; None for all.
    Raises InvalidInput (token, base_url, facts, only, a question's name) and Refused (plan, too many at once).
    """
    if provider.token_help is None:
        raise InvalidInput("invalid", f"{provider.name} is connected by signing in, not by a token.", "token")
    token = token.strip()
    if not token or len(token) > 4096 or not (token.isascii() and token.isprintable()) or " " in token:
        raise InvalidInput("invalid", "This is not a token: it must be one word of letters, digits and signs.", "token")
    base_url = _checked_base_url(provider, base_url, private_host_allowed)
    asked = [question.name for question in provider.asks]
    if unknown := next((name for name in facts or {} if name not in asked), None):
        known = ", ".join(asked) if asked else "nothing"
        raise InvalidInput(
            "invalid", f"{provider.name} does not ask for {unknown[:100]!r}; it asks for {known}.", "facts"
        )
    answers = checked_answers(provider, facts or {})
    check_room(actor.tenant, provider)
    connection = Connection(
        tenant=actor.tenant,
        provider_slug=provider.slug,
        base_url=base_url,
        private_host_allowed=private_host_allowed,
        facts=answers,
    )
    try:
        root = gateway.api_root(connection)
        with turn(actor.tenant.id):
            account, parts = _identify(
                provider, token, root, base_url, private_host_allowed, facts=answers, with_parts=only is not None
            )
    except ReauthRequired:
        raise InvalidInput("invalid", f"{provider.name} does not accept this token.", "token") from None
    except Misconfigured as error:
        raise InvalidInput("invalid", str(error), "base_url") from None
    except ProviderError as error:
        raise InvalidInput("invalid", str(error), "base_url" if base_url else "token") from None
    return _store(
        actor,
        provider,
        account,
        token,
        facts=answers,
        base_url=base_url,
        label=label,
        private_host_allowed=private_host_allowed,
        only=None if only is None else resolve(provider, parts, only),
    )[0]


def checked_answers(provider: Provider, given: Mapping[str, Any]) -> dict[str, str]:
    """What the provider asks before connecting, answered: each question's name -> answer. Raises InvalidInput (its name)."""
    answers = {}
    for question in provider.asks:
        answer = str(given.get(question.name) or "").strip() or question.default
        if answer is None:
            raise InvalidInput("invalid", f"{provider.name} needs to know: {question.label}.", question.name)
        if len(answer) > 200 or not re.fullmatch(question.pattern, answer, re.ASCII):
            raise InvalidInput("invalid", f"{question.label}: {question.help}", question.name)
        answers[question.name] = answer
    return answers


def finish_oauth(
    actor: Actor,
    provider: Provider,
    *,
    code: str,
    verifier: str,
    redirect_uri: str,
    answers: Mapping[str, str] | None = None,
    reconnects: str = "",
) -> tuple[Connection, bool]:
    """The connection that an authorization code stands for, and whether it is new. Raises ProviderError and Refused.

    answers: to what the provider asks before connecting, as checked when the trip began. reconnects: id of the connection that it
    began for; the person may have signed in as somebody else than its account.
    """
    config = gateway.configured(provider, answers)
    if config is None or provider.oauth is None:
        raise Misconfigured(f"{provider.name} is not configured.")
    token = gateway.exchange_code(config, provider, code=code, verifier=verifier, redirect_uri=redirect_uri)
    facts = {**(answers or {}), **(provider.oauth.token_facts(token) if provider.oauth.token_facts else {})}
    root = config.api_url if config.sandbox else provider.api_root(config.api_url, facts)
    account, _ = _identify(provider, str(token["access_token"]), root, "", False, facts=facts)
    try:
        return _store(
            actor, provider, account, str(token["access_token"]), token=token, facts=facts, sandbox=config.sandbox
        )
    except Refused as error:
        _give_back(actor.tenant, provider, account, token, facts, config.sandbox)
        missed = still_lost(actor.tenant, reconnects, account.external_id)
        if missed is None:
            raise
        words = (
            f"You signed in as {account.label}; {missed.account_label} still needs to be reconnected. {error.detail}"
        )
        raise Refused(error.code, words, status_code=error.status_code, attr=error.attr) from None


def still_lost(tenant: Tenant, reconnects: str, account: str) -> Connection | None:
    """The connection that a trip began for (its id, or ""), where it led to another account and nobody reconnected it meanwhile."""
    row = connections_of(tenant).live().filter(id=reconnects).first() if reconnects else None
    return row if row is not None and row.external_account_id != account and not health_of(row).is_well else None


def _give_back(
    tenant: Tenant,
    provider: Provider,
    account: Account,
    token: Mapping[str, Any],
    facts: Mapping[str, Any],
    sandbox: bool,
) -> None:
    """Revokes a grant that is not stored (best effort): nobody could do it later."""
    granted = Connection(
        tenant=tenant,
        provider_slug=provider.slug,
        external_account_id=account.external_id,
        by_oauth=True,
        sandbox=sandbox,
        facts={**facts, **account.facts},
    )
    granted.set_credentials(str(token["access_token"]), token.get("refresh_token") or "")
    try_to_revoke(granted)


def _checked_base_url(provider: Provider, base_url: str, private_host_allowed: bool) -> str:
    base_url = base_url.strip().rstrip("/")
    if not base_url:
        return ""
    if not provider.self_hosted:
        raise InvalidInput("invalid", f"{provider.name} has no self-hosted servers.", "base_url")
    if len(base_url) > 500 or not base_url.isprintable():
        raise InvalidInput("invalid", "This is not a valid address.", "base_url")
    try:
        check_address(base_url)
        if not gateway.private_allowed(base_url=base_url, private_host_allowed=private_host_allowed):
            check_public_address(base_url)
    except Misconfigured as error:
        raise InvalidInput("invalid", str(error), "base_url") from None
    return base_url


def _identify(
    provider: Provider,
    token: str,
    root: str,
    base_url: str,
    private_host_allowed: bool,
    *,
    facts: Mapping[str, Any],
    with_parts: bool = False,
) -> tuple[Account, list[Partition]]:
    """Whose token it is and, if asked for, the partitions that it reaches. Raises ProviderError, also for one that takes too long."""

    async def ask() -> tuple[Account, list[Partition]]:
        allow_private = gateway.private_allowed(base_url=base_url, private_host_allowed=private_host_allowed)
        async with asyncio.timeout(IDENTIFY_TIMEOUT), make_client(allow_private=allow_private) as client:
            api = Api(provider, root, client, token, facts=facts)

            async def whose() -> tuple[Account, list[Partition]]:
                account = await provider.identify(api)
                if not with_parts:
                    return account, []
                api.facts = {**facts, **account.facts}
                return account, await gateway.partitions_to_choose(provider, api)

            # Somebody waits at a form: a hiccup is worth a second try, a limit is not.
            return await patiently(whose, first=timedelta(seconds=0.2), longest=timedelta(seconds=3))

    try:
        return async_to_sync(ask)()
    except TimeoutError:
        raise ProviderError(f"{provider.name} takes too long to answer.") from None
    except UNMAPPABLE as error:
        log.warning("cannot tell whose token of %s it is: %r", provider.slug, error)
        raise ProviderError(f"{provider.name} {NOT_ITS_OWN}") from None


@again_after_giving_way
def _store(
    actor: Actor,
    provider: Provider,
    account: Account,
    access_token: str,
    *,
    facts: Mapping[str, Any],
    token: Mapping[str, Any] | None = None,
    sandbox: bool = False,
    base_url: str = "",
    label: str = "",
    private_host_allowed: bool = False,
    only: Sequence[str] | None = None,
) -> tuple[Connection, bool]:
    """Saves what was granted, anew or over what is known of the account; whether it is new. token: OAuth's answer, None for a pasted one."""
    granted = token or {}
    external_id = f"{urlsplit(base_url).netloc}:{account.external_id}" if base_url else account.external_id
    try:
        with transaction.atomic():
            tenant = Tenant.objects.select_for_update(no_key=True).get(id=actor.tenant.id)
            row = (
                connections_of(tenant)
                .select_for_update()
                .filter(provider_slug=provider.slug, external_account_id=external_id)
                .first()
            )
            _check_plan(tenant, row)
            is_new = row is None
            if row is None:
                row = Connection(tenant=tenant, provider_slug=provider.slug, external_account_id=external_id)
            row.created_by = actor.user  # whose access it goes by, also where somebody else connected it before
            row.set_credentials(access_token, granted.get("refresh_token") or "", gateway.expiry(granted))
            row.account_label = (label or account.label)[:255]
            row.status = ConnectionStatus.CONNECTED
            row.by_oauth = token is not None
            row.sandbox = sandbox
            scopes = account.scopes if account.scopes is not None else granted_scopes(granted)
            row.scopes = None if scopes is None else list(scopes)
            row.grant_expires_at = account.expires_at or gateway.grant_expiry(granted)
            row.end_told_at = None
            former = row.only
            if only is not None:
                row.only = list(only)
            row.base_url = base_url
            row.private_host_allowed = private_host_allowed
            row.facts = {**facts, **account.facts}
            row.last_error = ""
            row.blocked_until = None
            row.save()
            audit.record(
                tenant.id, actor.label, "connection.connected" if is_new else "connection.reconnected", str(row)
            )
            if not is_new:
                widened(row, former)
                for hook in reconnected_hooks:
                    hook(actor, row)
    except (DataError, UnicodeEncodeError):
        # NUL or half a character in what the provider says of it, or too long an id.
        attr = "base_url" if base_url else "token"
        raise InvalidInput("invalid", f"{provider.name} {NOT_ITS_OWN}", attr) from None
    return row, is_new


def check_room(tenant: Tenant, provider: Provider) -> None:
    """Refuses what can only be one connection more than the plan includes, before anybody is sent to the provider to allow it.

    Where the provider is connected already it may turn out to be the same account.
    """
    if not connections_of(tenant).live().filter(provider_slug=provider.slug).exists():
        _check_plan(tenant, None)


def _check_plan(tenant: Tenant, existing: Connection | None) -> None:
    """Refuses one connection more than the plan includes; a reconnect is none more."""
    limit = tenant.limits.connections
    if limit is None or (existing is not None and existing.status != ConnectionStatus.DISCONNECTED):
        return
    if connections_of(tenant).live().count() >= limit:
        way_on = cheapest(lambda plan: plan.connections is None or plan.connections > limit)
        offer = f" The {way_on.name} plan includes more." if way_on else ""
        raise Refused(
            "plan_feature", f"The {tenant.limits.name} plan includes {limit} connections.{offer}", status_code=403
        )
