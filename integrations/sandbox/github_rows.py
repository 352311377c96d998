"""What a GitHub account of the sandbox holds: repositories whose rows are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from integrations.sandbox.world import Person, World, stamp

ACCOUNTS = {"northwind-dev": "northwind-dev", "contoso-labs": "contoso-labs", "brand-new": "brand-new"}
# (name, share of the records); the two without a share are an empty repository and one whose issues are switched off.
REPOSITORIES = (
    ("storefront", 0.44),
    ("orders-api", 0.25),
    ("mobile-app", 0.16),
    ("data-pipeline", 0.1),
    ("infra", 0.05),
    ("new-idea", 0),
    ("legacy-docs", 0),
)
SHARES = {
    "issues": 0.32,
    "comments": 0.26,
    "review_comments": 0.07,
    "commits": 0.25,
}  # pull requests are a third of the issues
PULL_SHARE = 0.31
LABELS = (
    ("bug", "d73a4a"),
    ("enhancement", "a2eeef"),
    ("question", "d876e3"),
    ("documentation", "0075ca"),
    ("good first issue", "7057ff"),
    ("performance", "fbca04"),
    ("Überprüfen 🧐", "c5def5"),
)
VERBS = ["Fix", "Add", "Remove", "Speed-up", "Rework", "Document", "Test", "Guard", "Retry", "Cache"]
THINGS = (
    "checkout totals",
    "session expiry",
    "webhook retries",
    "CSV export",
    "search ranking",
    "image upload",
    "rate limiting",
    "time zones in reports",
    "naïve rounding of prices",
    "login on iOS",
    "flaky pipeline",
    "empty cart page",
    "audit log",
    "GraphQL schema",
    "e-mail templates",
    "日本語の住所",
)
NOTES = ("Looks good to me.", "Can we get this in before Friday?", "I can reproduce this on main.", "Same here, on two accounts.", "Nice catch 👏",
         "This needs a migration first.", "Reverted for now, see above.", "Thanks!\r\nI'll have a look.", "`npm test` fails with #0 in the code block")  # fmt: skip
BOT = 39  # place in the cast of the one who is no person on GitHub
WEB = "https://github.com"
Rows = list[tuple[int, int]]  # (updated at, index), ascending; indexes begin with 1


def account_user(account: str) -> dict[str, Any]:
    """The connected account, which owns the repositories."""
    return {
        "login": account,
        "id": 9_000_000 + list(ACCOUNTS).index(account),
        "node_id": f"U_{account}",
        "avatar_url": "",
        "html_url": f"{WEB}/{account}",
        "type": "Organization",
        "site_admin": False,
    }


def user(person: Person) -> dict[str, Any]:
    login, kind = ("dependabot[bot]", "Bot") if person.index == BOT else (person.login, "User")
    return {
        "login": login,
        "id": 1000 + person.index,
        "node_id": f"U_{person.index}",
        "avatar_url": "",
        "html_url": f"{WEB}/{login}",
        "type": kind,
        "site_admin": False,
    }


@dataclass
class Repository:
    """What one repository holds. `api` arguments: the API's root as the client called it."""

    world: World
    owner: str
    place: int
    name: str
    share: float

    @property
    def id(self) -> int:
        return 70_000_000 + 1000 * list(ACCOUNTS).index(self.owner) + self.place

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def is_empty(self) -> bool:
        return self.name == "new-idea"

    @property
    def has_issues(self) -> bool:
        return self.name != "legacy-docs"

    @property
    def pushed(self) -> int:
        return int(self.world.now.timestamp()) - self.place * 3600

    # -- when what happened -------------------------------------------------------------------------------------------------

    def count(self, kind: str) -> int:
        return round(self.world.records * self.share * SHARES[kind])

    @cached_property
    def created(self) -> list[int]:
        """When each issue or pull request was opened, by number."""
        return self.world.times(self.count("issues"), self.owner, self.name, "issues")

    @cached_property
    def updated(self) -> list[int]:
        """When each was touched last, by number: most soon after they were opened."""
        end = int(self.world.now.timestamp()) - 1
        return [
            at + int(self.world.chance(self.id, "touched", number) ** 3 * min(60 * 86_400, end - at))
            for number, at in enumerate(self.created, 1)
        ]

    @cached_property
    def issues(self) -> Rows:
        return sorted((at, number) for number, at in enumerate(self.updated, 1))

    @cached_property
    def pulls(self) -> Rows:
        return [(at, number) for at, number in self.issues if self.is_pull(number)]

    @cached_property
    def comments(self) -> Rows:
        return [(at, i) for i, at in enumerate(self.world.times(self.count("comments"), self.id, "comments"), 1)]

    @cached_property
    def review_comments(self) -> Rows:
        return [(at, i) for i, at in enumerate(self.world.times(self.count("review_comments"), self.id, "reviews"), 1)]

    @cached_property
    def commits(self) -> Rows:
        return [(at, i) for i, at in enumerate(self.world.times(self.count("commits"), self.id, "commits"), 1)]

    def is_pull(self, number: int) -> bool:
        return self.world.chance(self.id, "pull", number) < PULL_SHARE

    def state(self, number: int) -> str:
        return "open" if self.world.chance(self.id, "state", number) < 0.3 else "closed"

    def stream(self, name: str) -> tuple[Rows, Callable[[int], object]]:
        """The stream's rows, and what id a row has."""
        return {
            "issues": (self.issues, self.issue_id),
            "pull_requests": (self.pulls, self.pull_id),
            "comments": (self.comments, self.comment_id),
            "review_comments": (self.review_comments, self.review_id),
            "commits": (self.commits, lambda index: f"{self.id}:{self._sha(index)}"),
        }[name]

    def issue_id(self, number: int) -> int:
        return 2_000_000_000 + self.id % 100_000 * 1_000_000 + number

    def pull_id(self, number: int) -> int:
        return self.issue_id(number) + 500_000_000_000

    def comment_id(self, index: int) -> int:
        return 3_000_000_000 + self.id % 100_000 * 1_000_000 + index

    def review_id(self, index: int) -> int:
        return self.comment_id(index) + 500_000

    # -- rows ---------------------------------------------------------------------------------------------------------------

    def _somebody(self, *about: object) -> Person:
        people = self.world.people()
        # A few do most of the work.
        return people[int(self.world.chance(self.id, "who", *about) ** 2 * len(people))]

    def _address(self, api: str) -> str:
        return f"{api}/repos/{self.full_name}"

    def _text(self, rng: Random, highest: int) -> str:
        """A sentence; some refer to an issue, a login or an address."""
        text = rng.choice(NOTES)
        if highest > 0 and rng.random() < 0.25:
            text += f" Related to #{rng.randint(1, highest)}."
        people = self.world.people()
        if rng.random() < 0.15:
            text += f" cc @{people[rng.randrange(BOT)].login}"
        if rng.random() < 0.05:
            text += f" Reported by {people[rng.randrange(BOT)].email}."
        return text

    def row(self, api: str) -> dict[str, Any]:
        moment = stamp(self.pushed)
        return {
            "id": self.id,
            "node_id": f"R_{self.id}",
            "name": self.name,
            "full_name": self.full_name,
            "private": self.place % 2 == 1,
            "visibility": "private" if self.place % 2 == 1 else "public",
            "owner": account_user(self.owner),
            "url": self._address(api),
            "html_url": f"{WEB}/{self.full_name}",
            "description": None if self.is_empty else f"The {self.name.replace('-', ' ')}.",
            "fork": False,
            "archived": not self.has_issues,
            "disabled": False,
            "default_branch": "main",
            "language": None if self.is_empty else "Python",
            "topics": [],
            "size": 0 if self.is_empty else 40 * len(self.created),
            "stargazers_count": 7 - self.place,
            "forks_count": 0,
            "has_issues": self.has_issues,
            "open_issues_count": sum(self.state(number) == "open" for number in range(1, len(self.created) + 1)),
            "created_at": stamp(int(self.world.now.timestamp()) - 500 * 86_400),
            "updated_at": moment,
            "pushed_at": moment,
        }

    def issue(self, number: int, api: str) -> dict[str, Any]:
        """An issue, or the issue that every pull request is, too."""
        rng = self.world.rng(self.id, "issue", number)
        state, updated = self.state(number), stamp(self.updated[number - 1])
        address = self._address(api)
        is_pull = self.is_pull(number)
        html_url = f"{WEB}/{self.full_name}/{'pull' if is_pull else 'issues'}/{number}"
        assignees = [user(self._somebody("does", number))] if rng.random() < 0.35 else []
        labels = rng.sample(range(len(LABELS)), rng.choice((0, 0, 1, 1, 2)))
        sprint = 1 + number % 4
        row: dict[str, Any] = {
            "id": self.issue_id(number),
            "node_id": f"I_{self.id}_{number}",
            "url": f"{address}/issues/{number}",
            "repository_url": address,
            "comments_url": f"{address}/issues/{number}/comments",
            "html_url": html_url,
            "number": number,
            "title": f"{rng.choice(VERBS)} {rng.choice(THINGS)}",
            "state": state,
            "state_reason": "completed" if state == "closed" and not is_pull else None,
            "locked": False,
            "user": None if rng.random() < 0.01 else user(self._somebody("wrote", number)),
            "labels": [
                {
                    "id": 500 + i,
                    "node_id": f"LA_{500 + i}",
                    "name": LABELS[i][0],
                    "color": LABELS[i][1],
                    "default": i < 5,
                    "description": None,
                }
                for i in labels
            ],
            "assignee": assignees[0] if assignees else None,
            "assignees": assignees,
            "milestone": {"id": self.id * 10 + sprint, "number": sprint, "title": f"Sprint {sprint}", "state": "open"}
            if rng.random() < 0.2
            else None,
            "comments": rng.randrange(6),
            "created_at": stamp(self.created[number - 1]),
            "updated_at": updated,
            "closed_at": updated if state == "closed" else None,
            "author_association": "MEMBER",
            "body": None if rng.random() < 0.15 else f"We see this since yesterday. {self._text(rng, number - 1)}",
        }
        if is_pull:
            merged_at = row["closed_at"] if self._is_merged(number) else None
            row["pull_request"] = {"url": f"{address}/pulls/{number}", "html_url": html_url, "merged_at": merged_at}
        return row

    def _is_merged(self, number: int) -> bool:
        return self.state(number) == "closed" and self.world.chance(self.id, "merged", number) < 0.8

    def _branch(self, ref: str, sha: int) -> dict[str, Any]:
        repo = {"id": self.id, "name": self.name, "full_name": self.full_name}
        return {
            "label": f"{self.owner}:{ref}",
            "ref": ref,
            "sha": f"{sha:040x}",
            "user": account_user(self.owner),
            "repo": repo,
        }

    def pull(self, number: int, api: str) -> dict[str, Any]:
        row = self.issue(number, api)
        for name in ("pull_request", "comments", "repository_url", "state_reason"):
            del row[name]
        return row | {
            "id": self.pull_id(number),
            "node_id": f"PR_{self.id}_{number}",
            "url": f"{self._address(api)}/pulls/{number}",
            "issue_url": f"{self._address(api)}/issues/{number}",
            "draft": row["state"] == "open" and number % 9 == 0,
            "merged_at": row["closed_at"] if self._is_merged(number) else None,
            "merge_commit_sha": f"{number + 2:040x}" if self._is_merged(number) else None,
            "requested_reviewers": [],
            "head": self._branch(f"work-{number}", number),
            "base": self._branch("main", number + 1),
        }

    def _note(self, kind: str, index: int, at: int) -> dict[str, Any]:
        rng = self.world.rng(self.id, kind, index)
        return {
            "id": self.review_id(index) if kind == "review" else self.comment_id(index),
            "node_id": f"C_{self.id}_{kind}_{index}",
            "user": None if rng.random() < 0.01 else user(self._somebody(kind, index)),
            "created_at": stamp(at),
            "updated_at": stamp(at),
            "author_association": "MEMBER",
            "body": self._text(rng, len(self.created)),
        }

    def comment(self, index: int, api: str) -> dict[str, Any]:
        row = self._note("comment", index, self.comments[index - 1][0])
        number = 1 + int(self.world.chance(self.id, "on", index) * len(self.created))
        return row | {
            "url": f"{self._address(api)}/issues/comments/{row['id']}",
            "issue_url": f"{self._address(api)}/issues/{number}",
            "html_url": f"{WEB}/{self.full_name}/issues/{number}#issuecomment-{row['id']}",
        }

    def review_comment(self, index: int, api: str) -> dict[str, Any]:
        row = self._note("review", index, self.review_comments[index - 1][0])
        pulls = self.pulls
        number = pulls[int(self.world.chance(self.id, "reviewed", index) * len(pulls))][1] if pulls else 1
        return row | {
            "url": f"{self._address(api)}/pulls/comments/{row['id']}",
            "pull_request_url": f"{self._address(api)}/pulls/{number}",
            "html_url": f"{WEB}/{self.full_name}/pull/{number}#discussion_r{row['id']}",
            "path": "src/main.py",
            "line": 1,
            "commit_id": f"{number:040x}",
            "diff_hunk": "@@ -1 +1 @@",
        }

    def _sha(self, index: int) -> str:
        return f"{self.id:010x}{index:030x}"

    def commit(self, index: int, api: str) -> dict[str, Any]:
        rng = self.world.rng(self.id, "commit", index)
        person, sha = self._somebody("commit", index), self._sha(index)
        # GitHub does not know every address that commits are made with.
        known = rng.random() < 0.9
        signed = {"name": person.name, "email": person.email, "date": stamp(self.commits[index - 1][0])}
        if person.index == BOT:
            known = True
            signed |= {"name": "dependabot[bot]", "email": f"{1000 + BOT}+dependabot[bot]@users.noreply.github.com"}
        message = f"{rng.choice(VERBS)} {rng.choice(THINGS)}"
        if rng.random() < 0.3 and self.created:
            message += f"\n\nCloses #{rng.randint(1, len(self.created))}"
        address = self._address(api)
        return {
            "sha": sha,
            "node_id": f"CM_{sha}",
            "url": f"{address}/commits/{sha}",
            "html_url": f"{WEB}/{self.full_name}/commit/{sha}",
            "commit": {
                "author": signed,
                "committer": signed,
                "message": message,
                "tree": {"sha": sha[::-1], "url": f"{address}/git/trees/{sha[::-1]}"},
                "comment_count": 0,
            },
            "author": user(person) if known else None,
            "committer": user(person) if known else None,
            "parents": [{"sha": self._sha(index - 1), "url": f"{address}/commits/{self._sha(index - 1)}"}]
            if index > 1
            else [],
        }
