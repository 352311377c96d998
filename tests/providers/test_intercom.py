"""Intercom's file: what the contract can't know."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from historical_sync.course import IDLE_PAGES
from integrations.errors import AccessDenied, CursorExpired, ProviderError, RequestRejected, Throttled, Unavailable
from integrations.gateway import configured
from integrations.http import Api, Reply
from integrations.providers.base import WHOLE, Context, Graph, Window
from integrations.providers.intercom import INTERCOM
from tests.contract.stage import ALL, read_on_course, staged

CONTEXT = Context("intercom@nw")


def reply(status: int, data: Any = None, **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, data, "", "https://i/x")


def classified(status: int, code: str = "", message: str = "", **headers: str) -> ProviderError | None:
    body = {"type": "error.list", "errors": [{"code": code, "message": message}]} if code else None
    return INTERCOM.classify(reply(status, body, **headers))


def extracted(stream: str, row: dict[str, Any]) -> Graph:
    return INTERCOM.stream(stream).extract(row, CONTEXT)


def said(graph: Graph) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


# -- errors ---------------------------------------------------------------------------------------------------------------


def test_a_limit_lasts_until_its_window_resets() -> None:
    at = int(time.time()) + 8
    error = classified(429, "rate_limit_exceeded", x_ratelimit_reset=str(at))
    assert isinstance(error, Throttled)
    assert error.retry_at == datetime.fromtimestamp(at, UTC)


@pytest.mark.parametrize("ahead", [-600, 600])
def test_a_limits_end_is_by_intercoms_clock(ahead: int) -> None:
    theirs = datetime.now(UTC) + timedelta(seconds=ahead)
    date, reset = theirs.strftime("%a, %d %b %Y %H:%M:%S GMT"), str(int(theirs.timestamp()) + 8)
    error = classified(429, "rate_limit_exceeded", date=date, x_ratelimit_reset=reset)
    assert isinstance(error, Throttled)
    assert error.retry_at is not None
    assert abs(error.retry_at - datetime.now(UTC) - timedelta(seconds=8)) < timedelta(seconds=5)


@pytest.mark.parametrize("reset", ["", "soon", "9" * 30])
def test_a_limit_without_a_time_has_a_sensible_one(reset: str) -> None:
    error = classified(429, "rate_limit_exceeded", x_ratelimit_reset=reset)
    assert isinstance(error, Throttled)
    assert error.retry_at is not None
    assert error.retry_at - datetime.now(UTC) < timedelta(minutes=1)


def test_what_a_plan_lacks_and_what_a_token_may_not_are_told_apart() -> None:
    plan, forbidden = classified(403, "api_plan_restricted", "no"), classified(403, "forbidden", "no tickets")
    assert isinstance(plan, AccessDenied)
    assert "plan" in str(plan)
    assert isinstance(forbidden, AccessDenied)
    assert "no tickets" in str(forbidden)


def test_a_permission_that_a_token_lacks_is_no_token_that_is_gone() -> None:
    """Intercom says both with status 401: "token_unauthorized: The token or API Key is not allowed to access the resource"
    (developers.intercom.com, Error Codes; github.com/intercom/intercom-php/issues/257)."""
    error = classified(401, "token_unauthorized", "Not authorized to access resource")
    assert isinstance(error, AccessDenied)
    assert "Not authorized to access resource" in str(error)
    assert classified(401, "unauthorized", "Access Token Invalid") is None, "the gate knows what that means"


def test_a_second_scroll_waits_for_the_first() -> None:
    error = classified(400, "scroll_exists", "scroll already exists for this workspace")
    assert isinstance(error, Unavailable)
    assert error.retry_at is not None


@pytest.mark.parametrize("body", [None, [], {"errors": None}, {"errors": []}, {"errors": ["odd"]}])
def test_every_field_of_an_error_may_be_missing(body: Any) -> None:
    assert isinstance(INTERCOM.classify(reply(403, body)), AccessDenied)


# -- regions --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("region", "part"), [("us", ""), ("eu", ".eu"), ("au", ".au"), (None, ""), ("evil.test/", "")])
def test_a_region_has_its_own_hosts(region: str | None, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOM_PROVIDER_INTERCOM_CLIENT_ID", "id")
    monkeypatch.setenv("ATOM_PROVIDER_INTERCOM_CLIENT_SECRET", "secret")
    facts = {"region": region} if region else {}
    assert INTERCOM.api_root(INTERCOM.api_url, facts) == f"https://api{part}.intercom.io"
    config = configured(INTERCOM, facts)
    assert config is not None
    assert config.auth_url == f"https://app{part}.intercom.com"
    assert config.token_url == f"https://api{part}.intercom.io/auth/eagle/token"


def test_an_address_of_the_deployment_has_no_region() -> None:
    assert INTERCOM.api_root("https://intercom.proxy.test", {"region": "eu"}) == "https://intercom.proxy.test"


# -- pages ----------------------------------------------------------------------------------------------------------------


async def test_a_scroll_that_broke_off_begins_again() -> None:
    async with staged("intercom") as stage:
        stream = INTERCOM.stream("companies")
        await stage.control(page_size=3)
        page = await stream.fetch(stage.api(), WHOLE, ALL, None)
        assert page.next_cursor is not None
        await stream.fetch(stage.api(), WHOLE, ALL, None)  # somebody else's scroll
        with pytest.raises(CursorExpired):
            await stream.fetch(stage.api(), WHOLE, ALL, page.next_cursor)
        assert (await stage.read(stream)).ids == stage.truth(stream, ALL)


async def test_a_page_that_is_no_longer_known_goes_on_by_date() -> None:
    async with staged("intercom") as stage:
        stream = INTERCOM.stream("tickets")
        with pytest.raises(CursorExpired):
            await stream.fetch(stage.api(), WHOLE, ALL, {"after": "nonsense"})


async def test_the_version_is_pinned() -> None:
    async with staged("intercom") as stage:
        api = stage.api()
        with pytest.raises(RequestRejected, match="intercom_version_invalid"):
            await api.get("/me", headers={"Intercom-Version": "1.0"})


async def test_contacts_at_the_edge_of_a_day_are_found_in_any_time_zone() -> None:
    async with staged("intercom") as stage:
        stream = INTERCOM.stream("contacts")
        first = datetime(2026, 6, 1, tzinfo=UTC)
        for day in range(0, 30, 3):
            window = Window(first + timedelta(days=day), first + timedelta(days=day + 1))
            assert (await stage.read(stream, window)).ids == stage.truth(stream, window)
        whole = [record.occurred_at for record, _ in (await stage.read(stream)).rows.values()]
        edge = Window(whole[4], whole[4] + timedelta(seconds=1))
        assert (await stage.read(stream, edge)).ids == stage.truth(stream, edge) != set()


async def test_what_was_said_before_a_later_update_is_in_its_own_window() -> None:
    async with staged("intercom") as stage:
        stream = INTERCOM.stream("messages")
        rows = sorted(record.occurred_at for record, _ in (await stage.read(stream)).rows.values())
        window = Window(rows[2], rows[6])
        found = await stage.read(stream, window)
        assert found.ids == stage.truth(stream, window) != set()


async def test_conversations_that_began_after_the_window_are_not_looked_into() -> None:
    """Each costs a request, and a thousand pages of them in a row end the reading."""
    async with staged("intercom") as stage:
        stream, held = INTERCOM.stream("messages"), stage.stand_in.workspaces[stage.account]
        rows = sorted(record.occurred_at for record, _ in (await stage.read(stream)).rows.values())
        window = Window(ALL.since, rows[len(rows) // 3])
        stage.app.control.log.clear()
        found = await stage.read(stream, window)
        assert found.ids == stage.truth(stream, window) != set()
        paths = [call["path"] for call in stage.app.control.log]
        looked_into = {path.rpartition("/")[2] for path in paths if path.startswith("/conversations/")} - {"search"}
        until = window.until.timestamp()
        count = len(held.updated["conversations"])
        made = {held.id_of("conversations", n): held.created("conversations", n) for n in range(count)}
        assert {own for own in looked_into if made[own] > until + 1} == set()
        assert 0 < len(looked_into) < count


async def test_many_old_conversations_with_nothing_of_the_window_do_not_end_its_reading() -> None:
    """As after something was changed of all at once: they were updated since, and what was said in them is older."""
    window = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))

    class Old(Api):
        async def request(self, method: str, path: str, **asked: Any) -> Reply:
            at = int(asked["json"]["pagination"].get("starting_after", 0))
            following = {"next": {"starting_after": str(at + 1)}} if at <= IDLE_PAGES else {}
            return reply(200, {"conversations": [{"id": at}], "pages": following})

        async def get(self, path: str, *args: Any, **more: Any) -> Reply:
            own = path.rpartition("/")[2]
            part = {"id": f"p{own}", "created_at": 1_600_000_000 + int(own)}
            return reply(200, {"id": own, "conversation_parts": {"conversation_parts": [part]}})

    api = Old(INTERCOM, "", None)  # type: ignore[arg-type]
    pages = await read_on_course(api, INTERCOM.stream("messages"), WHOLE, window)
    assert len(pages) == IDLE_PAGES + 2


async def test_a_conversation_that_goes_while_its_messages_are_read_is_left_out() -> None:
    async with staged("intercom") as stage:
        stream = INTERCOM.stream("messages")
        whole = await stage.read(stream)
        gone = next(iter(whole.rows.values()))[0].payload["conversation_id"]

        class Losing(Api):
            async def get(self, path: str, *args: Any, **more: Any) -> Reply:
                return await Api.get(self, "/conversations/999999999" if path.endswith(gone) else path, *args, **more)

        api = stage.api()
        losing = Losing(api.provider, api.root, api.client, api.token, namespace=api.namespace)
        ids, cursor = set(), None
        while True:
            page = await stream.fetch(losing, WHOLE, ALL, cursor)
            ids |= {record.external_id for record in page.records}
            if (cursor := page.next_cursor) is None:
                break
        assert ids == {key for key, (record, _) in whole.rows.items() if record.payload["conversation_id"] != gone}


# -- records to graph -----------------------------------------------------------------------------------------------------


def test_a_contact_is_known_by_address_and_id_and_a_lead_by_id_alone() -> None:
    row = {"id": "5ba", "email": "Kim@Acme.com", "name": None, "companies": {"data": [{"id": "c1"}]}, "owner_id": 7}
    graph = extracted("contacts", row)
    own = graph.entities[0]
    assert (own.key, own.name, own.aliases) == (
        "person:email:kim@acme.com",
        "Kim@Acme.com",
        ("intercom@nw:contact:5ba",),
    )
    assert said(graph) == {
        ("works_at", own.key, "intercom@nw:company:c1"),
        ("owned_by", own.key, "intercom@nw:admin:7"),
    }
    lead = extracted("contacts", {"id": "5bb", "email": None, "name": None}).entities[0]
    assert (lead.key, lead.name) == ("intercom@nw:contact:5bb", "Contact 5bb")


@pytest.mark.parametrize(("admin", "team"), [(0, None), (None, "0"), ("0", 0), ("", "")])
def test_nobody_is_assigned_in_many_ways(admin: Any, team: Any) -> None:
    assert not said(extracted("conversations", {"id": "1", "admin_assignee_id": admin, "team_assignee_id": team}))


def test_a_conversation_says_who_asked_and_whose_turn_it_is() -> None:
    author = {"type": "user", "id": "5ba", "email": "kim@acme.com", "name": "Kim"}
    row = {
        "id": "1295",
        "title": None,
        "source": {"body": "<p>Ask <b>b@acme.com</b> &amp; co</p>", "author": author},
        "contacts": {"contacts": [{"id": "5ba"}]},
        "admin_assignee_id": 814860,
        "team_assignee_id": "9",
    }
    graph = extracted("conversations", row)
    key = "intercom@nw:conversation:1295"
    assert graph.entities[0].name == "Ask b@acme.com & co"
    assert said(graph) == {
        ("authored", "intercom@nw:contact:5ba", key),
        ("raised_by", key, "intercom@nw:contact:5ba"),
        ("assigned_to", key, "intercom@nw:admin:814860"),
        ("assigned_to", key, "intercom@nw:team:9"),
        ("mentions", key, "person:email:b@acme.com"),
    }


@pytest.mark.parametrize("kind", ["user", "lead"])
def test_what_a_contact_wrote_is_no_proof_of_their_address(kind: str) -> None:
    """It is not read again when a wrong one is put right, and would have made one person of two. Of teammates who left nothing else tells."""
    row = {"id": "5", "conversation_id": "1", "part_type": "comment", "body": "Hello"}
    author = {"type": kind, "id": "5ba", "name": None, "email": "bob@acme.com"}
    graph = extracted("messages", {**row, "author": author})
    assert [(e.kind, e.key, e.name, e.aliases) for e in graph.entities[1:]] == [
        ("person", "intercom@nw:contact:5ba", "bob@acme.com", ())
    ]
    teammate = extracted("messages", {**row, "author": {**author, "type": "admin", "id": "7"}}).entities[1]
    assert (teammate.key, teammate.aliases) == ("person:email:bob@acme.com", ("intercom@nw:admin:7",))


@pytest.mark.parametrize("what", [{"type": "bot"}, {"type": "admin", "from_ai_agent": True}])
def test_what_a_bot_writes_is_by_a_bot(what: dict[str, Any]) -> None:
    """The latter as Intercom's reference of authors has it. Whom a conversation is assigned to is an id among the teammates'."""
    bot = {**what, "id": "814859", "name": "Fin", "email": "operator+x@intercom.io"}
    row = {"id": "5", "conversation_id": "1", "part_type": "comment", "body": "Have you tried turning it off?"}
    graph = extracted("messages", {**row, "author": bot})
    assert ("authored", "intercom@nw:admin:814859", "intercom@nw:message:5") in said(graph)
    assert [(e.kind, e.name, e.aliases) for e in graph.entities[1:]] == [("bot", "Fin", ())]
    assigned = extracted("conversations", {"id": "1", "admin_assignee_id": 814859})
    assert said(assigned) == {("assigned_to", "intercom@nw:conversation:1", "intercom@nw:admin:814859")}


def test_events_have_no_text() -> None:
    row = {"id": "5", "conversation_id": "1", "part_type": "away_mode_assignment", "body": None}
    graph = extracted("messages", {**row, "author": {}, "assigned_to": {"type": "admin", "id": "7"}})
    assert (graph.entities[0].kind, graph.entities[0].name) == ("event", "Away mode assignment")
    assert said(graph) == {
        ("part_of", "intercom@nw:message:5", "intercom@nw:conversation:1"),
        ("about", "intercom@nw:message:5", "intercom@nw:admin:7"),
    }


def test_a_ticket_has_one_number_for_people_and_one_for_links() -> None:
    row = {
        "id": "700001",
        "ticket_id": "12",
        "ticket_state": "submitted",
        "linked_objects": {"data": [{"type": "conversation", "id": "1"}]},
    }
    graph = extracted("tickets", row)
    assert (graph.entities[0].key, graph.entities[0].name) == ("intercom@nw:ticket:700001", "Ticket 12")
    assert said(graph) == {("about", "intercom@nw:ticket:700001", "intercom@nw:conversation:1")}
