"""Stripe's own Python library, against Stripe's stand-in."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from integrations.sandbox.stripe import Stripe
from integrations.sandbox.tokens import Tokens


@pytest.fixture
def client(sandbox: Any) -> stripe.StripeClient:
    base = {"api": f"{sandbox.root}/stripe", "connect": f"{sandbox.root}/stripe"}
    return stripe.StripeClient("rk_live_sandbox", base_addresses=base, max_network_retries=0)


LISTS = {
    "customers": lambda v1: v1.customers,
    "products": lambda v1: v1.products,
    "prices": lambda v1: v1.prices,
    "subscriptions": lambda v1: v1.subscriptions,
    "invoices": lambda v1: v1.invoices,
    "payments": lambda v1: v1.payment_intents,
    "charges": lambda v1: v1.charges,
    "refunds": lambda v1: v1.refunds,
    "disputes": lambda v1: v1.disputes,
    "events": lambda v1: v1.events,
}


@pytest.mark.parametrize("stream", LISTS)
def test_it_pages_through_every_list_newest_first(client: stripe.StripeClient, sandbox: Any, stream: str):
    params: dict[str, Any] = {"limit": 7} | ({"status": "all"} if stream == "subscriptions" else {})
    rows = list(LISTS[stream](client.v1).list(params).auto_paging_iter())
    assert [row.created for row in rows] == sorted((row.created for row in rows), reverse=True)
    if stream == "prices":
        assert {row.active for row in rows} == {True}, "those that are not have to be asked for"
        rows += client.v1.prices.list({"limit": 7, "active": False}).auto_paging_iter()
    assert len({row.id for row in rows}) == len(rows) == sandbox.truth("stripe")[stream]


def test_it_pages_backwards_too(client: stripe.StripeClient):
    rows = client.v1.charges.list({"limit": 20}).data
    before = client.v1.charges.list({"limit": 5, "ending_before": rows[15].id})
    assert [row.id for row in before.data] == [row.id for row in rows[10:15]]


def test_a_window_of_creation_takes_its_beginning_in_and_leaves_its_end_out(client: stripe.StripeClient):
    rows = client.v1.charges.list({"limit": 20}).data
    newest, oldest = rows[4], rows[12]
    found = client.v1.charges.list({"created": {"gte": oldest.created, "lt": newest.created}, "limit": 100})
    assert {row.id for row in found.data} == {row.id for row in rows[5:13]}
    assert len(client.v1.charges.list({"created": newest.created}).data) == 1


def test_cancelled_subscriptions_are_hidden_unless_all_are_asked_for(client: stripe.StripeClient):
    shown = {row.status for row in client.v1.subscriptions.list({"limit": 100}).auto_paging_iter()}
    every = {row.status for row in client.v1.subscriptions.list({"limit": 100, "status": "all"}).auto_paging_iter()}
    assert "canceled" not in shown
    assert "canceled" in every


def test_an_invoice_brings_its_payments_when_they_are_asked_for(client: stripe.StripeClient):
    plain, asked = (client.v1.invoices.list(params).data for params in ({}, {"expand": ["data.payments"]}))
    assert all("payments" not in row for row in plain)
    payments = [entry for row in asked for entry in row.payments.data]
    intent = client.v1.payment_intents.retrieve(payments[0].payment.payment_intent)
    assert intent.latest_charge is not None
    assert client.v1.charges.retrieve(intent.latest_charge).payment_intent == intent.id


def test_an_invoice_tells_ten_of_its_lines_and_lists_the_others(client: stripe.StripeClient):
    rows = list(client.v1.invoices.list({"limit": 100}).auto_paging_iter())
    long = next(row for row in rows if row.lines.has_more)
    lines = list(client.v1.invoices.line_items.list(long.id, {"limit": 5}).auto_paging_iter())
    assert [line.id for line in lines[:10]] == [line.id for line in long.lines.data]
    assert len({line.id for line in lines}) == len(lines) > 10


def test_the_search_counts(client: stripe.StripeClient, sandbox: Any):
    found = client.v1.customers.search({"query": "created>=0", "limit": 1, "expand": ["total_count"]})
    assert found["total_count"] == sandbox.truth("stripe")["customers"]
    assert found.has_more


def test_the_search_does_not_know_when_products_were_made(client: stripe.StripeClient):
    with pytest.raises(stripe.InvalidRequestError, match="unsupported search field"):
        client.v1.products.search({"query": "created>=0", "limit": 1})


def test_events_can_be_asked_for_by_kind(client: stripe.StripeClient):
    paid = list(client.v1.events.list({"types": ["invoice.paid"], "limit": 100}).auto_paging_iter())
    assert {row.type for row in paid} == {"invoice.paid"}
    assert {row.data.object.object for row in paid} == {"invoice"}


def test_a_deleted_customer_drops_out_and_is_told_as_deleted(client: stripe.StripeClient, sandbox: Any):
    before = [row.id for row in client.v1.customers.list({"limit": 100}).data]
    sandbox.control(delete_every=2)
    after = [row.id for row in client.v1.customers.list({"limit": 100}).data]
    gone = next(row for row in before if row not in after)
    assert client.v1.customers.retrieve(gone).deleted
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.customers.list({"starting_after": gone})
    assert (caught.value.code, caught.value.param) == ("resource_missing", "starting_after")


@pytest.mark.parametrize(
    ("params", "code"),
    [({"limit": 101}, "parameter_invalid_integer"), ({"updated": 1}, "parameter_unknown")],
)
def test_what_is_wrong_comes_in_stripes_words(client: stripe.StripeClient, params: dict[str, Any], code: str):
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.customers.list(params)  # type: ignore[arg-type]
    assert (caught.value.http_status, caught.value.code) == (400, code)


def test_limits_keys_and_permissions_are_told_apart(client: stripe.StripeClient, sandbox: Any):
    with pytest.raises(stripe.AuthenticationError):
        stripe.StripeClient("sk_live_wrong", base_addresses={"api": f"{sandbox.root}/stripe"}).v1.customers.list()
    sandbox.control(deny=["stripe.invoices"])
    with pytest.raises(stripe.PermissionError, match="rak_invoice_read"):
        client.v1.invoices.list()
    sandbox.control(rate_limit_every=1)
    with pytest.raises(stripe.RateLimitError) as caught:
        client.v1.customers.list()
    assert caught.value.headers is not None
    assert caught.value.headers["Stripe-Rate-Limited-Reason"] == "endpoint-rate"


def test_a_refresh_token_is_exchanged_with_the_secret_and_serves_once(sandbox: Any):
    """The library has no call for Stripe Apps, so it is given the path."""
    refresh = Tokens().make(Stripe.refresh_prefix, "stripe", "acct_1SbNorthwind", "refresh", "once")
    ours = stripe.StripeClient("sandbox-secret", base_addresses={"api": f"{sandbox.root}/stripe"})
    params = {"grant_type": "refresh_token", "refresh_token": refresh}
    granted = ours.deserialize(ours.raw_request("post", "/v1/oauth/token", **params), api_mode="V1")
    assert (granted["stripe_user_id"], granted["livemode"]) == ("acct_1SbNorthwind", True)
    theirs = stripe.StripeClient(granted["access_token"], base_addresses={"api": f"{sandbox.root}/stripe"})
    assert theirs.v1.accounts.retrieve_current().id == "acct_1SbNorthwind"
    with pytest.raises(stripe.oauth_error.InvalidGrantError):
        ours.raw_request("post", "/v1/oauth/token", **params)
