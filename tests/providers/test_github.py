"""GitHub's rows where they are easily taken for others."""

from __future__ import annotations

from typing import Any

from historical_sync.targeting import READ_AGAIN
from integrations.providers.base import Context, Partition
from integrations.providers.github import GITHUB


def test_comments_and_review_comments_are_numbered_by_themselves() -> None:
    context = Context("github", Partition("1", "acme/web"))
    row: dict[str, Any] = {"id": 17, "body": "Well", "user": {"id": 1, "login": "ann"}}
    one = GITHUB.stream("comments").extract(row | {"issue_url": "https://api/repos/acme/web/issues/3"}, context)
    two = GITHUB.stream("review_comments").extract(
        row | {"pull_request_url": "https://api/repos/acme/web/pulls/3"}, context
    )
    assert one.own != two.own
    assert one.ends[0] == two.ends[0], "both are on number 3"


def test_a_pull_request_in_the_list_of_issues_says_less_than_its_own_row() -> None:
    """Both are of one thing and one time; only its own row knows branches and merge."""
    row = {"id": 1, "number": 7, "title": "Fix", "state": "closed", "updated_at": "2026-03-01T10:00:00Z"}
    context = Context("github", Partition("77", "acme/web"))
    stub = GITHUB.stream("issues").extract({**row, "pull_request": {"url": "https://x"}}, context)
    whole = {**row, "head": {"ref": "fix"}, "base": {"ref": "main"}, "merged_at": "2026-03-01T10:00:00Z"}
    pull = GITHUB.stream("pull_requests").extract(whole, context)
    assert (stub.own, stub.entities[0].kind) == (pull.own, pull.entities[0].kind)
    assert stub.later < pull.later
    assert GITHUB.stream("issues").extract(row, context).later == 0


def test_commits_that_were_pushed_late_are_looked_for_again() -> None:
    assert READ_AGAIN[GITHUB.stream("commits").clock].days >= 14
