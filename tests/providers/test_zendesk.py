"""What only Zendesk has: hosts by subdomain, exports without an end, bodies that say nothing, two kinds of tokens."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx2
import pytest

from integrations.errors import AccessDenied, CursorExpired, Misconfigured, ReauthRequired, RequestRejected, Throttled
from integrations.grants import token_request
from integrations.http import Api, Reply
from integrations.providers import zendesk
from integrations.providers.base import WHOLE, Context, Window
from integrations.providers.zendesk import ZENDESK
from tests.senders import answering

NS = "zendesk@acme"
SINCE = datetime(2025, 1, 1, tzinfo=UTC)
WINDOW = Window(SINCE, SINCE + timedelta(days=1))


def at(hours: float) -> int:
    return int((SINCE + timedelta(hours=hours)).timestamp())


def said(graph: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


async def page_of(answer: Any, stream: str, cursor: Any = None) -> Any:
    """One page of the stream where Zendesk answers so; answer: a JSON body or a function of the request."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        return answer(request) if callable(answer) else httpx2.Response(200, json=answer)

    api = Api(ZENDESK, "https://acme.zendesk.com", answering(handle), "token", facts={"subdomain": "acme"})
    return await ZENDESK.stream(stream).fetch(api, WHOLE, WINDOW, cursor)


@pytest.mark.parametrize(
    ("status", "data", "text", "kind"),
    [
        (403, {"error": "Forbidden"}, "", AccessDenied),
        (403, None, "", AccessDenied),
        (404, None, "<html>No help desk at acme.zendesk.com</html>", Misconfigured),
        (
            400,
            {"error": "x"},
            '{"error":"InvalidPaginationParameter","description":"cursor is not valid"}',
            CursorExpired,
        ),
        (422, {"error": "x"}, "Invalid cursor", CursorExpired),
        (429, None, "", Throttled),
    ],
)
def test_errors_are_read_by_status_whatever_the_body(status: int, data: Any, text: str, kind: type[Exception]):
    found = ZENDESK.classify(Reply(status, {}, data, text, ""))
    assert type(found) is kind
    assert "Zendesk" in str(found)


@pytest.mark.parametrize("status", [200, 401, 404, 422, 503])
def test_the_rest_is_left_to_the_gate(status: int):
    assert ZENDESK.classify(Reply(status, {}, {"error": "RecordNotFound"}, "", "")) is None


def test_addresses_are_made_of_a_subdomain_and_of_nothing_else():
    assert ZENDESK.api_root(ZENDESK.api_url, {"subdomain": "acme"}) == "https://acme.zendesk.com"
    assert ZENDESK.auth_root(ZENDESK.auth_url, {"subdomain": "acme"}) == "https://acme.zendesk.com"
    assert ZENDESK.api_root("http://sandbox.test/zendesk", {"subdomain": "acme"}) == "http://sandbox.test/zendesk"
    for wrong in ("", "evil.test/", "a.b", "acme.zendesk.com", "-a", "ACME", "a@b", "a\n"):
        with pytest.raises(Misconfigured):
            ZENDESK.api_root(ZENDESK.api_url, {"subdomain": wrong})


def test_an_api_token_goes_by_basic_authentication_and_an_oauth_token_as_bearer():
    pair = base64.b64encode(b"jane@acme.com/token:abc").decode()
    assert ZENDESK.auth_header("jane@acme.com/token:abc") == {"Authorization": f"Basic {pair}"}
    assert ZENDESK.auth_header("abc") == {"Authorization": "Bearer abc"}


async def test_somebody_unknown_is_no_account():
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"user": {"id": None, "name": "Anonymous user"}})

    with pytest.raises(ReauthRequired):
        await ZENDESK.identify(Api(ZENDESK, "https://acme.zendesk.com", answering(answer), "token"))


@pytest.mark.parametrize("hours", [24, 30])
async def test_an_export_ends_with_the_window_not_with_the_present(hours: float):
    rows = [{"id": 1, "generated_timestamp": at(2)}, {"id": 2, "generated_timestamp": at(hours)}]
    answer = {"tickets": rows, "after_cursor": "on", "end_of_stream": False}
    assert (await page_of(answer, "tickets")).next_cursor is None
    answer["tickets"] = rows[:1]
    page = await page_of(answer, "tickets")
    assert (page.next_cursor, page.position) == ({"cursor": "on"}, SINCE + timedelta(hours=2))


async def test_an_export_by_time_goes_on_by_the_address_that_it_is_given():
    following = "https://acme.zendesk.com/api/v2/incremental/organizations.json?start_time=1735693200"
    rows = [{"id": 7, "updated_at": "2025-01-01T01:00:00Z"}]
    answer = {"organizations": rows, "end_time": at(1), "next_page": following, "end_of_stream": False}
    page = await page_of(answer, "organizations")
    assert page.next_cursor == {"url": following}
    with pytest.raises(RequestRejected, match="one second"):
        await page_of(answer, "organizations", page.next_cursor)
    assert (await page_of({**answer, "end_of_stream": True}, "organizations", page.next_cursor)).next_cursor is None


async def test_a_page_of_changes_without_a_comment_still_moves_on():
    change = {"id": 1, "ticket_id": 5, "timestamp": at(3), "child_events": [{"event_type": "Change"}]}
    answer = {
        "ticket_events": [change],
        "end_time": at(3),
        "next_page": "https://acme.zendesk.com/2",
        "end_of_stream": False,
    }
    page = await page_of(answer, "comments")
    assert (list(page.records), page.position) == ([], SINCE + timedelta(hours=3))
    assert page.next_cursor == {"url": "https://acme.zendesk.com/2"}


async def test_a_row_without_a_time_is_set_aside():
    page = await page_of({"tickets": [{"id": 4}, None], "after_cursor": "", "end_of_stream": True}, "tickets")
    assert [named for named, _, _ in page.rejected] == ["4", ""]


def test_a_ticket_tells_who_asked_who_helps_and_what_it_mentions():
    row = {
        "id": 35436,
        "url": "https://acme.zendesk.com/api/v2/tickets/35436.json",
        "subject": None,
        "raw_subject": "Printer on fire",
        "description": "As in #12 and https://acme.zendesk.com/agent/tickets/13, ask jane@acme.com. Not #35436, nor a/#1",
        "status": "open",
        "requester_id": 1,
        "assignee_id": None,
        "organization_id": 3,
        "group_id": 4,
        "tags": ["hw"],
    }
    graph = zendesk._extract_ticket(row, Context(NS))
    key = f"{NS}:ticket:35436"
    assert graph.entities[0].name == "Printer on fire"
    assert graph.entities[0].properties["url"] == "https://acme.zendesk.com/agent/tickets/35436"
    assert said(graph) == {
        ("raised_by", key, f"{NS}:user:1"),
        ("assigned_to", key, f"{NS}:group:4"),
        ("for_account", key, f"{NS}:organization:3"),
        ("labelled", key, f"{NS}:tag:hw"),
        ("mentions", key, f"{NS}:ticket:12"),
        ("mentions", key, f"{NS}:ticket:13"),
        ("mentions", key, "person:email:jane@acme.com"),
    }


def test_deleted_tickets_and_people_say_so():
    ticket = zendesk._extract_ticket({"id": 1, "status": "deleted", "subject": "SCRUBBED"}, Context(NS))
    assert ticket.entities[0].properties["deleted"] is True
    assert zendesk._extract_user({"id": 1, "active": False}, Context(NS)).entities[0].properties["deleted"] is True


def test_an_organization_is_all_of_its_domains():
    row = {"id": 9, "name": "Acme", "domain_names": ["acme.com", "gmail.com", "acme.org"]}
    own = zendesk._extract_organization(row, Context(NS)).entities[0]
    assert (own.key, own.aliases) == ("org:domain:acme.com", ("org:domain:acme.org", f"{NS}:organization:9"))
    bare = zendesk._extract_organization({**row, "domain_names": []}, Context(NS)).entities[0]
    assert (bare.key, bare.aliases) == (f"{NS}:organization:9", ())


def test_a_comment_belongs_to_its_ticket_and_author():
    comment = {
        "id": 91,
        "event_type": "Comment",
        "author_id": 5,
        "body": "**Hi**\nthere",
        "plain_body": "Hi\nthere",
        "public": False,
    }
    event = {
        "id": 90,
        "ticket_id": 7,
        "updater_id": 6,
        "timestamp": at(1),
        "child_events": [{"event_type": "Change"}, comment],
    }
    graph = zendesk._extract_comment(event, Context(NS))
    assert graph.entities[0].name == "Hi"
    assert graph.entities[0].properties == {"public": False}
    assert said(graph) == {
        ("comment_on", f"{NS}:comment:91", f"{NS}:ticket:7"),
        ("authored", f"{NS}:user:5", f"{NS}:comment:91"),
    }


@pytest.mark.parametrize(("count", "over"), [(1000, False), (2, True)])
async def test_an_export_by_time_that_does_not_say_whether_it_is_over_is_when_its_page_is_not_full(
    count: int, over: bool
):
    rows = [{"id": 1, "name": "Acme", "updated_at": "2025-01-01T02:00:00Z"}]
    following = "https://acme.zendesk.com/api/v2/incremental/organizations.json?start_time=1735696800"
    answer = {"organizations": rows, "count": count, "end_time": at(2), "next_page": following}
    page = await page_of(answer, "organizations")
    assert [record.external_id for record in page.records] == ["1"]
    assert (page.next_cursor is None) is over


def test_what_zendesk_itself_writes_is_by_no_person():
    """Automations and merges; issue 356 of Zenpy: there is no user -1."""
    comment = {"id": 8, "event_type": "Comment", "author_id": -1, "body": "Closed after four days", "public": False}
    row = {"id": 1, "ticket_id": 5, "timestamp": at(3), "updater_id": -1, "child_events": [comment]}
    graph = zendesk._extract_comment(row, Context(NS))
    assert ("authored", f"{NS}:user:-1", f"{NS}:comment:8") in said(graph)
    assert [(e.kind, e.name) for e in graph.entities[1:]] == [("bot", "Zendesk")]


def test_who_gets_copies_of_a_ticket_and_who_follows_it():
    """Accounts with CCs and followers name them apart from the collaborators of old."""
    row = {"id": 7, "subject": "Printer", "email_cc_ids": [1, 2], "follower_ids": [3], "collaborator_ids": [1]}
    graph = zendesk._extract_ticket(row, Context(NS))
    assert {("with", f"{NS}:ticket:7", f"{NS}:user:{number}") for number in (1, 2, 3)} == {
        one for one in said(graph) if one[0] == "with"
    }


@pytest.mark.parametrize(("score", "given"), [("good", True), ("bad", True), ("offered", False), ("unoffered", False)])
def test_who_was_asked_for_a_rating_has_not_rated(score: str, given: bool):
    """The list holds all that were ever asked for, by score "offered", "unoffered", "good" or "bad" (Zendesk's page Satisfaction Ratings)."""
    row = {"id": 3, "score": score, "ticket_id": 7, "requester_id": 1, "assignee_id": 2}
    graph = zendesk._extract_rating(row, Context(NS))
    assert (("authored", f"{NS}:user:1", f"{NS}:rating:3") in said(graph)) is given
    assert (graph.entities[0].name == f"Rated {score}") is given
    assert {("about", f"{NS}:rating:3", f"{NS}:ticket:7"), ("about", f"{NS}:rating:3", f"{NS}:user:2")} <= said(graph)


@pytest.mark.parametrize("grant", [{"grant_type": "authorization_code", "code": "c"}, {"grant_type": "refresh_token"}])
def test_a_token_is_asked_for_by_scope_and_for_a_time_that_zendesk_allows(grant: dict[str, str]) -> None:
    """Its reference wants a scope, and lifetimes between bounds that it leaves out."""
    _, content = token_request(ZENDESK, "our-id", "our-secret", grant)
    sent = dict(parse_qsl(content.decode()))
    assert sent["scope"] == "read"
    assert 300 < int(sent["expires_in"]) < 172_800
    assert 604_800 < int(sent["refresh_token_expires_in"]) < 7_776_000
