"""What a Microsoft 365 account of the sandbox holds: a mailbox and two calendars; rows by place in time, made when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from random import Random
from typing import Any

from integrations.sandbox.world import Person, World, stamp

JSON = dict[str, Any]

# Object id -> label; the last is empty.
ACCOUNTS = {
    "6f1e3c0a-0000-4000-8000-000000000001": "Somebody at Northwind Traders",
    "6f1e3c0a-0000-4000-8000-000000000002": "A colleague",
    "6f1e3c0a-0000-4000-8000-000000000003": "Somebody new",
}
# (name, folder that it is in, or None for the top)
FOLDERS = (
    ("Inbox", None),
    ("Sent Items", None),
    ("Deleted Items", None),
    ("Kunden", 0),
    ("Größere", 3),
    ("Drafts", None),
    ("Archive", None),
    ("Junk-E-Mail", None),
    ("Altes Projekt", 2),
    ("Entwürfe 2019", 8),
)
# Names by which a folder is found whatever the mailbox calls it -> its place.
WELL_KNOWN = {"inbox": 0, "sentitems": 1, "deleteditems": 2, "drafts": 5, "archive": 6, "junkemail": 7}
# (name, share of the account's records, hours that whole days begin after UTC's; None: no whole days)
CALENDARS = (("Calendar", 0.2, None), ("Vacances – été", 0.04, 9))
SUBJECTS = ("Renewal", "Q1 draft", "AW: Größere Bestellung", "Lunch?", None)
BODIES = ("Hi,\r\n\r\nplease talk to {email} about it.", "À bientôt!", "Anbei der Entwurf.", "")
TITLES = ("Weekly", "Kick-off", "Kundentermin Zürich", "1:1", None)


@dataclass(frozen=True)
class Event:
    """at: when it begins, as it is dated (whole days at midnight); begins, ends: when it takes place. Unix seconds."""

    at: int
    begins: int
    ends: int
    calendar: int
    number: int


def graph_time(seconds: int) -> JSON:
    return {"dateTime": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.0000000", "timeZone": "UTC"}


def mailbox_of(person: Person) -> JSON:
    return {"emailAddress": {"name": person.name, "address": person.email}}


PROPERTIES = (
    "singleValueExtendedProperties"  # of Exchange's, of which this stand-in knows one: how private a message is
)
EXPANDED = f"{PROPERTIES}($filter=id eq 'Integer 0x36')"


class Holdings:
    """One account."""

    def __init__(self, world: World, account: str, *, empty: bool) -> None:
        self.world, self.account, self.empty = world, account, empty
        self.index = list(ACCOUNTS).index(account)
        self.owner = world.people()[self.index]

    def _rng(self, *about: object) -> Random:
        return self.world.rng("microsoft365", self.account, *about)

    def _times(self, share: float, *about: object) -> list[int]:
        count = 0 if self.empty else max(4, round(self.world.records * share))
        return self.world.times(count, "microsoft365", self.account, *about)

    # -- mail ---------------------------------------------------------------------------------------------------------------

    @cached_property
    def folders(self) -> range:
        return range(0 if self.empty else len(FOLDERS))

    def folder_id(self, place: int) -> str:
        return f"AQMkAD{self.index}F{place:04d}=="

    def folder(self, place: int) -> JSON:
        name, parent = FOLDERS[place]
        children = sum(1 for _, within in FOLDERS if within == place)
        return {"id": self.folder_id(place), "displayName": name, "childFolderCount": children, "unreadItemCount": place, "totalItemCount": 9 * place,
                "parentFolderId": f"AQMkAD{self.index}Root==" if parent is None else self.folder_id(parent), "isHidden": False, "sizeInBytes": 9000}  # fmt: skip

    @cached_property
    def messages(self) -> list[int]:
        return self._times(0.6, "mail")

    def message_id(self, place: int, *, immutable: bool = True) -> str:
        """The usual id says the folder, too, so it changes when the message moves."""
        return (
            f"AAkALgAAAD{self.index}M{place:07d}"
            if immutable
            else f"AAMkAD{self.index}F{self._folder_of(place)}M{place:07d}="
        )

    def _folder_of(self, place: int) -> int:
        return self._rng("folder", place).choice((0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 6, 6, 7, 8, 9))

    def is_mail(self, place: int) -> bool:
        """Neither junk nor a draft nor among what was thrown away."""
        others = {WELL_KNOWN["junkemail"], WELL_KNOWN["deleteditems"]}
        for folder, (_, within) in enumerate(FOLDERS):  # each comes after the one that it is in
            others |= {folder} if within in others else set()
        row = self.message(place)
        return not row["isDraft"] and row["parentFolderId"] not in map(self.folder_id, others)

    def message(self, place: int, *, immutable: bool = True, text: bool = True) -> JSON:
        rng, at, folder = self._rng("message", place), self.messages[place], self._folder_of(place)
        other, third = rng.sample([person for person in self.world.people() if person != self.owner], 2)
        sender, to = (self.owner, other) if folder == 1 else (other, self.owner)
        body = rng.choice(BODIES).format(email=third.email)
        draft = rng.random() < 0.04
        author: JSON | None = None if draft else mailbox_of(sender)
        if rng.random() < 0.04 and author:
            legacy = "/O=EXCHANGELABS/OU=EXCHANGE ADMINISTRATIVE GROUP/CN=RECIPIENTS/CN=0A1B"
            author = {"emailAddress": {"name": sender.name, "address": legacy}}
        return {
            "@odata.etag": f'W/"{place}"', "id": self.message_id(place, immutable=immutable), "createdDateTime": stamp(at), "lastModifiedDateTime": stamp(at + 60),
            "changeKey": "CQAAABYAAAD", "categories": ["Größere Kunden"] if rng.random() < 0.1 else [], "receivedDateTime": stamp(at), "sentDateTime": stamp(at - 3),
            "hasAttachments": rng.random() < 0.2, "internetMessageId": f"<{self.index}.{place}@{sender.email.partition('@')[2]}>",
            "subject": SUBJECTS[place // 3 % len(SUBJECTS)], "bodyPreview": body[:255], "importance": "normal", "parentFolderId": self.folder_id(5 if draft else folder),
            "conversationId": f"AAQkAD{self.index}C{place // 3:06d}", "isDeliveryReceiptRequested": None, "isReadReceiptRequested": False, "isRead": True, "isDraft": draft,
            "webLink": f"https://outlook.office365.com/owa/?ItemID={place}", "inferenceClassification": "focused",
            "body": {"contentType": "text", "content": body} if text else {"contentType": "html", "content": f"<html><body>{body}</body></html>"},
            "sender": author, "from": author, "toRecipients": [mailbox_of(to)], "ccRecipients": [mailbox_of(third)] if rng.random() < 0.3 else [],
            "bccRecipients": [], "replyTo": [], "flag": {"flagStatus": "notFlagged"},
            **({PROPERTIES: [{"id": "Integer 0x36", "value": "2"}]} if place % 23 == 11 else {}),
        }  # fmt: skip

    # -- calendars ----------------------------------------------------------------------------------------------------------

    @cached_property
    def calendars(self) -> range:
        return range(0 if self.empty else len(CALENDARS))

    def calendar_id(self, place: int) -> str:
        return f"AAMkAD{self.index}K{place:04d}="

    def calendar(self, place: int) -> JSON:
        return {"id": self.calendar_id(place), "name": CALENDARS[place][0], "color": "auto", "hexColor": "", "isDefaultCalendar": place == 0, "changeKey": "DxYSthXJ",
                "canShare": True, "canViewPrivateItems": True, "canEdit": True, "isRemovable": place > 0, "isTallyingResponses": True,
                "allowedOnlineMeetingProviders": ["teamsForBusiness"], "defaultOnlineMeetingProvider": "teamsForBusiness",
                "owner": {"name": self.owner.name, "address": self.owner.email}}  # fmt: skip

    @cached_property
    def events(self) -> list[Event]:
        found = []
        for calendar, (_, share, late) in enumerate(CALENDARS):
            for number, at in enumerate(self._times(share, "events", calendar)):
                if late is not None:
                    day = at - at % 86_400
                    begins = day + late * 3600
                    found.append(Event(day, begins, begins + 86_400 * (1 + number % 3), calendar, number))
                else:
                    # Now and then one without length, and one of days.
                    length = 0 if number % 11 == 3 else 3 * 86_400 if number % 11 == 7 else 1800 * (1 + number % 4)
                    found.append(Event(at, at, at + length, calendar, number))
        return sorted(found, key=lambda event: (event.at, event.calendar, event.number))

    def event_id(self, event: Event, *, immutable: bool = True) -> str:
        return f"{'AAkALg' if immutable else 'AAMkAD'}{self.index}E{event.calendar}{event.number:06d}"

    def event(self, event: Event, *, immutable: bool = True) -> JSON:
        rng = self._rng("event", event.calendar, event.number)
        host, *guests = rng.sample(self.world.people(), 1 + rng.randrange(4))
        of_series = event.calendar == 0 and event.number % 5 == 0
        whole = CALENDARS[event.calendar][2] is not None
        attendees: list[JSON] = [
            {"type": "required", "status": {"response": rng.choice(("accepted", "declined", "none")), "time": "0001-01-01T00:00:00Z"}, **mailbox_of(guest)} for guest in guests
        ]  # fmt: skip
        if guests and rng.random() < 0.2:
            room = {"name": "Raum Łódź", "address": "room-lodz@northwind.test"}
            attendees.append({"type": "resource", "status": {"response": "accepted"}, "emailAddress": room})
        body = f"<p>ask {rng.choice(self.world.people()).email}</p>" if rng.random() < 0.3 else ""
        return {
            "@odata.etag": f'W/"{event.number}"', "id": self.event_id(event, immutable=immutable), "createdDateTime": f"{stamp(event.at - 9 * 86_400)[:-1]}.0000000Z",
            "lastModifiedDateTime": f"{stamp(event.at - 86_400)[:-1]}.1234567Z", "changeKey": "FHJ", "categories": [], "transactionId": None,
            "originalStartTimeZone": "UTC", "originalEndTimeZone": "UTC", "iCalUId": f"040000008200E00074C5B7101A82E008{self.index}{event.calendar}{event.number:08d}",
            "reminderMinutesBeforeStart": 15, "isReminderOn": True, "hasAttachments": False, "subject": TITLES[event.number % len(TITLES)], "bodyPreview": "",
            "importance": "normal", "sensitivity": "private" if event.number % 19 == 17 else "normal", "isAllDay": whole, "isCancelled": rng.random() < 0.05, "isOrganizer": host == self.owner,
            "responseRequested": True, "seriesMasterId": f"AAMkAD{self.index}S{event.number // 50:04d}" if of_series else None, "showAs": "busy",
            "type": "occurrence" if of_series else "singleInstance", "webLink": "https://outlook.office365.com/owa/?path=/calendar/item", "recurrence": None,
            "body": {"contentType": "html", "content": body}, "start": graph_time(event.at), "end": graph_time(event.at + event.ends - event.begins),
            "location": {"displayName": rng.choice(("", "Zürich")), "locationType": "default"}, "locations": [], "attendees": attendees, "organizer": mailbox_of(host),
        }  # fmt: skip
