"""What only Google has: reasons instead of statuses, mail that is read one by one, meetings that overlap windows."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from integrations.errors import AccessDenied, CursorExpired, Misconfigured, Throttled
from integrations.http import Api, Reply, make_client
from integrations.providers import google
from integrations.providers.base import WHOLE, Context, Entity, Partition, Record, Window
from integrations.providers.google import GOOGLE
from tests.contract.stage import ALL, ROOT, staged
from tests.senders import answering

ANA, LI = "person:email:ana@acme.test", "person:email:li@example.org"
MESSAGES, EVENTS = GOOGLE.stream("messages"), GOOGLE.stream("events")
DAY = timedelta(days=1)


def reply(status: int, reason: str, message: str = "", url: str = "", **headers: str) -> Reply:
    error = {"code": status, "message": message, "errors": [{"domain": "x", "reason": reason}]}
    return Reply(status, httpx2.Headers(headers), {"error": error}, "", url)


def message(headers: dict[str, str], text: str = "", kind: str = "text/plain", **row: Any) -> Any:
    data = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    payload = {
        "mimeType": kind,
        "body": {"data": data},
        "headers": [{"name": n, "value": v} for n, v in headers.items()],
    }
    mailbox = {"email": "ana@acme.test"}
    row = {"id": "1", "threadId": "t", "internalDate": "1735812345000", "payload": payload, "mailbox": mailbox, **row}
    return google._extract_message(row, Context("google"))


def event(**row: Any) -> Any:
    start = {"start": {"dateTime": "2025-01-07T10:00:00+01:00"}}
    return google._extract_event({"id": "e1", **start, **row}, Context("google", Partition("ana@acme.test", "Ana")))


def said(graph: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


@pytest.mark.parametrize(
    ("status", "reason", "message", "kind"),
    [
        (403, "rateLimitExceeded", "", Throttled),
        (403, "userRateLimitExceeded", "", Throttled),
        (403, "quotaExceeded", "", Throttled),
        (429, "", "", Throttled),
        (403, "dailyLimitExceeded", "", Throttled),
        (403, "insufficientPermissions", "", AccessDenied),
        (403, "accessNotConfigured", "", Misconfigured),
        (400, "failedPrecondition", "Mail service not enabled", AccessDenied),
        (400, "invalid", "Invalid page token value.", CursorExpired),
        (410, "fullSyncRequired", "Sync token is no longer valid", CursorExpired),
    ],
)
def test_an_error_is_read_by_its_reason(status: int, reason: str, message: str, kind: type[Exception]):
    found = GOOGLE.classify(reply(status, reason, message))
    assert type(found) is kind
    assert "Google" in str(found)


def test_only_a_days_limit_counts_as_one():
    daily = [GOOGLE.classify(reply(403, reason)) for reason in ("dailyLimitExceeded", "userRateLimitExceeded")]
    assert [found.daily for found in daily if isinstance(found, Throttled)] == [True, False]


def test_a_wait_is_read_from_the_words_by_googles_clock():
    now = datetime.now(UTC)
    named = f"User-rate limit exceeded.  Retry after {now + timedelta(seconds=90):%Y-%m-%dT%H:%M:%S.000Z}"
    fast = (now + timedelta(minutes=10)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    ahead = f"Retry after {now + timedelta(seconds=690):%Y-%m-%dT%H:%M:%S.000Z}"
    for given, seconds in (
        (reply(429, "rateLimitExceeded", named), 90),
        (reply(429, "rateLimitExceeded", ahead, date=fast), 90),
        (reply(403, "rateLimitExceeded", **{"retry-after": "30"}), 30),
        (reply(403, "rateLimitExceeded"), 60),
    ):
        found = GOOGLE.classify(given)
        assert isinstance(found, Throttled)
        assert found.retry_at is not None
        assert abs(found.retry_at - now - timedelta(seconds=seconds)) < timedelta(seconds=20)


def test_gmail_has_a_host_of_its_own_unless_the_deployment_says_otherwise():
    client = make_client(allow_private=False)
    theirs, ours = Api(GOOGLE, GOOGLE.api_url, client), Api(GOOGLE, f"{ROOT}/google", client)
    assert theirs._url("/gmail/v1/users/me/labels") == "https://gmail.googleapis.com/gmail/v1/users/me/labels"
    assert theirs._url("/calendar/v3/users/me/calendarList").startswith("https://www.googleapis.com/calendar/")
    assert ours._url("/gmail/v1/users/me/labels") == f"{ROOT}/google/gmail/v1/users/me/labels"


# -- reading --------------------------------------------------------------------------------------------------------------


async def test_mail_is_read_a_few_at_a_time_and_the_rest_of_a_list_is_not_asked_for_again():
    async with staged("google") as stage:
        pages, cursor = [], None
        for _ in range(6):
            page = await MESSAGES.fetch(stage.api(), WHOLE, ALL, cursor)
            pages.append(len(page.records))
            if (cursor := page.next_cursor) is None:
                break
        paths = [call["path"] for call in stage.app.control.log]
        assert pages[:5] == [google.A_READ] * 5  # the list's first hundred
        assert paths.count("/gmail/v1/users/me/messages") == 2
        assert len({path for path in paths if "/messages/" in path}) == sum(pages)
        assert max(stage.app.control.most_at_once.values()) <= google.AT_ONCE


async def test_a_draft_is_no_mail_yet():
    """Each time that it is saved it is another message, and a third one when it is sent (Gmail's guide to drafts)."""
    async with staged("google") as stage:
        own = stage.stand_in.holdings[stage.account]
        drafts = {own.message_id(place) for place in range(len(own.messages)) if own.is_draft(place)}
        found = await stage.read(MESSAGES)
        assert drafts
        assert not drafts & found.ids
        assert found.ids == stage.truth(MESSAGES, ALL)


async def test_what_is_gone_before_it_is_read_is_left_out():
    async with staged("google") as stage:
        page = await MESSAGES.fetch(stage.api(), WHOLE, ALL, None)
        ids = [record.external_id for record in page.records[:2]]
        again = await MESSAGES.fetch(stage.api(), WHOLE, ALL, {"ids": [ids[0], "none", ids[1]], "next": None})
        assert [record.external_id for record in again.records] == ids
        assert again.next_cursor is None


async def test_a_limit_in_the_middle_of_reading_ends_it():
    async with staged("google") as stage:
        await stage.control(rate_limit_every=7)
        with pytest.raises(Throttled):
            await MESSAGES.fetch(stage.api(), WHOLE, ALL, None)


async def test_an_event_that_overlaps_two_windows_comes_once_and_one_without_length_comes_at_all():
    async with staged("google") as stage:
        own = stage.stand_in.holdings[stage.account]
        long = next(found for found in own.events if found.ends - found.begins >= 2 * 86_400 and found.calendar == 0)
        point = next(found for found in own.events if found.ends == found.begins and found.calendar == 0)
        for found, edge in ((long, long.begins + 86_400), (point, point.begins)):
            at = datetime.fromtimestamp(edge, UTC)
            early, late = (
                await stage.read(EVENTS, Window(at - 9 * DAY, at)),
                await stage.read(EVENTS, Window(at, at + DAY)),
            )
            key = f"{own.calendar_id(0)}:{own.event_id(found)}"
            assert (key in early.ids, key in late.ids) == ((True, False) if found is long else (False, True))


async def test_a_whole_day_comes_once_wherever_its_calendar_lies():
    async with staged("google") as stage:
        whole = {
            row
            for row in stage.truth(EVENTS, ALL)
            if row.startswith(stage.stand_in.holdings[stage.account].calendar_id(2))
        }
        seen: list[str] = []
        at = ALL.since
        while at < ALL.until:
            seen += (await stage.read(EVENTS, Window(at, at + 30 * DAY))).ids
            at += 30 * DAY
        assert whole
        assert sorted(key for key in seen if key in whole) == sorted(whole)


async def test_birthdays_of_contacts_and_where_somebody_works_are_no_meetings():
    """Both lie among the meetings of one's own calendar (Google's guide, event types), and are nobody else's business."""
    async with staged("google") as stage:
        own = stage.stand_in.holdings[stage.account]
        assert {own.event_type(event) for event in own.events} >= {"birthday", "workingLocation"}
        found = await stage.read(EVENTS)
        told = {record.payload.get("eventType", "private") for record, _ in found.rows.values()}
        assert told == {"default", "focusTime", "private"}
        assert found.ids == stage.truth(EVENTS, ALL)


async def test_the_calendar_of_contacts_birthdays_is_none_of_ours():
    """It is hidden, and listed with those that are (github.com/home-assistant/core/issues/132933)."""
    hidden = {"id": "addressbook#contacts@group.v.calendar.google.com", "summary": "Birthdays", "hidden": True}
    listed = {"items": [{"id": "ana@acme.test", "primary": True}, hidden]}
    api = Api(GOOGLE, GOOGLE.api_url, answering(lambda request: httpx2.Response(200, json=listed)), "token")
    assert GOOGLE.partitions is not None
    assert [part.key for part in await GOOGLE.partitions(api)] == ["ana@acme.test"]
    page = await GOOGLE.stream("calendars").fetch(api, WHOLE, ALL, None)
    assert [record.external_id for record in page.records] == ["ana@acme.test"]


PLANNED = {"id": "e1", "iCalUID": "u@google.com", "status": "confirmed", "start": {"dateTime": "2026-01-07T10:00:00+01:00"},
           "end": {"dateTime": "2026-01-07T11:00:00+01:00"}, "recurringEventId": "u", "originalStartTime": {"dateTime": "2026-01-07T09:00:00Z"},
           "summary": "Therapy", "location": "Secret Street", "description": "ask secret@clinic.test https://github.com/acme/secret/issues/1",
           "organizer": {"email": "secret@clinic.test"}, "creator": {"email": "secret@clinic.test"}, "htmlLink": "https://secret.test/e1",
           "attendees": [{"email": "secret@clinic.test", "responseStatus": "accepted"}], "attachments": [{"title": "secret.pdf"}],
           "hangoutLink": "https://secret.test/2", "conferenceData": {"conferenceId": "secret"}, "extendedProperties": {"shared": {"secret": "1"}}}  # fmt: skip


@pytest.mark.parametrize("visibility", ["private", "confidential"])
async def test_of_an_event_that_its_owner_marked_private_comes_what_others_see_of_it(visibility: str):
    """That there is one, and when (Google's help, event privacy); the second word is an older one for the first (its reference)."""
    own = {"email": "ana@acme.test", "self": True}
    rows = [{**PLANNED, "visibility": visibility}, {**PLANNED, "id": "e2", "visibility": visibility, "organizer": own}]
    listed = {"items": [*rows, {**PLANNED, "id": "e3", "visibility": "public"}]}
    api = Api(GOOGLE, GOOGLE.api_url, answering(lambda request: httpx2.Response(200, json=listed)), "token")
    partition = Partition("ana@acme.test", "Ana")
    page = await EVENTS.fetch(api, partition, ALL, None)
    theirs, ours, public = (EVENTS.extract(record.payload, Context("google", partition)) for record in page.records)
    assert [word for word in ("ecret", "Therapy", "u@google.com") if word in json.dumps(page.records[0].payload)] == []
    assert page.records[2].payload == listed["items"][2]
    key = "google:event:ana@acme.test:e1"
    when = {side: PLANNED[side]["dateTime"] for side in ("start", "end")}
    known = {"status": "confirmed", "visibility": visibility, **when}
    assert theirs.entities[0] == Entity("event", key, "Private event", known)
    assert said(theirs) == {("part_of", key, "google:calendar:ana@acme.test")}
    assert said(ours) == {
        ("part_of", "google:event:ana@acme.test:e2", "google:calendar:ana@acme.test"),
        ("authored", ANA, "google:event:ana@acme.test:e2"),
    }
    assert public.entities[0].name == "Therapy"
    # What was stored before that was so is mapped as if it were.
    assert EVENTS.extract(rows[0], Context("google", partition)).entities == theirs.entities


@pytest.mark.parametrize(
    ("given", "mark"), [("Private", "private"), ("personal", "personal"), ("Company-Confidential", "confidential")]
)
async def test_of_a_message_that_is_marked_private_comes_that_there_is_one(given: str, mark: str):
    """By a header of other programs than Gmail (RFC 4021)."""

    def row(own: str, sensitivity: str) -> dict[str, Any]:
        headers = {"Subject": "Salary", "From": "secret@clinic.test", "Message-ID": "<secret@x>", "Sensitivity": sensitivity}  # fmt: skip
        payload = {"mimeType": "text/plain", "headers": [{"name": n, "value": v} for n, v in headers.items()]}
        return {"id": own, "threadId": "secret", "internalDate": "1767776400000", "snippet": "secret", "labelIds": ["INBOX"], "payload": payload}  # fmt: skip

    rows = {"m1": row("m1", given), "m2": row("m2", "normal"), "m3": row("m3", "") | {"payload": {"headers": [None]}}}

    def handle(request: httpx2.Request) -> httpx2.Response:
        own = request.url.path.rpartition("/")[2]
        return httpx2.Response(200, json=rows.get(own) or {"messages": [{"id": own} for own in rows]})

    api = Api(GOOGLE, GOOGLE.api_url, answering(handle), "token", facts={"email": "ana@acme.test"})
    private, normal, odd = (await MESSAGES.fetch(api, WHOLE, ALL, None)).records
    assert [word for word in ("ecret", "Salary") if word in json.dumps(private.payload)] == []
    assert normal.payload == rows["m2"] | {"mailbox": {"email": "ana@acme.test"}}
    assert odd.payload["payload"] == rows["m3"]["payload"], "it is kept aside when it is mapped, and the others come"
    graph = MESSAGES.extract(private.payload, Context("google"))
    (own,) = graph.entities
    assert (own.key, own.name, own.properties["sensitivity"]) == ("google:message:ana@acme.test:m1", "Private message", mark)  # fmt: skip
    assert graph.relationships == []
    # What was stored before that was so is mapped as if it were.
    before = MESSAGES.extract(rows["m1"] | {"mailbox": {"email": "ana@acme.test"}}, Context("google"))
    assert before.entities == graph.entities


async def test_a_deleted_event_of_which_only_the_id_is_left_is_told_as_deleted():
    partition = Partition("ana@acme.test", "Ana")
    async with staged("google") as stage:
        own = stage.stand_in.holdings[stage.account]
        own.calendars[0]["id"] = partition.key
        own.calendar_id = lambda calendar: partition.key
        del own.events[2:]
        own.event = lambda event, deleted: {
            "id": f"e{own.events.index(event)}",
            "status": ("cancelled", "confirmed")[own.events.index(event)],
        }
        page = await EVENTS.fetch(stage.api(), partition, ALL, None)
    assert [(record.external_id, record.occurred_at in ALL) for record in page.records] == [("ana@acme.test:e0", True)]
    assert len(page.rejected) == 1
    gone = EVENTS.extract(page.records[0].payload, Context("google", partition)).entities[0]
    known = event(id="e0", iCalUID="u@google.com").entities[0]
    assert gone.properties == {"status": "cancelled", "deleted": True}
    assert gone.key in known.aliases


async def test_without_offline_access_and_consent_there_is_no_refresh_token():
    async with staged("google") as stage:
        asked = {
            "response_type": "code",
            "client_id": "sandbox-google",
            "redirect_uri": "https://a.test/",
            "state": "s",
        }
        for extra, expected in (({}, False), (GOOGLE.oauth.extra_authorize, True)):
            url = f"{ROOT}/google/o/oauth2/v2/auth"
            back = await stage.client.post(
                url, params={**asked, **extra}, data={"answer": "allow", "account": stage.account}
            )
            code = httpx2.URL(back.headers["location"]).params["code"]
            client = {"client_id": "sandbox-google", "client_secret": "sandbox-secret"}
            form = {**client, "grant_type": "authorization_code", "code": code, "redirect_uri": "https://a.test/"}
            token = (await stage.client.post(f"{ROOT}/google/token", data=form)).json()
            assert ("refresh_token" in token) is expected


# -- what rows say --------------------------------------------------------------------------------------------------------


def test_files_of_a_message_are_attached_to_it_in_every_mailbox_and_pictures_of_its_text_are_none():
    def part(number: str, name: str, how: str = "", parts: Any = ()) -> dict[str, Any]:
        headers = [{"name": "Content-Disposition", "value": how}] if how else []
        return {"partId": number, "filename": name, "headers": headers, "body": {"size": 1}, "parts": list(parts)}

    parts = [
        part("0", "", parts=[part("0.0", ""), part("0.1", "logo.png", 'Inline; filename="logo.png"')]),
        part("1", "Entwürfe.pdf", "attachment"),
        part("2", "brief.eml", parts=[part("2.0", "within.txt")]),
    ]
    headers = [{"name": "Message-ID", "value": "<m1@acme.test>"}]
    for mailbox in ("ana@acme.test", "bo@acme.test"):
        found = message({}, id=mailbox, payload={"headers": headers, "parts": parts}, mailbox={"email": mailbox})
        names = {entity.key: entity.name for entity in found.entities if entity.kind == "document"}
        assert names == {
            "google:attachment:m1@acme.test:1": "Entwürfe.pdf",
            "google:attachment:m1@acme.test:2": "brief.eml",
            "google:attachment:m1@acme.test:2.0": "within.txt",
        }
        attached = {one for one in said(found) if one[0] == "attached_to"}
        assert attached == {("attached_to", key, "google:message:m1@acme.test") for key in names}


def test_a_message_names_who_wrote_it_to_whom_and_where_it_belongs():
    found = message(
        {
            "From": '"Li, of Example" <LI@example.org>',
            "To": "=?utf-8?q?An=C3=A1?= <ana@acme.test>, undisclosed-recipients:;",
            "Cc": "c_1@group.calendar.google.com, bo@acme.test.evil.test",
            "Subject": "Q1",
            "Message-ID": "<abc@example.org>",
            "References": "<a@x> <b@x>",
        },
        "ask Mia@Acme.test",
        labelIds=["INBOX", "Label_7"],
    )
    key = "google:message:abc@example.org"
    assert found.entities[0].key == key
    assert found.entities[0].aliases == ("google:message:ana@acme.test:1",)
    assert found.entities[0].properties["folders"] == ["INBOX"]
    assert {entity.key: entity.name for entity in found.entities if entity.kind == "person"}[LI] == "Li, of Example"
    assert {entity.key: entity.name for entity in found.entities if entity.kind == "person"}[ANA] == "Aná"
    assert said(found) == {
        ("authored", LI, key),
        ("with", key, ANA),
        ("with", key, "person:email:bo@acme.test.evil.test"),
        ("part_of", key, "google:thread:ana@acme.test:t"),
        ("labelled", key, "google:label:ana@acme.test:Label_7"),
        ("replied_to", key, "google:message:b@x"),
        ("mentions", key, "person:email:mia@acme.test"),
    }


def test_mail_in_html_only_is_read_too_and_broken_encodings_are_no_end():
    found = message({}, "<style>a@b.test</style><p>to <b>li@example.org</b></p>", "text/html")
    assert [target for kind, _, target in said(found) if kind == "mentions"] == [LI]
    assert found.entities[0].key == "google:message:ana@acme.test:1"
    assert found.entities[0].name == "(no subject)"
    broken = message(
        {"Subject": "=?x-unknown?q?a?="}, payload={"mimeType": "text/plain", "body": {"data": "\u00fc"}, "headers": []}
    )
    assert broken.entities[0].properties["sent_at"].startswith("2025-01-02")


def test_the_same_meeting_in_two_calendars_is_one():
    planned = {
        "iCalUID": "u@google.com",
        "recurringEventId": "u",
        "originalStartTime": {"dateTime": "2025-01-07T10:00:00+01:00"},
    }
    one = event(**planned)
    moved = google._extract_event(
        {
            "id": "other",
            "start": {"date": "2025-01-09"},
            **planned,
            "originalStartTime": {"dateTime": "2025-01-07T09:00:00Z"},
        },
        Context("google", Partition("li@example.org", "Li")),
    )
    assert one.entities[0].key == moved.entities[0].key == "google:event:u@google.com:2025-01-07T09:00:00+00:00"
    assert one.entities[0].key != event(iCalUID="u@google.com").entities[0].key
    assert ("part_of", one.entities[0].key, "google:series:u@google.com") in said(one)


def test_who_did_not_say_yes_did_not_attend_and_a_room_is_no_person():
    found = event(
        organizer={"email": "ana@acme.test"},
        attendees=[
            {"email": "Li@example.org", "responseStatus": "accepted"},
            {"email": "bo@acme.test", "responseStatus": "declined"},
            {"email": "cy@acme.test", "responseStatus": "needsAction"},
            {"email": "c_1@resource.calendar.google.com", "resource": True, "displayName": "Room 1"},
        ],
    )
    key = found.entities[0].key
    assert said(found) == {
        ("part_of", key, "google:calendar:ana@acme.test"),
        ("authored", ANA, key),
        ("attended", LI, key),
        ("with", key, "person:email:bo@acme.test"),
        ("with", key, "person:email:cy@acme.test"),
        ("with", key, "google:calendar:c_1@resource.calendar.google.com"),
    }


def test_a_meeting_is_called_off_by_who_called_it_only():
    meeting = event(iCalUID="u@google.com").entities[0].key
    left = event(iCalUID="u@google.com", status="cancelled", organizer={"email": "li@example.org"}).entities[0]
    off = event(
        iCalUID="u@google.com", status="cancelled", organizer={"email": "ana@acme.test", "self": True}
    ).entities[0]
    assert (left.key, off.key) == ("google:event:ana@acme.test:e1", meeting)
    assert left.properties["deleted"] is off.properties["deleted"] is True


@pytest.mark.parametrize(
    ("labels", "mailbox", "is_gone"),
    [(["INBOX"], 200, False), (["SPAM"], 200, False), (["TRASH"], 200, True), (None, 200, True), (None, 403, None)],
)
async def test_mail_that_is_not_in_the_mailbox_or_lies_in_the_trash_is_gone(
    labels: list[str] | None, mailbox: int, is_gone: bool | None
) -> None:
    """None: there is no such message; or, of the outcome, it can't be told."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/messages"):
            return httpx2.Response(mailbox, json={} if mailbox == 200 else reply(403, "insufficientPermissions").data)
        return (
            httpx2.Response(404, json=reply(404, "notFound").data)
            if labels is None
            else httpx2.Response(200, json={"labelIds": labels})
        )

    find, record = MESSAGES.gone, Record("1", datetime(2025, 1, 1, tzinfo=UTC), {"id": "1"})
    assert find is not None
    api = Api(GOOGLE, "https://gmail.googleapis.com", answering(answer))
    if is_gone is None:
        with pytest.raises(AccessDenied):
            await find(api, WHOLE, [record])
    else:
        assert list(await find(api, WHOLE, [record])) == (["1"] if is_gone else [])
