"""What only Microsoft Graph has: codes of errors, ids that stay, next pages by address, times without a zone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Gone,
    ReauthRequired,
    RequestRejected,
    Throttled,
    WindowTooLarge,
)
from integrations.grants import read_token
from integrations.http import Api, Reply
from integrations.providers import microsoft365
from integrations.providers.base import WHOLE, Context, Entity, Partition, Record, Window
from integrations.providers.microsoft365 import MICROSOFT365
from integrations.providers.wire import stamp
from tests.contract.stage import ALL, staged
from tests.senders import answering

NS, DAY = "microsoft365", timedelta(days=1)
ANA, LI = "person:email:ana@acme.test", "person:email:li@example.org"
FOLDERS, MESSAGES, EVENTS = (MICROSOFT365.stream(name) for name in ("folders", "messages", "events"))


def reply(status: int, code: str, **headers: str) -> Reply:
    return Reply(status, httpx2.Headers(headers), {"error": {"code": code, "message": "words"}}, "", "")


def address(email: str, name: str = "", **more: Any) -> Any:
    return {"emailAddress": {"name": name, "address": email}, **more}


def said(graph: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "ApplicationThrottled", Throttled),
        (429, "", Throttled),
        (503, "TooManyRequests", Throttled),
        (403, "ErrorAccessDenied", AccessDenied),
        (403, "Authorization_RequestDenied", AccessDenied),
        (404, "MailboxNotEnabledForRESTAPI", AccessDenied),
        (401, "OrganizationFromTenantGuidNotFound", AccessDenied),
        (404, "ErrorItemNotFound", Gone),
        (404, "ErrorFolderNotFound", Gone),
        (410, "syncStateNotFound", CursorExpired),
        (400, "syncStateNotFound", CursorExpired),
    ],
)
def test_an_error_is_read_by_its_code(status: int, code: str, kind: type[Exception]):
    found = MICROSOFT365.classify(reply(status, code))
    assert type(found) is kind
    assert "Microsoft 365" in str(found)


async def test_an_organization_without_mailboxes_is_no_token_that_has_expired():
    """It answers 401 to all of mail and calendars, with a token that is good (github.com/O365/python-o365/issues/757): no new one, and
    nobody who reconnects, changes that."""
    refreshed: list[str] = []

    async def refresh(old: str) -> str:
        refreshed.append(old)
        return "another"

    def handle(request: httpx2.Request) -> httpx2.Response:
        mail = request.url.path.endswith("/mailFolders")
        code = "OrganizationFromTenantGuidNotFound" if mail else "InvalidAuthenticationToken"
        return httpx2.Response(401, json={"error": {"code": code, "message": "The tenant does not exist."}})

    api = Api(MICROSOFT365, "https://graph.microsoft.com", answering(handle), "token", refresh)
    with pytest.raises(AccessDenied, match="no mailboxes"):
        await FOLDERS.fetch(api, WHOLE, ALL, None)
    assert refreshed == []
    with pytest.raises(ReauthRequired):
        await MESSAGES.fetch(api, WHOLE, ALL, None)
    assert refreshed == ["token"]


@pytest.mark.parametrize(("told", "seconds"), [("120", 120), ("1", 10), (None, 30)])
def test_a_limit_is_waited_for_even_if_its_end_is_not_told_or_always_a_second(told: str | None, seconds: int):
    found = MICROSOFT365.classify(reply(429, "ApplicationThrottled", **({"retry-after": told} if told else {})))
    assert isinstance(found, Throttled)
    assert found.retry_at is not None
    assert abs(found.retry_at - datetime.now(UTC) - timedelta(seconds=seconds)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    "text", ["2025-01-07T09:00:00.1234567", "2025-01-07T09:00:00.1234567Z", "2025-01-07T09:00:00.123456"]
)
def test_times_have_seven_decimals_and_no_zone(text: str):
    assert microsoft365._time(text) == datetime(2025, 1, 7, 9, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("invalid_grant", "ReauthRequired"),
        ("interaction_required", "ReauthRequired"),
        ("invalid_client", "Misconfigured"),
    ],
)
def test_what_ends_a_grant_is_told_by_oauths_words_not_by_numbers(error: str, kind: str):
    body = f'{{"error": "{error}", "error_codes": [999999]}}'.encode()
    with pytest.raises(Exception, match="Microsoft 365") as caught:
        read_token(MICROSOFT365, 400, {}, body)
    assert type(caught.value).__name__ == kind


# -- reading --------------------------------------------------------------------------------------------------------------


async def test_ids_are_those_that_stay_on_every_page():
    async with staged(NS) as stage:
        first = await MESSAGES.fetch(stage.api(), WHOLE, ALL, None)
        second = await MESSAGES.fetch(stage.api(), WHOLE, ALL, first.next_cursor)
        own = stage.stand_in.holdings[stage.account]
        assert [record.external_id for record in (*first.records, *second.records)] == [
            own.message_id(place)
            for place in range(99)  # the second page begins with the last of the first
            if own.is_mail(place)
        ]
        assert first.records[0].payload["body"]["contentType"] == "text"


async def test_a_next_page_on_another_host_is_not_asked_with_the_token():
    async with staged(NS) as stage:
        asked = len(stage.app.control.log)
        evil = "https://graph.evil.test/v1.0/me/messages?$skip=50"
        cursor = {"at": stamp(ALL.since), "seen": [], "url": evil, "others": []}
        with pytest.raises(RequestRejected):
            await MESSAGES.fetch(stage.api(), WHOLE, ALL, cursor)
        assert len(stage.app.control.log) == asked


class Mailbox:
    """Graph's list of messages: (id, seconds) of each, twenty a page; the next page leaves out as many as were listed."""

    def __init__(self, messages: list[tuple[str, int]], *, purged: tuple[int, str] = (0, ""), most: int = 50) -> None:
        """purged: after so many requests, the message of this id. most: messages of a page that it has ready in time."""
        self.messages, self.purged, self.most, self.asked = messages, purged, most, 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if "/mailFolders/" in request.url.path:
            return httpx2.Response(404, json={"error": {"code": "ErrorItemNotFound", "message": "words"}})
        self.asked += 1
        if int(request.url.params["$top"]) > self.most:
            return httpx2.Response(504, json={"error": {"code": "UnknownError", "message": ""}})
        since = request.url.params["$filter"].split(" ")[2]
        rows = [{"id": own, "receivedDateTime": stamp(ALL.since + timedelta(seconds=at))} for own, at in self.messages]
        rows = [row for row in rows if row["receivedDateTime"] >= since]
        skip = int(request.url.params.get("$skip") or 0)
        answer: dict[str, Any] = {"value": rows[skip : skip + 20]}
        if skip + 20 < len(rows):
            answer["@odata.nextLink"] = str(request.url.copy_set_param("$skip", skip + 20))
        if self.asked == self.purged[0]:
            self.messages = [one for one in self.messages if one[0] != self.purged[1]]
        return httpx2.Response(200, json=answer)

    async def read(self) -> list[str]:
        api = Api(MICROSOFT365, "https://graph.microsoft.com", answering(self), "token")
        found, cursor = [], None
        while True:
            page = await MESSAGES.fetch(api, WHOLE, ALL, cursor)
            found += [record.external_id for record in page.records]
            if (cursor := page.next_cursor) is None:
                return found


async def test_a_message_that_is_purged_while_pages_are_read_hides_no_other():
    mailbox = Mailbox([(f"m{i}", i // 2) for i in range(95)], purged=(2, "m3"))
    assert await mailbox.read() == [f"m{i}" for i in range(95)]
    assert mailbox.asked == 6  # five by addresses of next pages


async def test_a_page_that_takes_microsoft_too_long_comes_with_fewer_messages():
    """Its reference warns of 504 for pages of many messages with all that they hold (list messages)."""
    mailbox = Mailbox([(f"m{i}", i // 2) for i in range(95)], most=15)
    assert await mailbox.read() == [f"m{i}" for i in range(95)]


async def test_a_second_that_fills_pages_is_read_to_its_end_and_nothing_comes_twice():
    together = [(f"m{i}", 0) for i in range(50)] + [(f"m{i}", 7) for i in range(50, 150)] + [("m150", 8)]
    mailbox = Mailbox(together)
    assert await mailbox.read() == [f"m{i}" for i in range(151)]
    assert mailbox.asked <= 10


async def test_the_mail_of_a_mailbox_without_folders_of_junk_and_of_deleted_items_comes_in():
    """Graph has a code of its own for a folder (github.com/microsoftgraph/microsoft-graph-docs-contrib/issues/4029)."""
    listed = {"value": [{"id": "m1", "receivedDateTime": stamp(ALL.since)}]}

    def handle(request: httpx2.Request) -> httpx2.Response:
        if "/mailFolders/" in request.url.path:
            return httpx2.Response(404, json={"error": {"code": "ErrorFolderNotFound", "message": "words"}})
        return httpx2.Response(200, json=listed)

    api = Api(MICROSOFT365, "https://graph.microsoft.com", answering(handle), "token")
    page = await MESSAGES.fetch(api, WHOLE, ALL, None)
    assert [record.external_id for record in page.records] == ["m1"]


async def test_neither_junk_nor_what_nobody_sent_nor_what_was_thrown_away_is_mail():
    """The list of all messages has them (Microsoft's reference, list messages); who junk says it is from is whom it pretends to be. A
    folder that is deleted goes with its messages into that of deleted items."""
    async with staged(NS) as stage:
        own = stage.stand_in.holdings[stage.account]
        named = {row["displayName"]: row["id"] for row in map(own.folder, own.folders)}
        others = {named[name] for name in ("Junk-E-Mail", "Deleted Items", "Altes Projekt", "Entwürfe 2019")}
        every = [own.message(place) for place in range(len(own.messages))]
        assert any(row["isDraft"] for row in every)
        assert {row["parentFolderId"] for row in every} > others
        found = await stage.read(MESSAGES)
        rows = [record.payload for record, _ in found.rows.values()]
        assert not [row for row in rows if row["isDraft"] or row["parentFolderId"] in others]
        assert found.ids == stage.truth(MESSAGES, ALL)
        asked = [call["path"] for call in stage.app.control.log if "/mailFolders" in call["path"]]
        assert len(asked) == 4, "of which folders, once for all pages"


async def test_a_folder_that_is_deleted_while_the_tree_is_read_costs_nothing_else():
    async with staged("microsoft365") as stage:
        calm = await stage.read(FOLDERS)
        page = await FOLDERS.fetch(stage.api(), WHOLE, ALL, None)
        found, cursor = {record.external_id for record in page.records}, page.next_cursor
        assert cursor is not None
        cursor["inside"].insert(0, "AQMkADdeleted==")
        while cursor is not None:
            page = await FOLDERS.fetch(stage.api(), WHOLE, ALL, cursor)
            found, cursor = found | {record.external_id for record in page.records}, page.next_cursor
        assert found == calm.ids


async def test_folders_in_folders_come_however_small_the_pages_are():
    async with staged(NS) as stage:
        await stage.control(page_size=1)
        found = await stage.read(FOLDERS)
        names = {record.payload["displayName"] for record, _ in found.rows.values()}
        assert {"Kunden", "Größere", "Archive"} <= names
        assert found.ids == stage.truth(FOLDERS, ALL)


async def test_an_event_that_overlaps_two_windows_comes_once_and_one_without_length_comes_at_all():
    async with staged(NS) as stage:
        own = stage.stand_in.holdings[stage.account]
        long = next(found for found in own.events if found.ends - found.begins >= 2 * 86_400 and found.calendar == 0)
        point = next(found for found in own.events if found.ends == found.begins)
        for found, edge in ((long, long.begins + 86_400), (point, point.begins)):
            at = datetime.fromtimestamp(edge, UTC)
            early, late = (
                await stage.read(EVENTS, Window(at - 9 * DAY, at)),
                await stage.read(EVENTS, Window(at, at + DAY)),
            )
            key = own.event_id(found)
            assert (key in early.ids, key in late.ids) == ((True, False) if found is long else (False, True))


async def test_a_whole_day_comes_once_wherever_its_calendar_lies():
    async with staged(NS) as stage:
        own = stage.stand_in.holdings[stage.account]
        whole = {own.event_id(event): event for event in own.events if event.calendar == 1}
        edge = datetime.fromtimestamp(
            next(iter(whole.values())).at + 3 * 3600, UTC
        )  # between its date and its beginning
        early, late = (
            await stage.read(EVENTS, Window(ALL.since, edge)),
            await stage.read(EVENTS, Window(edge, ALL.until)),
        )
        assert (early.ids | late.ids) & set(whole) == set(whole)
        assert not early.ids & late.ids


async def test_a_mailbox_answers_four_at_once_and_atom_asks_for_fewer():
    async with staged(NS) as stage:
        assert MICROSOFT365.budget.concurrency < 4
        for _ in range(4):
            stage.app.control.at_once[stage.token] += 1  # four that are still being answered
        with pytest.raises(Throttled):
            await MESSAGES.fetch(stage.api(), WHOLE, ALL, None)


# -- what rows say --------------------------------------------------------------------------------------------------------


def test_a_message_names_who_wrote_it_to_whom_and_where_it_belongs():
    row = {
        "id": "AAk1", "internetMessageId": "<m1@example.org>", "conversationId": "C1", "parentFolderId": "F1", "subject": "Renewal", "isDraft": False,
        "from": address("LI@example.org", "Li"), "sender": address("bot@example.org"), "toRecipients": [address("ana@acme.test", "Ana")],
        "ccRecipients": [address("/O=EXCHANGELABS/CN=X", "Legacy")], "categories": ["Red"],
        "body": {"contentType": "html", "content": "<style>a@b.test</style>ask <b>mia@acme.test</b>"},
    }  # fmt: skip
    found = microsoft365._extract_message(row, Context(NS))
    key = f"{NS}:message:m1@example.org"
    assert (found.entities[0].key, found.entities[0].aliases) == (key, (f"{NS}:message:AAk1",))
    assert said(found) == {
        ("authored", LI, key),
        ("with", key, ANA),
        ("part_of", key, f"{NS}:thread:C1"),
        ("part_of", key, f"{NS}:folder:F1"),
        ("labelled", key, f"{NS}:category:Red"),
        ("mentions", key, "person:email:mia@acme.test"),
    }


async def test_a_category_is_its_mailboxs_own():
    async with staged(NS) as stage:
        page = await MESSAGES.fetch(stage.api(), WHOLE, ALL, None)
        owner = stage.facts["mailbox"]
    assert owner
    assert {record.payload["mailbox"] for record in page.records} == {owner}
    row = {"id": "AAk1", "categories": ["Red"]}
    keys = {
        end for who in ("M1", "M2") for end in microsoft365._extract_message({**row, "mailbox": who}, Context(NS)).ends
    }
    assert keys == {f"{NS}:category:M1:Red", f"{NS}:category:M2:Red"}


def test_a_draft_without_author_or_id_of_its_own_is_a_message_too():
    found = microsoft365._extract_message(
        {"id": "AAk1", "from": None, "sender": None, "subject": None, "body": None, "isDraft": True}, Context(NS)
    )
    assert (found.entities[0].key, found.entities[0].name) == (f"{NS}:message:AAk1", "(no subject)")
    assert found.relationships == []


def test_the_same_meeting_in_two_calendars_is_one_and_who_did_not_say_yes_did_not_attend():
    row = {
        "iCalUId": "0400", "seriesMasterId": "S1", "isCancelled": True, "start": {"dateTime": "2025-01-07T09:00:00.0000000", "timeZone": "UTC"},
        "organizer": address("ana@acme.test"),
        "attendees": [
            address("li@example.org", status={"response": "accepted"}),
            address("bo@acme.test", status={"response": "declined"}),
            address("cy@acme.test", status={"response": "none"}),
            address("room@acme.test", "Room", type="resource"),
        ],
    }  # fmt: skip
    one = microsoft365._extract_event({"id": "e1", **row}, Context(NS, Partition("K1", "Ana")))
    other = microsoft365._extract_event({"id": "e2", **row}, Context(NS, Partition("K2", "Li")))
    key = f"{NS}:event:0400"
    assert one.entities[0].key == other.entities[0].key == key
    assert one.entities[0].properties["deleted"] is True
    assert said(one) == {
        ("part_of", key, f"{NS}:calendar:K1"),
        ("part_of", key, f"{NS}:series:S1"),
        ("authored", ANA, key),
        ("attended", LI, key),
        ("with", key, "person:email:bo@acme.test"),
        ("with", key, "person:email:cy@acme.test"),
        ("with", key, f"{NS}:room:room@acme.test"),
    }


@pytest.mark.parametrize("sensitivity", ["private", "confidential", "personal"])
async def test_of_an_event_that_its_owner_marked_private_comes_what_others_see_of_it(sensitivity: str):
    """That there is one, and when (Microsoft's guide to shared calendars)."""
    when = {"start": {"dateTime": "2026-01-07T09:00:00.0000000", "timeZone": "UTC"},
            "end": {"dateTime": "2026-01-07T09:30:00.0000000", "timeZone": "UTC"}}  # fmt: skip
    planned = {
        "id": "e1", "iCalUId": "0400", "seriesMasterId": "S1", "subject": "Therapy", "bodyPreview": "secret", "webLink": "https://secret.test/e1", **when,
        "body": {"contentType": "html", "content": "<p>secret@clinic.test https://github.com/acme/secret/issues/1</p>"}, "categories": ["secret"],
        "location": {"displayName": "Secret Street"}, "locations": [{"displayName": "Secret Street"}], "isAllDay": False, "isCancelled": False,
        "organizer": address("secret@clinic.test"), "isOrganizer": False, "onlineMeeting": {"joinUrl": "https://secret.test/2"},
        "attendees": [address("secret@clinic.test", status={"response": "accepted"})], "hasAttachments": True, "attachments": [{"name": "secret.pdf"}],
    }  # fmt: skip
    own = {"organizer": address("ana@acme.test", "Ana"), "isOrganizer": True}
    rows = [{**planned, "sensitivity": sensitivity}, {**planned, **own, "id": "e2", "sensitivity": sensitivity}]
    listed = {"value": [*rows, {**planned, "id": "e3", "sensitivity": "normal"}]}
    api = Api(
        MICROSOFT365,
        "https://graph.microsoft.com",
        answering(lambda request: httpx2.Response(200, json=listed)),
        "token",
    )
    partition = Partition("K1", "Ana")
    page = await EVENTS.fetch(api, partition, ALL, None)
    theirs, ours, normal = (EVENTS.extract(record.payload, Context(NS, partition)) for record in page.records)
    assert [word for word in ("ecret", "Therapy", "0400", "S1") if word in json.dumps(page.records[0].payload)] == []
    assert page.records[2].payload == listed["value"][2]
    known = {
        "isAllDay": False,
        "sensitivity": sensitivity,
        "start": "2026-01-07T09:00:00+00:00",
        "end": "2026-01-07T09:30:00+00:00",
    }
    assert theirs.entities[0] == Entity("event", f"{NS}:event:e1", "Private event", known)
    assert said(theirs) == {("part_of", f"{NS}:event:e1", f"{NS}:calendar:K1")}
    assert said(ours) == {("part_of", f"{NS}:event:e2", f"{NS}:calendar:K1"), ("authored", ANA, f"{NS}:event:e2")}
    assert normal.entities[0].name == "Therapy"
    # What was stored before that was so is mapped as if it were.
    assert EVENTS.extract(rows[0], Context(NS, partition)).entities == theirs.entities


@pytest.mark.parametrize(("value", "mark"), [("1", "personal"), ("2", "private"), ("3", "confidential")])
async def test_of_a_message_that_is_marked_private_comes_that_there_is_one(value: str, mark: str):
    """Graph's messages have no "sensitivity"; the mark is PidTagSensitivity, an extended property."""
    written = {
        "id": "m1", "internetMessageId": "<secret@acme.test>", "conversationId": "secret", "parentFolderId": "F1", "subject": "Salary", "isDraft": False,
        "body": {"contentType": "text", "content": "secret@clinic.test"}, "webLink": "https://secret.test", "categories": ["secret"],
        "receivedDateTime": "2026-01-07T09:00:00Z", "sentDateTime": "2026-01-07T08:59:00Z", "from": address("secret@clinic.test"),
        "toRecipients": [address("ana@acme.test")], "importance": "normal", "hasAttachments": True,
    }  # fmt: skip
    told = "singleValueExtendedProperties"
    marked = {f"{told}@odata.context": "https://graph.microsoft.com/v1.0/$metadata", told: [{"id": "Integer 0x36", "value": value}]}  # fmt: skip
    normal = {told: [{"id": "Integer 0x36", "value": "0"}]}
    listed = {"value": [written | marked, written | normal | {"id": "m2"}, written | {"id": "m3"}]}

    def handle(request: httpx2.Request) -> httpx2.Response:
        if "/mailFolders/" in request.url.path:
            return httpx2.Response(404, json={"error": {"code": "ErrorItemNotFound", "message": "words"}})
        assert request.url.params["$expand"] == f"{told}($filter=id eq 'Integer 0x36')"
        assert "sensitivity" not in request.url.params["$select"]
        return httpx2.Response(200, json=listed)

    api = Api(MICROSOFT365, "https://graph.microsoft.com", answering(handle), "token")
    private, *others = (await MESSAGES.fetch(api, WHOLE, ALL, None)).records
    assert [word for word in ("ecret", "Salary", "ana@") if word in json.dumps(private.payload)] == []
    for record, own in zip(others, ("m2", "m3"), strict=True):
        assert record.payload == written | {"id": own, "mailbox": None}, "as it was before marks were asked for"
    graph = MESSAGES.extract(private.payload, Context(NS))
    known = {
        "sentDateTime": "2026-01-07T08:59:00Z",
        "receivedDateTime": "2026-01-07T09:00:00Z",
        "isDraft": False,
        "sensitivity": mark,
    }
    assert graph.entities[0] == Entity("message", f"{NS}:message:m1", "Private message", known)
    assert said(graph) == {("part_of", f"{NS}:message:m1", f"{NS}:folder:F1")}


async def test_some_of_the_mail_is_marked_private():
    async with staged("microsoft365") as stage:
        page = await MESSAGES.fetch(stage.api(), WHOLE, ALL, None)
        private = [record.payload for record in page.records if record.payload.get("sensitivity")]
        assert 0 < len(private) < len(page.records)
        assert all("subject" not in row for row in private)


async def test_a_calendar_is_asked_for_no_longer_span_than_microsoft_lists():
    """1,825 days; the engine splits what is longer."""
    async with staged("microsoft365") as stage:
        api = stage.api()
        (partition, *_) = await MICROSOFT365.partitions(api)  # type: ignore[misc]
        until = ALL.until
        with pytest.raises(WindowTooLarge):
            await EVENTS.fetch(api, partition, Window(until - 1825 * DAY, until), None)
        longest = Window(until - 1823 * DAY, until)
        assert (await EVENTS.fetch(api, partition, longest, None)).records
        span = {"startDateTime": stamp(until - 1826 * DAY), "endDateTime": stamp(until)}
        with pytest.raises(RequestRejected, match="Maximum number of days: 1825"):
            await api.get(f"/v1.0/me/calendars/{partition.key}/calendarView", span)


@pytest.mark.parametrize(
    ("folder", "is_gone"),
    [("inbox-id", False), ("junk-id", False), ("deleted-id", True), ("inside-id", True), (None, True)],
)
async def test_mail_that_is_not_in_the_mailbox_or_was_thrown_away_is_gone(folder: str | None, is_gone: bool) -> None:
    """None: there is no such message."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        own = request.url.path.removeprefix("/v1.0/me/")
        answers: dict[str, Any] = {
            "messages": {"value": []},
            "mailFolders/deleteditems": {"id": "deleted-id", "childFolderCount": 1},
            "mailFolders/deleted-id/childFolders": {"value": [{"id": "inside-id"}]},
            **({"messages/1": {"id": "1", "parentFolderId": folder}} if folder else {}),
        }
        return (
            httpx2.Response(200, json=answers[own])
            if own in answers
            else httpx2.Response(404, json=reply(404, "ErrorItemNotFound").data)
        )

    find, record = MESSAGES.gone, Record("1", datetime(2025, 1, 1, tzinfo=UTC), {"id": "1"})
    assert find is not None
    api = Api(MICROSOFT365, "https://graph.microsoft.com", answering(answer))
    assert list(await find(api, WHOLE, [record])) == (["1"] if is_gone else [])


async def test_of_a_mailbox_that_is_not_there_nothing_is_known_to_be_gone() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        code = "ErrorItemNotFound" if request.url.path.endswith("/1") else "MailboxNotEnabledForRESTAPI"
        return httpx2.Response(404, json=reply(404, code).data)

    find, record = MESSAGES.gone, Record("1", datetime(2025, 1, 1, tzinfo=UTC), {"id": "1"})
    assert find is not None
    with pytest.raises(AccessDenied):
        await find(Api(MICROSOFT365, "https://graph.microsoft.com", answering(answer)), WHOLE, [record])
