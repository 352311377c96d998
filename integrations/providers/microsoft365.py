"""Microsoft 365 by Microsoft Graph: a mailbox's folders and messages, and its calendars with their events.

Of an event or a message that is marked private comes in what others of the organization see of events: that there is one, and when.

Not imported are junk, drafts and what lies among the deleted items. That a message was thrown away after it came in is found by a full import,
as the list no longer has it; that an event was deleted is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

from integrations.errors import (
    UNMAPPABLE,
    AccessDenied,
    CursorExpired,
    Gone,
    ProviderError,
    Throttled,
    TookTooLong,
    WindowTooLarge,
)
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Clock,
    Context,
    Entity,
    Estimate,
    Graph,
    OAuth,
    Partition,
    Provider,
    RateBudget,
    Record,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts, headline
from integrations.providers.mail import message_entity, people
from integrations.providers.replies import ErrorTable, Means, body, error_in, first, inner
from integrations.providers.text import MOST_TEXT, mentioned_emails, plain
from integrations.providers.wire import SECOND, Rows, all_rows, listing, pages, reader, rows_of, stamp, utc

ME = "/v1.0/me"
MAIL, CALENDARS, USER = (
    f"{name}|https://graph.microsoft.com/{name}" for name in ("Mail.Read", "Calendars.Read", "User.Read")
)
# Ids that stay when a message moves to another folder: for good, as another choice would give every message another id.
_PREFER = {"Prefer": 'IdType="ImmutableId", outlook.body-content-type="text"'}
_MESSAGE = (
    "id,internetMessageId,conversationId,parentFolderId,subject,body,isDraft,isRead,hasAttachments,importance,categories,webLink,"
    "receivedDateTime,sentDateTime,lastModifiedDateTime,from,sender,toRecipients,ccRecipients,bccRecipients"
)
# Of messages Graph has the mark as a property of Exchange's only: to select "sensitivity", as of events, is an error.
_MARK = "singleValueExtendedProperties"
_MARKED = {"$expand": f"{_MARK}($filter=id eq 'Integer 0x36')"}
_MARKS = {"1": "personal", "2": "private", "3": "confidential"}
_OF_PRIVATE_MESSAGE = ("id", "parentFolderId", "receivedDateTime", "sentDateTime", "isDraft", "mailbox")
_DATES_LAG = timedelta(hours=12)  # a whole day begins up to so much after the same day of UTC
_LONGEST_VIEW = timedelta(days=1825)  # that a calendar is listed for at once
_LEAST_WAIT = timedelta(seconds=10)  # some replies always say one second
_COMING = ("accepted", "tentativelyAccepted", "organizer")
_OF_PRIVATE = ("id", "sensitivity", "start", "end", "isAllDay", "isCancelled", "isOrganizer")
_FRACTION = re.compile(r"(\.\d{6})\d+")

# -- wire format --------------------------------------------------------------------------------------------------------------

_ERRORS: ErrorTable = {
    410: Means(CursorExpired, "Microsoft 365 no longer knows the page; going on by date."),
    "MailboxNotEnabledForRESTAPI": Means(AccessDenied, "Microsoft 365: this account has no mailbox in the cloud."),
    # With status 401, though the token is good.
    "OrganizationFromTenantGuidNotFound": Means(
        AccessDenied, "Microsoft 365: this account's organization has no mailboxes in the cloud."
    ),
    **dict.fromkeys(("ErrorItemNotFound", "ErrorFolderNotFound"), Means(Gone, "Microsoft 365 no longer has it.")),
    "ErrorAccessDenied": Means(
        AccessDenied, "Microsoft 365 does not let this connection read it: connect again and grant the permission."
    ),
    "Authorization_RequestDenied": Means(
        AccessDenied, "Microsoft 365 does not let this connection read it: an administrator must consent."
    ),
}
_LIMITS = ("ApplicationThrottled", "TooManyRequests", "activityLimitReached")
_CURSORS = ("syncStateNotFound", "SyncStateNotFound", "resyncRequired", "ErrorInvalidSkipToken")


def _code(reply: Reply) -> str:
    return str(inner(body(reply), "error").get("code") or "")


def _expired(reply: Reply) -> bool:
    return reply.status == 401 and _code(reply) not in _ERRORS


def _classify(reply: Reply) -> ProviderError | None:
    code = _code(reply)
    if reply.status == 429 or code in _LIMITS:
        soonest = datetime.now(UTC) + (_LEAST_WAIT if reply.headers.get("retry-after") == "1" else timedelta(0))
        named = reply.retry_at()
        at = max(named, soonest) if named else soonest + 3 * _LEAST_WAIT
        return Throttled("Microsoft 365 asks to slow down.", at)
    return error_in(_ERRORS, reply, 410 if code in _CURSORS else code)


def _time(value: str) -> datetime:
    """2025-01-07T09:00:00.0000000, in UTC as long as no other zone is asked for; with seven decimals, or Z and none."""
    return utc(_FRACTION.sub(r"\1", value))


_TIMELESS = reader()
_RECEIVED = reader("id", lambda row: _time(row["receivedDateTime"]))
_BEGINS = reader("id", lambda row: _time(row["start"]["dateTime"]))


async def _get(api: Api, path: str, params: JSON | None, cursor: JSON | None) -> Rows:
    """The cursor of the next page is an address to be asked for as it is."""
    data = (await api.get(cursor["url"] if cursor else path, None if cursor else params, _PREFER)).data
    data = first(data)
    following = data.get("@odata.nextLink")
    return rows_of(data.get("value"), "Microsoft 365"), {"url": following} if following else None


# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _folders(api: Api, cursor: JSON | None) -> Rows:
    """The tree, level by level. cursor: {"url": next page of a list, None at its end, "inside": folders whose own are still to list}."""
    inside: list[str] = list(cursor["inside"]) if cursor else []
    page = {"url": cursor["url"]} if cursor and cursor["url"] else None
    path = (
        f"{ME}/mailFolders/{quote(inside.pop(0), safe='')}/childFolders" if cursor and not page else f"{ME}/mailFolders"
    )
    try:
        rows, following = await _get(api, path, {"includeHiddenFolders": "true", "$top": 100}, page)
    except Gone:
        if "/childFolders" not in (page["url"] if page else path):
            raise
        rows, following = [], None  # the folder was deleted just now, with all that it held
    inside += [row["id"] for row in rows if row.get("childFolderCount")]
    return rows, {"url": None, **(following or {}), "inside": inside} if following or inside else None


def _filter(window: Window) -> str:
    """Times are in whole seconds; the engine filters again."""
    return f"receivedDateTime ge {stamp(window.since)} and receivedDateTime lt {stamp(window.until + SECOND)}"


async def _not_mail(api: Api) -> list[str]:
    """Ids of the folders, whatever the mailbox calls them, of junk, whose senders are not whom they pretend to be, and of what somebody
    threw away."""
    return [*[row["id"] for row in await _known_folder(api, "junkemail")], *await _thrown_away(api)]


async def _thrown_away(api: Api) -> list[str]:
    """Ids of the folder of deleted items and of all folders in it."""
    deleted = await _known_folder(api, "deleteditems")
    inside = {"url": None, "inside": [row["id"] for row in deleted if row.get("childFolderCount")]}

    async def below(cursor: JSON | None) -> Rows:
        return await _folders(api, cursor or inside)

    rows = await all_rows(below, api.longest_wait) if inside["inside"] else []
    return [row["id"] for row in (*deleted, *rows)]


async def _known_folder(api: Api, name: str) -> list[JSON]:
    """The folder of this name of Graph's, if the mailbox has one."""
    try:
        found = body(await api.get(f"{ME}/mailFolders/{name}", {"$select": "id,childFolderCount"}, _PREFER))
    except Gone:
        return []
    return [found] if found.get("id") else []


async def _messages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    """All folders but those whose messages are none, and without drafts, which nobody sent; oldest first, each page from the second of
    the last one's last message on.

    The address that Graph gives of the next page leaves out as many messages as were read, and so one that was not for each that is
    purged meanwhile; it serves only where one second fills a page. What is sorted by must stand first in the filter.

    cursor: {"at": that second, "seen": ids of what was read of it, "url": the address, or None, "others": ids of those folders}.
    """
    # A cursor that a version before this one stored knows of junk only.
    others = cursor["others"] if cursor and "others" in cursor else await _not_mail(api)
    at, seen, url = (cursor["at"], cursor["seen"], cursor["url"]) if cursor else (stamp(window.since), [], None)
    within = _filter(Window(utc(at), window.until))
    asked = {"$filter": within, "$orderby": "receivedDateTime asc", "$select": _MESSAGE, **_MARKED, "$top": 50}
    try:
        rows, following = await _get(api, f"{ME}/messages", asked, {"url": url} if url else None)
    except TookTooLong:
        if url:
            raise
        # Long messages come a few at a time.
        rows, following = await _get(api, f"{ME}/messages", {**asked, "$top": 10}, None)
    known = [row for row in rows if isinstance(row, dict)]
    new = [_unmarked({**row, "mailbox": api.facts.get("mailbox")}) if isinstance(row, dict) else row for row in rows]
    new = [row for row in new if not isinstance(row, dict) or not (row.get("id") in seen or _is_no_mail(row, others))]
    if following is None:
        return new, None
    last = _second(known[-1]) if known else at
    if last > at:
        at, seen, following = last, [], {"url": None}
    seen = [*seen, *(row.get("id") for row in known if _second(row) == at)]
    return new, {"at": at, "seen": seen, **following, "others": others}


def _unmarked(row: JSON) -> JSON:
    """The message, as it is without its mark; of a private one that there is one, and when. Nothing leads to others' copies of it."""
    given = row.get(_MARK)
    named = [one.get("value") for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    mark = next((_MARKS[str(value)] for value in named if str(value) in _MARKS), "")
    if mark:
        return {name: row[name] for name in _OF_PRIVATE_MESSAGE if name in row} | {"sensitivity": mark}
    return {name: value for name, value in row.items() if not name.startswith(_MARK)}


async def _gone(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
    """Those that are not in the mailbox any more, or that were thrown away."""
    missing, folders = [], dict[str, Any]()
    for record in records:
        path = f"{ME}/messages/{quote(record.external_id, safe='')}"
        try:
            row = body(await api.get(path, {"$select": "parentFolderId"}, _PREFER))
        except Gone:
            missing.append(record.external_id)
        else:
            folders[record.external_id] = row.get("parentFolderId")
    if missing:
        await _get(api, f"{ME}/messages", {"$select": "id", "$top": 1}, None)  # whether the mailbox is there and shown
    thrown_away = await _thrown_away(api) if folders else []
    return [*missing, *(own for own, folder in folders.items() if folder in thrown_away)]


def _is_no_mail(row: JSON, others: list[str]) -> bool:
    return bool(row.get("isDraft") or row.get("parentFolderId") in others)


def _second(row: JSON) -> str:
    """When it was received, to the second; "" if it does not say."""
    try:
        return stamp(_time(row["receivedDateTime"]))
    except UNMAPPABLE:
        return ""


async def _count_messages(api: Api, partition: Partition, window: Window) -> Estimate | None:
    reply = await api.get(f"{ME}/messages/$count", {"$filter": _filter(window)}, {"ConsistencyLevel": "eventual"})
    return Estimate(int(str(reply.data).strip("\ufeff \r\n")), exact=False)


async def _calendars(api: Api, cursor: JSON | None) -> Rows:
    return await _get(api, f"{ME}/calendars", {"$top": 100}, cursor)


async def _partitions(api: Api) -> list[Partition]:
    rows = await all_rows(partial(_calendars, api), api.longest_wait)
    return [Partition(row["id"], row.get("name") or "Calendar") for row in rows]


async def _events(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    """What overlaps the window, each occurrence of a series by itself; the engine takes what begins in it, so each comes once.

    Whether the bounds are included is not said, nor where a whole day, which is dated in UTC, lies: so more is asked for.
    By key it can't go on, as what overlaps comes again; an event that is deleted while pages are read may hide one till it is read again.
    """
    since, until = window.since - SECOND, window.until + _DATES_LAG + SECOND
    if until - since > _LONGEST_VIEW - SECOND:
        raise WindowTooLarge("Microsoft 365 lists no more than five years of a calendar at once.")
    span = {"startDateTime": stamp(since), "endDateTime": stamp(until)}
    path = f"{ME}/calendars/{quote(partition.key, safe='')}/calendarView"
    rows, following = await _get(api, path, {**span, "$orderby": "start/dateTime", "$top": 100}, cursor)
    return [_as_others_see(row) if isinstance(row, dict) else row for row in rows], following


def _is_private(row: JSON) -> bool:
    """Private, confidential or personal: Outlook hides the first only, but who says any of them says whose business it is."""
    return row.get("sensitivity") not in (None, "normal")


def _as_others_see(row: JSON) -> JSON:
    """The event, or what the organization sees of a private one. Whose it is, its organizer says only if that is the calendar's owner;
    nothing leads to others' copies of it, which may say more."""
    if not _is_private(row):
        return row
    shown = (*_OF_PRIVATE, "organizer") if row.get("isOrganizer") else _OF_PRIVATE
    return {name: row[name] for name in shown if name in row}


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _people(*given: JSON | None) -> list[Entity]:
    """Whom recipients name. An address may be one of Exchange's own (/o=...), which says nothing elsewhere."""
    addresses = [(one or {}).get("emailAddress") or {} for one in given]
    return people((one.get("name"), one.get("address")) for one in addresses)


def _mentioned(subject: str | None, body: JSON | None) -> list[str]:
    text = str((body or {}).get("content") or "")
    is_html = str((body or {}).get("contentType")).lower() == "html"
    return mentioned_emails(f"{subject or ''}\n{plain(text) if is_html else text[:MOST_TEXT]}")


def _extract_folder(row: JSON, context: Context) -> Graph:
    known = facts(row, "totalItemCount", "unreadItemCount", "isHidden")
    said = Graph(Entity("folder", context.key("folder", row["id"]), row.get("displayName") or "Folder", known))
    said.refer("part_of", context.keys("folder", row.get("parentFolderId")))
    return said


def _extract_message(row: JSON, context: Context) -> Graph:
    name = headline(row.get("subject"), "Private message" if row.get("sensitivity") else "(no subject)")
    shown = ("sentDateTime", "receivedDateTime", "importance", "isDraft", "hasAttachments", "webLink", "sensitivity")
    known = facts(row, *shown)
    said = Graph(message_entity(context.namespace, row.get("internetMessageId"), row["id"], name, known))
    said.by("authored", *_people(row.get("from") or row.get("sender")))
    said.to("with", *_people(*(one for kind in ("to", "cc", "bcc") for one in row.get(f"{kind}Recipients") or ())))
    said.to("part_of", *(Entity("thread", key, name) for key in context.keys("thread", row.get("conversationId"))))
    said.refer("part_of", context.keys("folder", row.get("parentFolderId")))
    # Categories are named by each mailbox for itself.
    within = f"{row['mailbox']}:" if row.get("mailbox") else ""
    labels = row.get("categories") or ()
    said.to("labelled", *(Entity("label", context.key("category", f"{within}{label}"), label) for label in labels))
    said.refer("mentions", _mentioned(row.get("subject"), row.get("body")))
    return said


def _extract_calendar(row: JSON, context: Context) -> Graph:
    known = facts(row, "color", "canEdit", "isDefaultCalendar")
    said = Graph(Entity("calendar", context.key("calendar", row["id"]), row.get("name") or "Calendar", known))
    said.to("owned_by", *_people({"emailAddress": row.get("owner")}))
    return said


def _room(guest: JSON, context: Context) -> Entity | None:
    place = guest.get("emailAddress") or {}
    address = place.get("address")
    return Entity("room", context.key("room", address), place.get("name") or address) if address else None


def _extract_event(row: JSON, context: Context) -> Graph:
    """A meeting is what its iCalUId names, which each occurrence of a series has for itself: the same in all calendars."""
    row = _as_others_see(row)
    is_private = _is_private(row)
    here, calendar = context.key("event", row["id"]), context.partition
    name = headline(row.get("subject"), "Private event" if is_private else "(no title)")
    key, *aliases = dict.fromkeys([*context.keys("event", row.get("iCalUId")), here])
    place = (row.get("location") or {}).get("displayName")
    shown = ("type", "isAllDay", "webLink", "createdDateTime", "lastModifiedDateTime")
    known = facts(row, *shown, location=place, deleted=row.get("isCancelled"))
    known |= {"sensitivity": row["sensitivity"]} if is_private else {}
    known |= {side: _time(row[side]["dateTime"]).isoformat() for side in ("start", "end") if row.get(side)}
    said = Graph(Entity("event", key, name, known, tuple(aliases)))
    said.to("part_of", Entity("calendar", context.key("calendar", calendar.key), calendar.label or "Calendar"))
    said.to("part_of", *(Entity("series", one, name) for one in context.keys("series", row.get("seriesMasterId"))))
    said.by("authored", *_people(row.get("organizer")))
    for guest in row.get("attendees") or ():
        if guest.get("type") == "resource":
            said.to("with", _room(guest, context))
        elif (guest.get("status") or {}).get("response") in _COMING:
            said.by("attended", *_people(guest))
        else:
            said.to("with", *_people(guest))
    said.refer("mentions", _mentioned(row.get("subject"), row.get("body")))
    return said


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    who = (await api.get(ME, {"$select": "id,displayName,mail,userPrincipalName"})).data
    own_id = str(who["id"])
    return Account(own_id, who.get("mail") or who.get("userPrincipalName") or own_id, None, {"mailbox": own_id})


MICROSOFT365 = Provider(
    slug="microsoft365",
    name="Microsoft 365",
    category="Mail and calendar",
    summary="An Outlook mailbox and its calendars: who writes to whom about what, and who meets.",
    brings=("Mail", "Conversations and folders", "Calendars", "Events and who attends"),
    shows="Everyone in this workspace can see who writes to whom, subjects and meetings; all but viewers can read the mail itself.",
    api_url="https://graph.microsoft.com",
    # An app that is registered for one organization only needs that one's id in place of "common".
    auth_url="https://login.microsoftonline.com/common",
    identify=_identify,
    classify=_classify,
    expired=_expired,
    # A mailbox answers 10,000 in ten minutes and four at once, of which one is left for health checks.
    budget=RateBudget(requests=10_000, seconds=600, concurrency=3),
    oauth=OAuth(
        "/oauth2/v2.0/authorize", "/oauth2/v2.0/token",
        ("offline_access", "openid", "profile", "email", "User.Read", "Mail.Read", "Calendars.Read"),
        extra_authorize={"response_mode": "query", "prompt": "select_account"},
        grant_errors=frozenset({"consent_required", "login_required"}),
    ),
    settle=timedelta(minutes=5),
    partition_label="Calendars",
    partitions=_partitions,
    streams=(
        Stream(
            "folders", "Mail folders", WindowKind.SNAPSHOT, listing(_folders, _TIMELESS), _extract_folder,
            needs=(MAIL,), record=_TIMELESS,
        ),
        Stream(
            "messages", "Mail", WindowKind.EXACT, pages(_messages, _RECEIVED, max), _extract_message, _count_messages, needs=(MAIL,), page_size=50,
            clock=Clock.CREATED, record=_RECEIVED, gone=_gone, shared=True,
        ),
        Stream(
            "calendars", "Calendars", WindowKind.SNAPSHOT, listing(_calendars, _TIMELESS), _extract_calendar,
            needs=(CALENDARS,), names_partitions=True,
        ),
        Stream(
            "events", "Events", WindowKind.EXACT, pages(_events, _BEGINS), _extract_event, partitioned=True, needs=(CALENDARS,), clock=Clock.EVENT,
            record=_BEGINS,
        ),
    ),
)  # fmt: skip
