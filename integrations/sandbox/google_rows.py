"""What a Google account of the sandbox holds: a mailbox and three calendars; rows by place in time, made when they are asked for."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formataddr
from functools import cached_property
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from integrations.sandbox.world import Person, World, stamp

JSON = dict[str, Any]

# User id -> label; the last is empty.
ACCOUNTS = {
    "108000000000000000001": "Somebody at Northwind Traders",
    "108000000000000000002": "A colleague",
    "108000000000000000003": "Somebody new",
}
DOMAIN = "northwind.test"
# (name, time zone, share of the account's records, whole days); the first is the owner's own.
CALENDARS = (
    ("", "Europe/Madrid", 0.2, False),
    ("Équipe – Vertrieb", "America/New_York", 0.06, False),
    ("Holidays", "Asia/Tokyo", 0.02, True),
)
LABELS = ("INBOX", "SENT", "IMPORTANT", "Kunden – wichtig", "Invoices", "DRAFT")
SUBJECTS = ("Q1 draft", "Renewal of the contract", "Re: Größere Bestellung", "Lunch?", "")
BODIES = ("Hi,\n\nplease talk to {email} about it.\n", "See you there – à bientôt!\n", "Anbei der Entwurf.\n", "")
TITLES = ("Kick-off", "Weekly", "Kundentermin Zürich", "1:1", None)


@dataclass(frozen=True)
class Event:
    """at: when it begins, as Atom dates it (whole days at midnight of UTC); begins, ends: as Google does. Unix seconds."""

    at: int
    begins: int
    ends: int
    calendar: int
    number: int


class Holdings:
    """One account."""

    def __init__(self, world: World, account: str, *, empty: bool) -> None:
        self.world, self.account, self.empty = world, account, empty
        self.index = list(ACCOUNTS).index(account)
        self.owner: Person = world.people()[self.index]

    def _rng(self, *about: object) -> Random:
        return self.world.rng("google", self.account, *about)

    def _times(self, share: float, *about: object) -> list[int]:
        count = 0 if self.empty else max(4, round(self.world.records * share))
        return self.world.times(count, "google", self.account, *about)

    # -- mail ---------------------------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> list[JSON]:
        if self.empty:
            return []
        kinds = [
            ("system", name) if name.isupper() else ("user", f"Label_{place}") for place, name in enumerate(LABELS)
        ]
        return [{"id": name if kind == "system" else key, "name": name, "type": kind} for (kind, key), name in zip(kinds, LABELS, strict=True)]  # fmt: skip

    @cached_property
    def messages(self) -> list[int]:
        """Unix milliseconds of each message."""
        return sorted(at * 1000 + place * 137 % 1000 for place, at in enumerate(self._times(0.6, "mail")))

    def message_id(self, place: int) -> str:
        return f"{(0x18C0 + self.index << 48) + place * 7919:016x}"

    def is_draft(self, place: int) -> bool:
        return place % 31 == 30

    def message(self, place: int, form: str = "full", wanted: str | None = None) -> JSON:
        rng, at = self._rng("message", place), self.messages[place]
        row: JSON = {
            "id": self.message_id(place), "threadId": self.message_id(place - place % 3), "historyId": str(990_000 + place),
            "labelIds": ["SENT"] if rng.random() < 0.4 else ["INBOX", rng.choice(("IMPORTANT", "Label_3", "Label_4"))],
            "snippet": "", "internalDate": str(at), "sizeEstimate": 900 + rng.randrange(20_000),
        }  # fmt: skip
        row["labelIds"] = ["DRAFT"] if self.is_draft(place) else row["labelIds"]
        others = [person for person in self.world.people() if person != self.owner]
        other, third = rng.sample(others, 2)
        sender, to = (other, self.owner) if "INBOX" in row["labelIds"] else (self.owner, other)
        body = rng.choice(BODIES).format(email=third.email)
        row["snippet"] = body.replace("\n", " ").strip()
        host = sender.email.partition("@")[2]
        headers = [
            # Some mailers write the words of an empty field for a name.
            ("From", formataddr(("null" if rng.random() < 0.05 else sender.name, sender.email))),
            ("To", f"{formataddr((to.name, to.email))}, undisclosed-recipients:;" if rng.random() < 0.1 else formataddr((to.name, to.email))),
            ("Subject", SUBJECTS[place // 3 % len(SUBJECTS)]),
            ("Date", format_datetime(datetime.fromtimestamp(at // 1000, UTC))),
        ]  # fmt: skip
        if rng.random() < 0.3:
            headers.append(("Cc", f"{third.email.upper()}"))
        if rng.random() < 0.95:  # drafts and some machines' mail have none
            headers.append(("Message-ID", f"<{self.message_id(place)}@{host}>"))
        if place % 3:
            before = f"<{self.message_id(place - 1)}@{DOMAIN}>"
            headers += [("In-Reply-To", before), ("References", before)]
        if form == "minimal":
            return row
        payload: JSON = {
            "mimeType": "multipart/mixed",
            "filename": "",
            "headers": [{"name": name, "value": value} for name, value in headers],
        }
        if form == "metadata":
            names = {name.lower() for name in (wanted or "").split(",") if name}
            payload["headers"] = [
                header for header in payload["headers"] if not names or header["name"].lower() in names
            ]
            return {**row, "payload": payload}
        kinds = {"text/plain": body, "text/html": f"<p>{body}</p>"}
        if rng.random() < 0.2:
            del kinds["text/plain"]
        inner = [{"partId": f"0.{number}", "mimeType": kind, "filename": "", "headers": [], "body": _body(text)} for number, (kind, text) in enumerate(kinds.items())]  # fmt: skip
        parts: list[JSON] = [
            {"partId": "0", "mimeType": "multipart/alternative", "filename": "", "body": {"size": 0}, "parts": inner}
        ]
        if rng.random() < 0.2:
            parts.append(
                {
                    "partId": "1",
                    "mimeType": "application/pdf",
                    "filename": "Entwürfe.pdf",
                    "body": {"attachmentId": f"ANG{place}", "size": 70_000},
                }
            )
        return {**row, "payload": {**payload, "body": {"size": 0}, "parts": parts}}

    # -- calendars ----------------------------------------------------------------------------------------------------------

    def calendar_id(self, calendar: int) -> str:
        return self.owner.email if calendar == 0 else f"c_{self.index}{calendar}@group.calendar.google.com"

    @cached_property
    def calendars(self) -> list[JSON]:
        rows: list[JSON] = []
        for place, (name, zone, _, _) in enumerate([] if self.empty else CALENDARS):
            key = self.calendar_id(place)
            row = {
                "kind": "calendar#calendarListEntry",
                "etag": '"1"',
                "id": key,
                "summary": name or key,
                "timeZone": zone,
                "accessRole": "owner" if place < 2 else "reader",
            }
            rows.append({**row, "primary": True, "selected": True} if place == 0 else row)
        return rows

    @cached_property
    def events(self) -> list[Event]:
        found = []
        for calendar, (_, zone, share, days) in enumerate(CALENDARS):
            for number, at in enumerate(self._times(share, "events", calendar)):
                if days:
                    day = datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, tzinfo=ZoneInfo(zone))
                    began, ended = int(day.timestamp()), int((day + timedelta(days=1 + number % 3)).timestamp())
                    found.append(Event(at - at % 86_400, began, ended, calendar, number))
                else:
                    # Now and then one without length, and one of days.
                    length = 0 if number % 11 == 3 else 3 * 86_400 if number % 11 == 7 else 1800 * (1 + number % 4)
                    found.append(Event(at, at, at + length, calendar, number))
        return sorted(found, key=lambda event: (event.at, event.calendar, event.number))

    def is_of_series(self, event: Event) -> bool:
        return event.calendar == 0 and event.number % 5 == 0

    def series_id(self, event: Event) -> str:
        return f"se{self.index}{event.number // 50:04d}"

    def event_id(self, event: Event) -> str:
        if self.is_of_series(event):
            return f"{self.series_id(event)}_{datetime.fromtimestamp(event.begins, UTC):%Y%m%dT%H%M%SZ}"
        return f"ev{self.index}{event.calendar}{event.number:06d}"

    def event_type(self, event: Event) -> str:
        rest = event.number % 37 if event.calendar == 0 else 0
        return {36: "birthday", 34: "workingLocation", 32: "focusTime"}.get(rest, "default")

    def is_meeting(self, event: Event) -> bool:
        return self.event_type(event) not in ("birthday", "workingLocation")

    def event(self, event: Event, *, deleted: bool = False) -> JSON:
        rng, key = self._rng("event", event.calendar, event.number), self.event_id(event)
        root = self.series_id(event) if self.is_of_series(event) else key
        when: JSON = {}
        for name, at in (("start", event.begins), ("end", event.ends)):
            moment = datetime.fromtimestamp(at, ZoneInfo(CALENDARS[event.calendar][1]))
            whole = {"date": moment.date().isoformat()}
            when[name] = (
                whole
                if CALENDARS[event.calendar][3]
                else {"dateTime": moment.isoformat(), "timeZone": CALENDARS[event.calendar][1]}
            )
        row: JSON = {"kind": "calendar#event", "etag": f'"{event.number}"', "id": key, "status": "confirmed", "iCalUID": f"{root}@google.com",
                     "htmlLink": f"https://www.google.com/calendar/event?eid={key}", "created": f"{stamp(event.begins - 9 * 86_400)[:-1]}.000Z",
                     "updated": f"{stamp(event.begins - 86_400)[:-1]}.120Z", **when, "eventType": self.event_type(event), "sequence": 0}  # fmt: skip
        if self.is_of_series(event):
            row |= {"recurringEventId": root, "originalStartTime": when["start"]}
        if deleted:
            return {**row, "status": "cancelled"}
        title = TITLES[event.number % len(TITLES)]
        row |= {} if title is None else {"summary": title}
        host, *guests = rng.sample(self.world.people(), 1 + rng.randrange(4))
        row["organizer"] = {
            "email": host.email,
            "displayName": host.name,
            **({"self": True} if host == self.owner else {}),
        }
        row["creator"] = {"email": host.email}
        if guests:
            answers = ("accepted", "declined", "tentative", "needsAction")
            row["attendees"] = [
                {"email": guest.email, "displayName": guest.name, "responseStatus": rng.choice(answers)}
                for guest in guests
            ]
            if rng.random() < 0.2:
                row["attendees"].append(
                    {
                        "email": "c_room@resource.calendar.google.com",
                        "displayName": "Raum Łódź",
                        "resource": True,
                        "responseStatus": "accepted",
                    }
                )
        if rng.random() < 0.3:
            row["description"] = f"<b>Notes</b>: ask {rng.choice(self.world.people()).email}"
        if event.calendar == 0 and event.number % 19 == 17:
            row["visibility"] = "private"
        return row


def _body(text: str) -> JSON:
    data = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    return {"size": len(text.encode()), **({"data": data} if data else {})}
