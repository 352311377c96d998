"""What a Linear workspace of the sandbox holds, and the part of Linear's schema that shows it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from integrations.sandbox.world import Person, World

JSON = dict[str, Any]
# id -> (url key, name)
WORKSPACES = {
    "0a000000-0000-4000-8000-000000000001": ("northwind", "Northwind Traders"),
    "0a000000-0000-4000-8000-000000000002": ("contoso", "Contoso"),
    "0a000000-0000-4000-8000-000000000003": ("brand-new", "Brand New"),
}
TEAMS = (("ENG", "Engineering"), ("OPS", "Operations"), ("DES", "Design & Größe"), ("OLD", "Retired"))
STATES = (
    ("Backlog", "backlog"),
    ("Todo", "unstarted"),
    ("In Progress", "started"),
    ("Done", "completed"),
    ("Canceled", "canceled"),
)
PEOPLE = 16
SLACK = {
    "id": "5b000000-0000-4000-8000-000000000001",
    "type": "slack",
    "subType": None,
    "name": "Slack",
    "userDisplayName": None,
}
EXTERNAL = {
    "id": "ec000000-0000-4000-8000-000000000001", "name": "Jana Extern", "displayName": "jana", "email": "jana@extern.example",
    "createdAt": "2025-01-01T00:00:00.000Z", "updatedAt": "2025-01-01T00:00:00.000Z", "archivedAt": None,
}  # fmt: skip
LABELS = ("bug", "feature", "Überprüfen", "customer")
SHARES = {"projects": 0.04, "cycles": 0.06, "issues": 0.4, "comments": 0.3, "attachments": 0.12, "relations": 0.08}
KINDS = {
    "teams": 1,
    "users": 2,
    "projects": 3,
    "cycles": 4,
    "issues": 5,
    "comments": 6,
    "attachments": 7,
    "labels": 8,
    "relations": 9,
}
TITLES = (
    "Retry on 429",
    "Exports lose the last row",
    "Слишком медленно",
    "Keyboard traps in the dialog",
    "Rotate keys",
    "注文が重複する",
)
_TIMES = {"createdAt": "", "updatedAt": "", "archivedAt": ""}
_PERSON = {
    "id": "",
    "name": "",
    "displayName": "",
    "email": "",
    "app": "",
    "active": "",
    "admin": "",
    "guest": "",
    "url": "",
    **_TIMES,
}
SCHEMA: dict[str, dict[str, str]] = {
    "Query": {
        "organization": "Organization",
        "viewer": "User",
        "rateLimitStatus": "RateLimitPayload",
        **{name: f"{name}Connection" for name in ("teams", "users", "projects", "cycles", "issues", "comments", "attachments", "issueRelations")},
    },
    "Organization": {"id": "", "urlKey": "", "name": ""},
    "RateLimitPayload": {"identifier": "", "kind": "", "limits": "[RateLimitResultPayload]"},
    "RateLimitResultPayload": {"type": "", "allowedAmount": "", "remainingAmount": "", "requestedAmount": "", "period": "", "reset": ""},
    "PageInfo": {"hasNextPage": "", "endCursor": "", "hasPreviousPage": "", "startCursor": ""},
    "User": _PERSON,
    "ExternalUser": {"id": "", "name": "", "displayName": "", "email": "", **_TIMES},
    "ActorBot": {"id": "", "type": "", "subType": "", "name": "", "userDisplayName": ""},
    "Team": {"id": "", "key": "", "name": "", "description": "", "private": "", **_TIMES},
    "WorkflowState": {"id": "", "name": "", "type": ""},
    "ProjectStatus": {"id": "", "name": "", "type": ""},
    "IssueLabel": {"id": "", "name": ""},
    "Project": {
        "id": "", "name": "", "description": "", "url": "", "progress": "", "startDate": "", "targetDate": "", "trashed": "",
        "status": "ProjectStatus", "lead": "User", "teams": "teamsConnection", **_TIMES,
    },
    "Cycle": {"id": "", "number": "", "name": "", "description": "", "startsAt": "", "endsAt": "", "completedAt": "", "team": "Team", **_TIMES},
    "Issue": {
        "id": "", "identifier": "", "previousIdentifiers": "", "number": "", "title": "", "description": "", "url": "", "priority": "", "priorityLabel": "",
        "estimate": "", "dueDate": "", "trashed": "", "startedAt": "", "completedAt": "", "canceledAt": "", "state": "WorkflowState",
        "team": "Team", "assignee": "User", "creator": "User", "externalUserCreator": "ExternalUser", "botActor": "ActorBot", "project": "Project", "cycle": "Cycle", "parent": "Issue",
        "labels": "labelsConnection", **_TIMES,
    },
    "Comment": {"id": "", "body": "", "url": "", "editedAt": "", "issue": "Issue", "user": "User", "externalUser": "ExternalUser", "botActor": "ActorBot", "parent": "Comment", **_TIMES},
    "Attachment": {
        "id": "", "title": "", "subtitle": "", "url": "", "sourceType": "", "issue": "Issue", "creator": "User", "externalUserCreator": "ExternalUser", **_TIMES,
    },
    "IssueRelation": {"id": "", "type": "", "issue": "Issue", "relatedIssue": "Issue", **_TIMES},
    **{
        f"{name}Connection": {"nodes": f"[{kind}]", "pageInfo": "PageInfo"}
        for name, kind in (
            ("teams", "Team"), ("users", "User"), ("projects", "Project"), ("cycles", "Cycle"), ("issues", "Issue"),
            ("comments", "Comment"), ("attachments", "Attachment"), ("labels", "IssueLabel"), ("issueRelations", "IssueRelation"),
        )
    },
}  # fmt: skip


def _stamp(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03d}Z"


def _date(milliseconds: int) -> str:
    return _stamp(milliseconds)[:10]


class Workspace:
    """Rows lie by `updatedAt`, which Linear keeps to the millisecond."""

    def __init__(self, world: World, account: str, *, empty: bool = False) -> None:
        self.world, self.account, self.empty = world, account, empty
        self.number = list(WORKSPACES).index(account) + 1
        self.url = f"https://linear.app/{WORKSPACES[account][0]}"
        self._times: dict[str, list[int]] = {}

    def id_of(self, stream: str, place: int) -> str:
        return f"{KINDS[stream]:02x}000000-0000-4000-8000-{self.number:02x}{place:010x}"

    def place_of(self, stream: str, given: str) -> int | None:
        """The place of the row with this id, None if there is none."""
        try:
            place = int(given[-10:], 16)
        except ValueError:
            return None
        return place if place < len(self.times(stream)) and given == self.id_of(stream, place) else None

    def times(self, stream: str) -> list[int]:
        """When each row was last touched, ascending Unix milliseconds."""
        if stream not in self._times:
            self._times[stream] = [] if self.empty else self._made(stream)
        return self._times[stream]

    def _made(self, stream: str) -> list[int]:
        if stream in ("teams", "users"):
            count = len(TEAMS) if stream == "teams" else PEOPLE + 1  # and an agent
        else:
            count = max(2, round(self.world.records * SHARES[stream]))
        moments = self.world.times(count, self.account, stream)
        return sorted(moment * 1000 + int(self._chance("ms", stream, at) * 1000) for at, moment in enumerate(moments))

    def row(self, stream: str, place: int) -> JSON:
        make: Callable[[int], JSON] = getattr(self, f"_{stream}")
        updated = self.times(stream)[place]
        created = updated - int(self._chance(stream, "age", place) ** 2 * 60 * 86_400_000)
        archived = stream in ("issues", "projects", "teams") and self._chance(stream, "archived", place) < 0.08
        times: JSON = {"createdAt": _stamp(created), "updatedAt": _stamp(updated)}
        times["archivedAt"] = _stamp(updated) if archived else None
        return {"id": self.id_of(stream, place), **times, **make(place)}

    # -- what belongs to what -----------------------------------------------------------------------------------------------

    def _chance(self, *about: object) -> float:
        return self.world.chance(self.account, *about)

    def _pick(self, stream: str, *about: object) -> int:
        return int(self._chance("pick", stream, *about) * len(self.times(stream)))

    def _maybe_user(self, share: float, *about: object) -> JSON | None:
        return self.row("users", self._pick("users", *about)) if self._chance("has", *about) < share else None

    def _others(self, row: JSON, user: str, external: str) -> JSON:
        """Whom the row is from if no user made it: the integration that brought it, and whom it brought it for."""
        outside = row[user] is None and self._chance("outside", row["url"]) < 0.5
        row["botActor"] = SLACK if row[user] is None else None
        row[external] = EXTERNAL if outside else None
        return row

    def _team(self, *about: object) -> int:
        return int(self._chance("team", *about) * (len(TEAMS) - 1))

    def _text(self, *about: object) -> str | None:
        """Prose that now and then mentions issues, people and addresses."""
        rng = self.world.rng(self.account, "text", *about)
        if rng.random() < 0.15:
            return None
        people, issue = self.world.people(), rng.randrange(max(1, len(self.times("issues"))))
        said = ["Happens since the last release."]
        if rng.random() < 0.3:
            said.append(f"See {self._identifier(issue)}.")
        if rng.random() < 0.15:
            said.append(f"Same as {self.url}/issue/{self._identifier(issue)}/retry-on-429")
        if rng.random() < 0.2:
            said.append(
                f"@{_display(people[rng.randrange(PEOPLE)])} knows more, or write to {rng.choice(people).email}."
            )
        if rng.random() < 0.2:
            said.append("`ENG-1 in code is none`")
        return " ".join(said)

    def _identifier(self, issue: int) -> str:
        return f"{TEAMS[self._team('issue', issue)][0]}-{issue + 1}"

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def _teams(self, place: int) -> JSON:
        key, name = TEAMS[place]
        return {"key": key, "name": name, "description": None, "private": False}

    def _users(self, place: int) -> JSON:
        if place == PEOPLE:
            return {
                "name": "Codex", "displayName": "codex", "email": "a4bc02c9-24f5-44c3@oauthapp.linear.app", "app": True,
                "active": True, "admin": False, "guest": False, "url": f"{self.url}/profiles/codex",
            }  # fmt: skip
        person = self.world.people()[place]
        return {
            "name": person.name,
            "displayName": _display(person),
            "email": person.email,
            "app": False,
            "active": place != 15,
            "admin": place == 0,
            "guest": place > 13,
            "url": f"{self.url}/profiles/{_display(person)}",
        }

    def _projects(self, place: int) -> JSON:
        updated = self.times("projects")[place]
        team = self._team("project", place)
        return {
            "name": f"{('Sync', 'Onboarding', 'Zürich launch', 'Billing')[place % 4]} {place // 4 + 1}",
            "description": self._text("project", place) or "",
            "url": f"{self.url}/project/project-{place}",
            "progress": round(self._chance("progress", place), 2),
            "startDate": None,
            "targetDate": _date(updated) if place % 3 else None,
            "trashed": None,
            "status": {"id": f"status-{place % 2}", "name": "In Progress", "type": "started"},
            "lead": self._maybe_user(0.7, "lead", place),
            "teams": {"nodes": [self.row("teams", team)], "pageInfo": END},
        }

    def _cycles(self, place: int) -> JSON:
        updated = self.times("cycles")[place]
        return {
            "number": place + 1,
            "name": None if place % 2 else f"Sprint {place + 1}",
            "description": None,
            "startsAt": _stamp(updated - 86_400_000 * 14),
            "endsAt": _stamp(updated),
            "completedAt": None if place % 5 == 4 else _stamp(updated),
            "team": self.row("teams", self._team("cycle", place)),
        }

    def _issues(self, place: int) -> JSON:
        return self._issue(place, nested=False)

    def _issue(self, place: int, *, nested: bool) -> JSON:
        updated = self.times("issues")[place]
        state = STATES[int(self._chance("state", place) * len(STATES))]
        identifier = self._identifier(place)
        parent = self._pick("issues", "parent", place) if self._chance("child", place) < 0.15 else place
        labels = [at for at in range(len(LABELS)) if self._chance("label", place, at) < 0.3]
        row: JSON = {
            "identifier": identifier,
            "previousIdentifiers": [f"OLD-{place + 1}"] if place % 17 == 16 else [],
            "number": place + 1,
            "title": f"{TITLES[place % len(TITLES)]} ({place})",
            "description": self._text("issue", place),
            "url": f"{self.url}/issue/{identifier}/retry-on-429",
            "priority": place % 5,
            "priorityLabel": ("No priority", "Urgent", "High", "Normal", "Low")[place % 5],
            "estimate": None if place % 3 else 2,
            "dueDate": None if place % 4 else _date(updated),
            "trashed": None,
            "startedAt": None,
            "completedAt": _stamp(updated) if state[1] == "completed" else None,
            "canceledAt": _stamp(updated) if state[1] == "canceled" else None,
            "state": {"id": f"state-{state[1]}", "name": state[0], "type": state[1]},
            "team": self.row("teams", self._team("issue", place)),
            "assignee": self._maybe_user(0.7, "assignee", place),
            "creator": self._maybe_user(0.9, "creator", place),
            "labels": {
                "nodes": [{"id": self.id_of("labels", at), "name": LABELS[at]} for at in labels],
                "pageInfo": END,
            },
        }
        self._others(row, "creator", "externalUserCreator")
        if not nested:
            row["project"] = self.row("projects", self._pick("projects", place)) if place % 3 else None
            row["cycle"] = self.row("cycles", self._pick("cycles", place)) if place % 4 == 0 else None
            row["parent"] = self._nested_issue(parent) if parent != place else None
        return row

    def _nested_issue(self, place: int) -> JSON:
        return {"id": self.id_of("issues", place), **self._issue(place, nested=True)}

    def _relations(self, place: int) -> JSON:
        issue = self._pick("issues", "relation", place)
        others = max(1, len(self.times("issues")) - 1)
        return {
            "type": ("blocks", "related", "duplicate", "similar")[place % 4],
            "issue": self._nested_issue(issue),
            "relatedIssue": self._nested_issue((issue + 1 + int(self._chance("to", place) * others)) % (others + 1)),
        }

    def _comments(self, place: int) -> JSON:
        issue = self._pick("issues", "comment", place)
        row = {
            "body": self._text("comment", place) or "👍",
            "url": f"{self.url}/issue/{self._identifier(issue)}/retry-on-429#comment-{place:08x}",
            "editedAt": None,
            "issue": None if place % 19 == 18 else self._nested_issue(issue),  # on a project's update
            "user": self._maybe_user(0.95, "comment", place),  # integrations comment, too
            "parent": {"id": self.id_of("comments", place // 2)} if place % 5 == 4 else None,
        }
        return self._others(row, "user", "externalUser")

    def _attachments(self, place: int) -> JSON:
        row = {
            "title": f"Fix the export #{place}" if place % 2 else f"Gespräch über {place}",
            "subtitle": None if place % 3 else "Merged",
            "url": f"https://github.com/northwind-dev/storefront/pull/{place + 1}"
            if place % 2
            else f"https://acme.slack.test/p{place}",
            "sourceType": "github" if place % 2 else "slack",
            "issue": self._nested_issue(self._pick("issues", "attachment", place)),
            "creator": self._maybe_user(0.8, "attachment", place),
        }
        return self._others(row, "creator", "externalUserCreator")


END: JSON = {"hasNextPage": False, "endCursor": None, "hasPreviousPage": False, "startCursor": None}


def _display(person: Person) -> str:
    return person.login.replace("-", ".")
