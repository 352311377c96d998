"""GitHub's rows where they are easily taken for others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from historical_sync.targeting import READ_AGAIN
from integrations.errors import AccessDenied, Throttled, TookTooLong
from integrations.http import Api, Reply
from integrations.providers.base import Context, Estimate, Partition, Record, Window
from integrations.providers.github import GITHUB
from integrations.providers.wire import stamp
from tests.contract.stage import ALL, staged
from tests.senders import answering


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


class Answers:
    """An API that answers by path and keeps what it was asked."""

    longest_wait = timedelta(0)

    def __init__(self, replies: dict[str, Reply]) -> None:
        self.replies, self.asked = replies, list[tuple[str, Any]]()

    async def get(self, path: str, params: Any = None) -> Reply:
        self.asked.append((path, params))
        return self.replies[path]


SPAN = Window(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
WEB = Partition("77", "acme/web", {"full_name": "acme/web"})
NEXT = {"link": '<https://api.github.com/repositories/77/issues?per_page=1&after=Y3Vyc29y&page=2>; rel="next"'}
ONE = [{"id": 1, "updated_at": "2026-03-01T10:00:00Z"}]


async def test_a_list_by_cursor_names_no_last_page_so_the_search_counts() -> None:
    """Lists of issues lead on by `after`: what follows is not one row."""
    found = Reply(200, {}, {"total_count": 21, "incomplete_results": False, "items": []}, "", "")
    api = Answers({"/repos/acme/web/issues": Reply(200, NEXT, ONE, "", ""), "/search/issues": found})
    count = GITHUB.stream("issues").count
    assert count is not None
    assert await count(api, WEB, SPAN) == Estimate(42, exact=True)  # type: ignore[arg-type]
    asked = [params["q"] for path, params in api.asked if path == "/search/issues"]
    span = "updated:2026-03-01T00:00:00Z..2026-03-01T23:59:59Z"
    assert asked == [f"repo:acme/web is:issue {span}", f"repo:acme/web is:pr {span}"]


@pytest.mark.parametrize(
    ("name", "path"),
    [("comments", "/issues/comments"), ("review_comments", "/pulls/comments"), ("commits", "/commits")],
)
async def test_what_neither_names_a_last_page_nor_is_searched_is_not_counted(name: str, path: str) -> None:
    api = Answers({f"/repos/acme/web{path}": Reply(200, NEXT, ONE, "", "")})
    count = GITHUB.stream(name).count
    assert count is not None
    assert await count(api, WEB, SPAN) is None  # type: ignore[arg-type]


async def test_the_stand_ins_issues_are_counted_though_their_list_has_no_last_page() -> None:
    async with staged("github") as stage:
        stream = stage.provider.stream("issues")
        assert stream.count is not None
        counted = [await stream.count(stage.api(), partition, ALL) for partition in await stage.partitions(stream)]
        assert sum(estimate.records for estimate in counted if estimate) == len(stage.truth(stream, ALL)) > len(counted)


async def test_repositories_are_listed_in_an_order_that_a_push_does_not_change() -> None:
    """By update, a repository that is touched between two pages moves to the end and hides another."""
    api = Answers({"/user/repos": Reply(200, {}, [], "", "")})
    assert GITHUB.partitions is not None
    await GITHUB.partitions(api)  # type: ignore[arg-type]
    assert api.asked[0][1]["sort"] == "created"


def test_a_bot_is_no_person() -> None:
    row = {"number": 7, "title": "Bump", "state": "open", "updated_at": "2026-03-01T10:00:00Z"}
    bot = {"id": 49699333, "login": "dependabot[bot]", "type": "Bot"}
    context = Context("github", WEB)
    said = GITHUB.stream("issues").extract({**row, "user": bot}, context)
    assert [(e.kind, e.key) for e in said.entities[1:] if "dependabot" in e.name] == [("bot", "github:user:49699333")]
    signed = {
        "author": {"name": "renovate", "email": "bot@renovateapp.com"},
        "committer": {"date": "2026-03-01T10:00:00Z"},
    }
    commit = {"sha": "a" * 40, "commit": signed, "author": {**bot, "login": "renovate[bot]"}}
    said = GITHUB.stream("commits").extract(commit, context)
    assert {(e.kind, e.key) for e in said.entities} >= {("bot", "github:user:49699333")}
    assert not any(e.kind == "person" for e in said.entities)


def test_an_address_of_github_in_a_text_of_github_is_a_mention_too() -> None:
    sha = "0123456789abcdef0123456789abcdef01234567"
    body = (
        f"See http://github.com/Acme/web/issues/12#issuecomment-5, https://github.com/acme/web/pull/13/files and "
        f"https://github.com/acme/other/commit/{sha} but not https://github.com/acme/webby/issues/14, `https://github.com/acme/web/issues/15`"
        " or https://github.com/acme/web/issues"
    )
    row = {"number": 7, "title": "Fix", "state": "open", "body": body, "user": None}
    said = GITHUB.stream("issues").extract(row, Context("github", WEB))
    mentioned = {r.target for r in said.relationships if r.kind == "mentions"}
    assert mentioned == {"github:issue:77#12", "github:issue:77#13", f"github:commit:{sha}"}


def test_an_old_servers_words_for_too_much_at_once() -> None:
    words = {
        "message": "You have triggered an abuse detection mechanism. Please wait a few minutes before you try again."
    }
    assert isinstance(GITHUB.classify(Reply(403, {}, words, "", "")), Throttled)


def test_a_repository_that_is_blocked_by_law_is_no_request_gone_wrong() -> None:
    words = {"message": "Repository access blocked", "block": {"reason": "dmca"}}
    error = GITHUB.classify(Reply(451, {}, words, "", ""))
    assert isinstance(error, AccessDenied)
    assert "Repository access blocked" in str(error)


ANN = {"id": 1, "login": "Ann", "type": "User"}
BO = {"id": 2, "login": "bo", "type": "User"}
OWN = {"number": 7, "title": "Fix", "state": "open", "user": ANN, "body": "As #3 says, ask @bo"}


@pytest.mark.parametrize(
    ("stream", "row", "said"),
    [
        (
            "issues",
            {**OWN, "assignees": [BO], "labels": [{"name": "bug"}, "old"], "milestone": {"number": 4, "title": "2.0"}},
            {
                ("part_of", "issue:77#7", "repository:77"), ("authored", "user:1", "issue:77#7"), ("assigned_to", "issue:77#7", "user:2"),
                ("labelled", "issue:77#7", "label:77:bug"), ("labelled", "issue:77#7", "label:77:old"),
                ("in_milestone", "issue:77#7", "milestone:77#4"), ("mentions", "issue:77#7", "issue:77#3"),
                ("mentions", "issue:77#7", "login:bo"),
            },
        ),
        (
            "pull_requests",
            {**OWN, "user": None, "assignees": None, "assignee": BO, "body": None, "head": {"ref": "a"}, "base": {"ref": "b"}},
            {("part_of", "issue:77#7", "repository:77"), ("assigned_to", "issue:77#7", "user:2")},
        ),
        (
            "comments",
            {"id": 5, "issue_url": "https://api.github.com/repos/acme/web/issues/7", "user": ANN, "body": "Like #3"},
            {("comment_on", "comment:5", "issue:77#7"), ("authored", "user:1", "comment:5"), ("mentions", "comment:5", "issue:77#3")},
        ),
        (
            "commits",
            {"sha": "a" * 40, "commit": {"message": "Fix\n\nCloses #3", "author": {"name": "Ann", "email": "x@users.noreply.github.com"}},
             "author": ANN},
            {
                ("part_of", f"commit:{'a' * 40}", "repository:77"), ("authored", "user:1", f"commit:{'a' * 40}"),
                ("mentions", f"commit:{'a' * 40}", "issue:77#3"),
            },
        ),
        (
            "repositories",
            {"id": 77, "full_name": "acme/web", "owner": {"id": 9, "login": "acme", "type": "Organization"}},
            {("owned_by", "repository:77", "org:9")},
        ),
    ],
)  # fmt: skip
def test_a_row_says_who_did_what_to_what(stream: str, row: dict[str, Any], said: set[tuple[str, str, str]]) -> None:
    graph = GITHUB.stream(stream).extract(row, Context("github", WEB))
    assert {tuple(end.removeprefix("github:") for end in one) for one in graph.relationships} == said


class Slow:
    """A repository's list of 130 rows, which GitHub has ready in time for pages of no more than 50."""

    def __init__(self, *, numbered: bool) -> None:
        self.numbered = numbered

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        asked = request.url.params
        if int(asked["per_page"]) > 50 and (not self.numbered or int(asked.get("page", 1)) == 2):
            return httpx2.Response(502, json={"message": "Server Error"})
        places = [at for at in range(130) if self.numbered or _at(at) >= asked["since"]]
        start = (int(asked.get("page", 1)) - 1) * int(asked["per_page"])
        end = start + int(asked["per_page"])
        rows = [{"id": at, "number": at, "updated_at": _at(at)} for at in places[start:end]]
        following = str(request.url.copy_set_param("page", end // int(asked["per_page"]) + 1))
        return httpx2.Response(
            200, json=rows, headers={"Link": f'<{following}>; rel="next"'} if end < len(places) else {}
        )


def _at(place: int) -> str:
    return stamp(SPAN.since + timedelta(seconds=place))


@pytest.mark.parametrize(("name", "numbered"), [("comments", False), ("pull_requests", True)])
async def test_a_page_that_takes_github_too_long_comes_with_fewer_rows(name: str, numbered: bool) -> None:
    """After ten seconds it gives up, and has one ask for fewer (docs.github.com, troubleshooting the REST API, timeouts)."""
    api = Api(GITHUB, "https://api.github.com", answering(Slow(numbered=numbered)), "token")
    found: list[str] = []
    cursor = None
    while cursor is not None or not found:
        page = await GITHUB.stream(name).fetch(api, WEB, SPAN, cursor)
        found += [record.external_id for record in page.records]
        cursor = page.next_cursor
    assert found == [str(at) for at in range(130)]


async def test_a_page_of_few_rows_that_takes_too_long_is_not_asked_for_again_at_once() -> None:
    asked: list[str] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        return httpx2.Response(504)

    api = Api(GITHUB, "https://api.github.com", answering(handle), "token")
    url = "https://api.github.com/repositories/77/pulls?state=all&per_page=25&page=7"
    with pytest.raises(TookTooLong):
        await GITHUB.stream("pull_requests").fetch(api, WEB, SPAN, {"url": url})
    assert asked == [url]


@pytest.mark.parametrize(
    ("known", "names"),
    [({"21": "acme", "34": "globex"}, "of acme, globex,"), ({"21": "acme"}, "of acme, 34,"), ({}, "of 21, 34,")],
)
async def test_organizations_that_ask_for_single_sign_on_are_named_as_far_as_their_names_are_told(
    known: dict[str, str], names: str
):
    """The header has their numbers only (GitHub's guide to authenticating), and the list of all organizations begins after a number."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/organizations":
            assert request.url.params["per_page"] == "1"
            number = str(int(request.url.params["since"]) + 1)
            row = {"id": int(number), "login": known[number]} if number in known else {"id": 99, "login": "another"}
            return httpx2.Response(200, json=[row]) if known else httpx2.Response(403, json={"message": "Forbidden"})
        told = {"X-GitHub-SSO": "partial-results; organizations=21,34"}
        return httpx2.Response(200, json=[{"id": 7, "full_name": "ann/web"}], headers=told)

    api = Api(GITHUB, "https://api.github.com", answering(handle), "token")
    assert GITHUB.partitions is not None
    assert [part.label for part in await GITHUB.partitions(api)] == ["ann/web"]
    assert [notice for notice in api.notices if names in notice] == api.notices
    assert len(api.notices) == 1


# -- what is gone -------------------------------------------------------------------------------------------------------------

DELETED = Reply(410, {}, {"message": "This issue was deleted"}, "", "")
HIDDEN = Reply(404, {}, {"message": "Not Found"}, "", "")
SEVEN = Record("1007", datetime(2026, 3, 1, tzinfo=UTC), {"id": 1007, "number": 7})
ON_GITHUB = {
    "/repos/acme/web": Reply(200, {}, {"id": 77, "has_issues": True}, "", ""),
    "/repos/acme/web/issues": Reply(200, {}, [], "", ""),
}


async def is_gone(replies: dict[str, Reply]) -> bool:
    """Whether number 7 is, by these answers."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        reply = (ON_GITHUB | replies)[request.url.path]
        return httpx2.Response(reply.status, headers=dict(reply.headers), json=reply.data)

    find = GITHUB.stream("issues").gone
    assert find is not None
    return list(await find(Api(GITHUB, "https://api.github.com", answering(answer)), WEB, [SEVEN])) == ["1007"]


@pytest.mark.parametrize("reply", [DELETED, HIDDEN])
async def test_an_issue_that_is_not_there_in_a_repository_that_is_read_is_gone(reply: Reply) -> None:
    """Hidden: it was moved to a repository that this access does not read."""
    assert await is_gone({"/repos/acme/web/issues/7": reply})


async def test_an_issue_that_was_moved_to_another_repository_is_gone() -> None:
    there = Reply(301, {"location": "https://api.github.com/repositories/78/issues/3"}, {}, "", "")
    moved = {"/repos/acme/web/issues/7": there, "/repositories/78/issues/3": Reply(200, {}, {"id": 2003}, "", "")}
    assert await is_gone(moved)


async def test_an_issue_of_a_repository_with_another_name_is_not_gone() -> None:
    there = Reply(301, {"location": "https://api.github.com/repositories/77/issues/7"}, {}, "", "")
    renamed = {"/repos/acme/web/issues/7": there, "/repositories/77/issues/7": Reply(200, {}, {"id": 1007}, "", "")}
    assert not await is_gone(renamed)


@pytest.mark.parametrize(
    "replies",
    [
        {"/repos/acme/web": HIDDEN},
        {"/repos/acme/web": Reply(200, {}, {"id": 78, "has_issues": True}, "", "")},
        {"/repos/acme/web": Reply(200, {}, {"id": 77, "has_issues": False}, "", "")},
        {"/repos/acme/web/issues": HIDDEN},
        {"/repos/acme/web/issues": DELETED},
    ],
    ids=["not shown", "another one of that name", "issues switched off", "issues not shown", "no issues"],
)
@pytest.mark.parametrize("reply", [DELETED, HIDDEN])
async def test_where_all_issues_are_answered_so_none_is_gone(reply: Reply, replies: dict[str, Reply]) -> None:
    assert not await is_gone({"/repos/acme/web/issues/7": reply, **replies})


async def test_an_issue_that_may_not_be_read_is_not_gone() -> None:
    assert not await is_gone({"/repos/acme/web/issues/7": Reply(403, {}, {"message": "Not accessible"}, "", "")})
