"""What an Intercom workspace of the sandbox holds: rows by stream and place, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from integrations.sandbox.world import COMPANIES, COMPANY_ENDS, COMPANY_WORDS, FIRST, LAST, PLAIN, World

JSON = dict[str, Any]
SHARES = {"contacts": 0.25, "companies": 0.08, "conversations": 0.25, "tickets": 0.12}
ADMINS = 14  # the people who work at the connected company
TEAMS = ("Support", "Buchhaltung & Größen", "Escalations")
ASKED = ("Where is my invoice?", "Kann ich umbuchen?", "The export button does nothing", "Не работает вход")
SAID = ("Thanks, that helped!", "Please write to {}", "Ich sehe nach.", "Could you send a screenshot?")


class Workspace:
    """Everything of one account. Places are in the order of the last update."""

    def __init__(self, world: World, account: str, count: Callable[[float], int]) -> None:
        self.world, self.account, self.count = world, account, count
        self.admins = min(ADMINS, count(1))
        self.teams = min(len(TEAMS), count(1))

    def chance(self, *about: object) -> float:
        return self.world.chance("intercom", self.account, *about)

    @cached_property
    def updated(self) -> dict[str, list[int]]:
        return {
            name: self.world.times(self.count(share), "intercom", self.account, name) for name, share in SHARES.items()
        }

    def created(self, name: str, place: int) -> int:
        return self.updated[name][place] - int(self.chance(name, "age", place) ** 2 * 60 * 86_400)

    @cached_property
    def parts(self) -> list[tuple[int, int, int]]:
        """(time, place of the conversation, number in it), ascending."""
        found = []
        for place, updated in enumerate(self.updated["conversations"]):
            created = self.created("conversations", place)
            for number in range(int(self.chance("parts", place) * 4)):
                found.append((created + int(self.chance("part", place, number) * (updated - created)), place, number))
        return sorted(found)

    @cached_property
    def parts_of(self) -> dict[int, list[int]]:
        """Place of a conversation -> places of its parts, oldest first."""
        found: dict[int, list[int]] = {}
        for index, (_, place, _) in enumerate(self.parts):
            found.setdefault(place, []).append(index)
        return found

    # -- ids ----------------------------------------------------------------------------------------------------------------

    def id_of(self, name: str, place: int) -> str:
        if name in ("contacts", "companies"):  # 24 hexadecimal digits
            return f"{self.world.rng(self.account, name).getrandbits(64):016x}{place:08x}"
        return str({"conversations": 1200, "tickets": 700_000}[name] + place)

    def part_id(self, index: int) -> str:
        _, place, number = self.parts[index]
        return str(50_000_000 + place * 10 + number)

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def row(self, name: str, place: int) -> JSON:
        make: Callable[[int], JSON] = getattr(self, f"_{name}")
        about = {
            "id": self.id_of(name, place),
            "created_at": self.created(name, place),
            "updated_at": self.updated[name][place],
        }
        return {**about, **make(place)}

    def admin(self, place: int) -> JSON:
        person = self.world.people()[place]
        seat = {"away_mode_enabled": False, "away_mode_reassign": False, "has_inbox_seat": place < 10}
        row = {"type": "admin", "id": str(814_860 + place), "name": person.name, "email": person.email}
        return {
            **row,
            "job_title": None if place % 3 else "Support",
            **seat,
            "team_ids": [901 + place % len(TEAMS)] if place < 10 else [],
        }

    def team(self, place: int) -> JSON:
        return {
            "type": "team",
            "id": str(901 + place),
            "name": TEAMS[place],
            "admin_ids": [814_860 + i for i in range(10) if i % 3 == place],
        }

    def _who(self, place: int) -> tuple[str | None, str | None]:
        people = self.world.people()
        if place < len(people):
            return people[place].name, people[place].email
        rng = self.world.rng(self.account, "intercom contact", place)
        name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
        plain = name.translate(PLAIN).lower().replace(" ", ".")
        if rng.random() < 0.1:
            return None, None  # a lead who never said
        return name, f"{plain}.{place}@{COMPANY_WORDS[place % len(COMPANY_WORDS)].lower()}.test"

    def _contacts(self, place: int) -> JSON:
        rng = self.world.rng("intercom", self.account, "contact", place)
        name, email = self._who(place)
        own = int(rng.random() ** 2 * len(self.updated["companies"]))
        companies = (
            [{"type": "company", "id": self.id_of("companies", own), "url": "/companies/x"}]
            if rng.random() < 0.8
            else []
        )
        return {
            "type": "contact",
            "workspace_id": self.account,
            "external_id": None if email is None else f"user-{place}",
            "role": "lead" if email is None else "user",
            "email": email,
            "phone": None,
            "name": name,
            "owner_id": None if rng.random() < 0.7 else 814_860 + int(rng.random() * ADMINS),
            "companies": {
                "type": "list",
                "data": companies,
                "url": "/contacts/x/companies",
                "total_count": len(companies),
                "has_more": False,
            },
        }

    def _companies(self, place: int) -> JSON:
        rng = self.world.rng("intercom", self.account, "company", place)
        if place < len(COMPANIES):
            name, domain = COMPANIES[place]
        else:
            name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(COMPANY_ENDS)} {place}"
            domain = "" if rng.random() < 0.3 else f"{name.lower().replace(' ', '-')}.test"
        return {
            "type": "company",
            "company_id": f"c-{place}",
            "app_id": self.account,
            "name": name,
            "website": f"https://{domain}" if domain else None,
            "industry": rng.choice(("Retail", None)),
            "size": rng.choice((12, 300, None)),
            "monthly_spend": rng.randrange(0, 900),
            "session_count": rng.randrange(0, 90),
            "user_count": 1,
            "plan": {},
            "custom_attributes": {},
        }

    def _author(self, *about: object) -> JSON:
        roll = self.chance("author", *about)
        if roll < 0.08:
            return {"type": "bot", "id": "814859", "name": "Fin", "email": "operator+x@intercom.io"}
        if roll < 0.5:
            admin = self.admin(int(self.chance("admin", *about) * ADMINS))
            return {name: admin[name] for name in ("type", "id", "name", "email")}
        return self._customer(*about)

    def _customer(self, *about: object) -> JSON:
        place = int(self.chance("customer", *about) ** 2 * len(self.updated["contacts"]))
        name, email = self._who(place)
        return {
            "type": "lead" if email is None else "user",
            "id": self.id_of("contacts", place),
            "name": name,
            "email": email,
        }

    def _conversations(self, place: int) -> JSON:
        rng = self.world.rng("intercom", self.account, "conversation", place)
        customer = self._customer("conversation", place)
        body = rng.choice(ASKED) if rng.random() < 0.8 else f"Ask {rng.choice(self.world.people()).email} &amp; co"
        source = {
            "type": "conversation",
            "id": str(30_000 + place),
            "delivered_as": "customer_initiated",
            "subject": "",
            "url": None,
        }
        contacts = [{"type": "contact", "id": customer["id"], "external_id": None}]
        return {
            "type": "conversation",
            "title": None if rng.random() < 0.8 else "Umbuchung",
            "state": rng.choice(("open", "closed", "snoozed")),
            "open": True,
            "read": True,
            "priority": "not_priority",
            "admin_assignee_id": rng.choice((0, None, 814_860 + rng.randrange(ADMINS))),
            "team_assignee_id": rng.choice((None, "901", 902)),
            "source": {**source, "body": f"<p>{body}</p>", "author": customer, "attachments": []},
            "contacts": {"type": "contact.list", "contacts": contacts},
        }

    def conversation(self, place: int, listed: list[int], *, plain: bool) -> JSON:
        """With its parts, as only the single one comes."""
        row = self.row("conversations", place)
        if plain:
            row["source"]["body"] = row["source"]["body"].removeprefix("<p>").removesuffix("</p>").replace("&amp;", "&")
        parts = [self.part(index, plain=plain) for index in listed[-500:]]
        return {
            **row,
            "conversation_parts": {
                "type": "conversation_part.list",
                "conversation_parts": parts,
                "total_count": len(listed),
            },
        }

    def part(self, index: int, *, plain: bool) -> JSON:
        moment, place, number = self.parts[index]
        rng = self.world.rng("intercom", self.account, "part", place, number)
        row: JSON = {"type": "conversation_part", "id": self.part_id(index), "created_at": moment, "updated_at": moment}
        row |= {
            "notified_at": moment,
            "author": self._author("part", place, number),
            "attachments": [],
            "external_id": None,
            "redacted": False,
        }
        if rng.random() < 0.25:
            to = {"type": "admin", "id": str(814_860 + rng.randrange(ADMINS))}
            kind = rng.choice(("assignment", "close", "open"))
            return {**row, "part_type": kind, "body": None, "assigned_to": to if kind == "assignment" else None}
        text = rng.choice(SAID).format(rng.choice(self.world.people()).email)
        return {
            **row,
            "part_type": rng.choice(("comment", "note")),
            "body": text if plain else f"<p>{text}</p>",
            "assigned_to": None,
        }

    def _tickets(self, place: int) -> JSON:
        rng = self.world.rng("intercom", self.account, "ticket", place)
        customer = self._customer("ticket", place)
        linked = []
        if self.updated["conversations"] and rng.random() < 0.5:
            other = self.id_of("conversations", int(rng.random() * len(self.updated["conversations"])))
            linked = [{"type": "conversation", "id": other, "category": None}]
        text = None if rng.random() < 0.3 else f"See {rng.choice(self.world.people()).email}"
        return {
            "type": "ticket",
            "ticket_id": str(1 + place),
            "category": rng.choice(("Customer", "Back-office", "Tracker")),
            "ticket_attributes": {"_default_title_": rng.choice((*ASKED, "")), "_default_description_": text},
            "ticket_state": {"type": "ticket_state", "id": "1", "category": rng.choice(("submitted", "resolved"))},
            "ticket_type": {"type": "ticket_type", "id": "5", "name": "Request"},
            "contacts": {
                "type": "contact.list",
                "contacts": [{"type": "contact", "id": customer["id"], "external_id": None}],
            },
            "admin_assignee_id": rng.choice(("0", str(814_860 + rng.randrange(ADMINS)))),
            "team_assignee_id": rng.choice(("0", "901")),
            "open": True,
            "linked_objects": {"type": "list", "data": linked, "total_count": len(linked), "has_more": False},
            "is_shared": True,
        }
