"""What a Zendesk account of the sandbox holds: rows by place in time, made when they are asked for."""

from __future__ import annotations

from functools import cached_property
from random import Random
from typing import Any

from integrations.sandbox.world import COMPANIES, COMPANY_ENDS, COMPANY_WORDS, FIRST, LAST, World, stamp

# subdomain -> label; the last is empty.
ACCOUNTS = {
    "northwind": "northwind.zendesk.com",
    "contoso": "contoso.zendesk.com",
    "empty-desk": "empty-desk.zendesk.com",
}
SHARES = {"tickets": 0.35, "comments": 0.5, "users": 0.1, "organizations": 0.05, "ratings": 0.03}
TALK = 0.75  # of the changes of tickets come with a comment
AGENTS = 14
GROUPS = ("Support", "Billing", "Kundendienst")
SUBJECTS = (
    "Invoice shows the wrong total",
    "Can't sign in since Monday",
    "How do we export orders?",
    "Shipment is late",
    "Не приходит письмо",
    "Café order missing",
)
BODIES = (
    "Thanks, that works now.",
    "Same as #{number}, isn't it?",
    "Please loop in {email} from our side.",
    "See https://{subdomain}.zendesk.com/agent/tickets/{number} for the details.\nBest regards",
    "Ich schaue es mir an – danke für die Geduld.",
    "",
)


class Desk:
    """One account. Tickets lie by `generated_timestamp`, ticket events by their time, everything else by its last change."""

    def __init__(self, world: World, account: str, *, empty: bool) -> None:
        self.world, self.account, self.empty = world, account, empty
        self._times: dict[str, list[int]] = {}
        self.base = (list(ACCOUNTS).index(account) + 1) * 10**9

    def _rng(self, *about: object) -> Random:
        return self.world.rng("zendesk", self.account, *about)

    def _url(self, path: str) -> str:
        return f"https://{self.account}.zendesk.com/api/v2/{path}.json"

    def count(self, table: str) -> int:
        least = {"users": 40, "organizations": len(COMPANIES)}.get(table, 1)
        return 0 if self.empty else max(least, round(self.world.records * SHARES[table]))

    def times(self, table: str) -> list[int]:
        """When each row of the table lies, in Unix seconds, ascending."""
        if table not in self._times:
            self._times[table] = self.world.times(self.count(table), "zendesk", self.account, table)
        return self._times[table]

    # -- ids ----------------------------------------------------------------------------------------------------------------

    def ticket_id(self, place: int) -> int:
        return place + 1

    def user_id(self, place: int) -> int:
        return self.base + 10**6 + place

    def organization_id(self, place: int) -> int:
        return self.base + 2 * 10**6 + place

    def group_id(self, place: int) -> int:
        return self.base + 3 * 10**6 + place

    def event_id(self, place: int) -> int:
        return self.base + 4 * 10**6 + 2 * place

    def comment_id(self, place: int) -> int:
        return self.event_id(place) + 1

    def rating_id(self, place: int) -> int:
        return self.base + 9 * 10**8 + place

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def _a_user(self, rng: Random) -> int:
        """Those that other tools know, mostly."""
        return rng.randrange(AGENTS, 40) if rng.random() < 0.7 else rng.randrange(self.count("users"))

    def _an_agent(self, rng: Random) -> int:
        return rng.randrange(AGENTS)

    def group(self, place: int, deleted: bool = False) -> dict[str, Any]:
        at = stamp(int(self.world.now.timestamp()) - (400 - place) * 86_400)
        return {"id": self.group_id(place), "url": self._url(f"groups/{self.group_id(place)}"), "name": GROUPS[place], "description": "",
                "default": place == 0, "deleted": deleted, "is_public": True, "created_at": at, "updated_at": at}  # fmt: skip

    def organization(self, place: int) -> dict[str, Any]:
        rng, at = self._rng("organization", place), self.times("organizations")[place]
        if place < len(COMPANIES):
            name, domains = COMPANIES[place][0], [COMPANIES[place][1]]
        else:
            name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(COMPANY_ENDS)} {place}"
            domains = [] if rng.random() < 0.3 else [f"{name.lower().replace(' ', '-')}.test"]
        key = self.organization_id(place)
        return {"id": key, "url": self._url(f"organizations/{key}"), "name": name, "domain_names": domains, "details": None, "notes": "",
                "shared_tickets": False, "tags": [], "external_id": None, "group_id": None, "organization_fields": {},
                "created_at": stamp(at - 86_400), "updated_at": stamp(at)}  # fmt: skip

    def user(self, place: int, deleted: bool = False) -> dict[str, Any]:
        rng, at = self._rng("user", place), self.times("users")[place]
        people = self.world.people()
        if place < len(people):
            name: str = people[place].name
            email: str | None = people[place].email
            organization = next(
                (i for i, (_, domain) in enumerate(COMPANIES) if str(email).endswith(f"@{domain}")), None
            )
        else:
            name, organization = f"{rng.choice(FIRST)} {rng.choice(LAST)}", None
            email = None if rng.random() < 0.3 else f"customer.{place}@{rng.choice(COMPANY_WORDS).lower()}.test"
        role = "admin" if place < 2 else "agent" if place < AGENTS else "end-user"
        return {
            "id": self.user_id(place), "url": self._url(f"users/{self.user_id(place)}"), "name": name, "email": email, "role": role,
            "active": not deleted, "suspended": False, "verified": place < 40, "phone": None, "time_zone": "Berlin", "locale": "en-US",
            "organization_id": None if organization is None else self.organization_id(organization), "tags": [], "details": "",
            "created_at": stamp(at - 90_000), "updated_at": stamp(at),
        }  # fmt: skip

    def ticket(self, place: int, deleted: bool = False) -> dict[str, Any]:
        rng, generated = self._rng("ticket", place), self.times("tickets")[place]
        # What Zendesk itself changes moves `generated_timestamp` only.
        updated = generated - (rng.randrange(86_400) if rng.random() < 0.1 else 0)
        requester, agent = self._a_user(rng), self._an_agent(rng)
        row = {
            "id": self.ticket_id(place), "url": self._url(f"tickets/{self.ticket_id(place)}"), "external_id": None,
            "subject": rng.choice(SUBJECTS), "description": self._body(rng), "type": rng.choice(("incident", "question", None)),
            "status": rng.choice(("new", "open", "pending", "solved", "closed")), "priority": rng.choice(("low", "normal", "high", None)),
            "requester_id": self.user_id(requester), "submitter_id": self.user_id(requester),
            "assignee_id": None if rng.random() < 0.2 else self.user_id(agent), "group_id": self.group_id(rng.randrange(len(GROUPS))),
            "organization_id": self.user(requester)["organization_id"], "collaborator_ids": [], "follower_ids": [], "problem_id": None,
            "tags": rng.sample(("billing", "vip", "retour", "hw"), rng.randrange(3)), "via": {"channel": rng.choice(("email", "web", "api"))},
            "custom_fields": [{"id": 27642, "value": None}], "satisfaction_rating": {"score": "unoffered"}, "is_public": True,
            "created_at": stamp(updated - rng.randrange(20 * 86_400)), "updated_at": stamp(updated), "generated_timestamp": generated,
        }  # fmt: skip
        if deleted:
            scrubbed: dict[str, Any] = {
                "status": "deleted",
                "subject": "SCRUBBED",
                "description": "SCRUBBED",
                "tags": [],
                "assignee_id": None,
            }
            return {**row, **scrubbed, "raw_subject": "SCRUBBED"}
        return {**row, "raw_subject": row["subject"]}

    def _body(self, rng: Random) -> str:
        number = self.ticket_id(rng.randrange(max(1, self.count("tickets"))))
        email = self.world.people()[rng.randrange(40)].email
        return rng.choice(BODIES).format(number=number, email=email, subdomain=self.account)

    # -- ticket events ------------------------------------------------------------------------------------------------------

    @cached_property
    def talk(self) -> list[int]:
        """Places of the events that come with a comment."""
        return [place for place in range(self.count("comments")) if self._talks(place)]

    def _talks(self, place: int) -> bool:
        return self.world.chance("zendesk", self.account, "talk", place) < TALK

    def event(self, place: int, *, comments: bool) -> dict[str, Any]:
        rng, at = self._rng("event", place), self.times("comments")[place]
        author = self.user_id(self._an_agent(rng) if rng.random() < 0.5 else self._a_user(rng))
        if self.world.chance("zendesk", self.account, "automation", place) < 0.03:
            author = -1  # an automation's
        ticket = self.ticket_id(rng.randrange(self.count("tickets")))
        children: list[dict[str, Any]] = [{"id": self.event_id(place) + 5 * 10**8, "via": "Web form", "status": "open", "event_type": "Change", "previous_value": "new"}]  # fmt: skip
        if self._talks(place):
            body = self._body(rng)
            comment = {"id": self.comment_id(place), "type": "Comment", "author_id": author, "body": body, "plain_body": body,
                       "html_body": f"<div class=\"zd-comment\"><p>{body}</p></div>", "public": rng.random() < 0.8, "attachments": [],
                       "audit_id": self.event_id(place), "via": {"channel": "web"}, "created_at": stamp(at), "event_type": "Comment"}  # fmt: skip
            present = {
                "id": self.comment_id(place),
                "comment_present": True,
                "comment_public": comment["public"],
                "event_type": "Comment",
            }
            children.insert(0, comment if comments else {**present, "event_type": "Audit"})
        return {"id": self.event_id(place), "ticket_id": ticket, "timestamp": at, "created_at": stamp(at), "updater_id": author, "via": "Web form",
                "system": {"client": None, "location": None}, "event_type": "Audit", "child_events": children}  # fmt: skip

    def rating(self, place: int) -> dict[str, Any]:
        rng, at = self._rng("rating", place), self.times("ratings")[place]
        return {"id": self.rating_id(place), "url": self._url(f"satisfaction_ratings/{self.rating_id(place)}"), "score": rng.choice(("good", "bad", "offered")),
                "comment": rng.choice((None, "Schnell und freundlich", "Too slow")), "reason": None, "ticket_id": self.ticket_id(rng.randrange(self.count("tickets"))),
                "assignee_id": self.user_id(self._an_agent(rng)), "requester_id": self.user_id(self._a_user(rng)), "group_id": self.group_id(0),
                "created_at": stamp(at), "updated_at": stamp(at)}  # fmt: skip
