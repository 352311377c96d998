"""GitHub's rows where they are easily taken for others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from historical_sync.targeting import READ_AGAIN
from integrations.http import Reply
from integrations.providers.base import Context, Partition, Window
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


async def test_a_commit_is_a_record_of_each_repository_that_has_it() -> None:
    """A fork shares its commits with what it is a fork of."""
    row = {"sha": "a" * 40, "commit": {"message": "Fix", "committer": {"date": "2026-03-01T10:00:00Z"}}}
    stream, window = (
        GITHUB.stream("commits"),
        Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)),
    )

    class Api:
        async def get(self, path: str, params: Any = None) -> Reply:
            return Reply(200, {}, [row], "", "")

    found = {}
    for key in ("77", "78"):
        partition = Partition(key, f"acme/{key}", {"full_name": f"acme/{key}"})
        (record,) = (await stream.fetch(Api(), partition, window, None)).records  # type: ignore[arg-type]
        found[record.external_id] = stream.extract(record.payload, Context("github", partition))
    assert set(found) == {f"77:{'a' * 40}", f"78:{'a' * 40}"}
    assert {said.own for said in found.values()} == {f"github:commit:{'a' * 40}"}
    assert {end for said in found.values() for end in said.ends} >= {"github:repository:77", "github:repository:78"}


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
