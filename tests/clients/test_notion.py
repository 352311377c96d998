"""notion-client, as others wrote it, against Notion's stand-in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from notion_client import APIResponseError, Client
from notion_client.errors import HTTPResponseError
from notion_client.helpers import collect_paginated_api

from integrations.sandbox.notion import Notion
from integrations.sandbox.notion_rows import WORKSPACES
from integrations.sandbox.tokens import Tokens


@pytest.fixture
def connect(sandbox: Any) -> Iterator[Callable[..., Client]]:
    """Clients of the stand-in; closed at the end."""
    clients: list[Client] = []

    def connect(auth: str = "ntn_sandbox", version: str = "2025-09-03", **more: Any) -> Client:
        clients.append(Client(auth=auth, base_url=f"{sandbox.root}/notion", notion_version=version, **more))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Client]) -> Client:
    return connect()


def found(client: Client, kind: str) -> list[Any]:
    return list(collect_paginated_api(client.search, filter={"property": "object", "value": kind}, page_size=40))


def test_it_knows_its_workspace(client: Client):
    assert client.users.me()["bot"]["workspace_id"] == next(iter(WORKSPACES))


def test_it_pages_through_people_and_the_search(client: Client, sandbox: Any):
    truth = sandbox.truth("notion")
    people = collect_paginated_api(client.users.list, page_size=7)
    assert len({row["id"] for row in people}) == len(people) == truth["users"]
    assert len(found(client, "data_source")) == truth["data_sources"]
    pages = found(client, "page")
    assert len({row["id"] for row in pages}) == len(pages) == truth["pages"] + truth["rows"]
    edited = [row["last_edited_time"] for row in pages]
    assert edited == sorted(edited, reverse=True)
    assert client.search(filter={"in_trash": True})["results"] == []


def test_it_reads_what_is_written_and_what_lies_within(client: Client):
    pages, blocks, refusals = found(client, "page"), [], []
    for page in pages:
        try:
            blocks += collect_paginated_api(client.blocks.children.list, block_id=page["id"], page_size=2)
        except APIResponseError as refusal:
            refusals.append(refusal)
    assert 0 < len(refusals) < len(pages) / 10
    assert {(refusal.status, refusal.code) for refusal in refusals} == {(400, "validation_error")}
    assert all("is not supported via the API" in str(refusal) for refusal in refusals)
    assert len({block["id"] for block in blocks}) == len(blocks) > len(pages)
    assert {"paragraph", "toggle", "child_page", "unsupported"} <= {block["type"] for block in blocks}
    toggle = next(block for block in blocks if block["type"] == "toggle" and block["has_children"])
    within = client.blocks.children.list(block_id=toggle["id"])["results"]
    assert {block["parent"]["block_id"] for block in within} == {toggle["id"]}
    assert {block["id"] for block in blocks if block["type"] == "child_page"} <= {page["id"] for page in pages}


def test_the_rows_of_all_data_sources_are_those_of_the_search(client: Client, sandbox: Any):
    rows: list[Any] = []
    for source in found(client, "data_source"):
        sorts = [{"timestamp": "created_time", "direction": "ascending"}]
        own = list(
            collect_paginated_api(
                client.data_sources.query, data_source_id=source["id"], page_size=9, sorts=sorts, result_type="page"
            )
        )
        assert [row["created_time"] for row in own] == sorted(row["created_time"] for row in own)
        assert {row["parent"]["data_source_id"] for row in own} <= {source["id"]}
        rows += own
    assert len({row["id"] for row in rows}) == len(rows) == sandbox.truth("notion")["rows"]
    assert all(row["last_edited_time"].endswith(":00.000Z") for row in rows)
    assert client.pages.retrieve(rows[0]["id"])["properties"] == rows[0]["properties"]


def test_a_wiki_lists_the_data_sources_that_lie_in_it_among_its_rows_unless_pages_are_asked_for(client: Client):
    wiki = found(client, "data_source")[0]
    for source in found(client, "data_source"):
        every = collect_paginated_api(client.data_sources.query, data_source_id=source["id"])
        pages = collect_paginated_api(client.data_sources.query, data_source_id=source["id"], result_type="page")
        others = [row for row in every if row not in pages]
        assert {row["object"] for row in pages} == {"page"}
        if source["title"][0]["plain_text"] == "Roadmap":
            wiki = source
            assert {row["object"] for row in others} == {"data_source"}
        else:
            assert not others
    with pytest.raises(APIResponseError, match="result_type"):
        client.data_sources.query(data_source_id=wiki["id"], result_type="database")


def test_what_a_property_refers_to_beyond_what_its_page_tells_is_listed_by_itself(client: Client):
    long = [page for page in found(client, "page") if page["properties"].get("Related", {}).get("has_more")]
    assert long
    for page in long:
        for name, kind, many in (("Related", "relation", 60), ("Notes", "rich_text", 41)):
            value = page["properties"][name]
            listed = collect_paginated_api(
                client.pages.properties.retrieve, page_id=page["id"], property_id=value["id"], page_size=30
            )
            assert len(listed) >= many > len(value[kind]) >= 25
            assert [item[kind] for item in listed][: len(value[kind])] == value[kind]
        status = page["properties"]["Status"]
        alone: Any = client.pages.properties.retrieve(page_id=page["id"], property_id=status["id"])
        assert (alone["object"], alone["status"]) == ("property_item", status["status"])


def test_a_window_takes_its_beginning_in_and_leaves_its_end_out(client: Client):
    source = found(client, "data_source")[0]["id"]
    rows = client.data_sources.query(
        data_source_id=source, sorts=[{"timestamp": "last_edited_time", "direction": "ascending"}]
    )
    first, last = rows["results"][3]["last_edited_time"], rows["results"][8]["last_edited_time"]
    within = {
        "and": [
            {"timestamp": "last_edited_time", "last_edited_time": {"on_or_after": first}},
            {"timestamp": "last_edited_time", "last_edited_time": {"before": last}},
        ]
    }
    some = client.data_sources.query(data_source_id=source, filter=within)["results"]
    assert {row["id"] for row in some} == {
        row["id"] for row in rows["results"] if first <= row["last_edited_time"] < last
    }


def test_a_query_that_is_cut_says_so(client: Client, sandbox: Any):
    sandbox.control(cap=8)
    source = found(client, "data_source")[0]["id"]
    answer = client.data_sources.query(data_source_id=source)
    assert (len(answer["results"]), answer["has_more"]) == (8, False)
    assert answer["request_status"] == {"type": "incomplete", "incomplete_reason": "query_result_limit_reached"}


def test_comments_are_found_on_their_pages(client: Client, sandbox: Any):
    comments = [row for page in found(client, "page") for row in client.comments.list(block_id=page["id"])["results"]]
    assert len({row["id"] for row in comments}) == len(comments) == sandbox.truth("notion")["comments"]


def test_what_is_wrong_comes_in_notions_words(client: Client, connect: Any):
    with pytest.raises(APIResponseError, match="start_cursor") as caught:
        client.search(start_cursor="nowhere")
    assert caught.value.code == "validation_error"
    with pytest.raises(APIResponseError) as caught:
        client.comments.list(block_id="04b00000-0000-4000-8000-01ffffffffff")
    assert caught.value.code == "object_not_found"
    with pytest.raises(APIResponseError) as caught:
        connect(version="1999-01-01").users.me()
    assert caught.value.status == 400
    with pytest.raises(APIResponseError) as caught:
        connect("secret_sb_made-up").users.me()
    assert caught.value.code == "unauthorized"


def test_limits_and_capabilities_are_told(client: Client, connect: Any, sandbox: Any):
    sandbox.control(deny=["notion.users"])
    with pytest.raises(APIResponseError) as caught:
        client.users.list()
    assert caught.value.code == "restricted_resource"
    sandbox.control(rate_limit_every=1, retry_after=9)
    plain = connect(retry=False)
    with pytest.raises(APIResponseError) as caught:
        plain.users.me()
    assert (caught.value.code, caught.value.headers["Retry-After"]) == ("rate_limited", "9")


def test_a_refresh_token_is_exchanged_once_and_a_grant_taken_back(client: Client, connect: Any):
    refresh = Tokens().make(Notion.refresh_prefix, "notion", next(iter(WORKSPACES)), "refresh", "notion-once")
    who = {"client_id": "sandbox-notion", "client_secret": "sandbox-secret"}
    granted: Any = client.oauth.token(**who, grant_type="refresh_token", refresh_token=refresh)
    assert granted["workspace_id"] == next(iter(WORKSPACES))
    mine = connect(granted["access_token"])
    assert mine.users.me()["type"] == "bot"
    with pytest.raises(HTTPResponseError, match="400"):
        client.oauth.token(**who, grant_type="refresh_token", refresh_token=refresh)
    client.oauth.revoke(**who, token=granted["access_token"])
    with pytest.raises(APIResponseError) as caught:
        mine.users.me()
    assert caught.value.code == "unauthorized"
