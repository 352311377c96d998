"""What only Asana has: compact replies, lists in no order of time, tasks below tasks, premium answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from integrations.errors import AccessDenied, CursorExpired, Throttled
from integrations.http import Api, Reply
from integrations.providers import asana
from integrations.providers.asana import ASANA
from integrations.providers.base import Context, Partition, Record, Window
from tests.contract.stage import read_on_course
from tests.senders import answering

CONTEXT = Context("asana")
LAUNCH = Partition("500", "Launch", {"project": "500"})
WINDOW = Window(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC))


def reply(status: int, message: str = "") -> Reply:
    return Reply(status, {}, {"errors": [{"message": message, "help": "…"}]}, "", "")


def said(graph: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


def work(gid: str, **more: Any) -> dict[str, Any]:
    return {"gid": gid, "name": f"Task {gid}", "modified_at": "2025-01-06T08:30:00.500Z", **more}


def story(gid: str) -> dict[str, Any]:
    return {"gid": gid, "created_at": "2025-01-02T10:00:00.000Z"}


async def walk(stream: str, answers: dict[str, Any], asked: list[httpx2.Request]) -> list[str]:
    """Ids of all rows of the stream where Asana answers so; answers: path below /api/1.0/ -> rows, or a status."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        answer = answers.get(request.url.path.removeprefix("/api/1.0/"), 404)
        if isinstance(answer, int):
            return httpx2.Response(answer, json={"errors": [{"message": "no"}]})
        if answer and isinstance(answer[0], list):  # pages
            at = int(request.url.params.get("offset") or 0)
            more = {"offset": str(at + 1)} if at + 1 < len(answer) else None
            return httpx2.Response(200, json={"data": answer[at], "next_page": more})
        return httpx2.Response(200, json={"data": answer, "next_page": None})

    found, cursor = [], None
    api = Api(ASANA, "https://app.asana.com", answering(handle), "token")
    while True:
        page = await ASANA.stream(stream).fetch(api, LAUNCH, WINDOW, cursor)
        found += [record.external_id for record in page.records]
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (reply(402, "Payment Required"), AccessDenied, "paying"),
        (reply(403, "Your token does not have the required scope: stories:read"), AccessDenied, "stories:read"),
        (reply(404, "Not found"), AccessDenied, "Asana"),
        (reply(400, "offset: Your pagination token has expired."), CursorExpired, "starting over"),
        (reply(429), Throttled, "slow down"),
    ],
)
def test_errors_are_told_apart(answer: Reply, kind: type[Exception], words: str):
    found = ASANA.classify(answer)
    assert isinstance(found, kind)
    assert words in str(found)


def test_the_rest_is_left_to_the_gate_and_a_limit_without_a_time_is_a_minute():
    for status in (200, 401, 500, 504):
        assert ASANA.classify(reply(status)) is None
    assert ASANA.classify(reply(400, "project: Not a recognized ID")) is None
    found = ASANA.classify(Reply(429, {}, None, "", ""))
    assert isinstance(found, Throttled)
    assert found.retry_at is not None
    assert abs(found.retry_at - datetime.now(UTC) - timedelta(minutes=1)) < timedelta(seconds=20)


async def test_subtasks_are_read_below_subtasks_and_below_tasks_that_did_not_change():
    asked: list[httpx2.Request] = []
    answers = {
        "tasks": [[work("1", num_subtasks=0), work("2", num_subtasks=2)], [work("3", num_subtasks=1)]],
        "tasks/2/subtasks": [[work("21", num_subtasks=1)], [work("22", num_subtasks=0)]],
        "tasks/21/subtasks": [work("211", num_subtasks=0)],
        "tasks/3/subtasks": [work("31", num_subtasks=0)],
    }
    assert await walk("subtasks", answers, asked) == ["21", "22", "211", "31"]
    lists = [request for request in asked if request.url.path.endswith("/tasks")]
    assert all("modified_since" not in request.url.params for request in lists)
    assert len(asked) == 6  # none is asked for what it says it has not


async def test_comments_are_read_on_what_changed_since_however_deep_it_lies():
    old: list[httpx2.Request] = []
    answers = {
        "tasks": [
            [work("1", num_subtasks=0), work("2", num_subtasks=2, modified_at="2024-05-01T08:00:00.000Z")],
            [work("3", num_subtasks=0, modified_at="2024-05-01T08:00:00.000Z")],
        ],
        "tasks/1/stories": [story("s1")],
        "tasks/2/subtasks": [[work("21", num_subtasks=1, modified_at="2024-05-01T08:00:00.000Z")], [work("22")]],
        "tasks/21/subtasks": [work("211", num_subtasks=0)],
        "tasks/22/stories": [[story("s22")], [story("s23")]],
        "tasks/211/stories": [story("s211")],
    }
    assert await walk("stories", answers, old) == ["s1", "s22", "s23", "s211"]
    assert (
        len(old) == 2 + 1 + 2 + 1 + 2 + 1
    )  # lists, stories, subtasks; nothing of what did not change and has nothing below


@pytest.mark.parametrize("subtasks", [0, 1])
async def test_many_tasks_in_a_row_with_nothing_new_below_them_do_not_end_the_reading(
    monkeypatch: pytest.MonkeyPatch, subtasks: int
):
    """With a subtask, which is asked for as no change of it shows on the task, or without; none of them changed."""
    monkeypatch.setattr("historical_sync.course.IDLE_PAGES", 10)
    old, count = {"modified_at": "2024-05-01T08:00:00.000Z"}, 30_000 if subtasks == 0 else 300

    def handle(request: httpx2.Request) -> httpx2.Response:
        _, _, kind = request.url.path.removeprefix("/api/1.0/").partition("/")
        if kind:
            return httpx2.Response(200, json={"data": [work(f"{kind}below", **old)], "next_page": None})
        at = int(request.url.params.get("offset") or 0)
        rows = [work(str(number), num_subtasks=subtasks, **old) for number in range(at, min(at + 100, count))]
        more = {"offset": str(at + 100)} if at + 100 < count else None
        return httpx2.Response(200, json={"data": rows, "next_page": more})

    api = Api(ASANA, "https://app.asana.com", answering(handle), "token")
    pages = await read_on_course(api, ASANA.stream("stories"), LAUNCH, WINDOW)
    assert not any(page.records for page in pages)


@pytest.mark.parametrize("lost", [False, True])
async def test_what_lies_below_many_tasks_is_read_though_their_list_forgets_where_it_was(lost: bool):
    """An offset of Asana's is good for a quarter of an hour, and what lies below a page of tasks may take longer to read."""
    count, made = 0, {}
    names = [str(number) for number in range(9)]

    def handle(request: httpx2.Request) -> httpx2.Response:
        nonlocal count
        count += 1
        path, offset = request.url.path.removeprefix("/api/1.0/"), request.url.params.get("offset")
        if offset and count - made[offset] > 2:  # there are three tasks on a page
            return httpx2.Response(400, json={"errors": [{"message": "offset: Your pagination token has expired."}]})
        rows = (
            [work(name) for name in names] if path == "tasks" else [story(path.split("/")[1] + part) for part in "abcd"]
        )
        at = int(offset.partition(":")[0]) if offset else 0
        more = None
        if at + 3 < len(rows):
            more = {"offset": f"{at + 3}:{count}"}
            made[more["offset"]] = count
        return httpx2.Response(200, json={"data": rows[at : at + 3], "next_page": more})

    stream, cursor, found = ASANA.stream("stories"), None, []
    api = Api(ASANA, "https://app.asana.com", answering(handle), "token")
    while True:
        page = await stream.fetch(api, LAUNCH, WINDOW, cursor)
        found += [record.external_id for record in page.records]
        count += 3 if len(found) == 8 else 0  # a pause, in the middle of a task's history
        if (cursor := page.next_cursor) is None:
            break
        if lost and found and found[-1] == "2d":  # the one that was read last
            names.remove("2")
            with pytest.raises(CursorExpired):
                await stream.fetch(api, LAUNCH, WINDOW, cursor)
            return
    assert set(found) == {name + part for name in names for part in "abcd"}
    assert len(found) < 9 * 4 + 4


async def test_a_task_that_is_gone_meanwhile_is_passed_over_but_a_missing_scope_is_not():
    answers = {"tasks": [work("1"), work("2")], "tasks/1/stories": 404}
    answers["tasks/2/stories"] = [story("9")]
    assert await walk("stories", answers, []) == ["9"]
    with pytest.raises(AccessDenied):
        await walk("stories", {**answers, "tasks/2/stories": 403}, [])


async def test_a_project_without_tasks_or_an_account_without_workspaces_is_empty():
    assert await walk("stories", {"tasks": []}, []) == []
    assert await walk("subtasks", {"tasks": [work("1", num_subtasks=0)]}, []) == []
    assert await walk("projects", {"workspaces": []}, []) == []


async def test_every_list_asks_for_a_limit_and_for_the_fields_it_needs():
    asked: list[httpx2.Request] = []
    await walk("tasks", {"tasks": [work("1")]}, asked)
    params = dict(asked[0].url.params)
    assert (params["project"], params["limit"], params["modified_since"]) == ("500", "100", "2024-12-31T23:59:59+00:00")
    assert {"modified_at", "assignee.email", "memberships.project.name"} <= set(params["opt_fields"].split(","))


def test_a_task_tells_where_it_is_whose_it_is_and_what_it_waits_for():
    row = work(
        "1",
        notes="After https://app.asana.com/0/500/77, then https://app.asana.com/1/9/project/500/task/78; ask Jane@Acme.com",
        assignee={"gid": "10", "name": "Jane", "email": "jane@acme.com"},
        created_by={"gid": "11", "name": "Bob"},
        memberships=[{"project": {"gid": "500", "name": "Launch"}}, {"project": None}],
        parent={"gid": "2", "name": "Above"},
        tags=[{"gid": "5", "name": "hw"}],
        dependencies=[{"gid": "3"}],
        followers=[{"gid": "11", "name": "Bob"}],
        due_on="2025-01-15",
    )
    graph = asana._extract_task(row, CONTEXT)
    own = "asana:task:1"
    assert said(graph) == {
        ("part_of", own, "asana:project:500"),
        ("part_of", own, "asana:task:2"),
        ("assigned_to", own, "person:email:jane@acme.com"),
        ("authored", "asana:user:11", own),
        ("with", own, "asana:user:11"),
        ("labelled", own, "asana:tag:5"),
        ("depends_on", own, "asana:task:3"),
        ("mentions", own, "asana:task:77"),
        ("mentions", own, "asana:task:78"),
        ("mentions", own, "person:email:jane@acme.com"),
    }
    jane = next(entity for entity in graph.entities if entity.key == "person:email:jane@acme.com")
    assert jane.aliases == ("asana:user:10",)
    assert graph.entities[0].properties == {"due_on": "2025-01-15"}


def test_comments_are_messages_and_the_rest_of_a_history_is_events():
    row = {
        "gid": "9",
        "created_at": "2025-01-02T10:00:00.000Z",
        "target": {"gid": "1", "name": "Task"},
        "created_by": None,
    }
    comment = asana._extract_story({**row, "resource_subtype": "comment_added", "text": "Hi bob@acme.com\n…"}, CONTEXT)
    assert (comment.entities[0].kind, comment.entities[0].name) == ("message", "Hi bob@acme.com")
    assert said(comment) == {
        ("comment_on", "asana:story:9", "asana:task:1"),
        ("mentions", "asana:story:9", "person:email:bob@acme.com"),
    }
    event = asana._extract_story({**row, "resource_subtype": "marked_complete", "text": None}, CONTEXT)
    assert (event.entities[0].kind, event.entities[0].name) == ("event", "(no text)")
    assert said(event) == {("about", "asana:story:9", "asana:task:1")}


def test_who_is_addressed_in_a_comment_is_mentioned_and_called_by_their_name():
    """A mention is the address of a profile in Asana's plain text; who that is stands in the formatted one only."""
    row = {"gid": "9", "created_at": "2025-01-02T10:00:00.000Z", "resource_subtype": "comment_added"}
    row["text"] = "https://app.asana.com/0/profile/10, please look\nand https://app.asana.com/1/8/profile/11?x=1"
    row["html_text"] = (
        '<body><a href="https://app.asana.com/0/profile/10" data-asana-gid="10" data-asana-type="user">@Jane D&amp;Co</a>, '
        "please <em>look</em>\nand …</body>"
    )
    comment = asana._extract_story(row, CONTEXT)
    assert comment.entities[0].name == "@Jane D&Co, please look"
    assert said(comment) == {
        ("mentions", "asana:story:9", "asana:user:10"),
        ("mentions", "asana:story:9", "asana:user:11"),
    }
    nameless = asana._extract_story({**row, "html_text": '<body><a data-asana-gid="10"/>, please look</body>'}, CONTEXT)
    assert nameless.entities[0].name == "https://app.asana.com/0/profile/10, please look"
    assert said(nameless) == said(comment)
    task = asana._extract_task(work("1", notes="Ask https://app.asana.com/0/profile/10 first"), CONTEXT)
    assert said(task) == {("mentions", "asana:task:1", "asana:user:10")}


def test_a_workspace_is_the_organization_of_its_domains():
    row = {"gid": "8", "name": "Acme", "is_organization": True, "email_domains": ["acme.com", "gmail.com"]}
    own = asana._extract_workspace(row, CONTEXT).entities[0]
    assert (own.key, own.aliases) == ("org:domain:acme.com", ("asana:workspace:8",))
    assert asana._extract_workspace({"gid": "8", "name": None}, CONTEXT).entities[0].key == "asana:workspace:8"


@pytest.mark.parametrize(
    ("task", "tasks", "is_gone"),
    [(200, 200, False), (404, 200, True), (403, 200, False), (404, 403, None), (404, 404, None)],
)
async def test_a_task_is_gone_where_its_project_is_shown(task: int, tasks: int, is_gone: bool | None) -> None:
    """None: it can't be told."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        status = task if request.url.path == "/api/1.0/tasks/7" else tasks
        ok: dict[str, Any] = {"data": []}
        return httpx2.Response(status, json=ok if status == 200 else {"errors": [{"message": "no"}]})

    api, find = Api(ASANA, "https://app.asana.com", answering(answer)), ASANA.stream("tasks").gone
    assert find is not None
    record = Record("7", datetime(2025, 1, 1, tzinfo=UTC), work("7"))
    if is_gone is None:
        with pytest.raises(AccessDenied):
            await find(api, LAUNCH, [record])
    else:
        assert list(await find(api, LAUNCH, [record])) == (["7"] if is_gone else [])
