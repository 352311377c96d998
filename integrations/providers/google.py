"""Google: a mailbox of Gmail (labels and messages) and the calendars that its owner sees, with their events.

Of an event that is marked private comes in what others of the organization see: that there is one, and when; of a message that is, too.
Whom a calendar's owner lets see its other events, its list does not say: only its access rules do, to who may read these as well.

Not imported are spam and what lies in the trash, drafts, birthdays of one's contacts, and where one works on a day. That a message was
thrown away after it came in is found by a full import: the list no longer has it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import quote

from integrations.errors import UNMAPPABLE, AccessDenied, CursorExpired, Gone, Misconfigured, ProviderError, Throttled
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    ONE_PAGE,
    Account,
    Clock,
    Context,
    Entity,
    Graph,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Record,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import facts, headline
from integrations.providers.mail import (
    addressed,
    files_of,
    message_entity,
    message_ids,
    message_key,
    people,
    text_of,
    words,
)
from integrations.providers.replies import ErrorTable, Means, body, error_in, inner
from integrations.providers.text import mentioned_emails, plain
from integrations.providers.wire import (
    MILLISECOND,
    SECOND,
    Rows,
    all_rows,
    epoch,
    listing,
    page,
    pages,
    reader,
    stamp,
    ticks,
    utc,
)

MAIL, CALENDAR = "/gmail/v1/users/me", "/calendar/v3"
READ_MAIL, READ_CALENDARS = (f"https://www.googleapis.com/auth/{name}.readonly" for name in ("gmail", "calendar"))
AT_ONCE = 4  # messages of one page that are read at the same time
A_READ = 20  # messages of one page: what is lost when the limit comes in the middle of it
_DATES_LAG = timedelta(hours=12)  # a calendar's day begins up to so much after the same day of UTC
_AFTER = re.compile(r"[Rr]etry after (\d{4}-\d\d-\d\dT[\d:.]+Z)")
_COMING = ("accepted", "tentative")
_BIRTHDAYS = (
    "#contacts@group.v.calendar.google.com"  # the calendar of one's contacts' birthdays, where there still is one
)
_PRIVATE = ("private", "confidential")  # the second is an older word for it
_OF_PRIVATE = ("id", "status", "visibility", "start", "end", "originalStartTime")
_MARKS = {"personal": "personal", "private": "private", "company-confidential": "confidential"}
_OF_PRIVATE_MESSAGE = ("id", "labelIds", "internalDate", "mailbox")
_NO_MEETING = ("birthday", "workingLocation")  # types of event: of one's contacts, and where one works on a day
_NO_PERSON = (".calendar.google.com", "calendar-notification@google.com")  # group calendars, rooms, the calendar itself

# -- wire format --------------------------------------------------------------------------------------------------------------

_LIMITS = ("rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "RATE_LIMIT_EXCEEDED")
_SCOPES = ("insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
_SWITCHED_OFF = ("accessNotConfigured", "SERVICE_DISABLED")
_NOT_GRANTED = "Google was not asked for, or not granted, the permission for this: connect again and tick it."
_NOT_ENABLED = "Google: the API is not enabled in the Cloud project of this deployment's client."
_ERRORS: ErrorTable = {
    **dict.fromkeys(_SCOPES, Means(AccessDenied, _NOT_GRANTED)),
    **dict.fromkeys(_SWITCHED_OFF, Means(Misconfigured, _NOT_ENABLED)),
    "no mailbox": Means(AccessDenied, "Google: Gmail is not switched on for this account."),
    "no message": Means(Gone, "Google: the message is gone."),
    "dead cursor": Means(CursorExpired, "Google no longer knows the page; going on by date."),
}


def _classify(reply: Reply) -> ProviderError | None:
    """By reason: a limit and a missing permission have the same status."""
    error = inner(body(reply), "error")
    if not error:
        return None
    words = str(error.get("message") or "")
    parts = (*(error.get("errors") or ()), *(error.get("details") or ()))
    reasons = [str(part.get("reason")) for part in parts if isinstance(part, dict)]
    if "dailyLimitExceeded" in reasons:
        return Throttled("Google's limit of a day is used up.", reply.retry_at(), daily=True)
    if reply.status == 429 or any(reason in _LIMITS for reason in reasons):
        named = _AFTER.search(words)
        at = reply.by_our_clock(utc(named[1])) if named else reply.retry_at()
        return Throttled("Google asks to slow down.", at or datetime.now(UTC) + timedelta(minutes=1))
    code = next((reason for reason in reasons if reason in _ERRORS), "")
    if not code and "failedPrecondition" in reasons and "not enabled" in words:
        code = "no mailbox"
    elif not code and reply.status == 404 and "/messages/" in reply.url:
        code = "no message"
    elif not code and reply.status in (400, 410) and "token" in words.lower():
        code = "dead cursor"
    return error_in(_ERRORS, reply, code)


def _owner(api: Api) -> JSON:
    """Whose mailbox it is: ids of Gmail are unique in one mailbox only."""
    return {"email": api.facts.get("email") or "me"}


def _sent_at(row: JSON) -> datetime:
    return epoch(row["internalDate"], MILLISECOND)


def _moment(when: JSON) -> datetime:
    """Of a date with time, or of a whole day, which is taken as one of UTC."""
    return utc(when["dateTime"] if when.get("dateTime") else when["date"])


def _starts_at(row: JSON) -> datetime:
    return _moment(row.get("start") or row["originalStartTime"])


_TIMELESS, _SENT = reader(), reader("id", _sent_at)

# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _labels(api: Api, cursor: JSON | None) -> Rows:
    rows = (await api.get(f"{MAIL}/labels")).data.get("labels") or ()
    return [{**row, "mailbox": _owner(api)} for row in rows], None


async def _messages(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    """Newest first. Lists hold ids only: a page of them is read a few at a time.

    Whether `after` and `before` are included is not said, so a second more is asked for. Drafts are no mail yet: each is another message
    whenever it is saved, and nothing tells of those before.
    cursor: {"ids": still to read, "next": token of the list's next page, None at its end}.
    """
    state = cursor or {"ids": [], "next": None}
    ids, following = state["ids"], state["next"]
    if not ids:
        since, until = ticks(window)
        query = f"after:{since - 1} before:{until + 1} -in:drafts"
        asked = {"q": query, "maxResults": 100, "includeSpamTrash": "false"}
        data = (await api.get(f"{MAIL}/messages", {**asked, "pageToken": following} if following else asked)).data
        ids, following = [row["id"] for row in data.get("messages") or ()], data.get("nextPageToken")
    rows = [_as_its_sender_meant({**row, "mailbox": _owner(api)}) for row in await _read(api, ids[:A_READ])]
    rest = ids[A_READ:]
    return rows, {"ids": rest, "next": following} if rest or following else None


async def _read(api: Api, ids: list[str]) -> list[JSON]:
    """Messages as a whole, some at the same time; without those that are gone. The first error ends the others' reading."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(message: str) -> JSON | None:
        async with gate:
            try:
                return dict((await api.get(f"{MAIL}/messages/{quote(message, safe='')}", {"format": "full"})).data)
            except Gone:
                return None

    try:
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(one(message)) for message in ids]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [row for task in reading if (row := task.result()) is not None]


def _as_its_sender_meant(row: JSON) -> JSON:
    """The message; of one that other programs than Gmail let mark as private that there is one, and when. Nothing leads to others' copies."""
    try:
        mark = _MARKS.get(_headers(row).get("sensitivity", [""])[0].strip().lower())
    except UNMAPPABLE:  # which is found out when it is mapped
        return row
    if not mark:
        return row
    return {name: row[name] for name in _OF_PRIVATE_MESSAGE if name in row} | {"sensitivity": mark}


def _headers(row: JSON) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for header in (row.get("payload") or {}).get("headers") or ():
        headers.setdefault(str(header["name"]).lower(), []).append(str(header["value"]))
    return headers


async def _gone(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
    """Those that are not in the mailbox any more, or that were thrown away."""
    missing, thrown_away = [], []
    for record in records:
        path = f"{MAIL}/messages/{quote(record.external_id, safe='')}"
        try:
            row = (await api.get(path, {"format": "minimal"})).data
        except Gone:
            missing.append(record.external_id)
        else:
            if "TRASH" in (row.get("labelIds") or ()):
                thrown_away.append(record.external_id)
    if missing:
        await api.get(f"{MAIL}/messages", {"maxResults": 1})  # whether the mailbox is there and shown
    return [*missing, *thrown_away]


async def _list(api: Api, path: str, asked: JSON, cursor: JSON | None) -> Rows:
    """A page of a calendar's list. Only its token tells the end: pages may be short, even empty, before it."""
    data = (await api.get(f"{CALENDAR}/{path}", {**asked, "maxResults": 250, **(cursor or {})})).data
    return data.get("items") or [], {"pageToken": data["nextPageToken"]} if data.get("nextPageToken") else None


async def _calendars(api: Api, cursor: JSON | None) -> Rows:
    rows, following = await _list(api, "users/me/calendarList", {"showHidden": "true"}, cursor)
    return [row for row in rows if not (isinstance(row, dict) and str(row.get("id")).endswith(_BIRTHDAYS))], following


def _name(calendar: JSON) -> str:
    return str(calendar.get("summaryOverride") or calendar.get("summary") or calendar["id"])


async def _partitions(api: Api) -> list[Partition]:
    rows = await all_rows(partial(_calendars, api), api.longest_wait)
    return [Partition(row["id"], _name(row)) for row in rows if not row.get("deleted")]


def _as_others_see(row: JSON) -> JSON:
    """The event, or what the organization sees of a private one. Whose it is, its organizer says only if that is the calendar's owner;
    nothing leads to others' copies of it, which may say more."""
    if row.get("visibility") not in _PRIVATE:
        return row
    host = row.get("organizer")
    shown = (*_OF_PRIVATE, "organizer") if isinstance(host, dict) and host.get("self") else _OF_PRIVATE
    return {name: row[name] for name in shown if name in row}


async def _fetch_events(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """What overlaps the window, each occurrence of a series by itself; the engine takes what begins in it, so each comes once.

    Both bounds are left out, which an event without length at the window's beginning must not be; whole days have no zone, and
    lie where the calendar's has them. Of what was deleted, the time may be missing: that is told wherever it is listed.
    What is no meeting is personal, and left out.
    """
    span = {"timeMin": stamp(window.since - SECOND), "timeMax": stamp(window.until + _DATES_LAG + SECOND)}
    asked = {**span, "singleEvents": "true", "orderBy": "startTime", "showDeleted": "true"}
    rows, following = await _list(api, f"calendars/{quote(partition.key, safe='')}/events", asked, cursor)

    def time_of(row: JSON) -> datetime:
        timeless = row.get("status") == "cancelled" and not row.get("start") and not row.get("originalStartTime")
        return window.since if timeless else _starts_at(row)

    rows = [row for row in rows if not (isinstance(row, dict) and row.get("eventType") in _NO_MEETING)]
    rows = [_as_others_see(row) if isinstance(row, dict) else row for row in rows]
    return page(rows, reader(lambda row: f"{partition.key}:{row['id']}", time_of), following)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _extract_label(row: JSON, context: Context) -> Graph:
    key = context.key("label", f"{row['mailbox']['email']}:{row['id']}")
    return Graph(Entity("label", key, row.get("name") or row["id"], facts(row, "type")))


def _people(named: Iterable[tuple[object, object]]) -> list[Entity]:
    return people(pair for pair in named if not str(pair[1]).lower().endswith(_NO_PERSON))


def _extract_message(row: JSON, context: Context) -> Graph:
    row = _as_its_sender_meant(row)
    ns, payload, owner, headers = context.namespace, row.get("payload") or {}, row["mailbox"], _headers(row)
    first = {name: values[0] for name, values in headers.items()}
    subject = words(first.get("subject", ""))
    labels = [str(label) for label in row.get("labelIds") or ()]
    own, system = ([label for label in labels if label.startswith("Label_") is ours] for ours in (True, False))
    known = facts(
        row,
        "snippet",
        "sizeEstimate",
        "sensitivity",
        sent_at=_sent_at(row).isoformat(),
        folders=system or None,
        deleted="TRASH" in labels,
    )
    name = headline(subject, "Private message" if row.get("sensitivity") else "(no subject)")
    said = Graph(message_entity(ns, first.get("message-id"), f"{owner['email']}:{row['id']}", name, known))
    said.by("authored", *_people(addressed(headers.get("from", ()))))
    said.to("with", *_people(addressed(one for header in ("to", "cc", "bcc") for one in headers.get(header, ()))))
    if row.get("threadId"):
        said.to("part_of", Entity("thread", context.key("thread", f"{owner['email']}:{row['threadId']}"), name))
    said.to("labelled", *(Entity("label", context.key("label", f"{owner['email']}:{one}"), one) for one in own))
    within = said.own.partition(":message:")[2]
    files = ((context.key("attachment", f"{within}:{part}"), called) for part, called in files_of(payload))
    said.by("attached_to", *(Entity("document", key, called) for key, called in files))
    before = message_ids(first.get("in-reply-to") or first.get("references"))
    said.refer("replied_to", [message_key(ns, one) for one in before[-1:]])
    said.refer("mentions", mentioned_emails(f"{subject}\n{text_of(payload)}"))
    return said


def _extract_calendar(row: JSON, context: Context) -> Graph:
    known = facts(row, "description", "timeZone", "accessRole", "primary", "deleted")
    said = Graph(Entity("calendar", context.key("calendar", row["id"]), _name(row), known))
    said.to("owned_by", *(_people([(None, row["id"])]) if row.get("primary") else ()))
    return said


def _guest(row: JSON | None, context: Context) -> Entity | None:
    """Somebody who is asked to come; a room is a calendar."""
    if not row or not row.get("email"):
        return None
    if row.get("resource") or row["email"].endswith(_NO_PERSON):
        return Entity("calendar", context.key("calendar", row["email"]), row.get("displayName") or row["email"])
    return next(iter(_people([(row.get("displayName"), row["email"])])), None)


def _extract_event(row: JSON, context: Context) -> Graph:
    """A meeting is what its iCalUID names, with the time it was planned for if it is one of a series: the same in all calendars.

    Who only takes it out of their own calendar does not call it off for the others.
    """
    row = _as_others_see(row)
    is_private = row.get("visibility") in _PRIVATE
    calendar, cancelled, uid = context.partition, row.get("status") == "cancelled", row.get("iCalUID")
    here = context.key("event", f"{calendar.key}:{row['id']}")
    is_shared = uid and (not cancelled or (row.get("organizer") or {}).get("self"))
    key = context.key("event", uid) if is_shared else here
    if is_shared and row.get("originalStartTime"):
        key += f":{_moment(row['originalStartTime']).isoformat()}"
    known = facts(row, "status", "location", "htmlLink", "eventType", "created", "updated", deleted=cancelled)
    known |= {name: (row[name].get("dateTime") or row[name].get("date")) for name in ("start", "end") if row.get(name)}
    known |= {"visibility": row["visibility"]} if is_private else {}
    name = headline(row.get("summary"), "Private event" if is_private else "(no title)")
    said = Graph(Entity("event", key, name, known, (here,) if is_shared else ()))
    said.to("part_of", Entity("calendar", context.key("calendar", calendar.key), calendar.label or calendar.key))
    if row.get("recurringEventId"):
        said.to("part_of", Entity("series", context.key("series", uid or row["recurringEventId"]), name))
    said.by("authored", _guest(row.get("organizer"), context))
    for guest in row.get("attendees") or ():
        found = _guest(guest, context)
        if found is not None and found.kind == "person" and guest.get("responseStatus") in _COMING:
            said.by("attended", found)
        else:
            said.to("with", found)
    said.refer("mentions", mentioned_emails(f"{row.get('summary') or ''}\n{plain(row.get('description') or '')}"))
    return said


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    who = (await api.get("/oauth2/v2/userinfo")).data
    return Account(str(who["id"]), who["email"], None, {"email": who["email"].lower(), "domain": who.get("hd")})


async def _revoke(grant: Revocation) -> None:
    """Ends all that this user ever granted to the client."""
    await grant.token_api.request("POST", "/revoke", form={"token": grant.refresh_token or grant.access_token})


GOOGLE = Provider(
    slug="google",
    name="Google",
    category="Mail and calendar",
    summary="A mailbox and the calendars beside it: who writes to whom about what, and who meets.",
    brings=("Mail", "Threads and labels", "Calendars", "Events and who attends"),
    shows="Everyone in this workspace can see who writes to whom, subjects, first words and meetings; all but viewers can read the mail itself.",
    api_url="https://www.googleapis.com",
    auth_url="https://accounts.google.com",
    path_roots={"/gmail/": "https://gmail.googleapis.com"},
    identify=_identify,
    classify=_classify,
    # 6,000 units a minute and mailbox, of which a message takes 20.
    budget=RateBudget(requests=280, seconds=60, concurrency=2),
    oauth=OAuth(
        "/o/oauth2/v2/auth", "/token", ("openid", "https://www.googleapis.com/auth/userinfo.email", READ_MAIL, READ_CALENDARS),
        # Without both, a second consent brings no refresh token.
        extra_authorize={"access_type": "offline", "prompt": "consent", "include_granted_scopes": "true"},
        revoke=_revoke, revokes_all=True, token_root="https://oauth2.googleapis.com",
    ),
    settle=timedelta(minutes=2),
    partition_label="Calendars",
    partitions=_partitions,
    streams=(
        Stream(
            "labels", "Labels", WindowKind.SNAPSHOT, listing(_labels, _TIMELESS), _extract_label, needs=(READ_MAIL,),
            page_size=ONE_PAGE,
        ),
        Stream(
            "messages", "Mail", WindowKind.EXACT, pages(_messages, _SENT, min), _extract_message, ascending=False, needs=(READ_MAIL,),
            page_size=A_READ, clock=Clock.CREATED, record=_SENT, gone=_gone, shared=True,
        ),
        Stream(
            "calendars", "Calendars", WindowKind.SNAPSHOT, listing(_calendars, _TIMELESS), _extract_calendar, needs=(READ_CALENDARS,),
            page_size=250, names_partitions=True, record=_TIMELESS,
        ),
        Stream(
            "events", "Events", WindowKind.EXACT, _fetch_events, _extract_event, partitioned=True, needs=(READ_CALENDARS,), page_size=250,
            clock=Clock.EVENT,
        ),
    ),
)  # fmt: skip
