"""zenpy, as others wrote it, against Zendesk's stand-in. It knows addresses of zendesk.com only, so its transport leads them here."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from zenpy import Zenpy
from zenpy.lib.exception import APIException, RatelimitBudgetExceeded, RecordNotFoundException

from integrations.sandbox.world import present

LONG_AGO = present(None) - timedelta(days=500)
HOST = "https://northwind.zendesk.com"


class LeadsHere(HTTPAdapter):
    """Sends what is meant for Zendesk to the sandbox."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = f"{root}/zendesk"

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace(HOST, self.root)
        response = super().send(request, *args, **kwargs)
        for where in (response, request):
            where.url = where.url.replace(self.root, HOST)
        return response


@pytest.fixture
def zenpy(sandbox: Any) -> Any:
    with requests.Session() as session:
        for address in (HOST, f"{sandbox.root}/zendesk"):  # pages name the address of the next
            session.mount(address, LeadsHere(sandbox.root))
        session.auth = ("admin@northwind.test/token", "sandbox")
        session.authorized = True
        yield Zenpy(subdomain="northwind", session=session, disable_cache=True, ratelimit_budget=1)


def test_it_says_whose_the_token_is(zenpy: Zenpy):
    me = zenpy.users.me()
    assert (me.role, me.email) == ("admin", "admin@northwind.test")


def test_it_exports_tickets_and_users_by_cursor(zenpy: Zenpy, sandbox: Any):
    truth = sandbox.truth("zendesk")
    tickets = list(zenpy.tickets.incremental(start_time=LONG_AGO, paginate_by_time=False, per_page=50))
    assert len({ticket.id for ticket in tickets}) == len(tickets) == truth["tickets"]
    moments = [ticket.generated_timestamp for ticket in tickets]
    assert moments == sorted(moments)
    users = list(zenpy.users.incremental(start_time=LONG_AGO, paginate_by_time=False, per_page=7))
    assert len({user.id for user in users}) == len(users) == truth["users"]


def test_it_exports_organizations_and_ticket_events_by_time(zenpy: Zenpy, sandbox: Any):
    truth = sandbox.truth("zendesk")
    organizations = zenpy.organizations.incremental(start_time=LONG_AGO, per_page=5)
    assert len({organization.id for organization in organizations}) == truth["organizations"]
    events = {event.id: event for event in zenpy.tickets.events(start_time=LONG_AGO, include=["comment_events"])}
    said = [child for event in events.values() for child in event.child_events if child["event_type"] == "Comment"]
    assert len(said) == truth["comments"] > 0


def test_it_lists_groups_and_ratings(zenpy: Zenpy, sandbox: Any):
    truth = sandbox.truth("zendesk")
    assert len(list(zenpy.groups(cursor_pagination=2))) == truth["groups"]
    assert len(list(zenpy.satisfaction_ratings(cursor_pagination=5))) == truth["ratings"]


def test_a_start_in_the_last_minute_is_refused(zenpy: Zenpy):
    with pytest.raises(APIException) as caught:
        list(zenpy.tickets.incremental(start_time=4_000_000_000, paginate_by_time=False))
    assert caught.value.response.json()["error"] == "StartTimeTooRecent"


def test_what_does_not_exist_is_told_as_such(zenpy: Zenpy):
    with pytest.raises(RecordNotFoundException):
        zenpy.tickets(id=10**9)


def test_a_limit_is_told_with_its_end(zenpy: Zenpy, sandbox: Any):
    sandbox.control(rate_limit_every=1, retry_after=9)
    with pytest.raises(RatelimitBudgetExceeded):
        zenpy.users.me()


def test_a_missing_permission_is_refused(zenpy: Zenpy, sandbox: Any):
    sandbox.control(deny=["zendesk.tickets"])
    with pytest.raises(APIException) as caught:
        list(zenpy.tickets.incremental(start_time=LONG_AGO, paginate_by_time=False))
    assert caught.value.response.status_code == 403
