"""What a HubSpot portal of the sandbox holds: objects by type and place, made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from random import Random
from typing import Any

from integrations.sandbox.world import COMPANIES, COMPANY_ENDS, COMPANY_WORDS, FIRST, LAST, PLAIN, Person, World

JSON = dict[str, Any]
# Singular, share of a portal's records, the property that holds the last change.
TYPES = {
    "contacts": ("contact", 0.2, "lastmodifieddate"),
    "companies": ("company", 0.08, "hs_lastmodifieddate"),
    "deals": ("deal", 0.12, "hs_lastmodifieddate"),
    "tickets": ("ticket", 0.14, "hs_lastmodifieddate"),
    "calls": ("call", 0.08, "hs_lastmodifieddate"),
    "emails": ("email", 0.14, "hs_lastmodifieddate"),
    "meetings": ("meeting", 0.05, "hs_lastmodifieddate"),
    "notes": ("note", 0.11, "hs_lastmodifieddate"),
    "tasks": ("task", 0.08, "hs_lastmodifieddate"),
}
# What an object's association with its primary company is called, besides the one that any company's has.
PRIMARY = {
    "contacts": (1, "Contact with Primary Company"),
    "deals": (5, "Deal with Primary Company"),
    "tickets": (26, "Ticket with Primary Company"),
}
ANY_COMPANY = {
    "contacts": 279,
    "deals": 341,
    "tickets": 339,
    "calls": 182,
    "emails": 186,
    "meetings": 188,
    "notes": 190,
    "tasks": 192,
}
ARCHIVED_SHARE = 0.01  # of each type's own share
FIRST_ID = 51  # so that ids have two, three and more digits
OWNERS = 14  # the people who work at the connected company
# Pipelines by object type: id, what it is called, and its stages by id. Those that a portal makes itself have numbers.
PIPELINES: dict[str, tuple[str, str, dict[str, str]]] = {
    "deals": (
        "default",
        "Sales Pipeline",
        {
            "appointmentscheduled": "Appointment Scheduled",
            "qualifiedtobuy": "Qualified To Buy",
            "1086429312": "Legal review",
            "contractsent": "Contract Sent",
            "closedwon": "Closed Won",
            "closedlost": "Closed Lost",
        },
    ),
    "tickets": (
        "0",
        "Support Pipeline",
        {"1": "New", "2": "Waiting on contact", "3": "Waiting on us", "4": "Closed"},
    ),
}
SUBJECTS = (
    "Delivery is late",
    "Wrong invoice",
    "Kann mich nicht anmelden",
    "Fråga om avtalet",
    "Export of orders fails",
)
TOPICS = ("Pricing", "Renewal", "Onboarding", "Q3 planning – Überblick", "Contract")


def stamp(seconds: float) -> str:
    """2025-01-05T12:30:10.250Z"""
    return datetime.fromtimestamp(round(seconds * 1000) / 1000, UTC).isoformat(timespec="milliseconds")[:23] + "Z"


class Objects:
    """The objects of one type. Places are in the order of the last change; ids are not."""

    def __init__(self, world: World, account: str, name: str, count: int) -> None:
        self.world, self.account, self.name, self.count = world, account, name, count
        self.one, _, self.modified = TYPES[name]

    @cached_property
    def times(self) -> list[float]:
        """When each object changed last, ascending, to the millisecond. A bulk edit gave an eighth of them the same one."""
        found = [seconds + (i * 37 % 1000) / 1000 for i, seconds in enumerate(self._seconds)]
        first = self.count // 3
        for place in range(first, first + self.count // 8):
            found[place] = found[first]
        return sorted(found)

    @property
    def _seconds(self) -> list[int]:
        return self.world.times(self.count, "hubspot", self.account, self.name)

    @cached_property
    def order(self) -> list[int]:
        """place -> number of its id."""
        numbers = list(range(self.count))
        self.world.rng("ids", self.account, self.name).shuffle(numbers)
        return numbers

    @cached_property
    def by_id(self) -> dict[str, int]:
        return {self.id_of(place): place for place in range(self.count)}

    def id_of(self, place: int) -> str:
        return str(FIRST_ID + self.order[place])

    def chance(self, *about: object) -> float:
        return self.world.chance("hubspot", self.account, self.name, *about)


class Portal:
    """Everything of one account."""

    def __init__(self, world: World, account: str, count: Callable[[float], int]) -> None:
        self.world, self.account = world, account
        self.objects = {name: Objects(world, account, name, count(share)) for name, (_, share, _) in TYPES.items()}
        self.binned = {name: count(share * ARCHIVED_SHARE) for name, (_, share, _) in TYPES.items()}
        self.owner_count = min(OWNERS, count(1))

    # -- objects ------------------------------------------------------------------------------------------------------------

    def row(self, name: str, place: int) -> JSON:
        """The object as HubSpot sends it, with all of its properties."""
        objects = self.objects[name]
        return self._object(name, objects.id_of(place), objects.times[place], place)

    def archived(self, name: str, place: int) -> JSON:
        """An object that was put into the bin."""
        number = FIRST_ID + self.objects[name].count + place
        changed = self.world.now.timestamp() - 86_400 * (1 + 60 * self.world.chance(self.account, name, "bin", place))
        row = self._object(name, str(number), changed, self.objects[name].count + place)
        return {**row, "archived": True, "archivedAt": stamp(changed + 3600)}

    def _object(self, name: str, object_id: str, changed: float, place: int) -> JSON:
        rng = self.world.rng("hubspot", self.account, name, place)
        created = changed - int(rng.random() ** 2 * 90 * 86_400)
        make: Callable[[int, float, Random], JSON] = getattr(self, f"_{TYPES[name][0]}")
        properties = {
            "hs_object_id": object_id,
            "hubspot_owner_id": None if rng.random() < 0.1 else str(7001 + int(rng.random() * OWNERS)),
            "hs_createdate" if name in ("calls", "emails", "meetings", "notes", "tasks") else "createdate": stamp(
                created
            ),
            TYPES[name][2]: stamp(changed),
            **make(place, changed, rng),
        }
        return {
            "id": object_id,
            "properties": properties,
            "createdAt": stamp(created),
            "updatedAt": stamp(changed),
            "archived": False,
        }

    def owner(self, place: int) -> JSON:
        """The last ones have left."""
        person = self.world.people()[place]
        first, _, last = person.name.partition(" ")
        changed = self.world.now.timestamp() - 86_400 * (30 + place)
        return {
            "id": str(7001 + place),
            "email": person.email,
            "firstName": first,
            "lastName": last,
            "type": "PERSON",
            "userId": None if self.has_left(place) else 51_000 + place,
            "userIdIncludingInactive": 51_000 + place,
            "createdAt": stamp(changed - 86_400 * 300),
            "updatedAt": stamp(changed),
            "archived": self.has_left(place),
        }

    def has_left(self, place: int) -> bool:
        return place >= OWNERS - 3

    def linked(self, name: str, object_id: str, target: str) -> list[str]:
        """Ids of the `target` objects that an object is associated with."""
        place, others = self.objects[name].by_id.get(object_id), self.objects[target]
        if place is None or not others.count:
            return []
        roll = self.objects[name].chance("linked", target, place)
        most = 6 if target == "contacts" and name in ("deals", "meetings") else 1
        count = int(roll * (most + 1)) if most > 1 else int(roll < 0.85)
        if target == "companies" and name in PRIMARY and roll < 0.1:
            count = 2  # the last of them is the primary one
        found = (self.objects[name].chance("to", target, place, i) ** 2 * others.count for i in range(count))
        return list(dict.fromkeys(others.id_of(int(number)) for number in found))

    # -- properties ---------------------------------------------------------------------------------------------------------

    def _who(self, place: int) -> tuple[str, str | None]:
        """(name, e-mail) of a contact; the first ones are the people that other tools know too."""
        people = self.world.people()
        if place < len(people):
            return people[place].name, people[place].email
        rng = self.world.rng(self.account, "hubspot contact", place)
        name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
        plain = name.translate(PLAIN).lower().replace(" ", ".")
        return (
            name,
            None if rng.random() < 0.1 else f"{plain}.{place}@{COMPANY_WORDS[place % len(COMPANY_WORDS)].lower()}.test",
        )

    def _somebody(self, rng: Random) -> Person:
        return rng.choice(self.world.people())

    def _contact(self, place: int, changed: float, rng: Random) -> JSON:
        name, email = self._who(place)
        first, _, last = name.partition(" ")
        return {
            "firstname": first,
            "lastname": last,
            "email": email,
            "phone": None if rng.random() < 0.5 else f"+49 30 {rng.randrange(10**6, 10**7)}",
            "jobtitle": rng.choice(("CTO", "Buyer", "Geschäftsführerin", "", None)),
            "lifecyclestage": rng.choice(("lead", "customer", "opportunity")),
            "hs_additional_emails": f"{first.translate(PLAIN).lower()}.{place}@private.test"
            if rng.random() < 0.1
            else None,
            "hs_merged_object_ids": f"{900_000 + place};{950_000 + place}" if rng.random() < 0.05 else None,
        }

    def _company(self, place: int, changed: float, rng: Random) -> JSON:
        if place < len(COMPANIES):
            name, domain = COMPANIES[place]
        else:
            name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(COMPANY_ENDS)} {place}"
            domain = "" if rng.random() < 0.2 else f"{name.lower().replace(' ', '-')}.test"
        parent = place > 20 and rng.random() < 0.1
        return {
            "name": name,
            "domain": domain or None,
            "website": f"https://www.{domain}/" if domain else None,
            "industry": rng.choice(("RETAIL", "BANKING", None)),
            "phone": None,
            "hs_additional_domains": f"{domain.replace('.test', '')}-shop.test"
            if domain and rng.random() < 0.1
            else None,
            "hs_parent_company_id": self.objects["companies"].id_of(int(rng.random() * 20)) if parent else None,
        }

    def _deal(self, place: int, changed: float, rng: Random) -> JSON:
        introduced = f"<p>Introduced by {self._somebody(rng).email} &amp; team</p>"
        return {
            "dealname": f"{rng.choice(TOPICS)} {place}",
            "amount": None if rng.random() < 0.1 else str(rng.randrange(100, 250_000)),
            "deal_currency_code": "USD" if place % 5 == 0 else "EUR",
            "dealstage": rng.choice(list(PIPELINES["deals"][2])),
            "pipeline": "default",
            "closedate": stamp(changed + 20 * 86_400),
            "description": introduced if rng.random() < 0.4 else None,
            "hs_merged_object_ids": f"{900_000 + place};{950_000 + place}" if rng.random() < 0.05 else None,
        }

    def _ticket(self, place: int, changed: float, rng: Random) -> JSON:
        return {
            "subject": None if rng.random() < 0.03 else rng.choice(SUBJECTS),
            "content": f"Please ask {self._somebody(rng).email}." if rng.random() < 0.3 else "",
            "hs_pipeline": "0",
            "hs_pipeline_stage": str(rng.randrange(1, 5)),
            "hs_ticket_priority": rng.choice(("LOW", "MEDIUM", "HIGH", None)),
            "closed_date": None if rng.random() < 0.5 else stamp(changed),
            "hs_merged_object_ids": f"{900_000 + place};{950_000 + place}" if rng.random() < 0.05 else None,
        }

    def _call(self, place: int, changed: float, rng: Random) -> JSON:
        return {
            "hs_call_title": rng.choice((f"Call about {rng.choice(TOPICS)}", None)),
            "hs_call_body": f"<div>Spoke to {self._somebody(rng).name}.</div>",
            "hs_call_direction": rng.choice(("INBOUND", "OUTBOUND")),
            "hs_timestamp": stamp(changed),
        }

    def _email(self, place: int, changed: float, rng: Random) -> JSON:
        return {
            "hs_email_subject": f"Re: {rng.choice(TOPICS)}",
            "hs_email_text": f"Hello,\n\nwrite to {self._somebody(rng).email}, please.\n"
            if rng.random() < 0.3
            else None,
            "hs_email_direction": rng.choice(("INCOMING_EMAIL", "EMAIL")),
            "hs_email_from_email": self._somebody(rng).email,
            "hs_email_to_email": ";".join(dict.fromkeys(self._somebody(rng).email for _ in range(rng.randint(1, 3)))),
            "hs_email_cc_email": None,
            "hs_timestamp": stamp(changed),
        }

    def _meeting(self, place: int, changed: float, rng: Random) -> JSON:
        return {
            "hs_meeting_title": rng.choice(TOPICS),
            "hs_meeting_body": None,
            "hs_meeting_start_time": stamp(changed),
            "hs_meeting_end_time": stamp(changed + 1800),
            "hs_timestamp": stamp(changed),
        }

    def _note(self, place: int, changed: float, rng: Random) -> JSON:
        body = f"<p>Met <b>{self._somebody(rng).name}</b>; wants the {rng.choice(TOPICS).lower()} by Friday.</p>"
        return {"hs_note_body": None if rng.random() < 0.02 else body, "hs_timestamp": stamp(changed)}

    def _task(self, place: int, changed: float, rng: Random) -> JSON:
        return {
            "hs_task_subject": f"{rng.choice(('Call', 'Write to', 'Visit'))} {self._somebody(rng).name}",
            "hs_task_body": f"Mail: {self._somebody(rng).email}" if rng.random() < 0.4 else None,
            "hs_task_status": rng.choice(("NOT_STARTED", "COMPLETED")),
            "hs_task_priority": rng.choice(("NONE", "HIGH")),
            "hs_timestamp": stamp(changed),
        }
