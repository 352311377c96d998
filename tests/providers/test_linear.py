"""What Linear's file knows beyond the contract: codes before statuses, reset in milliseconds, keys, mentions and the bin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    ReauthRequired,
    RequestRejected,
    Throttled,
    Unavailable,
)
from integrations.http import Api, Reply
from integrations.providers import linear
from integrations.providers.base import WHOLE, Context, Record, Window, WindowKind
from integrations.providers.linear import LINEAR
from integrations.providers.wire import EPOCH, stamp, utc
from tests.contract.stage import ALL, Stage

CONTEXT = Context("linear")
ISSUE = {
    "id": "u1", "identifier": "ENG-7", "title": "Retry", "url": "https://linear.app/acme/issue/ENG-7/retry", "updatedAt": "x",
    "description": None,
}  # fmt: skip


def answer(status: int, code: str | None, message: str = "no", **headers: str) -> Reply:
    error = {"message": message, "extensions": {} if code is None else {"code": code}}
    return Reply(status, headers, {"errors": [error], "data": None}, "", "https://api.linear.app/graphql")


def graph(stream: str, **row: Any) -> Any:
    return LINEAR.stream(stream).extract(row, CONTEXT)


def said(found: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in found.relationships}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(400, "RATELIMITED"), Throttled),
        (answer(429, None), Throttled),
        (Reply(429, {}, None, "", ""), Throttled),
        (answer(401, "AUTHENTICATION_ERROR"), ReauthRequired),
        (answer(400, "AUTHENTICATION_ERROR"), ReauthRequired),
        (answer(200, "FORBIDDEN"), AccessDenied),
        (answer(400, "FEATURE_NOT_ACCESSIBLE"), AccessDenied),
        (answer(400, "feature not accessible"), AccessDenied),
        (answer(400, "GRAPHQL_VALIDATION_FAILED"), RequestRejected),
        (answer(500, "GRAPHQL_VALIDATION_FAILED"), RequestRejected),  # our own mistake, whatever the status says
        (answer(400, "INPUT_ERROR"), RequestRejected),
        (answer(400, "INPUT_ERROR", "the cursor is not valid"), CursorExpired),
        (answer(200, "INTERNAL_SERVER_ERROR"), Unavailable),
        (answer(500, None), Unavailable),
        (Reply(503, {}, None, "<html>", ""), Unavailable),
        (answer(200, None), RequestRejected),
    ],
)
def test_the_code_decides_not_the_status(reply: Reply, error: type[Exception]):
    assert type(LINEAR.classify(reply)) is error
    assert LINEAR.expired(reply) == (error is ReauthRequired)


def test_an_answer_without_errors_is_none():
    assert LINEAR.classify(Reply(200, {}, {"data": {"issues": {}}}, "", "")) is None


def test_a_limit_ends_when_the_budget_that_is_used_up_is_whole_again():
    now = datetime.now(UTC).replace(microsecond=0)
    soon, late = (str(int((now + timedelta(minutes=m)).timestamp() * 1000)) for m in (3, 40))
    requests = {"x-ratelimit-requests-remaining": "0", "x-ratelimit-requests-reset": soon}
    complexity = {"x-ratelimit-complexity-remaining": "0", "x-ratelimit-complexity-reset": late}
    found = LINEAR.classify(answer(400, "RATELIMITED", **requests))
    assert isinstance(found, Throttled)
    assert found.retry_at == now + timedelta(minutes=3)
    found = LINEAR.classify(
        answer(400, "RATELIMITED", **{**requests, "x-ratelimit-requests-remaining": "9"}, **complexity)
    )
    assert isinstance(found, Throttled)
    assert found.retry_at == now + timedelta(minutes=40)


@pytest.mark.parametrize("ahead", [-600, 600])
def test_a_limits_end_is_by_linears_clock(ahead: int):
    theirs = datetime.now(UTC) + timedelta(seconds=ahead)
    reset = str(int((theirs + timedelta(minutes=3)).timestamp() * 1000))
    headers = {"date": theirs.strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-ratelimit-requests-reset": reset}
    found = LINEAR.classify(answer(400, "RATELIMITED", **headers))
    assert isinstance(found, Throttled)
    assert found.retry_at is not None
    assert abs(found.retry_at - datetime.now(UTC) - timedelta(minutes=3)) < timedelta(seconds=5)


def test_the_budget_is_told_in_milliseconds():
    headers = {"x-ratelimit-requests-limit": "5000", "x-ratelimit-requests-remaining": "4998"}
    state = LINEAR.rate_state(Reply(200, headers | {"x-ratelimit-requests-reset": "1767225600500"}, {}, "", ""))
    assert state is not None
    assert (state.limit, state.remaining) == (5000, 4998)
    assert state.reset_at == datetime(2026, 1, 1, 0, 0, 0, 500_000, UTC)
    assert LINEAR.rate_state(Reply(200, headers, {}, "", "")) is None


def test_a_personal_key_goes_without_a_scheme():
    assert LINEAR.auth_header("lin_api_1") == {"Authorization": "lin_api_1"}
    assert LINEAR.auth_header("lin_oauth_1") == {"Authorization": "Bearer lin_oauth_1"}


def test_an_issue_is_known_by_id_and_led_to_by_its_identifier_in_its_workspace():
    own = graph("issues", **ISSUE).entities[0]
    assert (own.key, own.aliases, own.handles) == ("linear:issue:u1", (), ("linear:identifier:acme/ENG-7",))


def test_an_issue_that_moved_to_another_team_is_led_to_by_what_it_was_called_before():
    own = graph("issues", **ISSUE, previousIdentifiers=["OLD-3", "ENG-1"]).entities[0]
    assert own.handles == (
        "linear:identifier:acme/ENG-7",
        "linear:identifier:acme/OLD-3",
        "linear:identifier:acme/ENG-1",
    )
    assert "previousIdentifiers" in linear.FIELDS["issues"].split()


def test_text_mentions_issues_people_and_addresses_but_code_is_not_text():
    text = "See ENG-12, `OPS-1` and https://linear.app/other/issue/DES-3/x; @ana.b knows, or ask b@x.test. UTF-8? not-ENG-9"
    found = said(graph("issues", **{**ISSUE, "description": text + " ENG-7 itself\n```\nENG-99\n```"}))
    assert {target for kind, _, target in found if kind == "mentions"} == {
        "linear:identifier:acme/ENG-12",
        "linear:identifier:other/DES-3",
        "linear:name:acme/ana.b",
        "linear:identifier:acme/UTF-8",
        "person:email:b@x.test",
    }


def test_people_are_one_by_address_and_id_and_led_to_by_name():
    url = "https://linear.app/acme/profiles/ana.b"
    own = graph("users", id="p1", name="Ana", displayName="ana.b", email="Ana@x.test", url=url).entities[0]
    assert (own.key, own.aliases, own.handles) == (
        "person:email:ana@x.test",
        ("linear:user:p1",),
        ("linear:name:acme/ana.b",),
    )


def test_an_app_is_no_person_though_linear_lists_it_among_them():
    """Agents and integrations that act as themselves are users, with an address that Linear makes up."""
    robot = {"id": "u9", "name": "Codex", "displayName": "codex", "email": "a4bc@oauthapp.linear.app", "app": True}
    own = graph("users", **robot, active=True, url="https://linear.app/acme/profiles/codex").entities[0]
    assert (own.kind, own.key, own.name, own.aliases) == ("bot", "linear:user:u9", "Codex", ())
    assert own.handles == ("linear:name:acme/codex",)
    assert own.properties == {"active": True, "url": "https://linear.app/acme/profiles/codex"}
    found = graph("issues", **ISSUE, assignee=robot)
    assert said(found) == {("assigned_to", "linear:issue:u1", "linear:user:u9")}
    assert found.entities[1].kind == "bot"
    asked = [name for name, text in linear.FIELDS.items() if "displayName email app" in text]
    assert asked == ["users", "projects", "issues", "comments", "attachments"]


EXTERNAL = {"id": "x1", "name": "Jane", "displayName": "jane", "email": "Jane@Acme.com"}
BOT = {"id": "b1", "type": "slack", "name": "Slack"}


@pytest.mark.parametrize(
    ("user", "external", "bot", "author"),
    [
        ({"id": "u1", "name": "Bob"}, None, BOT, ("person", "linear:user:u1")),
        (None, EXTERNAL, BOT, ("person", "person:email:jane@acme.com")),
        (None, {**EXTERNAL, "email": None}, None, ("person", "linear:external:x1")),
        (None, None, BOT, ("bot", "linear:bot:b1")),
        (None, None, {**BOT, "id": None}, ("bot", "linear:bot:slack")),
        (None, None, None, None),
    ],
)
def test_what_comes_from_a_tool_that_linear_is_synced_with_has_its_author(
    user: Any, external: Any, bot: Any, author: tuple[str, str] | None
):
    """No user of Linear's wrote it: somebody in Slack or GitHub did, or the integration itself."""
    comment = graph("comments", id="c1", body="Hi", url="", user=user, externalUser=external, botActor=bot)
    issue = graph("issues", **ISSUE, creator=user, externalUserCreator=external, botActor=bot)
    attachment = graph("attachments", id="a1", title="Fix", url="", creator=user, externalUserCreator=external)
    for found in (comment, issue):
        assert [(one.kind, one.key) for one in found.entities[1:]] == ([author] if author else [])
        assert [kind for kind, *_ in said(found)] == (["authored"] if author else [])
    assert len(attachment.entities) == 1 + bool(user or external)


def test_who_does_what_with_an_issue():
    person = {"id": "p1", "name": "Ana", "email": "ana@x.test"}
    row = {
        **ISSUE,
        "creator": person,
        "assignee": {**person, "id": "p2", "email": None},
        "parent": {"id": "u0", "title": "All"},
    }
    row |= {
        "team": {"id": "t1", "name": "Eng"},
        "cycle": {"id": "c1", "number": 4, "name": None},
        "labels": {"nodes": [{"id": "l1", "name": "bug"}]},
    }
    found = graph("issues", **row)
    assert said(found) == {
        ("authored", "person:email:ana@x.test", "linear:issue:u1"),
        ("assigned_to", "linear:issue:u1", "linear:user:p2"),
        ("part_of", "linear:issue:u1", "linear:issue:u0"),
        ("part_of", "linear:issue:u1", "linear:team:t1"),
        ("in_milestone", "linear:issue:u1", "linear:cycle:c1"),
        ("labelled", "linear:issue:u1", "linear:label:l1"),
    }
    assert "Cycle 4" in {entity.name for entity in found.entities}


@pytest.mark.parametrize(
    ("kind", "statement"),
    [("blocks", "blocks"), ("duplicate", "duplicates"), ("related", "relates_to"), ("similar", None)],
)
def test_a_relation_is_a_statement_of_the_issue_and_nothing_else(kind: str, statement: str | None):
    ends = {"issue": {"id": "u1", "title": "Retry"}, "relatedIssue": {"id": "u2", "title": "Later"}}
    updated = "2026-03-01T09:30:00.000Z"
    found = graph("relations", id="r1", type=kind, updatedAt=updated, archivedAt=None, **ends)
    own = found.entities[0]
    assert (own.kind, own.key, own.name, own.properties) == ("issue", "linear:issue:u1", "Retry", {})
    assert utc(updated) + timedelta(microseconds=found.later) == EPOCH, "the issue's own record counts"
    assert said(found) == ({(statement, "linear:issue:u1", "linear:issue:u2")} if statement else set())
    archived = graph("relations", id="r1", type=kind, updatedAt=updated, archivedAt=updated, **ends)
    assert said(archived) == set()


def test_a_row_in_the_bin_is_deleted_an_archived_one_is_not():
    archived = graph("issues", **ISSUE, archivedAt="2026-01-01T00:00:00.000Z").entities[0].properties
    assert "deleted" not in archived
    assert archived["archived_at"] == "2026-01-01T00:00:00.000Z"
    assert graph("issues", **ISSUE, archivedAt="x", trashed=True).entities[0].properties["deleted"] is True


def test_a_comment_without_author_or_issue_still_stands():
    found = graph("comments", id="c1", body="", issue=None, user=None, parent={"id": "c0"}, url=None)
    assert found.entities[0].name == "(empty comment)"
    assert said(found) == {("replied_to", "linear:comment:c1", "linear:comment:c0")}


async def test_windows_are_told_to_the_millisecond_so_that_nothing_is_lost():
    asked: list[Any] = []

    class Api:
        async def request(self, method: str, path: str, *, json: Any) -> Reply:
            asked.append(json["variables"]["filter"])
            page = {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}
            return Reply(200, {}, {"data": {"issues": page}}, "", "")

    since = datetime(2026, 1, 1, 0, 0, 0, 1_999, UTC)
    window = Window(since, datetime(2026, 1, 2, 0, 0, 0, 999_001, UTC))
    first = await LINEAR.stream("issues").fetch(Api(), None, window, None)  # type: ignore[arg-type]
    last = await LINEAR.stream("issues").fetch(Api(), None, window, first.next_cursor)  # type: ignore[arg-type]
    assert last.next_cursor is None
    span = {"gte": "2026-01-01T00:00:00.001Z", "lt": "2026-01-02T00:00:01.000Z"}
    assert asked == [{"archivedAt": span, "updatedAt": {"lt": span["gte"]}}, {"updatedAt": span}]


async def test_an_issue_that_is_archived_or_deleted_is_brought_though_that_is_no_update_of_it():
    """Neither moves `updatedAt`, so an import of what changed since would never tell."""
    stage = Stage("linear")
    async with stage.client:
        await stage.use(stage.account)
        workspace, stream = stage.stand_in.workspaces[stage.account], LINEAR.stream("issues")  # type: ignore[attr-defined]
        times = workspace.times("issues")
        place, since = len(times) // 2, EPOCH + timedelta(milliseconds=times[-3])
        gone = since + timedelta(seconds=1)
        make = workspace._issues
        workspace._issues = lambda at: {
            **make(at),
            **({"trashed": True, "archivedAt": stamp(gone, "milliseconds")} if at == place else {}),
        }
        window = Window(since, ALL.until)
        found = (await stage.read(stream, window)).rows
        own = workspace.id_of("issues", place)
        assert set(found) == {own, *(workspace.id_of("issues", len(times) - 3 + at) for at in range(3))}
        record, _ = found[own]
        assert record.occurred_at == gone
        assert stream.extract(record.payload, CONTEXT).entities[0].properties["deleted"] is True  # type: ignore[index]
        assert own not in (await stage.read(stream, Window(since + timedelta(seconds=2), ALL.until))).ids
        assert own in (await stage.read(stream, Window(EPOCH, since))).ids, "and by its last update as before"


async def test_projects_are_read_whole_as_linear_can_not_be_asked_for_those_that_were_archived():
    """Their archiving and deletion move `updatedAt` no more than an issue's do, and their progress is that of their issues."""
    stage = Stage("linear")
    async with stage.client:
        await stage.use(stage.account)
        stream = LINEAR.stream("projects")
        assert stream.window is WindowKind.SNAPSHOT
        found = (await stage.read(stream, Window(ALL.until - timedelta(days=1), ALL.until))).ids
        assert len(found) == len(stage.stand_in.workspaces[stage.account].times("projects"))  # type: ignore[attr-defined]


async def test_a_dead_cursor_is_said_to_be_one():
    stage = Stage("linear")
    async with stage.client:
        await stage.use(stage.account)
        with pytest.raises(CursorExpired):
            await LINEAR.stream("issues").fetch(
                stage.api(), (await stage.partitions(LINEAR.stream("issues")))[0], ALL, {"after": "gone"}
            )


async def test_somebody_who_changes_while_people_are_listed_is_not_missed(monkeypatch: pytest.MonkeyPatch):
    """By their update they would go to the top of the list, where it has been read already."""
    people = [
        {"id": f"u{at}", "createdAt": f"2026-01-01T00:{at:02}", "updatedAt": f"2026-01-01T00:{at:02}"}
        for at in range(5)
    ]

    async def request(self: Any, method: str, path: str, *, json: Any) -> Reply:
        order = "createdAt" if "orderBy: createdAt" in json["query"] else "updatedAt"
        rows = sorted(people, key=lambda row: row[order], reverse=True)
        ids = [row["id"] for row in rows]
        begin = ids.index(json["variables"]["after"]) + 1 if json["variables"]["after"] else 0
        shown = rows[begin : begin + 2]
        info = {"hasNextPage": begin + 2 < len(rows), "endCursor": shown[-1]["id"]}
        people[0] = {**people[0], "updatedAt": "2026-01-02T00:00"}
        return Reply(200, {}, {"data": {"users": {"nodes": shown, "pageInfo": info}}}, "", "")

    monkeypatch.setattr(Api, "request", request)
    users, cursor, found = LINEAR.stream("users"), None, set()
    while True:
        page = await users.fetch(Api(LINEAR, "", None), WHOLE, ALL, cursor)  # type: ignore[arg-type]
        found |= {record.external_id for record in page.records}
        if (cursor := page.next_cursor) is None:
            break
    assert found == {row["id"] for row in people}


@pytest.mark.parametrize("issue", ["u1", "u2", None], ids=["shown", "not shown", "on no issue"])
async def test_a_comment_is_gone_where_its_issue_is_shown_without_it(issue: str | None) -> None:
    """Of a team that this access does not see, neither is; and a comment may be on something else."""
    asked = []

    class Answers:
        longest_wait = timedelta(0)

        async def request(self, method: str, path: str, *, json: Any) -> Reply:
            [name] = [name for name in ("comments", "issues") if f" {{ {name}(" in json["query"]]
            asked.append((name, json["variables"]["filter"]))
            rows = [{"id": "c2"}] if name == "comments" else [{"id": "u1"}]
            return Reply(200, {}, {"data": {name: {"nodes": rows, "pageInfo": {"hasNextPage": False}}}}, "", "")

    on = {"issue": {"id": issue} if issue else None}
    records = [Record(own, EPOCH, {"id": own, **on}) for own in ("c1", "c2")]
    find = LINEAR.stream("comments").gone
    assert find is not None
    assert list(await find(Answers(), WHOLE, records)) == (["c1"] if issue == "u1" else [])  # type: ignore[arg-type]
    assert asked == [
        ("comments", {"id": {"in": ["c1", "c2"]}}),
        *([("issues", {"id": {"in": [issue]}})] if issue else []),
    ]
