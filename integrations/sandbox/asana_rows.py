"""What an Asana account of the sandbox holds: rows by place in time, made when they are asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from html import escape
from random import Random
from typing import Any, NamedTuple

from integrations.sandbox.world import Person, World

# The connected person's gid -> label; the last belongs to nothing.
ACCOUNTS = {
    "1200000001000000": "Northwind Traders",
    "1200000002000000": "Contoso",
    "1200000003000000": "Nobody's account",
}
TASKS, SUBTASKS = 0.35, 0.15  # shares of the account's records; stories come on top
PEOPLE = 18
WORKSPACES: tuple[tuple[str, bool, list[str]], ...] = (
    ("northwind.test", True, ["northwind.test"]),
    ("Nebenprojekte", False, []),
)
PROJECTS = (
    # name, workspace, archived
    ("Launch", 0, False),
    ("Website relaunch", 0, False),
    ("Kundenportal für Großkunden", 0, False),
    ("Hiring", 0, False),
    ("Office move 2024", 0, True),
    ("Chorprobe", 1, False),
)
NAMES = (
    "Draft launch mail",
    "Fix the sign-up form",
    "Prüfen: Rechnungen",
    "Order chairs",
    "Interview candidate",
    "Подготовить отчёт",
    "",
)
NOTES = (
    "",
    "Ask {email} first.",
    "See https://app.asana.com/0/{project}/{task} and reply.",
    "As discussed – bitte bis Freitag.",
    "Follow-up of https://app.asana.com/1/{workspace}/project/{project}/task/{task}",
)


class Story(NamedTuple):
    """at: Unix milliseconds. on: the task that it is on ("task" or "subtask", place), number: which of its stories."""

    at: int
    on: tuple[str, int]
    number: int


def stamp(millis: int) -> str:
    """2026-01-31T09:00:00.500Z"""
    return datetime.fromtimestamp(millis // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{millis % 1000:03d}Z"


class Organization:
    """One account. Tasks and subtasks lie by their last change, stories by when they came to be."""

    def __init__(self, world: World, account: str, *, empty: bool) -> None:
        self.world, self.account, self.empty = world, account, empty
        self.number = list(ACCOUNTS).index(account) + 1

    def gid(self, kind: int, place: int) -> str:
        return f"12{kind:02d}{self.number:02d}{place:010d}"

    def user_gid(self, place: int) -> str:
        return self.account if place == 0 else self.gid(1, place)

    def workspace_gid(self, place: int) -> str:
        return self.gid(2, place)

    def project_gid(self, place: int) -> str:
        return self.gid(3, place)

    def task_gid(self, place: int) -> str:
        return self.gid(4, place)

    def subtask_gid(self, place: int) -> str:
        return self.gid(5, place)

    def gid_of(self, kind: str, place: int) -> str:
        return self.task_gid(place) if kind == "task" else self.subtask_gid(place)

    def story_gid(self, place: int) -> str:
        return self.gid(6, place)

    def _rng(self, *about: object) -> Random:
        return self.world.rng("asana", self.account, *about)

    def _chance(self, *about: object) -> float:
        return self.world.chance("asana", self.account, *about)

    def _times(self, share: float, table: str) -> list[int]:
        """Unix milliseconds, ascending."""
        count = 0 if self.empty else max(1, round(self.world.records * share))
        times = self.world.times(count, "asana", self.account, table)
        return [seconds * 1000 + place % 1000 for place, seconds in enumerate(times)]

    # -- places -------------------------------------------------------------------------------------------------------------

    @cached_property
    def people(self) -> list[Person]:
        people = self.world.people()
        return [] if self.empty else people[: PEOPLE - 4] + people[-4:]

    @property
    def workspaces(self) -> range:
        return range(0 if self.empty else len(WORKSPACES))

    @property
    def projects(self) -> range:
        return range(0 if self.empty else len(PROJECTS))

    def user(self, place: int) -> dict[str, Any]:
        person = self.people[place]
        # Of guests the address is not always shown.
        email = None if place == PEOPLE - 1 else person.email
        return {"gid": self.user_gid(place), "resource_type": "user", "name": person.name, "email": email, "photo": None,
                "workspaces": [self.workspace(0)]}  # fmt: skip

    def workspace(self, place: int) -> dict[str, Any]:
        name, organization, domains = WORKSPACES[place]
        return {"gid": self.workspace_gid(place), "resource_type": "workspace", "name": name, "is_organization": organization, "email_domains": domains}  # fmt: skip

    def project(self, place: int) -> dict[str, Any]:
        name, workspace, archived = PROJECTS[place]
        at = (int(self.world.now.timestamp()) - (400 - place) * 86_400) * 1000
        return {
            "gid": self.project_gid(place), "resource_type": "project", "name": name, "notes": "", "archived": archived, "public": True,
            "created_at": stamp(at), "modified_at": stamp(at + 90_000_000), "owner": None if place == 3 else self.user(place),
            "permalink_url": f"https://app.asana.com/0/{self.project_gid(place)}", "workspace": self.workspace(workspace),
            "team": {"gid": self.gid(7, place % 2), "resource_type": "team", "name": ("Marketing", "Operations")[place % 2]} if workspace == 0 else None,
        }  # fmt: skip

    # -- tasks --------------------------------------------------------------------------------------------------------------

    @cached_property
    def tasks(self) -> list[int]:
        """When each changed last, in Unix milliseconds, ascending."""
        return self._times(TASKS, "tasks")

    @cached_property
    def subtasks(self) -> list[int]:
        return self._times(SUBTASKS, "subtasks")

    def projects_of(self, task: int) -> list[int]:
        """Some tasks are in two projects, some in none."""
        where = self._chance("where", task)
        if where < 0.06:
            return []
        first = int(self._chance("project", task) ** 1.5 * len(PROJECTS))
        return [first, (first + 1) % 4] if where > 0.93 and first < 4 else [first]

    def assignee_of(self, task: int) -> int | None:
        """Tasks in no project are the connected person's own."""
        if not self.projects_of(task):
            return 0
        return None if self._chance("nobody", task) < 0.15 else int(self._chance("assignee", task) * PEOPLE)

    def workspace_of(self, task: int) -> int:
        projects = self.projects_of(task)
        return PROJECTS[projects[0]][1] if projects else 0

    def parent_of(self, subtask: int) -> tuple[str, int]:
        """("task" or "subtask", place)"""
        if subtask > 3 and self._chance("deep", subtask) < 0.2:
            return "subtask", int(self._chance("above", subtask) * subtask)
        return "task", int(self._chance("below", subtask) ** 2 * len(self.tasks))

    @cached_property
    def below(self) -> dict[tuple[str, int], list[int]]:
        """(kind, place) of a parent -> places of its subtasks."""
        found: dict[tuple[str, int], list[int]] = {}
        for place in range(len(self.subtasks)):
            found.setdefault(self.parent_of(place), []).append(place)
        return found

    def task(self, place: int) -> dict[str, Any]:
        rng = self._rng("task", place)
        projects = [self.project(project) for project in self.projects_of(place)]
        other = rng.randrange(place) if place and rng.random() < 0.1 else None
        return {
            **self._work("task", place, self.task_gid(place), self.tasks[place], self.assignee_of(place), rng),
            "memberships": [{"project": project, "section": {"gid": self.gid(8, 0), "resource_type": "section", "name": "To do"}} for project in projects],
            "projects": projects, "parent": None,
            "dependencies": [] if other is None else [{"gid": self.task_gid(other), "resource_type": "task", "name": self._name("task", other)}],
            "workspace": self.workspace(self.workspace_of(place)),
        }  # fmt: skip

    def subtask(self, place: int) -> dict[str, Any]:
        rng, (kind, above) = self._rng("subtask", place), self.parent_of(place)
        parent = {"gid": self.gid_of(kind, above), "resource_type": "task", "name": self._name(kind, above)}
        work = self._work("subtask", place, self.subtask_gid(place), self.subtasks[place], place % PEOPLE, rng)
        return {**work, "memberships": [], "projects": [], "parent": parent, "dependencies": []}

    def _name(self, kind: str, place: int) -> str:
        return NAMES[int(self._chance("name", kind, place) * len(NAMES))]

    def _work(self, kind: str, place: int, gid: str, at: int, assignee: int | None, rng: Random) -> dict[str, Any]:
        done = rng.random() < 0.5
        notes = rng.choice(NOTES).format(
            email=self.world.people()[rng.randrange(40)].email, task=self.task_gid(rng.randrange(len(self.tasks))),
            project=self.project_gid(0), workspace=self.workspace_gid(0),
        )  # fmt: skip
        return {
            "gid": gid, "resource_type": "task", "resource_subtype": "default_task", "name": self._name(kind, place), "notes": notes,
            "completed": done, "completed_at": stamp(at) if done else None, "created_at": stamp(at - rng.randrange(30 * 86_400_000)),
            "modified_at": stamp(at), "due_on": None if rng.random() < 0.5 else stamp(at)[:10], "due_at": None, "start_on": None,
            "assignee": None if assignee is None else self.user(assignee), "created_by": self.user(rng.randrange(PEOPLE)),
            "followers": [self.user(rng.randrange(PEOPLE))], "num_subtasks": len(self.below.get((kind, place), ())),
            "tags": [{"gid": self.gid(9, 0), "resource_type": "tag", "name": "dringend"}] if rng.random() < 0.2 else [],
            "permalink_url": f"https://app.asana.com/0/0/{gid}",
        }  # fmt: skip

    # -- stories ------------------------------------------------------------------------------------------------------------

    @cached_property
    def stories(self) -> list[Story]:
        """By time. The newest of a task's is what it changed by last."""
        found = []
        for kind, changes, most in (("task", self.tasks, 4), ("subtask", self.subtasks, 3)):
            for place, changed in enumerate(changes):
                for number in range(int(self._chance("stories", kind, place) * most)):
                    before = int(self._chance("before", kind, place, number) ** 2 * 10 * 86_400_000) if number else 0
                    found.append(Story(changed - before, (kind, place), number))
        return sorted(found)

    @cached_property
    def stories_of(self) -> dict[tuple[str, int], list[int]]:
        """(kind, place) of a task -> places of its stories, by time."""
        found: dict[tuple[str, int], list[int]] = {}
        for place, story in enumerate(self.stories):
            found.setdefault(story.on, []).append(place)
        return found

    def story(self, place: int) -> dict[str, Any]:
        story, rng = self.stories[place], self._rng("story", place)
        said = rng.random() < 0.6
        email, task = self.world.people()[rng.randrange(40)].email, self.task_gid(rng.randrange(len(self.tasks)))
        whom = self.user(place % PEOPLE)
        profile = f"https://app.asana.com/0/profile/{whom['gid']}"  # which is what a mention is in plain text
        comments = (
            f"Waiting for {email}",
            f"{profile}, please look",
            f"Same as https://app.asana.com/0/0/{task}",
            "Erledigt ✔",
            "Looks good\nThanks!",
        )
        text = rng.choice(comments) if said else "marked this task complete"
        link = f'<a href="{profile}" data-asana-gid="{whom["gid"]}" data-asana-type="user">@{escape(whom["name"])}</a>'
        return {
            "gid": self.story_gid(place), "resource_type": "story", "type": "comment" if said else "system",
            "resource_subtype": "comment_added" if said else "marked_complete", "created_at": stamp(story.at),
            "text": text, "html_text": f"<body>{escape(text).replace(profile, link)}</body>", "created_by": None if rng.random() < 0.1 else self.user(rng.randrange(PEOPLE)),
            "target": {"gid": self.gid_of(*story.on), "resource_type": "task", "name": self._name(*story.on)},
        }  # fmt: skip
