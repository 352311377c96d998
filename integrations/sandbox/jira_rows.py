"""What the Jira sites of an Atlassian account hold: issues by place, what hangs on them, projects and people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Any

from integrations.sandbox.world import World

JSON = dict[str, Any]
ZONE = timezone(timedelta(hours=1))  # of the person who granted access
PEOPLE = 16  # of the cast; what comes after them is an app
SHARES = {"issues": 0.4, "comments": 0.25, "worklogs": 0.1, "changes": 0.25}
FIRST_ISSUE = 10_001
SPRINT = "customfield_10020"
STATUSES = (("To Do", "new"), ("In Progress", "indeterminate"), ("In Review", "indeterminate"), ("Done", "done"))
TITLES = (
    "Rotate TLS certs",
    "Checkout fails on Safari",
    "Größere Schrift",
    "Move backups",
    "Ошибка при входе",
    "Upgrade Postgres",
)
LINKS = (
    ("Blocks", "blocks", "is blocked by"),
    ("Relates", "relates to", "relates to"),
    ("Duplicate", "duplicates", "is duplicated by"),
)


@dataclass(frozen=True)
class Site:
    id: str
    name: str
    projects: tuple[tuple[str, str], ...]  # (key, name)

    @property
    def url(self) -> str:
        return f"https://{self.name}.atlassian.net"


# Account -> the sites that it granted.
SITES = {
    "712020:0a1b0001": (
        Site(
            "1324a887-45db-1bf4-1e99-ef0ff456d421",
            "northwind",
            (("OPS", "Operations"), ("WEB", "Web shop"), ("SUP", "Support")),
        ),
        Site("4fb0c3d2-9e0f-4d61-8f4e-0c6b6f5d7a11", "northwind-labs", (("LAB", "Labör"),)),
    ),
    "712020:0a1b0002": (Site("77d1c2aa-5a3e-4c52-b6f0-2f9a54f0b801", "contoso", (("CON", "Contoso"),)),),
    "712020:0a1b0003": (Site("90aa11bb-3c2d-4e5f-8a9b-1c2d3e4f5a6b", "brand-new", ()),),
}


def stamp(seconds: float) -> str:
    """2025-01-02T09:10:11.000+0100"""
    moment = datetime.fromtimestamp(round(seconds * 1000) / 1000, ZONE)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}+0100"


def document(*content: JSON | str) -> JSON:
    """A text in the Atlassian Document Format, of one paragraph."""
    nodes = [{"type": "text", "text": node} if isinstance(node, str) else node for node in content]
    return {"type": "doc", "version": 1, "content": [{"type": "paragraph", "content": nodes}]}


class Holdings:
    """Everything of one account. Issues' places are in the order of their last update."""

    def __init__(self, world: World, account: str, count: Callable[[float], int]) -> None:
        self.world, self.account, self.count = world, account, count
        self.sites = SITES[account]
        self.projects = [(site, number) for site in self.sites for number in range(len(site.projects))]
        self.people = PEOPLE + 1 if count(1) else 0
        self.seats = {site.id: self.people if site == self.sites[0] else min(6, self.people) for site in self.sites}

    def chance(self, *about: object) -> float:
        return self.world.chance("jira", self.account, *about)

    @cached_property
    def updated(self) -> list[float]:
        times = self.world.times(self.count(SHARES["issues"]), "jira", self.account)
        return sorted(seconds + (i * 7 % 1000) / 1000 for i, seconds in enumerate(times))

    @cached_property
    def project_of(self) -> list[int]:
        """place -> index in `projects`."""
        return [int(self.chance("project", place) * len(self.projects)) for place in range(len(self.updated))]

    @cached_property
    def created(self) -> list[float]:
        return [updated - self.chance("age", place) ** 2 * 120 * 86_400 for place, updated in enumerate(self.updated)]

    @cached_property
    def numbers(self) -> list[int]:
        """place -> the number in the issue's key."""
        found, last = [0] * len(self.created), [0] * len(self.projects)
        for place in sorted(range(len(found)), key=self.created.__getitem__):
            last[self.project_of[place]] += 1
            found[place] = last[self.project_of[place]]
        return found

    @cached_property
    def parts(self) -> dict[str, list[tuple[float, int, int]]]:
        """stream -> (time, place of the issue, number), ascending: comments, worklogs and changes."""
        found = {}
        for stream in ("comments", "worklogs", "changes"):
            rows = []
            for number in range(self.count(SHARES[stream])):
                place = int(self.chance(stream, number) ** 2 * len(self.updated))
                share = self.chance(stream, "at", number)
                moment = self.created[place] + share * (self.updated[place] - self.created[place])
                rows.append((int(moment * 1000) / 1000, place, number))
            found[stream] = sorted(rows)
        return found

    def parts_of(self, stream: str, place: int) -> list[int]:
        """Places in `parts[stream]` that hang on an issue."""
        return self._by_issue[stream].get(place, [])

    @cached_property
    def _by_issue(self) -> dict[str, dict[int, list[int]]]:
        found: dict[str, dict[int, list[int]]] = {}
        for stream, rows in self.parts.items():
            own = found[stream] = {}
            for index, (_, place, _) in enumerate(rows):
                own.setdefault(place, []).append(index)
        return found

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def site_of(self, place: int) -> Site:
        return self.projects[self.project_of[place]][0]

    def issue_id(self, place: int) -> str:
        return str(FIRST_ISSUE + place)

    def key(self, place: int) -> str:
        site, number = self.projects[self.project_of[place]]
        return f"{site.projects[number][0]}-{self.numbers[place]}"

    def project_id(self, index: int) -> str:
        return str(10_000 + index)

    def project(self, index: int, base: str) -> JSON:
        site, number = self.projects[index]
        key, name = site.projects[number]
        return {
            "expand": "description,lead,issueTypes,url,projectKeys,permissions,insight",
            "self": f"{base}/project/{self.project_id(index)}",
            "id": self.project_id(index),
            "key": key,
            "name": name,
            "projectTypeKey": "software",
            "simplified": False,
            "style": "classic",
            "isPrivate": False,
            "properties": {},
        }

    def user_id(self, index: int) -> str:
        return f"5b10ac8d82e05b22cc7d4e{index:02x}"

    def user(self, index: int) -> JSON:
        """Half of the people hide their address; the last one is an app."""
        if index >= PEOPLE:
            return {
                "accountId": self.user_id(index),
                "accountType": "app",
                "displayName": "Automation for Jira",
                "active": True,
            }
        person = self.world.people()[index]
        row = {
            "accountId": self.user_id(index),
            "accountType": "atlassian",
            "displayName": person.name,
            "active": index != 5,
        }
        return row | {"emailAddress": person.email} if index % 2 else row

    def _somebody(self, *about: object) -> JSON:
        return self.user(int(self.chance(*about) * self.people))

    def issue(self, place: int, base: str) -> JSON:
        rng = self.world.rng("jira", self.account, "issue", place)
        status, category = rng.choice(STATUSES)
        index = self.project_of[place]
        peers = [other for other in range(max(0, place - 40), place) if self.project_of[other] == index]
        asked = self._somebody("asked", place)
        text = document("Ask ", {"type": "mention", "attrs": {"id": asked["accountId"], "text": "@" + asked["displayName"]}}, f" or {self.world.people()[place % 14].email}. See ", {"type": "inlineCard", "attrs": {"url": f"{self.site_of(place).url}/browse/{self.key(peers[0]) if peers else 'OPS-1'}"}})  # fmt: skip
        links = []
        if peers and rng.random() < 0.3:
            name, outward, inward = rng.choice(LINKS)
            side = rng.choice(("outwardIssue", "inwardIssue"))
            links = [
                {
                    "id": str(20_000 + place),
                    "type": {"name": name, "outward": outward, "inward": inward},
                    side: self._brief(rng.choice(peers)),
                }
            ]
        parent = self._brief(rng.choice(peers)) if peers and rng.random() < 0.25 else None
        return {
            "expand": "operations,versionedRepresentations,editmeta,changelog",
            "id": self.issue_id(place),
            "self": f"{base}/issue/{self.issue_id(place)}",
            "key": self.key(place),
            "fields": {
                "summary": f"{rng.choice(TITLES)} ({place})",
                "description": None if rng.random() < 0.3 else text,
                "status": {"name": status, "statusCategory": {"key": category, "name": status}},
                "issuetype": {"name": rng.choice(("Task", "Bug", "Story")), "subtask": False},
                "priority": rng.choice(({"name": "Medium"}, {"name": "High"}, None)),
                "project": {name: value for name, value in self.project(index, base).items() if name in ("id", "key", "name", "self")},
                "assignee": None if rng.random() < 0.2 else self._somebody("assignee", place),
                "reporter": None if rng.random() < 0.05 else self._somebody("reporter", place),
                "creator": self._somebody("reporter", place),
                "created": stamp(self.created[place]),
                "updated": stamp(self.updated[place]),
                "resolutiondate": stamp(self.updated[place]) if category == "done" else None,
                "duedate": "2027-01-31" if rng.random() < 0.2 else None,
                "labels": [label for label in ("security", "größe-l") if rng.random() < 0.2],
                "components": [{"id": "10300", "name": "Zürich office"}] if place % 5 == 0 else [],
                "fixVersions": [{"id": f"1020{place % 3}", "name": f"2026.{place % 3 + 1}", "released": place % 3 == 0, "archived": False}] if place % 4 else [],
                "issuelinks": links,
                SPRINT: [{"id": 40 + sprint, "name": f"Sprint {sprint}", "state": "closed" if sprint < 4 else "active", "boardId": 1} for sprint in range(place % 5, min(place % 5 + place % 3, 5))] or None,
                **({"parent": parent} if parent else {}),
            },
        }  # fmt: skip

    def _brief(self, place: int) -> JSON:
        return {"id": self.issue_id(place), "key": self.key(place), "fields": {"summary": f"Issue {place}"}}

    def part_id(self, stream: str, index: int) -> str:
        return str(
            {"comments": 30_000, "worklogs": 1_030_000, "changes": 2_030_000}[stream] + self.parts[stream][index][2]
        )

    def part(self, stream: str, index: int, base: str) -> JSON:
        moment, place, number = self.parts[stream][index]
        rng = self.world.rng("jira", self.account, stream, number)
        row: JSON = {"id": self.part_id(stream, index), "author": self._somebody(stream, "by", number)}
        if stream == "changes":
            before, after = rng.choice(STATUSES)[0], rng.choice(STATUSES)[0]
            if rng.random() < 0.05:
                del row["author"]  # somebody who is gone, or nobody
            item = {
                "field": "status",
                "fieldtype": "jira",
                "from": "1",
                "fromString": before,
                "to": "3",
                "toString": after,
            }
            cleared = {
                "field": "assignee",
                "fieldtype": "jira",
                "from": None,
                "fromString": None,
                "to": "5b",
                "toString": "Mia",
            }
            return {**row, "created": stamp(moment), "items": [item, cleared] if rng.random() < 0.2 else [item]}
        row["self"] = f"{base}/issue/{self.issue_id(place)}/{stream[:-1]}/{row['id']}"
        row |= {"updateAuthor": row["author"], "updated": stamp(moment)}
        row["created"] = stamp(max(self.created[place], moment - rng.random() ** 4 * 86_400))
        if stream == "comments":
            words = rng.choice(("Fixed in 2.1, see OPS-1.", "Können wir das schließen?", "Same here with UTF-8."))
            return {**row, "body": document(words), "jsdPublic": True}
        spent = rng.choice(((5400, "1h 30m"), (28_800, "1d"), (900, "15m")))
        row |= {
            "issueId": self.issue_id(place),
            "started": row["created"],
            "timeSpentSeconds": spent[0],
            "timeSpent": spent[1],
        }
        return row | ({"comment": document("Pair with Ana")} if rng.random() < 0.5 else {})
