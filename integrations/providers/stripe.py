"""Stripe's REST API: customers, products, subscriptions, invoices, payments, refunds and disputes, and what became of them.

Lists are filtered by `created` only, exactly and on both sides, newest first; nothing tells when an object changed. What
changed comes from the events of the last 30 days, each with the object as it then was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.errors import AccessDenied, CursorExpired, ProviderError, ReauthRequired, RequestRejected, Throttled
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Clock,
    Context,
    Entity,
    Estimate,
    Graph,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Record,
    Relationship,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import domain_key, email_key, mentioned_emails

VERSION = "2026-10-28.endive"
MOST_COUNTED = 10_000  # up to which a search's total is right
# Amounts are in the currency's smallest unit, which for these is the unit itself, or a thousandth.
_WHOLE = {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
_THOUSANDTHS = {"bhd", "jod", "kwd", "omr", "tnd"}
# At most twenty kinds of event can be asked for at once.
CHANGES = (
    "customer.updated", "customer.deleted", "product.updated", "product.deleted",
    "customer.subscription.updated", "customer.subscription.deleted",
    "invoice.finalized", "invoice.updated", "invoice.paid", "invoice.voided", "invoice.marked_uncollectible",
    "payment_intent.succeeded", "payment_intent.canceled", "payment_intent.payment_failed",
    "charge.updated", "charge.refunded", "refund.updated",
    "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed",
)  # fmt: skip


# -- wire format --------------------------------------------------------------------------------------------------------------


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status < 400:
        return None
    error = reply.data.get("error") if isinstance(reply.data, dict) else None
    error = error if isinstance(error, dict) else {}
    code, message = str(error.get("code") or ""), str(error.get("message") or "")[:300]
    if reply.status == 429 or code in ("rate_limit", "lock_timeout"):
        # Stripe names no time; its limits are by the second.
        why = reply.headers.get("stripe-rate-limited-reason") or code or "rate limit"
        return Throttled(
            f"Stripe asks to slow down ({why}).", reply.retry_at() or datetime.now(UTC) + timedelta(seconds=2)
        )
    if reply.status == 401 or code in ("account_invalid", "platform_account_required", "api_key_expired"):
        return ReauthRequired("Stripe no longer accepts this key.")
    if reply.status == 403:
        return AccessDenied(f"Stripe does not let this key read it: {message or 'a permission is missing'}")
    if code == "resource_missing" and error.get("param") == "starting_after":
        return CursorExpired("The row that Stripe was to go on from is gone; going on by date.")
    if "exists in test mode" in message or "exists in live mode" in message:
        return AccessDenied(f"Stripe's test and live modes are apart: {message}")
    return None


def _token_reply(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """A wrong secret is told in the format of the API's errors."""
    error = answer.get("error")
    return {**answer, "error": error.get("code") or error.get("type")} if isinstance(error, dict) else answer


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _fetch(resource: str, more: Mapping[str, str]) -> Callable[..., Any]:
    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        since, until = math.floor(window.since.timestamp()), math.ceil(window.until.timestamp())
        params: JSON = {"limit": 100, "created[gte]": since, "created[lt]": until, **more}
        if cursor:
            params["starting_after"] = cursor["after"]
        reply = await api.get(f"/v1/{resource}", params)
        rows = reply.data["data"]
        records, rejected = [], []
        for row in rows:
            try:
                records.append(Record(str(row["id"]), datetime.fromtimestamp(row["created"], UTC), row))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                named = str(row.get("id", "")) if isinstance(row, dict) else ""
                rejected.append((named, row, f"no usable id or time: {type(error).__name__} {error}"))
        if not reply.data["has_more"]:
            return Page(records, None, records[-1].occurred_at if records else None, rejected)
        if not rows or not (isinstance(rows[-1], dict) and rows[-1].get("id")):
            raise RequestRejected("Stripe says that there is more but not where to go on.")
        return Page(records, {"after": rows[-1]["id"]}, records[-1].occurred_at if records else None, rejected)

    return fetch


def _count(resource: str) -> Callable[..., Any]:
    """Lists tell no total; the search does, where it is available (not in India), and lags a minute or more."""

    async def count(api: Api, partition: Partition, window: Window) -> Estimate | None:
        since, until = math.floor(window.since.timestamp()), math.ceil(window.until.timestamp())
        query = f"created>={since} AND created<{until}"
        try:
            reply = await api.get(f"/v1/{resource}/search", {"query": query, "limit": 1, "expand[0]": "total_count"})
        except (AccessDenied, RequestRejected):
            return None
        total = int(reply.data["total_count"])
        settled = window.until < datetime.now(UTC) - timedelta(minutes=10)
        return Estimate(total, exact=total < MOST_COUNTED and settled)

    return count


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _id(value: Any) -> str | None:
    """The id of a related object, which is a text or the object itself."""
    found = value.get("id") if isinstance(value, dict) else value
    return str(found) if found else None


def _key(context: Context, kind: str, value: Any) -> str | None:
    found = _id(value)
    return f"{context.namespace}:{kind}:{found}" if found else None


def money(amount: Any, currency: Any) -> str:
    """4900, "eur" -> "EUR 49.00"."""
    code = str(currency or "").lower()
    digits = 0 if code in _WHOLE else 3 if code in _THOUSANDTHS else 2
    return f"{code.upper()} {int(amount or 0) / 10**digits:.{digits}f}".strip()


def _facts(row: JSON, *names: str) -> JSON:
    facts = {name: row[name] for name in names if row.get(name) is not None}
    if row.get("deleted"):
        facts["deleted"] = True
    return facts


class _Saying:
    """One record's graph as it grows."""

    def __init__(self, own: Entity) -> None:
        self.graph = Graph([own], [])
        self.key = own.key

    def link(self, kind: str, other_kind: str, key: str | None, name: str) -> None:
        if key and key != self.key:
            self.graph.entities.append(Entity(other_kind, key, name))
            self.graph.relationships.append(Relationship(kind, self.key, key))

    def customer(self, row: JSON, context: Context) -> None:
        customer = row.get("customer")
        known = customer if isinstance(customer, dict) else {}
        name = known.get("name") or row.get("customer_name") or row.get("customer_email") or "Stripe customer"
        self.link("for_account", "person", _key(context, "customer", customer), str(name))

    def mentions(self, text: Any) -> None:
        for key in mentioned_emails(text) if isinstance(text, str) else ():
            if key != self.key:
                self.graph.relationships.append(Relationship("mentions", self.key, key))


def _extract_customer(row: JSON, context: Context) -> Graph:
    """A person, or an organization where a business's name is given; the address is then that of somebody there."""
    own, address = f"{context.namespace}:customer:{row['id']}", email_key(row.get("email"))
    facts = _facts(row, "email", "phone", "description", "currency", "delinquent", "balance", "livemode")
    business = row.get("business_name")
    name = business or row.get("name") or row.get("individual_name") or row.get("email") or "Stripe customer"
    if business:
        said = _Saying(Entity("organization", own, name, facts))
        if address:
            person = str(row.get("individual_name") or row.get("email"))
            said.graph.entities.append(Entity("person", address, person))
            said.graph.relationships.append(Relationship("works_at", address, own))
    else:
        said = _Saying(Entity("person", address or own, name, facts, (own,) if address else ()))
    said.mentions(row.get("description"))
    return said.graph


def _extract_product(row: JSON, context: Context) -> Graph:
    facts = _facts(row, "description", "active", "type", "url", "livemode")
    said = _Saying(
        Entity("product", f"{context.namespace}:product:{row['id']}", row.get("name") or "Stripe product", facts)
    )
    if organization := domain_key(row.get("url")):
        said.link("about", "organization", organization, organization.rpartition(":")[2])
    return said.graph


def _extract_subscription(row: JSON, context: Context) -> Graph:
    facts = _facts(
        row, "status", "currency", "start_date", "cancel_at", "canceled_at", "ended_at", "trial_end", "livemode"
    )
    key = f"{context.namespace}:subscription:{row['id']}"
    said = _Saying(Entity("subscription", key, row.get("description") or f"Subscription {row['id']}", facts))
    said.customer(row, context)
    for item in (row.get("items") or {}).get("data") or ():
        product = _key(context, "product", (item.get("price") or {}).get("product"))
        said.link("about", "product", product, "Stripe product")
    return said.graph


def _extract_invoice(row: JSON, context: Context) -> Graph:
    amount = money(row.get("total"), row.get("currency"))
    facts = {"amount": amount, **_facts(row, "number", "status", "due_date", "period_start", "period_end", "livemode")}
    key = f"{context.namespace}:invoice:{row['id']}"
    said = _Saying(Entity("invoice", key, f"Invoice {row.get('number') or row['id']}, {amount}", facts))
    said.customer(row, context)
    # Older versions, whose snapshots events may hold, name the subscription on the invoice itself.
    subscription = ((row.get("parent") or {}).get("subscription_details") or {}).get("subscription")
    subscription = _id(subscription or row.get("subscription"))
    said.link("part_of", "subscription", _key(context, "subscription", subscription), f"Subscription {subscription}")
    for line in (row.get("lines") or {}).get("data") or ():
        product = ((line.get("pricing") or {}).get("price_details") or {}).get("product")
        said.link("about", "product", _key(context, "product", product), "Stripe product")
    for entry in (row.get("payments") or {}).get("data") or ():
        paid = entry.get("payment") or {}
        for kind in ("payment_intent", "charge"):
            said.link("with", "payment", _key(context, kind, paid.get(kind)), "Payment")
    said.mentions(row.get("description"))
    return said.graph


def _payment(kind: str, *names: str) -> Callable[[JSON, Context], Graph]:
    """Payment intents and the charges that they came to: all are payments, told apart by `type`."""

    def extract(row: JSON, context: Context) -> Graph:
        amount = money(row.get("amount"), row.get("currency"))
        facts = {"type": kind, "amount": amount, **_facts(row, "status", "description", *names)}
        words = {"payment_intent": "Payment", "charge": "Charge", "refund": "Refund"}[kind]
        said = _Saying(Entity("payment", f"{context.namespace}:{kind}:{row['id']}", f"{words} of {amount}", facts))
        said.customer(row, context)
        if kind == "refund":
            said.link("about", "payment", _key(context, "charge", row.get("charge")), "Charge")
        said.link("part_of", "payment", _key(context, "payment_intent", row.get("payment_intent")), "Payment")
        payer = row.get("billing_details") or {}
        if not row.get("customer") and (address := email_key(payer.get("email") or row.get("receipt_email"))):
            said.link("for_account", "person", address, payer.get("name") or address.rpartition(":")[2])
        said.mentions(row.get("description"))
        return said.graph

    return extract


_extract_intent = _payment("payment_intent", "canceled_at", "livemode")
_extract_charge = _payment("charge", "paid", "refunded", "disputed", "amount_refunded", "failure_message", "livemode")
_extract_refund = _payment("refund", "reason", "failure_reason")


def _extract_dispute(row: JSON, context: Context) -> Graph:
    amount = money(row.get("amount"), row.get("currency"))
    facts = {"type": "dispute", "amount": amount, **_facts(row, "status", "reason", "livemode")}
    said = _Saying(Entity("case", f"{context.namespace}:dispute:{row['id']}", f"Dispute over {amount}", facts))
    said.link("about", "payment", _key(context, "charge", row.get("charge")), "Charge")
    said.link("about", "payment", _key(context, "payment_intent", row.get("payment_intent")), "Payment")
    return said.graph


_EXTRACT = {
    "customer": _extract_customer,
    "product": _extract_product,
    "subscription": _extract_subscription,
    "invoice": _extract_invoice,
    "payment_intent": _extract_intent,
    "charge": _extract_charge,
    "refund": _extract_refund,
    "dispute": _extract_dispute,
}


def _extract_change(row: JSON, context: Context) -> Graph:
    """An event says what its object is from then on: as it is younger than the object's own record, its word counts."""
    found = row["data"]["object"]
    if row["type"] in ("customer.deleted", "product.deleted"):
        found = {**found, "deleted": True}
    return _EXTRACT[found["object"]](found, context)


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/v1/account")
    row, test = reply.data, "_test_" in (api.token or "")
    shown = (row.get("settings") or {}).get("dashboard") or {}
    profile = row.get("business_profile") or {}
    name = shown.get("display_name") or profile.get("name") or row.get("email") or row["id"]
    # A test key shows another set of objects: never to be mixed with the live ones.
    return Account(f"{row['id']}{':test' if test else ''}", f"{name}{' (test mode)' if test else ''}")


def _stream(
    name: str,
    label: str,
    extract: Callable[[JSON, Context], Graph],
    *,
    counted: bool = False,
    path: str = "",
    more: Mapping[str, str] | None = None,
) -> Stream:
    resource = path or name
    return Stream(
        name, label, WindowKind.EXACT, _fetch(resource, more or {}), extract, _count(resource) if counted else None,
        ascending=False, clock=Clock.CREATED,
    )  # fmt: skip


STRIPE = Provider(
    slug="stripe",
    name="Stripe",
    category="Finance",
    summary="Who pays for what: customers, subscriptions, invoices, payments, refunds and disputes.",
    brings=("Customers", "Products", "Subscriptions", "Invoices", "Payments", "Refunds", "Disputes"),
    api_url="https://api.stripe.com",
    auth_url="https://marketplace.stripe.com",
    headers={"Stripe-Version": VERSION},
    identify=_identify,
    classify=_classify,
    # Each endpoint takes 25 requests a second, the same as a whole account in test mode; this leaves room for the customer's own.
    budget=RateBudget(requests=15, seconds=1, concurrency=4),
    # A Stripe App, installed by the customer. What it may read is in the app's manifest, not asked for here.
    oauth=OAuth(
        "/oauth/v2/authorize", "/v1/oauth/token", (), token_root="https://api.stripe.com", secret_as_user=True,
        pkce=False, token_reply=_token_reply,
    ),
    token_help="A restricted key (rk_live_...) from the dashboard's API keys, with read permission for accounts, customers, "
    "products, subscriptions, invoices, payment intents, charges and refunds, disputes and events.",
    settle=timedelta(minutes=1),
    streams=(
        _stream("customers", "Customers", _extract_customer, counted=True),
        _stream("products", "Products", _extract_product, counted=True),
        _stream("subscriptions", "Subscriptions", _extract_subscription, counted=True, more={"status": "all"}),
        _stream("invoices", "Invoices", _extract_invoice, counted=True, more={"expand[0]": "data.payments"}),
        _stream("payments", "Payments", _extract_intent, counted=True, path="payment_intents"),
        _stream("charges", "Charges", _extract_charge, counted=True),
        _stream("refunds", "Refunds", _extract_refund),
        _stream("disputes", "Disputes", _extract_dispute),
        _stream("events", "Changes of the last 30 days", _extract_change, more={f"types[{i}]": t for i, t in enumerate(CHANGES)}),
    ),
)  # fmt: skip
