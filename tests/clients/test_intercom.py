"""python-intercom, as Intercom publishes it, against Intercom's stand-in."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from intercom import Intercom, MultipleFilterSearchRequest, SingleFilterSearchRequest, StartingAfterPaging
from intercom.core.api_error import ApiError
from intercom.errors.unauthorized_error import UnauthorizedError


@pytest.fixture
def client(sandbox: Any) -> Any:
    with httpx.Client() as transport:
        yield Intercom(token="dG9rOper-sandbox", base_url=f"{sandbox.root}/intercom", httpx_client=transport)


def after(moment: int) -> SingleFilterSearchRequest:
    return SingleFilterSearchRequest(field="updated_at", operator=">", value=moment)


def before(moment: int) -> SingleFilterSearchRequest:
    return SingleFilterSearchRequest(field="updated_at", operator="<", value=moment)


def both(*filters: SingleFilterSearchRequest) -> MultipleFilterSearchRequest:
    return MultipleFilterSearchRequest(operator="AND", value=list(filters))


def everything(api: Any, query: Any = None) -> list[Any]:
    """All rows, by the cursor of each page: the package's own iteration asks for the first page for ever."""
    rows: list[Any] = []
    cursor = None
    for _ in range(100):
        page = api.search(query=query or after(1), pagination=StartingAfterPaging(per_page=40, starting_after=cursor))
        rows += page.items
        if not page.has_next:
            return rows
        following = page.response.pages.next.starting_after
        assert following != cursor
        cursor = following
    raise AssertionError("no end of pages")


def test_it_knows_the_workspace(client: Intercom) -> None:
    who = client.admins.identify()
    assert who is not None
    assert who.app is not None
    assert (who.app.id_code, who.app.region) == ("nw8ind01", "US")


def test_it_lists_teammates_and_teams(client: Intercom, sandbox: Any) -> None:
    truth = sandbox.truth("intercom")
    admins, teams = client.admins.list().admins, client.teams.list().teams
    assert len(admins or ()) == truth["admins"]
    assert len(teams or ()) == truth["teams"]
    ids = {admin.id for admin in admins or () if admin}
    assert all({str(i) for i in team.admin_ids or ()} <= ids for team in teams or ())


@pytest.mark.parametrize("name", ["contacts", "conversations", "tickets"])
def test_it_searches_page_by_page_to_the_end(client: Intercom, sandbox: Any, name: str) -> None:
    rows = everything(getattr(client, name))
    assert len({row.id for row in rows}) == len(rows) == sandbox.truth("intercom")[name]


@pytest.mark.parametrize("name", ["conversations", "tickets"])
def test_both_edges_of_a_search_by_seconds_are_taken_in(client: Intercom, name: str) -> None:
    rows = everything(getattr(client, name))
    times = sorted(row.updated_at for row in rows)
    low, high = times[5], times[-5]
    found = everything(getattr(client, name), both(after(low), before(high)))
    assert {row.id for row in found} == {row.id for row in rows if low <= row.updated_at <= high}


def test_contacts_are_searched_by_whole_days(client: Intercom) -> None:
    rows = everything(client.contacts)
    middle = sorted(row.updated_at for row in rows)[len(rows) // 2]
    late = everything(client.contacts, after(middle))
    assert late
    assert min(row.updated_at for row in late) > middle
    same_day = everything(client.contacts, SingleFilterSearchRequest(field="updated_at", operator="=", value=middle))
    assert not {row.id for row in late} & {row.id for row in same_day}
    with pytest.raises(ApiError) as caught:
        everything(client.contacts, SingleFilterSearchRequest(field="updated_at", operator="!=", value=middle))
    assert caught.value.status_code == 400


def test_companies_come_by_scroll(client: Intercom, sandbox: Any) -> None:
    rows: list[Any] = []
    param = None
    while True:
        page = client.companies._raw_client._client_wrapper.httpx_client.request(
            "companies/scroll", method="GET", params={"scroll_param": param} if param else {}
        ).json()
        if not page["data"]:
            break
        rows += page["data"]
        param = page["scroll_param"]
    assert len({row["id"] for row in rows}) == sandbox.truth("intercom")["companies"]
    first = list(client.companies.scroll())
    assert {company.id for company in first} <= {row["id"] for row in rows}
    assert all(company.app_id == "nw8ind01" for company in first)


def test_what_was_said_comes_with_the_single_conversation(client: Intercom, sandbox: Any) -> None:
    parts = []
    for row in everything(client.conversations):
        assert row.conversation_parts is None
        whole = client.conversations.find(row.id, display_as="plaintext")
        assert whole.source is not None
        assert "<" not in (whole.source.body or "")
        assert whole.conversation_parts is not None
        found = whole.conversation_parts.conversation_parts or []
        assert len(found) == whole.conversation_parts.total_count
        assert all(whole.created_at <= part.created_at <= whole.updated_at for part in found)
        parts += found
    assert len({part.id for part in parts}) == sandbox.truth("intercom")["messages"]
    assert {"comment", "note", "assignment"} <= {part.part_type for part in parts}


def test_it_understands_what_is_refused(client: Intercom, sandbox: Any) -> None:
    with httpx.Client() as transport, pytest.raises(UnauthorizedError):
        Intercom(token="nobody", base_url=f"{sandbox.root}/intercom", httpx_client=transport).teams.list()
    with pytest.raises(ApiError) as caught:
        client.conversations.find("999999999")
    assert caught.value.status_code == 404
    sandbox.control(deny=["intercom.tickets"])
    with pytest.raises(ApiError) as caught:
        everything(client.tickets)
    assert caught.value.status_code == 401
    assert caught.value.body["errors"][0]["code"] == "token_unauthorized"
