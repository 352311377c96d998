"""google-api-python-client and google-auth, as others wrote them, against Google's stand-in."""

from __future__ import annotations

from typing import Any

import pytest
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from integrations.sandbox.google import Google
from integrations.sandbox.tokens import Tokens

ACCOUNT = next(iter(Google.accounts))


def credentials(sandbox: Any, grant: str = "client") -> Credentials:
    access, refresh = (
        Tokens().make(prefix, "google", ACCOUNT, kind, grant)
        for prefix, kind in ((Google.prefix, "access"), (Google.refresh_prefix, "refresh"))
    )
    client = {"client_id": "sandbox-google", "client_secret": "sandbox-secret"}
    return Credentials(access, refresh_token=refresh, token_uri=f"{sandbox.root}/google/token", **client)


def service(sandbox: Any, name: str, version: str, path: str = "/") -> Any:
    endpoint = {"api_endpoint": f"{sandbox.root}/google{path}"}
    return build(
        name, version, credentials=credentials(sandbox), static_discovery=True, client_options=endpoint, num_retries=0
    )


@pytest.fixture
def gmail(sandbox: Any) -> Any:
    with service(sandbox, "gmail", "v1") as found:
        yield found


@pytest.fixture
def calendar(sandbox: Any) -> Any:
    with service(sandbox, "calendar", "v3", "/calendar/v3/") as found:
        yield found


def every(resource: Any, rows: str, **asked: Any) -> list[Any]:
    found, request = [], resource.list(**asked)
    while request is not None:
        reply = request.execute()
        found += reply.get(rows, [])
        request = resource.list_next(request, reply)
    return found


def test_it_says_whose_the_token_is(sandbox: Any, gmail: Any):
    with service(sandbox, "oauth2", "v2") as oauth2:
        who = oauth2.userinfo().get().execute()
    profile = gmail.users().getProfile(userId="me").execute()
    assert (who["id"], who["hd"], who["email"]) == (ACCOUNT, "northwind.test", profile["emailAddress"])


def test_it_walks_the_mailbox_newest_first_and_reads_what_it_finds(sandbox: Any, gmail: Any):
    whole = every(gmail.users().messages(), "messages", userId="me", maxResults=100)
    listed = every(gmail.users().messages(), "messages", userId="me", maxResults=100, q="-in:drafts")
    assert len({row["id"] for row in listed}) == len(listed) == sandbox.truth("google")["messages"]
    draft = next(row for row in whole if row not in listed)
    draft = gmail.users().messages().get(userId="me", id=draft["id"], format="minimal").execute()
    assert draft["labelIds"] == ["DRAFT"]
    rows = [gmail.users().messages().get(userId="me", id=row["id"], format="full").execute() for row in listed[:4]]
    assert [row["threadId"] for row in rows] == [row["threadId"] for row in listed[:4]]
    times = [int(row["internalDate"]) for row in rows]
    assert times == sorted(times, reverse=True)
    short = gmail.users().messages().get(userId="me", id=listed[0]["id"], format="minimal").execute()
    assert "payload" not in short
    since = times[3] // 1000
    asked = {"userId": "me", "q": f"after:{since - 1} before:{times[0] // 1000 + 1}"}
    assert {row["id"] for row in every(gmail.users().messages(), "messages", **asked)} >= {row["id"] for row in rows}
    labels = gmail.users().labels().list(userId="me").execute()["labels"]
    assert {label for row in rows for label in row["labelIds"]} <= {label["id"] for label in labels}


def test_it_walks_all_calendars_and_their_events(sandbox: Any, calendar: Any):
    truth = sandbox.truth("google")
    calendars = every(calendar.calendarList(), "items", maxResults=2)
    assert len(calendars) == truth["calendars"]
    events = 0
    for one in calendars:
        asked = {"calendarId": one["id"], "singleEvents": True, "orderBy": "startTime", "maxResults": 20}
        rows = every(calendar.events(), "items", **asked)
        assert len({row["id"] for row in rows}) == len(rows)
        starts = [row["start"].get("date") for row in rows if "date" in row["start"]]
        assert starts == sorted(starts)
        meetings = [row for row in rows if row["eventType"] not in ("birthday", "workingLocation")]
        assert (len(meetings) < len(rows)) == bool(one.get("primary"))
        events += len(meetings)
    assert events == truth["events"]
    masters = every(calendar.events(), "items", calendarId="primary")
    assert any(row.get("recurrence") for row in masters)
    assert not any(row.get("recurringEventId") for row in masters)


@pytest.mark.parametrize(
    ("call", "status", "reason"),
    [
        (lambda gmail, calendar: gmail.users().messages().get(userId="me", id="none"), 404, "notFound"),
        (lambda gmail, calendar: gmail.users().messages().list(userId="me", pageToken="x"), 400, "invalidArgument"),
        (lambda gmail, calendar: calendar.events().list(calendarId="nobody@x.test"), 404, "notFound"),
        (lambda gmail, calendar: calendar.events().list(calendarId="primary", orderBy="startTime"), 400, "invalid"),
    ],
)
def test_what_is_wrong_comes_in_googles_words(gmail: Any, calendar: Any, call: Any, status: int, reason: str):
    with pytest.raises(HttpError) as caught:
        call(gmail, calendar).execute()
    assert caught.value.status_code == status
    assert caught.value.error_details[0]["reason"] == reason


def test_a_limit_and_a_missing_permission_are_told_apart(sandbox: Any, gmail: Any):
    request = gmail.users().messages().list(userId="me")
    sandbox.control(rate_limit_every=1)
    with pytest.raises(HttpError, match="Retry after 2") as caught:
        request.execute()
    assert (caught.value.status_code, caught.value.error_details[0]["reason"]) == (429, "rateLimitExceeded")
    sandbox.control(rate_limit_every=0, deny=["google.messages"])
    with pytest.raises(HttpError) as caught:
        request.execute()
    assert (caught.value.status_code, caught.value.error_details[0]["reason"]) == (403, "insufficientPermissions")


def test_a_token_is_refreshed_and_keeps_its_refresh_token_until_the_grant_is_gone(sandbox: Any):
    found = credentials(sandbox, "refreshed")
    before, kept = found.token, found.refresh_token
    found.refresh(Request())
    assert found.token != before
    assert found.refresh_token == kept
    sandbox.control(revoke="google")
    with pytest.raises(RefreshError, match="invalid_grant"):
        found.refresh(Request())
