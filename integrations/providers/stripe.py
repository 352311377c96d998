"""Stripe's REST API: customers, products, prices, subscriptions, invoices, payments, refunds and disputes, and what became of them.

Lists are filtered by `created` only, exactly and on both sides, newest first; nothing tells when an object changed. What
changed comes from the events of the last 30 days, each with the object as it then was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
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
    Extract,
    Graph,
    OAuth,
    Partition,
    Provider,
    RateBudget,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts
from integrations.providers.replies import ErrorTable, Means, body, error_in, inner
from integrations.providers.text import domain_key, email_key, mentioned_emails
from integrations.providers.wire import Rows, epoch, pages, reader, ticks

VERSION = "2026-10-28.endive"
MOST_COUNTED = 10_000  # up to which a search's total is right
# Amounts are in the currency's smallest unit, which for these is the unit itself, or a thousandth.
_WHOLE = {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
_THOUSANDTHS = {"bhd", "jod", "kwd", "omr", "tnd"}
CHANGES = (
    "customer.updated", "customer.deleted", "product.updated", "product.deleted",
    "customer.subscription.updated", "customer.subscription.deleted",
    "customer.subscription.paused", "customer.subscription.resumed",
    "invoice.finalized", "invoice.updated", "invoice.paid",  # the last two come with whatever else becomes of one
    "invoice.deleted",  # a draft
    "payment_intent.requires_action", "payment_intent.processing", "payment_intent.amount_capturable_updated",  # each may last for days
    "payment_intent.succeeded", "payment_intent.canceled", "payment_intent.payment_failed",
    "charge.succeeded", "charge.failed",  # days after it was made, where a bank takes its time
    "charge.updated", "charge.refunded", "refund.updated", "refund.failed",
    "charge.expired",  # nobody captured it: from then on it counts as refunded
    "charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed",
    "price.updated", "price.deleted",
)  # fmt: skip
TYPES_AT_ONCE = 20  # kinds of event that can be asked for
LISTS_OF_LINES = 25  # of 100 lines of one invoice

# -- wire format --------------------------------------------------------------------------------------------------------------

# Stripe names no time to wait; its limits are by the second.
_SLOWER = Means(Throttled, "Stripe asks to slow down ({said}).", wait=2)
_NO_LONGER = Means(ReauthRequired, "Stripe no longer accepts this key.")
_ERRORS: ErrorTable = {
    **dict.fromkeys((429, "rate_limit", "lock_timeout"), _SLOWER),
    **dict.fromkeys((401, "account_invalid", "platform_account_required", "api_key_expired"), _NO_LONGER),
    403: Means(AccessDenied, "Stripe does not let this key read it: {said}"),
    "row gone": Means(CursorExpired, "The row that Stripe was to go on from is gone; going on by date."),
    "another mode": Means(AccessDenied, "Stripe's test and live modes are apart: {said}"),
}


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status < 400:
        return None
    error = inner(body(reply), "error")
    code, said = str(error.get("code") or ""), str(error.get("message") or "")
    if reply.status == 429 or code in ("rate_limit", "lock_timeout"):
        return error_in(_ERRORS, reply, 429, reply.headers.get("stripe-rate-limited-reason") or code or "rate limit")
    if reply.status in (400, 404):
        if code == "resource_missing" and error.get("param") == "starting_after":
            code = "row gone"
        elif "exists in test mode" in said or "exists in live mode" in said:
            code = "another mode"
    return error_in(_ERRORS, reply, code, said)


def _token_reply(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """A wrong secret is told in the format of the API's errors."""
    error = answer.get("error")
    return {**answer, "error": error.get("code") or error.get("type")} if isinstance(error, dict) else answer


def _token_facts(token: Mapping[str, Any]) -> JSON:
    return {"livemode": token["livemode"]} if "livemode" in token else {}


# -- fetching -----------------------------------------------------------------------------------------------------------------

_CREATED = reader("id", lambda row: epoch(row["created"]))


async def _page(
    resource: str, asked_for: tuple[JSON, ...], api: Api, partition: Partition, window: Window, cursor: JSON | None
) -> Rows:
    """asked_for: of one list after the other, each from the window's end."""
    since, until = ticks(window)
    at = {"list": 0, **(cursor or {})}
    after = {"starting_after": at["after"]} if "after" in at else {}
    asked = {"limit": 100, "created[gte]": since, "created[lt]": until, **asked_for[at["list"]], **after}
    data = (await api.get(f"/v1/{resource}", asked)).data
    rows = [_without_secret(row) for row in data["data"]]
    if not data["has_more"]:
        return rows, {"list": at["list"] + 1} if at["list"] + 1 < len(asked_for) else None
    if not rows or not (isinstance(rows[-1], dict) and rows[-1].get("id")):
        raise RequestRejected("Stripe says that there is more but not where to go on.")
    return rows, {"list": at["list"], "after": rows[-1]["id"]}


def _without_secret(row: Any) -> Any:
    """Without that of a payment, nor of one that an event tells of: who has it can complete the payment, and Stripe has nobody store it."""
    if not isinstance(row, dict):
        return row
    told = {name: value for name, value in row.items() if name != "client_secret"}
    if inner(row, "data").get("object"):
        told["data"] = {**row["data"], "object": _without_secret(row["data"]["object"])}
    return told


async def _invoices(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    rows, following = await _page("invoices", ({"expand[0]": "data.payments"},), api, partition, window, cursor)
    return [await _with_lines(api, row) for row in rows], following


async def _with_lines(api: Api, row: Any) -> Any:
    """The invoice with all of its lines, of which it tells ten by itself; as it is where they can't be listed."""
    lines = inner(row, "lines") if isinstance(row, dict) and row.get("id") else {}
    if not lines.get("has_more"):
        return row
    whole: JSON = {**lines, "data": []}
    asked: JSON = {"limit": 100}
    for _ in range(LISTS_OF_LINES):
        try:
            data = (await api.get(f"/v1/invoices/{row['id']}/lines", asked)).data
        except AccessDenied:
            return row  # a draft that was deleted just now
        whole["data"] += data["data"]
        if not data["has_more"] or not data["data"]:
            return {**row, "lines": {**whole, "has_more": False}}
        asked["starting_after"] = data["data"][-1]["id"]
    return {**row, "lines": whole}


async def _count(resource: str, api: Api, partition: Partition, window: Window) -> Estimate | None:
    """Lists tell no total; the search does of what it finds by `created`, where there is one (not in India), a minute or more late."""
    since, until = ticks(window)
    asked = {"query": f"created>={since} AND created<{until}", "limit": 1, "expand[0]": "total_count"}
    try:
        total = int((await api.get(f"/v1/{resource}/search", asked)).data["total_count"])
    except (AccessDenied, RequestRejected):
        return None
    settled = window.until < datetime.now(UTC) - timedelta(minutes=10)
    return Estimate(total, exact=total < MOST_COUNTED and settled)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _id(value: Any) -> str | None:
    """The id of a related object, which is a text or the object itself."""
    found = value.get("id") if isinstance(value, dict) else value
    return str(found) if found else None


def _other(kind: str, name: str, value: Any, context: Context, key: str = "") -> Entity | None:
    """A related object; None for what is none."""
    return Entity(kind, context.key(key or kind, found), name) if (found := _id(value)) else None


def _customer(row: JSON, context: Context) -> Entity | None:
    name = inner(row, "customer").get("name") or row.get("customer_name") or row.get("customer_email")
    return _other("person", str(name or "Stripe customer"), row.get("customer"), context, "customer")


def money(amount: Any, currency: Any) -> str:
    """4900, "eur" -> "EUR 49.00"."""
    code = str(currency or "").lower()
    digits = 0 if code in _WHOLE else 3 if code in _THOUSANDTHS else 2
    return f"{code.upper()} {int(amount or 0) / 10**digits:.{digits}f}".strip()


def _extract_customer(row: JSON, context: Context) -> Graph:
    """A person, or an organization where a business's name is given; the address is then that of somebody there."""
    said = _said_of_customer(row, context)
    own = said.entities[0]
    if own.kind == "person" and (key := email_key(row.get("email"))):
        said.entities[0] = own._replace(aliases=(key,))
    return said


def _said_of_customer(row: JSON, context: Context) -> Graph:
    """Without who they are by their address: that is for the customer's own record to say, which takes back what it said of a
    former address. Of events each would be proof for ever."""
    own, address, business = context.key("customer", row["id"]), row.get("email"), row.get("business_name")
    shown = ("email", "phone", "description", "currency", "delinquent", "balance", "livemode")
    known = facts(row, *shown, deleted=row.get("deleted"))
    if business:
        said = Graph(Entity("organization", own, business, known))
        if key := email_key(address):
            said.by("works_at", Entity("person", key, str(row.get("individual_name") or address)))
    else:
        name = row.get("name") or row.get("individual_name") or address or "Stripe customer"
        said = Graph(Entity("person", own, name, known))
    said.refer("mentions", mentioned_emails(row.get("description")))
    return said


def _extract_product(row: JSON, context: Context) -> Graph:
    known = facts(row, "description", "active", "type", "url", "livemode", deleted=row.get("deleted"))
    said = Graph(Entity("product", context.key("product", row["id"]), row.get("name") or "Stripe product", known))
    if organization := domain_key(row.get("url")):
        said.to("about", Entity("organization", organization, organization.rpartition(":")[2]))
    return said


def _extract_price(row: JSON, context: Context) -> Graph:
    """What one of a product costs, and how often: a part of it. Where it depends on how many are bought there is no single amount."""
    every, amount = row.get("recurring") or {}, row.get("unit_amount")
    price = "Price" if amount is None else f"Price of {money(amount, row.get('currency'))}"
    count, interval = every.get("interval_count") or 1, every.get("interval")
    if interval:
        price += f" a {interval}" if count == 1 else f" for {count} {interval}s"
    shown = ("active", "currency", "billing_scheme", "lookup_key", "livemode")
    known = facts(row, *shown, deleted=row.get("deleted"), type="price") | facts(every, "interval", "interval_count")
    if amount is not None:
        known["amount"] = money(amount, row.get("currency"))
    said = Graph(Entity("product", context.key("price", row["id"]), row.get("nickname") or price, known))
    said.to("part_of", _other("product", "Stripe product", row.get("product"), context))
    return said


def _extract_subscription(row: JSON, context: Context) -> Graph:
    shown = ("status", "currency", "start_date", "cancel_at", "canceled_at", "ended_at", "trial_end", "livemode")
    name = row.get("description") or f"Subscription {row['id']}"
    said = Graph(Entity("subscription", context.key("subscription", row["id"]), name, facts(row, *shown)))
    said.to("for_account", _customer(row, context))
    for item in (row.get("items") or {}).get("data") or ():
        price = item.get("price") or {}
        said.to("about", _other("product", "Stripe product", price.get("product"), context))
        said.to("about", _other("product", "Stripe price", price, context, "price"))
    return said


def _extract_invoice(row: JSON, context: Context) -> Graph:
    amount = money(row.get("total"), row.get("currency"))
    shown = ("number", "status", "due_date", "period_start", "period_end", "livemode")
    known = facts(row, *shown, deleted=row.get("deleted"), amount=amount)
    name = f"Invoice {row.get('number') or row['id']}, {amount}"
    said = Graph(Entity("invoice", context.key("invoice", row["id"]), name, known))
    said.to("for_account", _customer(row, context))
    # Older versions, whose snapshots events may hold, name the subscription on the invoice itself.
    subscription = ((row.get("parent") or {}).get("subscription_details") or {}).get("subscription")
    subscription = _id(subscription or row.get("subscription"))
    said.to("part_of", _other("subscription", f"Subscription {subscription}", subscription, context))
    for line in (row.get("lines") or {}).get("data") or ():
        priced = (line.get("pricing") or {}).get("price_details") or {}
        said.to("about", _other("product", "Stripe product", priced.get("product"), context))
        said.to("about", _other("product", "Stripe price", priced.get("price"), context, "price"))
    for entry in (row.get("payments") or {}).get("data") or ():
        for kind in ("payment_intent", "charge"):
            said.to("with", _other("payment", "Payment", (entry.get("payment") or {}).get(kind), context, kind))
    said.refer("mentions", mentioned_emails(row.get("description")))
    return said


def _extract_payment(kind: str, words: str, shown: tuple[str, ...], row: JSON, context: Context) -> Graph:
    """Payment intents and the charges that they came to, and refunds: all are payments, told apart by `type`."""
    amount = money(row.get("amount"), row.get("currency"))
    known = facts(row, "status", "description", *shown, type=kind, amount=amount)
    said = Graph(Entity("payment", context.key(kind, row["id"]), f"{words} of {amount}", known))
    said.to("for_account", _customer(row, context))
    if kind == "refund":
        said.to("about", _other("payment", "Charge", row.get("charge"), context, "charge"))
    said.to("part_of", _other("payment", "Payment", row.get("payment_intent"), context, "payment_intent"))
    payer = row.get("billing_details") or {}
    if not row.get("customer") and (address := email_key(payer.get("email") or row.get("receipt_email"))):
        said.to("for_account", Entity("person", address, payer.get("name") or address.rpartition(":")[2]))
    said.refer("mentions", mentioned_emails(row.get("description")))
    return said


def _extract_dispute(row: JSON, context: Context) -> Graph:
    amount = money(row.get("amount"), row.get("currency"))
    known = facts(row, "status", "reason", "livemode", type="dispute", amount=amount)
    said = Graph(Entity("case", context.key("dispute", row["id"]), f"Dispute over {amount}", known))
    said.to("about", _other("payment", "Charge", row.get("charge"), context, "charge"))
    said.to("about", _other("payment", "Payment", row.get("payment_intent"), context, "payment_intent"))
    return said


_CHARGE = ("paid", "refunded", "disputed", "amount_refunded", "failure_message", "livemode")
_EXTRACT: dict[str, Extract] = {
    "customer": _said_of_customer,
    "product": _extract_product,
    "price": _extract_price,
    "subscription": _extract_subscription,
    "invoice": _extract_invoice,
    "payment_intent": partial(_extract_payment, "payment_intent", "Payment", ("canceled_at", "livemode")),
    "charge": partial(_extract_payment, "charge", "Charge", _CHARGE),
    "refund": partial(_extract_payment, "refund", "Refund", ("reason", "failure_reason")),
    "dispute": _extract_dispute,
}


# What becomes of an object, in order: the later word of one second's events counts.
_STEPS = (
    ("draft", "incomplete", "requires_payment_method", "warning_needs_response"),
    ("requires_confirmation", "warning_under_review", "trialing"),
    ("open", "pending", "requires_action", "needs_response", "active"),
    ("processing", "under_review", "past_due", "requires_capture"),
    ("unpaid", "uncollectible", "paused"),
    ("paid", "succeeded", "failed", "void", "canceled", "won", "lost", "warning_closed", "incomplete_expired"),
)
_COURSE = {name: place for place, names in enumerate(_STEPS, start=1) for name in names}


def _extract_change(row: JSON, context: Context) -> Graph:
    """An event says what its object is from then on: its word counts where it is younger than the reading of the object itself."""
    found = row["data"]["object"]
    if row["type"] in ("customer.deleted", "product.deleted", "price.deleted", "invoice.deleted"):
        found = {**found, "deleted": True}
    said = _EXTRACT[found["object"]](found, context)
    # Events are told by the second, in which an object may go from one state to the next.
    kind = CHANGES.index(row["type"]) if row["type"] in CHANGES else 0
    said.later = (_COURSE.get(str(found.get("status")), 0) + 1) * len(CHANGES) + kind
    return said


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.get("/v1/account")
    row, test = reply.data, "_test_" in (api.token or "") or api.facts.get("livemode") is False
    shown = (row.get("settings") or {}).get("dashboard") or {}
    profile = row.get("business_profile") or {}
    name = shown.get("display_name") or profile.get("name") or row.get("email") or row["id"]
    # A test key shows another set of objects: never to be mixed with the live ones.
    return Account(f"{row['id']}{':test' if test else ''}", f"{name}{' (test mode)' if test else ''}")


def _stream(
    name: str,
    label: str,
    extract: Extract,
    *,
    counted: bool = False,
    path: str = "",
    asked_for: tuple[JSON, ...] = ({},),
    rows_at: Callable[[Api, Partition, Window, JSON | None], Awaitable[Rows]] | None = None,
    as_read: bool = True,
) -> Stream:
    # How far back one of several lists has come says nothing of the next.
    reached = min if len(asked_for) == 1 else None
    fetch = pages(rows_at or partial(_page, path or name, asked_for), _CREATED, reached)
    count = partial(_count, path or name)
    return Stream(
        name, label, WindowKind.EXACT, fetch, extract, count if counted else None, ascending=False, clock=Clock.CREATED,
        as_read=as_read, record=_CREATED,
    )  # fmt: skip


STRIPE = Provider(
    slug="stripe",
    name="Stripe",
    category="Finance",
    summary="Who pays for what: customers, subscriptions, invoices, payments, refunds and disputes.",
    brings=("Customers", "Products", "Prices", "Subscriptions", "Invoices", "Payments", "Refunds", "Disputes"),
    api_url="https://api.stripe.com",
    # Until it is published, an app's page of consent is below this: /chnlink_.../authorize.
    auth_url="https://marketplace.stripe.com/oauth/v2",
    headers={"Stripe-Version": VERSION},
    identify=_identify,
    classify=_classify,
    # Each endpoint takes 25 requests a second, the same as a whole account in test mode; this leaves room for the customer's own.
    budget=RateBudget(requests=15, seconds=1, concurrency=4),
    # A Stripe App, installed by the customer. What it may read is in the app's manifest, not asked for here.
    oauth=OAuth(
        "/authorize", "/v1/oauth/token", (), token_root="https://api.stripe.com", secret_as_user=True,
        pkce=False, token_reply=_token_reply, token_facts=_token_facts,
    ),
    token_help="A restricted key (rk_live_...) from the dashboard's API keys, with read permission for accounts, customers, "
    "products, prices, subscriptions, invoices, payment intents, charges and refunds, disputes and events.",
    settle=timedelta(minutes=1),
    ids_by_account=True,  # products have the ids that people chose, in test mode the same ones
    streams=(
        _stream("customers", "Customers", _extract_customer, counted=True),
        _stream("products", "Products", _extract_product),
        # Those that are active, unless the others are asked for.
        _stream("prices", "Prices", _extract_price, asked_for=({"active": "true"}, {"active": "false"})),
        _stream("subscriptions", "Subscriptions", _extract_subscription, counted=True, asked_for=({"status": "all"},)),
        _stream("invoices", "Invoices", _extract_invoice, counted=True, rows_at=_invoices),
        _stream("payments", "Payments", _EXTRACT["payment_intent"], counted=True, path="payment_intents"),
        _stream("charges", "Charges", _EXTRACT["charge"], counted=True),
        _stream("refunds", "Refunds", _EXTRACT["refund"]),
        _stream("disputes", "Disputes", _extract_dispute),
        _stream(
            "events", "Changes of the last 30 days", _extract_change, as_read=False,
            asked_for=tuple(
                {f"types[{i}]": t for i, t in enumerate(CHANGES[first : first + TYPES_AT_ONCE])}
                for first in range(0, len(CHANGES), TYPES_AT_ONCE)
            ),
        ),
    ),
)  # fmt: skip
