"""Where a tenant wants to be told: its webhook endpoints and their secrets. What is sent there is in `delivering.py`."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from atom import audit
from atom.access import Actor
from atom.errors import InvalidInput, Refused
from atom.models import Tenant
from historical_sync.automation import EVENTS, FAILED, PENDING, Delivery, WebhookEndpoint
from integrations import outgoing
from integrations.crypto import encrypt
from integrations.errors import Misconfigured

MOST = 10  # endpoints of a tenant
SECRET_BYTES = 32


def endpoints_of(tenant: Tenant) -> QuerySet[WebhookEndpoint]:
    """The tenant's endpoints, oldest first."""
    return WebhookEndpoint.objects.filter(tenant=tenant)


def log_of(tenant: Tenant) -> QuerySet[Delivery]:
    """The tenant's deliveries to endpoints, newest first."""
    return Delivery.objects.filter(tenant=tenant).exclude(endpoint=None)


def add(actor: Actor, url: str, events: Sequence[str]) -> tuple[WebhookEndpoint, str]:
    """A new endpoint and its secret, which can't be read again. Raises InvalidInput at the field, Refused when there are too many."""
    url = url.strip()
    try:
        outgoing.check_target(url)
    except Misconfigured as error:
        raise InvalidInput("invalid", str(error), "url") from None
    chosen = [event for event in EVENTS if event in events]
    if not chosen:
        raise InvalidInput("invalid", "Choose at least one event.", "events")
    secret = _secret()
    with transaction.atomic():
        tenant = Tenant.objects.select_for_update(no_key=True).get(id=actor.tenant.id)
        if endpoints_of(tenant).count() >= MOST:
            raise Refused("too_many_endpoints", f"{MOST} endpoints are the most. Remove one first.")
        endpoint = WebhookEndpoint.objects.create(
            tenant=tenant, url=url, events=chosen, sealed_secret=encrypt(secret), created_by_label=actor.label
        )
        audit.record(tenant.id, actor.label, "webhook.added", endpoint.address, ", ".join(chosen))
    return endpoint, secret


def renew_secret(actor: Actor, endpoint_id: UUID) -> str:
    """A new secret, which holds from now on, also for what is on its way."""
    secret = _secret()
    _change(actor, endpoint_id, "webhook.renewed", sealed_secret=encrypt(secret))
    return secret


def turn_on(actor: Actor, endpoint_id: UUID) -> None:
    """Takes the endpoint up again. What was given up meanwhile is in the log, to be resent."""
    _change(actor, endpoint_id, "webhook.on", enabled=True, disabled_reason="", failing_since=None)


def turn_off(actor: Actor, endpoint_id: UUID) -> None:
    """Nothing more goes to the endpoint, nor what is on its way."""
    with transaction.atomic():
        _change(actor, endpoint_id, "webhook.off", enabled=False, disabled_reason="")
        log_of(actor.tenant).filter(endpoint_id=endpoint_id, status=PENDING).update(
            status=FAILED, next_attempt_at=None, detail="The endpoint was turned off."
        )


@transaction.atomic
def remove(actor: Actor, endpoint_id: UUID) -> None:
    """Removes the endpoint with its log. WebhookEndpoint.DoesNotExist for another tenant's as for none."""
    # Before its deliveries, as whoever records one does (`delivering`).
    endpoint = endpoints_of(actor.tenant).select_for_update().get(id=endpoint_id)
    endpoint.delete()
    audit.record(actor.tenant.id, actor.label, "webhook.removed", endpoint.address)


@transaction.atomic
def _change(actor: Actor, endpoint_id: UUID, action: str, **fields: object) -> None:
    endpoint = endpoints_of(actor.tenant).select_for_update().get(id=endpoint_id)
    for name, value in fields.items():
        setattr(endpoint, name, value)
    endpoint.save(update_fields=list(fields))
    audit.record(actor.tenant.id, actor.label, action, endpoint.address)


def _secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
