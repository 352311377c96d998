"""What Stripe's file knows beyond the contract: errors, money, who a customer is, changes, and the two modes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integrations.errors import AccessDenied, CursorExpired, ReauthRequired, Throttled
from integrations.grants import token_request
from integrations.http import Reply
from integrations.providers.base import WHOLE, Context, Window
from integrations.providers.stripe import CHANGES, STRIPE, VERSION, money
from tests.contract.stage import ALL, Stage, staged

CONTEXT = Context("stripe")


def refused(status: int, **error: Any) -> Reply:
    return Reply(status, {}, {"error": {"type": "invalid_request_error", **error}}, "", "https://api.stripe.com/v1/x")


def graph(stream: str, row: dict[str, Any]) -> Any:
    return STRIPE.stream(stream).extract(row, CONTEXT)


def said(found: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in found.relationships}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refused(429, code="rate_limit", message="slow"), Throttled),
        (refused(429, code="lock_timeout", message="locked"), Throttled),
        (refused(400, code="lock_timeout", message="locked"), Throttled),
        (refused(401, message="Invalid API Key provided"), ReauthRequired),
        (refused(401, code="api_key_expired", message="Expired API Key provided"), ReauthRequired),
        (refused(403, code="account_invalid", message="does not have access"), ReauthRequired),
        (refused(403, code="platform_account_required", message="only platforms"), ReauthRequired),
        (refused(403, message="Having the 'rak_charge_read' permission would allow this"), AccessDenied),
        (refused(400, code="resource_missing", param="starting_after", message="No such charge"), CursorExpired),
        (refused(404, code="resource_missing", message="a similar object exists in test mode"), AccessDenied),
    ],
)
def test_an_error_says_what_to_do(reply: Reply, error: type[Exception]):
    assert type(STRIPE.classify(reply)) is error


@pytest.mark.parametrize(
    "reply", [refused(500, message="ours"), refused(400, code="parameter_unknown"), Reply(502, {}, None, "<html>", "")]
)
def test_the_rest_is_left_to_the_gate(reply: Reply):
    assert STRIPE.classify(reply) is None


def test_a_missing_permission_is_named():
    assert "rak_charge_read" in str(STRIPE.classify(refused(403, message="Having the 'rak_charge_read' permission")))


@pytest.mark.parametrize(
    ("amount", "currency", "words"),
    [
        (4900, "eur", "EUR 49.00"),
        (500, "jpy", "JPY 500"),
        (12345, "kwd", "KWD 12.345"),
        (-150, "usd", "USD -1.50"),
        (None, None, "0.00"),
    ],
)
def test_amounts_are_in_the_currencys_own_unit(amount: Any, currency: Any, words: str):
    assert money(amount, currency) == words


def test_every_request_pins_the_version_of_the_api():
    assert STRIPE.headers == {"Stripe-Version": VERSION}
    assert len(CHANGES) == len(set(CHANGES))


def test_the_secret_alone_says_who_the_client_is():
    headers, body = token_request(STRIPE, "ca_1", "sk_live_1", {"grant_type": "authorization_code", "code": "ac_1"})
    assert headers["Authorization"] == "Basic c2tfbGl2ZV8xOg=="  # "sk_live_1:"
    assert body == b"grant_type=authorization_code&code=ac_1"


def test_a_customer_is_a_person_by_address_and_id():
    own = graph("customers", {"id": "cus_1", "name": "Ana", "email": "Ana@acme.test", "description": None}).entities[0]
    assert (own.kind, own.key, own.aliases) == ("person", "stripe:customer:cus_1", ("person:email:ana@acme.test",))
    own = graph("customers", {"id": "cus_2", "email": None}).entities[0]
    assert (own.key, own.aliases) == ("stripe:customer:cus_2", ())


@pytest.mark.parametrize(
    ("row", "name", "facts"),
    [
        ({"unit_amount": 4900, "recurring": {"interval": "month", "interval_count": 1}}, "Price of EUR 49.00 a month", {"interval": "month"}),
        ({"unit_amount": 4900, "recurring": {"interval": "month", "interval_count": 3}}, "Price of EUR 49.00 for 3 months", {"interval_count": 3}),
        ({"unit_amount": 0, "recurring": None}, "Price of EUR 0.00", {"amount": "EUR 0.00"}),
        ({"unit_amount": None, "billing_scheme": "tiered", "recurring": {"interval": "year"}}, "Price a year", {"billing_scheme": "tiered"}),
        ({"unit_amount": 4900, "nickname": "Early bird"}, "Early bird", {"amount": "EUR 49.00"}),
    ],
)  # fmt: skip
def test_a_price_says_how_much_and_how_often_and_of_what(row: dict[str, Any], name: str, facts: dict[str, Any]):
    found = graph("prices", {"id": "price_1", "currency": "eur", "product": "prod_1", "active": False, **row})
    own = found.entities[0]
    assert (own.kind, own.key, own.name) == ("product", "stripe:price:price_1", name)
    assert own.properties.items() >= {"type": "price", "active": False, **facts}.items()
    assert said(found) == {("part_of", "stripe:price:price_1", "stripe:product:prod_1")}


def test_what_was_bought_is_known_by_its_price_too():
    price = {"object": "price", "id": "price_1", "product": "prod_1"}
    about = {("about", "stripe:product:prod_1"), ("about", "stripe:price:price_1")}
    found = graph("subscriptions", {"id": "sub_1", "items": {"data": [{"price": price}]}})
    assert {(kind, target) for kind, _, target in said(found)} == about
    line = {"pricing": {"type": "price_details", "price_details": {"price": "price_1", "product": "prod_1"}}}
    found = graph("invoices", {"id": "in_1", "total": 1, "currency": "eur", "lines": {"data": [line]}})
    assert {(kind, target) for kind, _, target in said(found)} == about


async def test_more_kinds_of_event_than_can_be_asked_for_at_once_are_asked_for_one_after_the_other():
    asked: list[dict[str, Any]] = []

    class Asked:
        async def get(self, path: str, params: dict[str, Any]) -> Reply:
            asked.append(params)
            more = len(asked) == 2
            return Reply(200, {}, {"data": [{"id": f"evt_{len(asked)}", "created": 1}], "has_more": more}, "", "")

    window, cursor, pages = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)), None, []
    while not pages or cursor:
        pages.append(await STRIPE.stream("events").fetch(Asked(), WHOLE, window, cursor))
        cursor = pages[-1].next_cursor
    kinds = [[value for name, value in params.items() if name.startswith("types[")] for params in asked]
    assert all(len(some) <= 20 for some in kinds)
    assert tuple(kinds[0] + kinds[1]) == CHANGES
    assert kinds[1] == kinds[2]
    assert [params.get("starting_after") for params in asked] == [None, None, "evt_2"]
    assert {found.position for found in pages} == {None}, "of the second list nothing was read yet"


async def test_the_secret_of_a_payment_is_not_kept():
    """Who has it can complete the payment: "should not be stored" (Stripe's reference, PaymentIntent's client_secret)."""
    stage = Stage("stripe")
    async with stage.client:
        await stage.use(stage.account)
        there = (await stage.api().get("/v1/payment_intents")).data["data"]
        assert all("_secret_" in row["client_secret"] for row in there)
        payments, events = await stage.read(STRIPE.stream("payments")), await stage.read(STRIPE.stream("events"))
    assert any(record.payload["data"]["object"]["object"] == "payment_intent" for record, _ in events.rows.values())
    kept = [record.payload for found in (payments, events) for record, _ in found.rows.values()]
    assert not [row for row in kept if "_secret_" in str(row)]


def test_an_address_in_an_event_proves_nothing_for_good():
    """Each event is a record of its own, which nothing takes back once the address has changed."""
    row = {"id": "cus_1", "object": "customer", "email": "old@acme.test"}
    found = graph("events", {"id": "evt_1", "type": "customer.updated", "data": {"object": row}})
    assert [(e.key, e.aliases) for e in found.entities] == [("stripe:customer:cus_1", ())]
    business = {**row, "business_name": "Acme GmbH"}
    found = graph("events", {"id": "evt_2", "type": "customer.updated", "data": {"object": business}})
    assert all(not e.aliases for e in found.entities)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("customer.updated", {"object": "customer"}), ("customer.deleted", {"object": "customer"})),
        (("invoice.updated", {"object": "invoice", "status": "draft"}), ("invoice.deleted", {"object": "invoice", "status": "draft"})),
        (
            ("charge.updated", {"object": "charge", "status": "succeeded"}),
            ("charge.expired", {"object": "charge", "status": "succeeded", "refunded": True}),
        ),
        (("invoice.finalized", {"object": "invoice", "status": "open"}), ("invoice.updated", {"object": "invoice", "status": "paid"})),
        (("invoice.updated", {"object": "invoice", "status": "open"}), ("invoice.paid", {"object": "invoice", "status": "paid"})),
        (
            ("customer.subscription.updated", {"object": "subscription", "status": "incomplete"}),
            ("customer.subscription.updated", {"object": "subscription", "status": "active"}),
        ),
        (
            ("charge.succeeded", {"object": "charge", "status": "succeeded"}),
            ("charge.refunded", {"object": "charge", "status": "succeeded", "refunded": True}),
        ),
    ],
)  # fmt: skip
def test_of_one_seconds_events_the_last_step_counts(first: Any, then: Any):
    def told(event: Any) -> Any:
        kind, row = event
        return graph("events", {"id": "evt_1", "type": kind, "data": {"object": {"id": "x_1", **row}}})

    assert 0 < told(first).later < told(then).later < 1_000_000


def test_a_business_is_an_organization_with_somebody_in_it():
    found = graph("customers", {"id": "cus_1", "name": "Acme", "business_name": "Acme GmbH", "email": "pay@acme.test"})
    assert (found.entities[0].kind, found.entities[0].key) == ("organization", "stripe:customer:cus_1")
    assert said(found) == {("works_at", "person:email:pay@acme.test", "stripe:customer:cus_1")}


def test_an_invoice_knows_its_subscription_in_old_and_new_versions_and_its_payments():
    new = {"id": "in_1", "customer": "cus_1", "total": 100, "currency": "eur", "number": "A-1"}
    new["parent"] = {"subscription_details": {"subscription": "sub_1"}}
    new["payments"] = {"data": [{"payment": {"type": "payment_intent", "payment_intent": "pi_1"}}]}
    found = said(graph("invoices", new))
    assert found == {
        ("for_account", "stripe:invoice:in_1", "stripe:customer:cus_1"),
        ("part_of", "stripe:invoice:in_1", "stripe:subscription:sub_1"),
        ("with", "stripe:invoice:in_1", "stripe:payment_intent:pi_1"),
    }
    old = said(graph("invoices", {"id": "in_1", "customer": {"id": "cus_1"}, "subscription": "sub_1"}))
    assert old < found


def test_a_guest_who_paid_is_known_by_address():
    charge = {
        "id": "ch_1",
        "customer": None,
        "billing_details": {"email": "g@x.test", "name": "G"},
        "amount": 1,
        "currency": "eur",
    }
    assert ("for_account", "stripe:charge:ch_1", "person:email:g@x.test") in said(graph("charges", charge))


def test_a_change_speaks_for_its_object():
    row = {"id": "sub_1", "object": "subscription", "status": "canceled", "customer": "cus_1"}
    event = {"id": "evt_1", "type": "customer.subscription.deleted", "data": {"object": row}}
    own = graph("events", event).entities[0]
    assert (own.key, own.properties["status"]) == ("stripe:subscription:sub_1", "canceled")
    assert "deleted" not in own.properties  # it ended; it is still there
    gone = {"id": "cus_1", "object": "customer", "email": "ana@acme.test"}
    own = graph("events", {"id": "evt_2", "type": "customer.deleted", "data": {"object": gone}}).entities[0]
    assert own.properties["deleted"] is True


def test_a_draft_that_is_deleted_is_told_and_so_is_a_hold_that_nobody_captured():
    """Nothing else comes of either: "invoice.deleted: Occurs whenever a draft invoice is deleted", "charge.expired: Occurs whenever an
    uncaptured charge expires", and is "marked as refunded" (docs.stripe.com/api/events/types, api/charges/capture)."""
    assert {"invoice.deleted", "charge.expired"} <= set(CHANGES)
    draft = {"id": "in_1", "object": "invoice", "status": "draft", "total": 100, "currency": "eur"}
    own = graph("events", {"id": "evt_1", "type": "invoice.deleted", "data": {"object": draft}}).entities[0]
    assert (own.key, own.properties["deleted"]) == ("stripe:invoice:in_1", True)
    assert "deleted" not in graph("invoices", draft).entities[0].properties
    hold = {"id": "ch_1", "object": "charge", "status": "succeeded", "refunded": True, "amount": 100, "currency": "eur"}
    own = graph("events", {"id": "evt_2", "type": "charge.expired", "data": {"object": hold}}).entities[0]
    assert (own.key, own.properties["refunded"]) == ("stripe:charge:ch_1", True)


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("payment_intent.processing", {"object": "payment_intent", "status": "processing"}),
        ("payment_intent.requires_action", {"object": "payment_intent", "status": "requires_action"}),
        ("payment_intent.amount_capturable_updated", {"object": "payment_intent", "status": "requires_capture"}),
        ("customer.subscription.paused", {"object": "subscription", "status": "paused"}),
        ("customer.subscription.resumed", {"object": "subscription", "status": "active"}),
        ("refund.failed", {"object": "refund", "status": "failed"}),
    ],
)
def test_a_state_that_lasts_for_days_is_told_though_it_is_not_the_last(kind: str, row: dict[str, Any]):
    """Each has an event of its own (docs.stripe.com/api/events/types): a debit is processed, an amount held, a subscription paused."""
    assert kind in CHANGES
    own = graph("events", {"id": "evt_1", "type": kind, "data": {"object": {"id": "x_1", **row}}}).entities[0]
    assert own.properties["status"] == row["status"]


async def test_a_test_key_is_another_connection_than_a_live_one():
    stage = Stage("stripe")
    async with stage.client:
        api = (await stage.use(stage.account), stage.api())[1]
        live = await STRIPE.identify(api)
        stage.stand_in.pasted_prefix = "rk_"  # type: ignore[misc]
        api.token = "rk_test_1"
        test = await STRIPE.identify(api)
    assert test.external_id == f"{live.external_id}:test"
    assert test.label.endswith("(test mode)")


@pytest.mark.parametrize(("told", "test"), [({"livemode": False}, True), ({"livemode": True}, False), ({}, False)])
async def test_a_grants_mode_is_what_the_token_endpoint_says_whatever_the_token_looks_like(told: Any, test: bool):
    assert STRIPE.oauth is not None
    assert STRIPE.oauth.token_facts is not None
    stage = Stage("stripe")
    async with stage.client:
        api = (await stage.use(stage.account), stage.api())[1]
        api.facts = STRIPE.oauth.token_facts({"access_token": "granted", **told})
        account = await STRIPE.identify(api)
    assert account.external_id.endswith(":test") == test
    assert account.label.endswith("(test mode)") == test


async def test_a_window_within_a_second_is_rounded_so_that_nothing_is_lost():
    stage = Stage("stripe")
    async with stage.client:
        await stage.use(stage.account)
        stream = STRIPE.stream("charges")
        first = (await stream.fetch(stage.api(), (await stage.partitions(stream))[0], ALL, None)).records[0]
        narrow = Window(first.occurred_at - timedelta(microseconds=1), first.occurred_at + timedelta(microseconds=1))
        found = await stage.read(stream, narrow)
    assert first.external_id in found.ids


async def test_a_row_without_a_time_is_kept_aside_and_the_rest_goes_on():
    class Api:
        async def get(self, path: str, params: Any = None) -> Reply:
            rows = [{"id": "ch_2", "created": 1700000000}, {"id": "ch_1", "created": None}]
            return Reply(200, {}, {"object": "list", "data": rows, "has_more": True}, "", "")

    page = await STRIPE.stream("charges").fetch(Api(), None, ALL, None)  # type: ignore[arg-type]
    assert [(r.external_id, r.occurred_at) for r in page.records] == [("ch_2", datetime.fromtimestamp(1700000000, UTC))]
    assert [row[0] for row in page.rejected] == ["ch_1"]
    assert page.next_cursor["after"] == "ch_1"


def test_only_what_the_search_knows_the_making_of_is_counted_by_it():
    """docs.stripe.com/search: `created` is a query field of these, and none of products, prices, refunds, disputes or events."""
    counted = {stream.name for stream in STRIPE.streams if stream.count is not None}
    assert counted == {"customers", "subscriptions", "invoices", "payments", "charges"}


async def test_a_count_from_a_place_without_search_is_unknown():
    stage = Stage("stripe")
    async with stage.client:
        await stage.use(stage.account)
        await stage.control(deny=["stripe.charges"])
        stream = STRIPE.stream("charges")
        assert stream.count is not None
        assert await stream.count(stage.api(), (await stage.partitions(stream))[0], ALL) is None


async def test_an_invoice_of_many_lines_tells_all_that_it_is_for():
    async with staged("stripe") as stage:
        books, stream = stage.stand_in.books[stage.account], STRIPE.stream("invoices")
        cursor, told = None, {}
        while cursor is not None or not told:
            found = await stream.fetch(stage.api(), WHOLE, ALL, cursor)
            told |= {one.external_id: one.payload["lines"] for one in found.records}
            cursor = found.next_cursor
        wanted = {
            books.id_of("invoices", place): books.lines_of(place) for place in range(len(books.times("invoices")))
        }
        assert any(len(lines) > 10 for lines in wanted.values())
        assert {own: lines["data"] for own, lines in told.items()} == wanted
        assert not any(lines["has_more"] for lines in told.values())


class Lines:
    """An API with one invoice, whose other lines are as `answer` has them."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    async def get(self, path: str, params: dict[str, Any]) -> Reply:
        if path == "/v1/invoices":
            lines = {"data": [{"id": "il_0"}], "has_more": True}
            return Reply(200, {}, {"data": [{"id": "in_1", "created": 1, "lines": lines}], "has_more": False}, "", "")
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return Reply(200, {}, {"data": [{"id": f"il_{self.asked}"}], "has_more": True}, "", "")


@pytest.mark.parametrize("answer", [AccessDenied("a draft that was deleted just now"), None])
async def test_lines_that_can_not_be_listed_or_have_no_end_leave_what_there_is(answer: Any):
    api = Lines(answer)
    (found,) = (await STRIPE.stream("invoices").fetch(api, WHOLE, ALL, None)).records  # type: ignore[arg-type]
    lines = found.payload["lines"]
    assert lines["has_more"], "not all of them"
    assert lines["data"] == ([{"id": "il_0"}] if answer else [{"id": f"il_{n + 1}"} for n in range(api.asked)])
    assert api.asked < 100
