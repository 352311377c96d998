"""HubSpot's file: what the contract can't know."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integrations.errors import AccessDenied, ProviderError, Throttled, Unavailable
from integrations.http import Reply
from integrations.providers.base import WHOLE, Context, Graph, Window
from integrations.providers.hubspot import HUBSPOT
from integrations.sandbox.wire import Request, Response
from tests.contract.stage import ALL, staged

CONTEXT = Context("hubspot@7700001")


def reply(status: int, data: Any = None, **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, data, "", "https://h/x")


def classified(status: int, data: Any = None, **headers: str) -> ProviderError | None:
    return HUBSPOT.classify(reply(status, data, **headers))


def extracted(stream: str, properties: dict[str, Any], **more: Any) -> Graph:
    row = {"id": "501", "properties": properties, "archived": False, **more}
    return HUBSPOT.stream(stream).extract(row, CONTEXT)


def said(graph: Graph) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


# -- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "seconds"), [("SECONDLY", 1), ("TEN_SECONDLY_ROLLING", 10), ("SOMETHING_NEW", 10), (None, 10)]
)
def test_a_limit_without_a_time_waits_as_long_as_its_window(policy: str | None, seconds: int) -> None:
    error = classified(429, {"policyName": policy} if policy else None)
    assert isinstance(error, Throttled)
    assert not error.daily
    assert error.retry_at is not None
    assert abs((error.retry_at - datetime.now(UTC)).total_seconds() - seconds) < 1


def test_the_time_that_a_limit_names_is_kept() -> None:
    error = classified(429, {"policyName": "SECONDLY"}, retry_after="30")
    assert isinstance(error, Throttled)
    assert error.retry_at is not None
    assert error.retry_at - datetime.now(UTC) > timedelta(seconds=25)


def test_the_daily_limit_is_told_from_the_short_ones() -> None:
    error = classified(429, {"policyName": "DAILY"})
    assert isinstance(error, Throttled)
    assert error.daily


@pytest.mark.parametrize("status", [423, 477])
def test_a_locked_or_moving_account_is_tried_again(status: int) -> None:
    error = classified(status, {"message": "locked"})
    assert isinstance(error, Unavailable)
    assert error.retry_at is not None


@pytest.mark.parametrize("key", ["requiredGranularScopes", "missingScopes"])
def test_a_missing_scope_is_named(key: str) -> None:
    error = classified(
        403, {"category": "MISSING_SCOPES", "errors": [{"message": "no", "context": {key: ["tickets", "tickets"]}}]}
    )
    assert isinstance(error, AccessDenied)
    assert str(error).endswith("It needs tickets.")


@pytest.mark.parametrize("body", [None, {}, {"errors": None}, {"errors": ["odd"]}, {"errors": [{"context": None}]}, []])
def test_every_field_of_an_error_may_be_missing(body: Any) -> None:
    assert isinstance(classified(403, body), AccessDenied)


def test_budget_headers_are_read_and_searches_have_none() -> None:
    left = {"x_hubspot_ratelimit_max": "110", "x_hubspot_ratelimit_interval_milliseconds": "10000"}
    state = HUBSPOT.rate_state(reply(200, x_hubspot_ratelimit_remaining="7", **left))
    assert state is not None
    assert (state.remaining, state.limit, state.reset_at) == (7, 110, None)
    empty = HUBSPOT.rate_state(reply(200, x_hubspot_ratelimit_remaining="0", **left))
    assert empty is not None
    assert empty.reset_at is not None
    assert HUBSPOT.rate_state(reply(200)) is None


# -- windows and pages ----------------------------------------------------------------------------------------------------


async def test_a_bulk_edit_of_more_rows_than_a_search_lists_is_read_whole() -> None:
    async with staged("hubspot", records=400) as stage:
        times = stage.stand_in.table(stage.account, "contacts").times
        moment = max(times, key=times.count)
        assert times.count(moment) > 5
        await stage.control(page_size=2, cap=4)
        since = datetime.fromtimestamp(moment, UTC)
        window = Window(since, since + timedelta(milliseconds=1))
        found = await stage.read(HUBSPOT.stream("contacts"), window)
        assert len(found.ids) == times.count(moment)
        assert found.splits == 0


@pytest.mark.parametrize("stream", ["companies", "contacts", "deals", "tickets", "emails"])
async def test_an_estimate_knows_of_the_requests_for_what_a_page_is_associated_with(
    stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged("hubspot", records=8000) as stage:
        asked: list[str] = []
        answer = stage.stand_in.answer

        def counted(request: Request, account: str) -> Response:
            asked.append(request.path)
            return answer(request, account)

        monkeypatch.setattr(stage.stand_in, "answer", counted)
        found = await stage.read(HUBSPOT.stream(stream))
        estimated = math.ceil(len(found.ids) / HUBSPOT.stream(stream).page_size)
        assert estimated / 1.5 < len(asked) < estimated * 1.5


async def test_associations_are_read_to_their_last_page() -> None:
    async with staged("hubspot") as stage:
        whole = await stage.read(HUBSPOT.stream("deals"))
        await stage.control(page_size=2)
        paged = await stage.read(HUBSPOT.stream("deals"))
        before = {key: record.payload["associations"] for key, (record, _) in whole.rows.items()}
        assert {key: record.payload["associations"] for key, (record, _) in paged.rows.items()} == before
        assert max(len(linked.get("contacts", ())) for linked in before.values()) > 2


async def test_objects_come_in_though_what_they_are_associated_with_is_denied() -> None:
    async with staged("hubspot") as stage:
        await stage.control(deny=["hubspot.companies"])
        found = await stage.read(HUBSPOT.stream("deals"))
        assert found.ids == stage.truth(HUBSPOT.stream("deals"), ALL)
        assert all("companies" not in record.payload["associations"] for record, _ in found.rows.values())


async def test_the_bin_is_read_as_far_as_the_portals_plan_goes() -> None:
    async with staged("hubspot") as stage:
        found = await stage.read(HUBSPOT.stream("archived"))
        kinds = {graph.entities[0].kind for graph in found.graphs("hubspot")}
        assert {"person", "organization", "deal", "ticket", "event", "message", "document", "task"} == kinds
        assert all(graph.entities[0].properties["deleted"] for graph in found.graphs("hubspot"))  # type: ignore[index]


@pytest.mark.parametrize(
    "written", ["2025-01-05T12:30:10.250Z", "2025-01-05T13:30:10.250+01:00", "1736080210250", 1736080210250]
)
async def test_times_come_in_two_formats(written: Any) -> None:
    from integrations.providers.hubspot import _time

    assert _time(written) == datetime(2025, 1, 5, 12, 30, 10, 250_000, UTC)


def test_windows_are_asked_for_in_whole_milliseconds_that_lose_nothing() -> None:
    from integrations.providers.hubspot import _search

    start = datetime(2025, 1, 1, tzinfo=UTC)
    body = _search("deals", Window(start + timedelta(microseconds=1500), start + timedelta(microseconds=2500)))
    low, high, after = (condition["value"] for condition in body["filterGroups"][0]["filters"])
    assert (int(low), int(high), after) == (1735689600001, 1735689600003, "0")


# -- records to graph -----------------------------------------------------------------------------------------------------


def test_a_contact_is_known_by_all_of_its_addresses_and_merged_ids() -> None:
    graph = extracted(
        "contacts",
        {
            "firstname": "Jane",
            "lastname": None,
            "email": "Jane@Acme.com",
            "hs_additional_emails": "j@home.example; jane@acme.com",
            "hs_merged_object_ids": "77;78",
            "hubspot_owner_id": "9",
        },
        associations={"companies": ["12", "12"]},
    )
    own = graph.entities[0]
    assert (own.kind, own.key, own.name) == ("person", "person:email:jane@acme.com", "Jane")
    assert own.aliases == (
        "person:email:j@home.example",
        "hubspot@7700001:contact:501",
        "hubspot@7700001:contact:77",
        "hubspot@7700001:contact:78",
    )
    assert said(graph) == {
        ("owned_by", own.key, "hubspot@7700001:owner:9"),
        ("works_at", own.key, "hubspot@7700001:company:12"),
    }


def test_a_contact_of_whom_nothing_is_known_keeps_its_id() -> None:
    own = extracted("contacts", {"email": "", "firstname": None}).entities[0]
    assert (own.key, own.name, own.aliases) == ("hubspot@7700001:contact:501", "Contact 501", ())


def test_a_company_is_known_by_its_domains_but_not_by_shared_ones() -> None:
    own = extracted("companies", {"name": "Acme", "domain": "acme.com", "hs_additional_domains": "acme.de;gmail.com"})
    assert own.entities[0].key == "org:domain:acme.com"
    assert own.entities[0].aliases == ("org:domain:acme.de", "hubspot@7700001:company:501")
    shared = extracted("companies", {"name": "One-man band", "domain": "gmail.com", "hs_parent_company_id": "12"})
    assert shared.entities[0].key == "hubspot@7700001:company:501"
    assert said(shared) == {("part_of", "hubspot@7700001:company:501", "hubspot@7700001:company:12")}


@pytest.mark.parametrize("stream", ["deals", "tickets"])
async def test_a_deal_or_ticket_that_others_were_merged_into_is_all_of_them(stream: str) -> None:
    """A merge makes a record of its own, and no list shows again what went into it."""
    async with staged("hubspot", records=1500) as stage:
        rows = [record.payload for record, _ in (await stage.read(HUBSPOT.stream(stream))).rows.values()]
        merged = next(row for row in rows if row["properties"].get("hs_merged_object_ids"))
    one, ids = stream.removesuffix("s"), merged["properties"]["hs_merged_object_ids"].split(";")
    own = HUBSPOT.stream(stream).extract(merged, CONTEXT).entities[0]
    assert own.key == f"hubspot@7700001:{one}:{merged['id']}"
    assert own.aliases == tuple(f"hubspot@7700001:{one}:{gone}" for gone in ids)


async def test_a_deal_without_properties_is_set_aside_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged("hubspot") as stage:
        answer = stage.stand_in.answer

        def odd(request: Request, account: str) -> Response:
            response = answer(request, account)
            if request.path.endswith("/deals/search"):
                del response.body["results"][0]["properties"]
            return response

        monkeypatch.setattr(stage.stand_in, "answer", odd)
        page = await HUBSPOT.stream("deals").fetch(stage.api(), WHOLE, ALL, None)
    assert (len(page.rejected), len(page.records) > 1) == (1, True)


def test_a_deal_with_very_many_contacts_is_read_quickly() -> None:
    """HubSpot lets fifty thousand be associated."""
    contacts = [str(number) for number in range(20_000)]
    began = time.process_time()
    graph = extracted("deals", {}, associations={"contacts": contacts}, primaryCompany=None)
    assert time.process_time() - began < 1
    assert len(graph.relationships) == len(contacts)


@pytest.mark.parametrize(
    ("stream", "means"), [("contacts", "works_at"), ("deals", "for_account"), ("tickets", "for_account")]
)
async def test_the_primary_company_is_told_from_others_that_are_associated(stream: str, means: str) -> None:
    """A deal is for its primary company; a reseller is associated with it too."""
    async with staged("hubspot", records=1500) as stage:
        rows = [record.payload for record, _ in (await stage.read(HUBSPOT.stream(stream))).rows.values()]
        row = next(row for row in rows if len(row["associations"].get("companies", ())) == 2)
        other, primary = stage.stand_in.portals[stage.account].linked(stream, row["id"], "companies")
    told = {(kind, key) for kind, _, key in said(HUBSPOT.stream(stream).extract(row, CONTEXT)) if ":company:" in key}
    assert told == {(means, f"hubspot@7700001:company:{primary}"), ("relates_to", f"hubspot@7700001:company:{other}")}


@pytest.mark.parametrize(
    ("stream", "stage_of", "called"),
    [("deals", "dealstage", "Legal review"), ("tickets", "hs_pipeline_stage", "Waiting on us")],
)
async def test_a_stage_is_called_as_in_the_portal_and_by_its_id_where_that_is_denied(
    stream: str, stage_of: str, called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with staged("hubspot", records=1500) as stage:
        named = {graph.own: graph for graph in (await stage.read(HUBSPOT.stream(stream))).graphs(stage.namespace)}
        archived = (await stage.read(HUBSPOT.stream("archived"))).graphs(stage.namespace)
        monkeypatch.setattr(stage.stand_in, "denies", lambda what: what == "pipelines")
        plain = {graph.own: graph for graph in (await stage.read(HUBSPOT.stream(stream))).graphs(stage.namespace)}

    def stages(graphs: Iterable[Graph]) -> set[str]:
        return {str((graph.entities[0].properties or {}).get(stage_of)) for graph in graphs}

    assert called in stages(named.values())
    assert not any(one.isdigit() for one in stages(named.values()) | stages(archived))
    assert named.keys() == plain.keys()
    assert any(one.isdigit() for one in stages(plain.values()))


async def test_a_deals_amount_is_in_its_own_currency() -> None:
    async with staged("hubspot") as stage:
        read = (await stage.read(HUBSPOT.stream("deals"))).graphs(stage.namespace)
    assert {(graph.entities[0].properties or {}).get("deal_currency_code") for graph in read} == {"EUR", "USD"}


def test_a_deal_does_not_take_an_address_for_its_own() -> None:
    graph = extracted("deals", {"dealname": "Renewal", "email": "x@acme.com", "description": "<b>x@acme.com</b>"})
    assert graph.entities[0].key == "hubspot@7700001:deal:501"
    assert said(graph) == {("mentions", "hubspot@7700001:deal:501", "person:email:x@acme.com")}


def test_an_email_says_who_wrote_to_whom() -> None:
    graph = extracted(
        "emails",
        {
            "hs_email_subject": "Hi",
            "hs_email_from_email": "a@acme.com",
            "hs_email_to_email": "b@acme.com;c@acme.com",
            "hs_email_cc_email": "not an address",
        },
    )
    key = "hubspot@7700001:email:501"
    assert said(graph) == {
        ("authored", "person:email:a@acme.com", key),
        ("with", key, "person:email:b@acme.com"),
        ("with", key, "person:email:c@acme.com"),
    }


def test_a_note_is_named_by_its_text_without_markup() -> None:
    own = extracted("notes", {"hs_note_body": "<p>Met&nbsp;<b>Jane</b> &amp; Bob</p>\n<script>"}).entities[0]
    assert own.name == "Met Jane & Bob"


def test_an_owner_is_found_by_id_and_address() -> None:
    row = {"id": "9", "email": "Mia@Acme.com", "firstName": "Mia", "lastName": "", "archived": True}
    own = HUBSPOT.stream("owners").extract(row, CONTEXT).entities[0]
    assert (own.key, own.aliases) == ("person:email:mia@acme.com", ("hubspot@7700001:owner:9",))
    assert own.properties == {"email": "Mia@Acme.com", "archived": True}


def test_a_queue_that_owns_is_no_person() -> None:
    """HubSpot's client knows both types of owner."""
    row = {"id": "10", "type": "QUEUE", "email": None, "firstName": "Support", "lastName": None, "archived": False}
    own = HUBSPOT.stream("owners").extract(row, CONTEXT).entities[0]
    assert (own.kind, own.key, own.name, own.aliases) == ("group", "hubspot@7700001:owner:10", "Support", ())
