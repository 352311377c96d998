"""What a Notion workspace of the sandbox holds: objects by stream and place, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from integrations.sandbox.world import World

JSON = dict[str, Any]
WORKSPACES = {
    "5b000000-0000-4000-8000-000000000001": "Northwind Traders",
    "5b000000-0000-4000-8000-000000000002": "Contoso",
    "5b000000-0000-4000-8000-000000000003": "Brand New",
}
KINDS = {"users": 1, "data_sources": 2, "rows": 3, "pages": 4, "comments": 5, "content": 8}
SHARES = {"rows": 0.4, "pages": 0.15, "comments": 0.25}
SOURCES = ("Roadmap", "Candidates", "Réunions", "Vendors", "仕様書")
WIKI, IN_WIKI = 0, 3  # which data source is a wiki, and which lies in it
UNSHARED = len(SOURCES)
TITLES = ("Launch plan", "Sécurité", "Onboarding", "Offsite notes", "Почему так", "How we price")
TOGGLE = 1  # which of a page's blocks may have others within
UNSHOWN = 4  # which of a page's blocks the API does not show
LISTED = ("title", "rich_text", "people", "relation")  # types of properties that hold several references
MOST_REFERENCES = 25
PLAIN = {"bold": False, "italic": False, "strikethrough": False, "underline": False, "code": False, "color": "default"}


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:00.000Z")


def text(content: str) -> JSON:
    shown = {"content": content, "link": None}
    return {"type": "text", "text": shown, "annotations": PLAIN, "plain_text": content, "href": None}


def cut(row: JSON) -> JSON:
    """A page as lists and the page itself tell it: no more than 25 references of each property."""
    properties = dict(row["properties"])
    for name, value in properties.items():
        kind = value["type"]
        if kind == "relation":
            more = len(value[kind]) > MOST_REFERENCES
            properties[name] = {**value, kind: value[kind][:MOST_REFERENCES], "has_more": more}
        elif kind in LISTED:
            left = MOST_REFERENCES
            held = []
            for part in value[kind]:
                left -= kind == "people" or part["type"] == "mention"
                held += [part] if left >= 0 else []
            properties[name] = {**value, kind: held}
    return {**row, "properties": properties}


class Workspace:
    """Objects lie by `last_edited_time`, which Notion keeps to the minute."""

    def __init__(self, world: World, account: str, *, empty: bool = False) -> None:
        self.world, self.account, self.empty = world, account, empty
        self.number = list(WORKSPACES).index(account) + 1
        self._times: dict[str, list[int]] = {}

    def id_of(self, stream: str, place: int) -> str:
        return f"{KINDS[stream]:02x}b00000-0000-4000-8000-{self.number:02x}{place:010x}"

    def place_of(self, stream: str, given: str) -> int | None:
        try:
            place = int(given[-10:], 16)
        except ValueError:
            return None
        return place if place < len(self.times(stream)) and given == self.id_of(stream, place) else None

    def times(self, stream: str) -> list[int]:
        """When each object was last edited, ascending Unix seconds, on the minute."""
        if stream not in self._times:
            if stream == "content":
                self._times[stream] = [edited for edited, _, _ in self.written()]
                return self._times[stream]
            counts = {"users": 18, "data_sources": len(SOURCES)}
            count = counts.get(stream) or max(2, round(self.world.records * SHARES.get(stream, 0)))
            found = [] if self.empty else self.world.times(count, self.account, stream)
            self._times[stream] = [moment - moment % 60 for moment in found]
        return self._times[stream]

    def created(self, stream: str, place: int) -> int:
        edited = self.times(stream)[place]
        moment = edited - int(self.world.chance(self.account, stream, "age", place) ** 2 * 90 * 86_400)
        return moment - moment % 60

    def row(self, stream: str, place: int) -> JSON:
        make: Callable[[int], JSON] = getattr(self, f"_{stream}")
        if stream == "users":
            return make(place)
        times = {
            "created_time": _stamp(self.created(stream, place)),
            "last_edited_time": _stamp(self.times(stream)[place]),
        }
        return {
            "id": self.id_of(stream, place),
            **times,
            "created_by": self._user("author", stream, place),
            **make(place),
        }

    # -- what belongs to what -----------------------------------------------------------------------------------------------

    def _chance(self, *about: object) -> float:
        return self.world.chance(self.account, *about)

    def _user(self, *about: object) -> JSON:
        return {"object": "user", "id": self.id_of("users", int(self._chance("user", *about) * 16))}

    def _mention(self, user: JSON) -> JSON:
        mention = {"type": "user", "user": user}
        return {"type": "mention", "mention": mention, "annotations": PLAIN, "plain_text": "@Somebody", "href": None}

    def _said(self, *about: object) -> list[JSON]:
        rng = self.world.rng(self.account, "said", *about)
        people, rich = self.world.people(), [text("Voilà, as agreed. ")]
        if rng.random() < 0.3:
            rich.append(self._mention(self._user("mention", *about)))
        if rng.random() < 0.2 and self.times("pages"):
            page = {"type": "page", "page": {"id": self.id_of("pages", rng.randrange(len(self.times("pages"))))}}
            rich.append(
                {"type": "mention", "mention": page, "annotations": PLAIN, "plain_text": "Launch plan", "href": None}
            )
        if rng.random() < 0.3:
            rich.append(text(f" Ask {rng.choice(people).email}."))
        return rich

    def source_of(self, row: int) -> int:
        """Which data source a row is in; UNSHARED is one that nobody shared, though the row was."""
        return UNSHARED if row % 23 == 22 else int(self._chance("source", row) * len(SOURCES))

    def target_of(self, comment: int) -> tuple[str, int]:
        """(stream, place) of the page that a comment is on."""
        stream = "pages" if comment % 3 else "rows"
        return stream, int(self._chance("target", comment) * len(self.times(stream)))

    # -- what is written ----------------------------------------------------------------------------------------------------

    def written(self) -> list[tuple[int, str, int]]:
        """(last edit, stream, place) of what has content, by last edit."""
        return sorted(
            (at, stream, place) for stream in ("rows", "pages") for place, at in enumerate(self.times(stream))
        )

    def _block_id(self, stream: str, place: int, at: int, within: int = 0) -> str:
        """at: of the blocks of a page. within: of the blocks within that one, from 1 on."""
        return f"08b{at:05x}-{within:04x}-4000-8{KINDS[stream]:03x}-{self.number:02x}{place:010x}"

    def holder(self, given: str) -> tuple[str, int, int | None] | None:
        """(stream, place, which block of its page) of a page or block; None if there is none."""
        for stream in ("rows", "pages"):
            if (place := self.place_of(stream, given)) is not None:
                return stream, place, None
            for at in (TOGGLE, UNSHOWN):
                place = int(given[-10:], 16) if given.startswith(f"08b{at:05x}-0000-") else -1
                if 0 <= place < len(self.times(stream)) and given == self._block_id(stream, place, at):
                    return stream, place, at
        return None

    def unshown(self, stream: str, place: int, block: int | None = None) -> str:
        """Type of block for whose sake the API shows nothing of what is within the page or its block; "" where it does."""
        if block is None:
            return "external_object_instance_page" if place % 29 == 28 else ""
        return "ai_block" if block == UNSHOWN else ""

    def blocks(self, stream: str, place: int, block: int | None = None) -> list[JSON]:
        """What is written on a page, or within one of its blocks."""
        below = self._below(place) if stream == "pages" else []
        if block is not None:
            nested = below if block == TOGGLE else []
            return [self._block(stream, place, block, within) for within in (1, 2)][len(nested) :] + nested
        count = self._count(stream, place)
        found = [self._block(stream, place, at) for at in range(count)]
        if place % 6 == 5:
            found.insert(0, self._block(stream, place, UNSHOWN))
        return found if self._nests(stream, place) else found + below

    def _count(self, stream: str, place: int) -> int:
        return 0 if place % 7 == 6 else 1 + int(self._chance("blocks", stream, place) * 3)

    def _nests(self, stream: str, place: int) -> bool:
        """Whether the page has a toggle with something within."""
        return place % 5 == 0 and self._count(stream, place) > TOGGLE

    def _below(self, place: int) -> list[JSON]:
        """The pages that lie within a page, as its blocks."""
        child = 2 * place + 1
        if child % 4 != 3 or child >= len(self.times("pages")):
            return []
        known = {"object": "block", "id": self.id_of("pages", child), "has_children": True, "type": "child_page"}
        return [{**known, "child_page": {"title": "Launch plan"}, "in_trash": False}]

    def _block(self, stream: str, place: int, at: int, within: int = 0) -> JSON:
        kind = "paragraph" if within else ("paragraph", "toggle", "to_do", "image", "unsupported")[at]
        nests = (kind == "toggle" and place % 5 == 0) or kind == "unsupported"
        held: JSON = {"rich_text": self._said("block", stream, place, at, within), "color": "default"}
        if kind == "image":
            held = {"type": "external", "external": {"url": "https://pictures.test/a.png"}, "caption": []}
        if kind == "unsupported":
            held = {"block_type": "ai_block"}
        parent = (
            {"type": "block_id", "block_id": self._block_id(stream, place, at)}
            if within
            else {"type": "page_id", "page_id": self.id_of(stream, place)}
        )
        return {
            "object": "block",
            "id": self._block_id(stream, place, at, within),
            "parent": parent,
            "created_time": _stamp(self.created(stream, place)),
            "last_edited_time": _stamp(self.times(stream)[place]),
            "has_children": nests and not within,
            "in_trash": False,
            "type": kind,
            kind: {**held, "checked": False} if kind == "to_do" else held,
        }

    # -- objects ------------------------------------------------------------------------------------------------------------

    def _users(self, place: int) -> JSON:
        user: JSON = {"object": "user", "id": self.id_of("users", place), "avatar_url": None}
        if place >= 16:
            return {**user, "type": "bot", "name": f"Integration {place}", "bot": {}}
        person = self.world.people()[place]
        # Without the capability, or for guests, there is no address.
        return {**user, "type": "person", "name": person.name, "person": {} if place == 15 else {"email": person.email}}

    def _data_sources(self, place: int) -> JSON:
        own = self.id_of("data_sources", place)
        database = own.replace("02b", "07b", 1)
        return {
            "object": "data_source",
            "title": [text(SOURCES[place])],
            "description": [],
            "parent": {"type": "database_id", "database_id": database},
            "database_parent": {"type": "page_id", "page_id": self.id_of("pages", 0)}
            if place == 1 and self.times("pages")
            else {"type": "workspace", "workspace": True},
            "properties": {"Name": {"id": "title", "name": "Name", "type": "title", "title": {}}},
            "icon": None,
            "url": f"https://app.notion.com/p/{own.replace('-', '')}",
            "in_trash": False,
            "last_edited_by": self._user("editor", "data_sources", place),
        }

    def _page(self, stream: str, place: int, parent: JSON, properties: JSON) -> JSON:
        own = self.id_of(stream, place)
        return {
            "object": "page",
            "parent": parent,
            "properties": properties,
            "icon": None,
            "cover": None,
            "url": f"https://app.notion.com/p/{own.replace('-', '')}",
            "public_url": None,
            "in_trash": False,
            "is_locked": False,
            "last_edited_by": self._user("editor", stream, place),
        }

    def _title(self, place: int) -> JSON:
        return {
            "id": "title",
            "type": "title",
            "title": [] if place % 17 == 16 else [text(f"{TITLES[place % 6]} {place}")],
        }

    def _pages(self, place: int) -> JSON:
        parent: JSON = {"type": "workspace", "workspace": True}
        if place % 4 == 3:
            parent = {"type": "page_id", "page_id": self.id_of("pages", place // 2)}
            if self._nests("pages", place // 2):
                parent = {"type": "block_id", "block_id": self._block_id("pages", place // 2, TOGGLE)}
        return self._page("pages", place, parent, {"title": self._title(place)})

    def _rows(self, place: int) -> JSON:
        source = self.id_of("data_sources", self.source_of(place))
        person, rows = self.world.people()[place % 40], len(self.times("rows"))
        people = [self.row("users", int(self._chance("people", place) * 16))] if place % 3 else []
        if place % 8 == 7:
            people.append(
                {"object": "group", "id": f"09b00000-0000-4000-8000-{self.number:012x}", "name": "Engineering"}
            )
        many = place % 30 == 22  # references, more than a page tells of itself
        related = [
            {"id": self.id_of("rows", (int(self._chance("related", place) * rows) + at) % rows)}
            for at in range(60 if many else 1 if place % 5 == 4 else 0)
        ]
        notes = self._said("rows", place)
        if many:
            notes += [self._mention(self._user("noted", place, at)) for at in range(40)]
        status = {"id": "s", "name": "In progress", "color": "blue"} if place % 4 else None
        properties: JSON = {
            "Name": self._title(place),
            "Status": {"id": "a%3Bx", "type": "status", "status": status},
            "Owner": {"id": "own", "type": "people", "people": people},
            "Related": {"id": "r%7D%3Ek", "type": "relation", "relation": related, "has_more": False},
            "Contact": {"id": "mail", "type": "email", "email": person.email if place % 6 == 0 else None},
            "Notes": {"id": "note", "type": "rich_text", "rich_text": notes},
            "Steps": {
                "id": "step",
                "type": "rollup",
                "rollup": {"type": "number", "number": len(related), "function": "count"},
            },
            "Names": {
                "id": "names",
                "type": "rollup",
                "rollup": {
                    "type": "array",
                    "array": [{"type": "title", "title": [text(TITLES[at % 6])]} for at in range(len(related[:2]))],
                    "function": "show_original",
                },
            },
        }
        parent = {"type": "data_source_id", "data_source_id": source, "database_id": source.replace("02b", "07b", 1)}
        return self._page("rows", place, parent, properties)

    def _comments(self, place: int) -> JSON:
        stream, target = self.target_of(place)
        return {
            "object": "comment",
            "parent": {"type": "page_id", "page_id": self.id_of(stream, target)},
            "discussion_id": f"06b00000-0000-4000-8000-{self.number:02x}{place:010x}",
            "rich_text": self._said("comments", place),
        }
