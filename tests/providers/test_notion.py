"""What Notion's file knows beyond the contract: errors, minutes, the cap and how it is read round, properties and mentions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Gone,
    ReauthRequired,
    RequestRejected,
    Throttled,
    Unavailable,
    WindowTooLarge,
)
from integrations.http import Api, Reply
from integrations.providers.base import WHOLE, Context, Partition, Window
from integrations.providers.notion import LISTS_A_PROPERTY, NOTION, PAGE, PAGES_A_FETCH
from integrations.providers.wire import EPOCH, utc
from integrations.sandbox import notion as sandbox
from tests.contract.stage import ALL, Stage, read_on_course
from tests.senders import answering

CONTEXT = Context("notion")


def refused(status: int, code: str, message: str = "no", **more: Any) -> Reply:
    body = {"object": "error", "status": status, "code": code, "message": message, **more}
    return Reply(status, {}, body, "", "https://api.notion.com/v1/search")


def graph(stream: str, **row: Any) -> Any:
    return NOTION.stream(stream).extract(row, CONTEXT)


def said(found: Any) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in found.relationships}


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refused(401, "unauthorized"), ReauthRequired),
        (refused(403, "restricted_resource"), AccessDenied),
        (refused(409, "conflict_error"), Unavailable),
        (refused(429, "rate_limited"), Throttled),
        (refused(400, "validation_error", "The start_cursor provided is invalid"), CursorExpired),
        (refused(400, "validation_error", "Block type ai_block is not supported via the API."), Gone),
        (
            refused(
                400,
                "validation_error",
                "Block type external_object_instance_page is not supported via the API for your bot type.",
            ),
            Gone,
        ),
    ],
)
def test_an_error_says_what_to_do(reply: Reply, error: type[Exception]):
    assert type(NOTION.classify(reply)) is error


def test_what_is_not_shared_is_denied_and_a_busy_service_is_left_to_the_gate():
    assert isinstance(NOTION.classify(refused(404, "object_not_found")), AccessDenied)
    assert NOTION.classify(refused(529, "service_overload")) is None
    assert NOTION.classify(refused(400, "validation_error", "body failed")) is None


def test_it_is_told_whose_limit_is_used_up():
    space = {"rate_limit_reason": "public_api_space_request_rate_limit"}
    assert "workspace" in str(NOTION.classify(refused(429, "rate_limited", additional_data=space)))
    found = NOTION.classify(refused(429, "rate_limited"))
    assert isinstance(found, Throttled)
    assert found.retry_at is not None
    assert "this connection" in str(found)


class Answers:
    """An API that gives these answers, one after another, and keeps what it was asked."""

    facts: dict[str, Any] = {}
    longest_wait = timedelta(0)

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.asked = list(answers), []

    async def request(self, method: str, path: str, *, json: Any = None) -> Reply:
        self.asked.append(json)
        return Reply(200, {}, {"has_more": False, "next_cursor": None, **self.answers.pop(0)}, "", "")


CUT = {"request_status": {"type": "incomplete", "incomplete_reason": "query_result_limit_reached"}}


def row(own: str, created: str = "2026-01-01T00:00:00.000Z") -> dict[str, Any]:
    return {"id": own, "created_time": created, "last_edited_time": "2026-02-01T00:00:00.000Z"}


async def test_a_window_is_widened_to_whole_minutes():
    api = Answers({"results": []})
    window = Window(datetime(2026, 1, 1, 10, 0, 30, tzinfo=UTC), datetime(2026, 1, 1, 11, 0, 30, tzinfo=UTC))
    await NOTION.stream("rows").fetch(api, Partition("d1"), window, None)  # type: ignore[arg-type]
    since, until = api.asked[0]["filter"]["and"]
    assert since["last_edited_time"] == {"on_or_after": "2026-01-01T10:00:00.000Z"}
    assert until["last_edited_time"] == {"before": "2026-01-01T11:01:00.000Z"}


async def test_a_cut_query_goes_on_from_the_last_time_of_creation():
    api = Answers({"results": [row("r1"), row("r2", "2026-01-05T00:00:00.000Z")], **CUT}, {"results": []})
    fetch = NOTION.stream("rows").fetch
    page = await fetch(api, Partition("d1"), ALL, None)  # type: ignore[arg-type]
    assert page.next_cursor == {"created": "2026-01-05T00:00:00.000Z"}
    page = await fetch(api, Partition("d1"), ALL, page.next_cursor)  # type: ignore[arg-type]
    bound = {"timestamp": "created_time", "created_time": {"on_or_after": "2026-01-05T00:00:00.000Z"}}
    assert api.asked[1]["filter"]["and"][-1] == bound
    assert page.next_cursor == {"trash": True}  # what was deleted comes last


async def test_a_minute_that_holds_more_than_can_be_listed_splits_the_window():
    api = Answers({"results": [row("r1")], **CUT})
    with pytest.raises(WindowTooLarge):
        await NOTION.stream("rows").fetch(api, Partition("d1"), ALL, {"created": "2026-01-01T00:00:00.000Z"})  # type: ignore[arg-type]


async def test_a_cut_search_is_read_from_its_other_end_and_a_gap_is_not_passed_over(monkeypatch: pytest.MonkeyPatch):
    stage = Stage("notion")
    stream = NOTION.stream("pages")
    async with stage.client:
        await stage.use(stage.account)
        every = len(stage.truth(stream, ALL)) + len(stage.truth(NOTION.stream("rows"), ALL))
        monkeypatch.setattr(sandbox, "MOST_LISTED", every // 2 + 1)
        assert (await stage.read(stream)).ids == stage.truth(stream, ALL)
        monkeypatch.setattr(sandbox, "MOST_LISTED", every // 2 - 5)
        with pytest.raises(RequestRejected, match="not reached"):
            await stage.read(stream)


async def test_the_data_sources_that_lie_in_a_wiki_are_none_of_its_rows():
    """By itself a query of a wiki lists both (Notion's reference, query a data source: `result_type`)."""
    stage, rows = Stage("notion"), NOTION.stream("rows")
    async with stage.client:
        await stage.use(stage.account)
        found = await stage.read(rows)
    assert {record.payload["object"] for record, _ in found.rows.values()} == {"page"}
    assert found.ids == stage.truth(rows, ALL)


async def test_what_lies_in_the_trash_is_marked_and_is_no_part_of_the_workspace_to_choose():
    stage = Stage("notion")
    async with stage.client:
        await stage.use(stage.account)
        parts = {part.key for part in await NOTION.partitions(stage.api())}
        before = await stage.read(NOTION.stream("pages"))
        await stage.control(delete_every=3)
        for name in ("pages", "data_sources"):
            found = await stage.read(NOTION.stream(name))
            graphs = found.graphs(stage.namespace)
            trashed = {one.own for one in graphs if (one.entities[0].properties or {}).get("deleted")}
            places = {one.own: int(one.own[-10:], 16) for one in graphs}
            assert trashed == {own for own, place in places.items() if stage.stand_in.is_deleted(place)} != set()
        assert (await stage.read(NOTION.stream("pages"))).ids == before.ids
        left = {part.key for part in await NOTION.partitions(stage.api())}
    assert left < parts


async def test_the_trash_costs_one_more_page_and_is_not_read_further_back_than_the_window():
    old = {**row("old"), "last_edited_time": "2025-01-01T00:00:00.000Z"}
    api = Answers(
        {"results": [row("p1"), old], "has_more": True, "next_cursor": "x"},
        {"results": [row("t1"), old], "has_more": True, "next_cursor": "y"},
    )
    fetch, window = NOTION.stream("pages").fetch, Window(datetime(2026, 1, 1, tzinfo=UTC), ALL.until)
    page = await fetch(api, WHOLE, window, None)  # type: ignore[arg-type]
    assert page.next_cursor == {"trash": True}
    page = await fetch(api, WHOLE, window, page.next_cursor)  # type: ignore[arg-type]
    assert page.next_cursor is None
    assert [asked["filter"].get("in_trash") for asked in api.asked] == [None, True]


async def test_a_row_that_is_shared_without_its_data_source_comes_as_a_page_and_says_what_a_row_says():
    stage, stream = Stage("notion"), NOTION.stream("pages")
    async with stage.client:
        await stage.use(stage.account)
        await stage.control(page_size=5)
        found = await stage.read(stream)
        sources = {part.key for part in await NOTION.partitions(stage.api())}
    rows = [record.payload for record, _ in found.rows.values() if record.payload["parent"].get("data_source_id")]
    assert rows
    assert not sources & {row["parent"]["data_source_id"] for row in rows}
    kinds = {kind for row in rows for kind, _, _ in said(stream.extract(row, CONTEXT))}
    assert {"part_of", "authored", "with"} <= kinds


async def test_which_data_sources_are_listed_is_asked_once_and_where_there_are_rows_only():
    def of(source: str, own: str) -> dict[str, Any]:
        return {**row(own), "parent": {"type": "data_source_id", "data_source_id": f"00000000-{source}"}}

    more = {"has_more": True, "next_cursor": "x"}
    api = Answers(
        {"results": [row("p1")], **more},
        {"results": [of("aaaaaaaa", "r1"), of("bbbbbbbb", "r2"), row("p2")], **more},
        {"results": [row("00000000-aaaaaaaa")]},
        {"results": [row("00000000-cccccccc")]},  # in the trash
        {"results": [of("aaaaaaaa", "r3"), of("bbbbbbbb", "r4")]},
        {"results": [of("bbbbbbbb", "r5"), of("cccccccc", "r6")]},
    )
    brought: list[str] = []
    cursor = None
    for _ in range(4):
        page = await NOTION.stream("pages").fetch(api, WHOLE, ALL, cursor)  # type: ignore[arg-type]
        brought += [record.external_id for record in page.records]
        cursor = page.next_cursor
    assert cursor is None
    assert brought == ["p1", "r2", "p2", "r4", "r5"]
    asked = [(asked["filter"]["value"], asked["filter"].get("in_trash", False)) for asked in api.asked]
    sources = [("data_source", False), ("data_source", True)]
    assert asked == [("page", False), ("page", False), *sources, ("page", False), ("page", True)]


@pytest.mark.parametrize("name", ["rows", "pages"])
async def test_all_that_a_row_refers_to_comes_with_it(name: str):
    """Of each property a page tells 25 references by itself."""
    stage, stream = Stage("notion"), NOTION.stream(name)
    async with stage.client:
        await stage.use(stage.account)
        workspace = stage.app.providers["notion"].workspaces[stage.account]
        found = await stage.read(stream)
        assert found.ids == stage.truth(stream, ALL)
    rows = [record.payload for record, _ in found.rows.values() if record.external_id.startswith("03b")]
    assert any(len(row["properties"]["Related"]["relation"]) == 60 for row in rows)
    for row in rows:
        whole = workspace.row("rows", workspace.place_of("rows", row["id"]))["properties"]
        for name, kind in (("Related", "relation"), ("Notes", "rich_text"), ("Owner", "people"), ("Name", "title")):
            assert row["properties"][name][kind] == whole[name][kind]
    assert not any("request_id" in row for row in rows)


class Pages:
    """An API of one page, whose property has these items; it lists two at a time."""

    facts: dict[str, Any] = {}

    def __init__(self, value: dict[str, Any], items: list[Any], refusal: Exception | None = None) -> None:
        self.row = {**row("p1"), "properties": {"It": {"id": "a%3Bx", **value}}}
        self.items, self.refusal, self.asked = items, refusal, 0

    async def request(self, method: str, path: str, *, json: Any = None) -> Reply:
        return Reply(200, {}, {"results": [self.row], "has_more": False, "next_cursor": None}, "", "")

    async def get(self, path: str, params: Any = None) -> Reply:
        if path == "/v1/pages/p1":
            return Reply(200, {}, {**self.row, "request_id": "x"}, "", "")
        assert path == "/v1/pages/p1/properties/a%3Bx"
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        start = int(params.get("start_cursor", 0))
        kind = self.row["properties"]["It"]["type"]
        results = [{"object": "property_item", "type": kind, kind: item} for item in self.items[start : start + 2]]
        more = start + 2 < len(self.items)
        return Reply(200, {}, {"results": results, "has_more": more, "next_cursor": str(start + 2)}, "", "")


async def whole(api: Pages) -> dict[str, Any]:
    """The property of the one page, as the stream brings it."""
    cursor, found = None, []
    while True:
        page = await NOTION.stream("rows").fetch(api, Partition("d1"), ALL, cursor)  # type: ignore[arg-type]
        found += page.records
        if (cursor := page.next_cursor) in (None, {"trash": True}):
            assert len(found) == 1
            value: dict[str, Any] = found[0].payload["properties"]["It"]
            return value


PERSON = {"object": "user", "id": "u1"}
MENTION = {"type": "mention", "mention": {"type": "user", "user": PERSON}, "plain_text": "@Bo"}


@pytest.mark.parametrize(
    ("value", "asks"),
    [
        ({"type": "relation", "relation": [{"id": "p2"}] * 25, "has_more": True}, True),
        ({"type": "relation", "relation": [{"id": "p2"}] * 25, "has_more": False}, False),
        ({"type": "people", "people": [PERSON] * 25}, True),
        ({"type": "people", "people": [PERSON] * 24}, False),
        ({"type": "rich_text", "rich_text": [MENTION, {"type": "text"}] * 25}, True),
        ({"type": "rich_text", "rich_text": [MENTION, *[{"type": "text"}] * 60]}, False),
        ({"type": "title", "title": [MENTION] * 25}, True),
        ({"type": "multi_select", "multi_select": [{"name": "x"}] * 30}, False),
        ({"type": "people", "people": None}, False),
    ],
)
async def test_a_property_is_listed_where_its_page_may_tell_only_part_of_it(value: dict[str, Any], asks: bool):
    api = Pages(value, ["one", "two", "three"])
    held = (await whole(api))[value["type"]]
    assert (held, api.asked) == ((["one", "two", "three"], 2) if asks else (value[value["type"]], 0))


@pytest.mark.parametrize("refusal", [AccessDenied("no"), Gone("no")])
async def test_a_property_that_may_not_be_listed_leaves_what_its_page_tells(refusal: Exception):
    api = Pages({"type": "relation", "relation": [{"id": "p2"}] * 25, "has_more": True}, [], refusal)
    assert len((await whole(api))["relation"]) == 25


async def test_a_property_without_end_is_listed_as_far_as_there_is_patience():
    api = Pages({"type": "people", "people": [PERSON] * 25}, [PERSON] * 1000)
    value = await whole(api)
    assert (len(value["people"]), value["has_more"], api.asked) == (2 * LISTS_A_PROPERTY, True, LISTS_A_PROPERTY)


async def test_pages_stop_at_the_beginning_of_the_window():
    stage = Stage("notion")
    stream = NOTION.stream("pages")
    async with stage.client:
        await stage.use(stage.account)
        await stage.control(page_size=5)
        late = Window(ALL.until - timedelta(days=40), ALL.until)
        some, every = await stage.read(stream, late), await stage.read(stream)
    assert some.ids == stage.truth(stream, late)
    assert some.pages < every.pages


async def test_a_page_that_is_gone_since_the_search_has_no_comments():
    stage = Stage("notion")
    async with stage.client:
        await stage.use(stage.account)
        gone = {"search": None, "pages": ["04b00000-0000-4000-8000-01ffffffffff"], "start": None}
        page = await NOTION.stream("comments").fetch(stage.api(), WHOLE, ALL, gone)
    assert (list(page.records), page.next_cursor) == ([], None)


async def test_thousands_of_pages_in_a_row_without_a_comment_do_not_end_the_reading(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("historical_sync.course.IDLE_PAGES", 10)
    count = 15 * PAGES_A_FETCH

    def handle(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json={"results": [], "has_more": False, "next_cursor": None})
        first = int(json.loads(request.content).get("start_cursor") or 0)
        ids = range(first, min(first + PAGE, count))
        more = {"has_more": ids.stop < count, "next_cursor": str(ids.stop)}
        return httpx2.Response(200, json={"results": [row(f"p{number}") for number in ids], **more})

    api = Api(NOTION, "https://api.notion.com", answering(handle), "token")
    pages = await read_on_course(api, NOTION.stream("comments"), WHOLE, ALL)
    assert not any(page.records for page in pages)
    assert len(pages) >= 15


async def test_what_is_written_is_asked_for_where_something_was_edited_only():
    """A page and what lies within its blocks are lists of their own; a page below it is another page."""
    stage, content = Stage("notion"), NOTION.stream("content")
    async with stage.client:
        await stage.use(stage.account)
        window = Window(ALL.until - timedelta(days=60), ALL.until)
        before = len(stage.app.control.log)
        found = await stage.read(content, window)
        calls = [entry for entry in list(stage.app.control.log)[before:] if "/blocks/" in entry["path"]]
        asked = [entry["path"] for entry in calls]
        assert len(asked) == len(set(asked)) == len(found.ids) + sum(entry["status"] == 400 for entry in calls)
        whole = await stage.read(content)
    assert 0 < len(found.ids) < len(whole.ids)
    blocks = [block for record, _ in whole.rows.values() for block in record.payload["blocks"]]
    assert {block["parent"]["type"] for block in blocks if "parent" in block} == {"page_id", "block_id"}
    assert any(block["type"] == "child_page" for block in blocks)


async def test_a_page_that_is_gone_since_the_search_holds_up_no_other():
    stage, content = Stage("notion"), NOTION.stream("content")
    async with stage.client:
        await stage.use(stage.account)
        page = await content.fetch(stage.api(), WHOLE, ALL, None)
        assert page.next_cursor is not None
        cursor, there = {"search": None, "pages": page.next_cursor["pages"][:2]}, page.next_cursor["pages"][1]["page"]
        cursor["pages"][0] = {**cursor["pages"][0], "lists": [["04b00000-0000-4000-8000-01ffffffffff", 0, None, 0]]}
        found = await content.fetch(stage.api(), WHOLE, ALL, cursor)
        assert {record.payload["page"] for record in found.records} == {there}
        assert found.next_cursor is None


async def test_what_notion_does_not_show_keeps_nothing_else_of_what_is_written_out():
    """A block of no type that it knows is not looked into; a page, or a block of another type, that it refuses is passed over."""
    stage, content = Stage("notion"), NOTION.stream("content")
    async with stage.client:
        await stage.use(stage.account)
        found = await stage.read(content)
        refused = stage.app.control.statuses["400"]
    assert found.ids == stage.truth(content, ALL)
    beside = [{block["type"] for block in record.payload["blocks"]} for record, _ in found.rows.values()]
    assert any({"unsupported", "paragraph"} <= types for types in beside)
    pages = {record.payload["page"] for record, _ in found.rows.values()}
    every = stage.truth(NOTION.stream("pages"), ALL) | stage.truth(NOTION.stream("rows"), ALL)
    assert len(every - pages) == refused > 0


def test_what_is_written_mentions_and_says_nothing_else_of_its_page():
    def rich(content: str, **more: Any) -> dict[str, Any]:
        return {"type": "text", "plain_text": content, **more}

    blocks = [
        {"type": "paragraph", "paragraph": {"rich_text": [rich("Ask ana@acme.test.")]}},
        {"type": "heading_2", "heading_2": {"rich_text": [rich("@Bo", mention={"user": {"id": "u2", "name": "Bo"}})]}},
        {"type": "table_row", "table_row": {"cells": [[], [rich("Plan", mention={"page": {"id": "p2"}})]]}},
        {"type": "image", "image": {"caption": [rich("by cy@acme.test")], "external": {"url": "https://x.test/a.png"}}},
        {"type": "link_to_page", "link_to_page": {"type": "page_id", "page_id": "p3"}},
        {"type": "divider", "divider": {}},
        {"type": "unsupported", "unsupported": None},
    ]
    edited = "2026-03-01T09:30:00.000Z"
    found = graph("content", id="p1:0", page="p1", title="Launch", last_edited_time=edited, blocks=blocks)
    own = found.entities[0]
    assert (own.key, own.name, own.properties) == ("notion:page:p1", "Launch", {})
    assert utc(edited) + timedelta(microseconds=found.later) == EPOCH, "the page's own record counts"
    assert said(found) == {
        ("mentions", "notion:page:p1", key)
        for key in (
            "person:email:ana@acme.test", "notion:user:u2", "notion:page:p2", "person:email:cy@acme.test", "notion:page:p3",
        )
    }  # fmt: skip


def test_what_lies_within_a_page_is_part_of_it_however_deep():
    """Of what lies in a column or a toggle, the parent is that block, which is no thing of the graph (Notion's reference, parent object)."""
    within = {"type": "block_id", "block_id": "k1"}
    assert said(graph("pages", id="p2", properties={}, parent=within)) == set()
    blocks = [
        {"id": "p2", "type": "child_page", "child_page": {"title": "Plan"}, "parent": within},
        {"id": "b1", "type": "child_database", "child_database": {"title": "Tasks"}},
        {"id": "k2", "type": "paragraph", "paragraph": {"rich_text": []}},
    ]
    edited = "2026-03-01T09:30:00.000Z"
    found = graph("content", id="k1:0", page="p1", title="Launch", last_edited_time=edited, blocks=blocks)
    assert said(found) == {
        ("part_of", "notion:page:p2", "notion:page:p1"), ("part_of", "notion:database:b1", "notion:page:p1"),
    }  # fmt: skip
    assert len(found.entities) == 1, "what lies there comes by itself, or is only shown there"


async def test_every_page_of_the_workspace_below_another_is_known_to_lie_in_it():
    stage = Stage("notion")
    async with stage.client:
        await stage.use(stage.account)
        pages, content = await stage.read(NOTION.stream("pages")), await stage.read(NOTION.stream("content"))
    parents = {record.external_id: record.payload["parent"] for record, _ in pages.rows.values()}
    hidden = {f"notion:page:{own}" for own, parent in parents.items() if parent["type"] == "block_id"}
    assert hidden
    placed = {one.source for graph in content.graphs("notion") for one in graph.relationships if one.kind == "part_of"}
    assert hidden <= placed


def test_a_row_tells_its_title_its_place_and_who_is_on_it():
    properties = {
        "Name": {"type": "title", "title": [{"plain_text": "Launch "}, {"plain_text": "plan"}]},
        "Status": {"type": "status", "status": {"name": "Done"}},
        "Stage": {"type": "select", "select": None},
        "Owner": {"type": "people", "people": [{"id": "u2", "name": "Ben", "person": {"email": "Ben@x.test"}}]},
        "Mail": {"type": "email", "email": "who@x.test"},
        "Related": {"type": "relation", "relation": [{"id": "p2"}]},
        "Notes": {
            "type": "rich_text",
            "rich_text": [
                {"plain_text": "@Ana", "mention": {"type": "user", "user": {"id": "u3"}}},
                {"plain_text": " asks c@x.test", "text": {}},
            ],
        },
    }
    parent = {"type": "data_source_id", "data_source_id": "d1", "database_id": "b1"}
    found = graph("rows", id="p1", properties=properties, parent=parent, created_by={"id": "u1"}, in_trash=True)
    own = found.entities[0]
    assert (own.kind, own.key, own.name) == ("document", "notion:page:p1", "Launch plan")
    assert own.properties == {"properties": {"Status": "Done", "Mail": "who@x.test"}, "deleted": True}
    assert said(found) == {
        ("part_of", "notion:page:p1", "notion:data_source:d1"),
        ("authored", "notion:user:u1", "notion:page:p1"),
        ("with", "notion:page:p1", "person:email:ben@x.test"),
        ("with", "notion:page:p1", "person:email:who@x.test"),
        ("about", "notion:page:p1", "notion:page:p2"),
        ("mentions", "notion:page:p1", "notion:user:u3"),
        ("mentions", "notion:page:p1", "person:email:c@x.test"),
    }


ROLLED_UP = [
    {"type": "title", "title": [{"plain_text": "Launch"}]},
    {"type": "rich_text", "rich_text": []},
    {"type": "people", "people": [{"id": "u2", "name": "Ben"}, {"id": "u3"}]},
    {"type": "multi_select", "multi_select": [{"name": "red"}, {"name": "blue"}]},
    {"type": "relation", "relation": [{"id": "p2"}]},
    {"type": "formula", "formula": {"type": "number", "number": 0}},
]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"type": "rollup", "rollup": {"type": "number", "number": 12.5, "function": "sum"}}, 12.5),
        ({"type": "rollup", "rollup": {"type": "number", "number": None, "function": "average"}}, None),
        ({"type": "rollup", "rollup": {"type": "date", "date": {"start": "2026-01-02", "end": None}}}, "2026-01-02"),
        ({"type": "rollup", "rollup": {"type": "array", "array": ROLLED_UP}}, ["Launch", "Ben", "red", "blue", 0]),
        ({"type": "rollup", "rollup": {"type": "array", "array": []}}, None),
        ({"type": "rollup", "rollup": {"type": "incomplete", "incomplete": {}}}, None),
        ({"type": "rollup", "rollup": {"type": "unsupported", "unsupported": {}}}, None),
        ({"type": "formula", "formula": {"type": "string", "string": "on time"}}, "on time"),
        ({"type": "formula", "formula": {"type": "boolean", "boolean": False}}, False),
        ({"type": "formula", "formula": {"type": "date", "date": {"start": "2026-01-02"}}}, "2026-01-02"),
        ({"type": "formula", "formula": {"type": "date", "date": None}}, None),
        ({"type": "formula", "formula": None}, None),
        ({"type": "multi_select", "multi_select": [{"name": "red"}]}, ["red"]),
        ({"type": "multi_select", "multi_select": []}, None),
        ({"type": "unique_id", "unique_id": {"prefix": "OPS", "number": 7}}, "OPS-7"),
        ({"type": "unique_id", "unique_id": {"prefix": None, "number": 7}}, "7"),
        ({"type": "rich_text", "rich_text": [{"plain_text": "of its own it is text"}]}, None),
    ],
)
def test_what_a_row_works_out_or_gathers_from_others_is_a_fact_about_it(value: dict[str, Any], shown: object):
    found = graph("rows", id="p1", properties={"It": value}).entities[0].properties
    assert found == ({} if shown is None else {"properties": {"It": shown}})


def test_a_person_is_one_by_address_and_id_and_one_without_address_by_id():
    own = graph("users", id="u1", type="person", name="Ana", person={"email": "Ana@x.test"}).entities[0]
    assert (own.key, own.aliases) == ("person:email:ana@x.test", ("notion:user:u1",))
    assert graph("users", id="u2", type="person", name=None, person={}).entities[0].key == "notion:user:u2"


def test_an_integration_is_no_person():
    own = graph("users", id="u3", type="bot", name="Sync", bot={}).entities[0]
    assert (own.kind, own.key, own.properties) == ("bot", "notion:user:u3", {"type": "bot"})


async def test_a_group_among_people_is_no_person():
    stage, stream = Stage("notion"), NOTION.stream("rows")
    async with stage.client:
        await stage.use(stage.account)
        found = await stage.read(stream)
    known = {entity.name: entity for graph in found.graphs("notion") for entity in graph.entities}
    assert known["Engineering"].kind == "group"
    assert known["Engineering"].key.startswith("notion:group:")

    unnamed = {"type": "people", "people": [{"object": "group", "id": "g1", "name": None}]}
    one = graph("rows", id="p1", properties={"Owner": unnamed})
    assert said(one) == {("with", "notion:page:p1", "notion:group:g1")}
    assert one.entities[1].name == "Notion group"


def test_a_data_source_is_part_of_its_database_and_of_the_page_that_it_lies_on_by_who_made_it():
    parent, on = {"type": "database_id", "database_id": "b1"}, {"type": "page_id", "page_id": "p9"}
    found = graph(
        "data_sources", id="d1", title=[{"plain_text": "Tasks"}], parent=parent, database_parent=on, created_by={"id": "u2"},
        description=[MENTION],
    )  # fmt: skip
    assert (found.entities[0].kind, found.entities[0].name) == ("collection", "Tasks")
    own = "notion:data_source:d1"
    assert said(found) == {
        ("part_of", own, "notion:database:b1"), ("part_of", own, "notion:page:p9"),
        ("authored", "notion:user:u2", own), ("mentions", own, "notion:user:u1"),
    }  # fmt: skip


def test_a_comment_is_on_its_page_by_who_wrote_it():
    parent = {"type": "page_id", "page_id": "p1"}
    found = graph("comments", id="c1", rich_text=[MENTION], parent=parent, created_by={"object": "user", "id": "u2"})
    own = "notion:comment:c1"
    assert said(found) == {
        ("comment_on", own, "notion:page:p1"), ("authored", "notion:user:u2", own), ("mentions", own, "notion:user:u1"),
    }  # fmt: skip


def test_an_untitled_page_and_an_empty_comment_have_names():
    assert graph("pages", id="p1", properties={"title": {"type": "title", "title": []}}).entities[0].name == "Untitled"
    assert (
        graph("comments", id="c1", rich_text=[], parent={"type": "page_id", "page_id": "p1"}).entities[0].name
        == "(empty comment)"
    )
