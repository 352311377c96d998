"""Jira's file: what the contract can't know."""

from __future__ import annotations

import base64
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    Misconfigured,
    ProviderError,
    RecordRejected,
    RequestRejected,
    Throttled,
)
from integrations.http import Api, Reply, make_client
from integrations.providers.base import Context, Graph, Partition, Record, Window
from integrations.providers.jira import JIRA
from integrations.sandbox.jira_rows import SITES
from tests.contract.stage import ALL, ROOT, Import, staged
from tests.senders import Into, answering

ACME = Partition(
    "s1:10", "Operations (OPS)", {"site": "s1", "url": "https://acme.atlassian.net", "base": "/b", "project": "10"}
)
CONTEXT = Context("jira", ACME)
MIA = {"accountId": "5b:mia", "displayName": "Mia", "emailAddress": "Mia@acme.com"}
KAI = {"accountId": "5b:kai", "displayName": "Kai"}


def reply(status: int, data: Any = None, **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, data, "", "https://j/x")


def classified(status: int, data: Any = None, **headers: str) -> ProviderError | None:
    return JIRA.classify(reply(status, data, **headers))


def said(graph: Graph) -> set[tuple[str, str, str]]:
    return {tuple(relationship) for relationship in graph.relationships}


def issue(**fields: Any) -> Graph:
    row = {"id": "10421", "key": "OPS-77", "fields": {"summary": "Rotate certs", "updated": "x", **fields}}
    return JIRA.stream("issues").extract(row, CONTEXT)


def text(*nodes: Any) -> dict[str, Any]:
    return {"type": "doc", "version": 1, "content": [{"type": "paragraph", "content": list(nodes)}]}


# -- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["jira-quota-global-based", "jira-quota-tenant-based", "jira-burst-based", ""])
def test_a_limit_is_waited_for_until_it_says(reason: str) -> None:
    at = datetime.now(UTC) + timedelta(minutes=20)
    stamp = at.strftime("%Y-%m-%dT%H:%MZ")
    error = classified(429, None, ratelimit_reason=reason, x_ratelimit_reset=stamp)
    assert isinstance(error, Throttled)
    assert error.retry_at is not None
    assert abs(error.retry_at - at) <= timedelta(minutes=1)
    soon = classified(429, None, ratelimit_reason=reason, retry_after="5", x_ratelimit_reset=stamp)
    assert isinstance(soon, Throttled)
    assert soon.retry_at is not None
    assert soon.retry_at - datetime.now(UTC) < timedelta(seconds=6)


@pytest.mark.parametrize("ahead", [-600, 600])
def test_a_limits_end_is_by_jiras_clock(ahead: int) -> None:
    theirs = datetime.now(UTC) + timedelta(seconds=ahead)
    date, reset = theirs.strftime("%a, %d %b %Y %H:%M:%S GMT"), (theirs + timedelta(minutes=3)).isoformat()
    error = classified(429, None, date=date, x_ratelimit_reset=reset)
    assert isinstance(error, Throttled)
    assert error.retry_at is not None
    assert abs(error.retry_at - datetime.now(UTC) - timedelta(minutes=3)) < timedelta(seconds=5)


def test_a_limit_without_a_time_has_a_sensible_one() -> None:
    error = classified(429, None, x_ratelimit_reset="whenever")
    assert isinstance(error, Throttled)
    assert error.retry_at is not None


def test_a_missing_scope_is_no_expired_token() -> None:
    missing = reply(401, {"code": 401, "message": "Unauthorized; scope does not match"})
    expired = reply(401, {"code": 401, "message": "Unauthorized"})
    assert isinstance(JIRA.classify(missing), AccessDenied)
    assert not JIRA.expired(missing)
    assert JIRA.classify(expired) is None
    assert JIRA.expired(expired)


def test_bad_jql_is_not_taken_for_no_data() -> None:
    error = classified(400, {"errorMessages": ["Unbounded JQL queries are not allowed here."], "errors": {}})
    assert isinstance(error, RequestRejected)
    assert "Unbounded" in str(error)
    gone = classified(400, {"errorMessages": ["The value '10' does not exist for the field 'project'."]})
    assert isinstance(gone, AccessDenied)


def test_a_wrong_client_secret_is_not_taken_for_a_lost_grant() -> None:
    from integrations.errors import ReauthRequired
    from integrations.grants import read_token

    with pytest.raises(Misconfigured):
        read_token(JIRA, 401, {}, b'{"error": "access_denied", "error_description": "Unauthorized"}')
    with pytest.raises(ReauthRequired):
        read_token(JIRA, 403, {}, b'{"error": "unauthorized_client", "error_description": "refresh_token is invalid"}')


# -- sites, tokens, pages -------------------------------------------------------------------------------------------------


async def test_all_sites_of_a_grant_are_reached_and_those_of_confluence_left_out() -> None:
    async with staged("jira") as stage:
        partitions = await JIRA.partitions(stage.api())  # type: ignore[misc]
        sites = next(iter(SITES.values()))
        assert {part.facts["site"] for part in partitions} == {site.id for site in sites}
        assert len(partitions) == sum(len(site.projects) for site in sites)
        who = await JIRA.identify(stage.api())
        assert all(site.name in who.label for site in sites)


async def test_an_api_token_reaches_its_own_site() -> None:
    async with staged("jira") as stage:
        api = Api(JIRA, f"{ROOT}/jira", Into(stage.app), "ana@northwind.test:ATATT3x", namespace="jira")
        assert (await JIRA.identify(api)).external_id == stage.account
        found = Import(JIRA.stream("issues"), ALL)
        for part in await JIRA.partitions(api):  # type: ignore[misc]
            assert part.facts["base"] == "/rest/api/3"
            found.take(await JIRA.stream("issues").fetch(api, part, ALL, None), part)
        assert found.rows


async def test_an_api_token_without_its_site_is_told_what_is_missing() -> None:
    async with make_client(allow_private=False) as client:
        api = Api(JIRA, JIRA.api_url, client, "ana@northwind.test:ATATT3x")
        with pytest.raises(Misconfigured, match="address"):
            await JIRA.identify(api)


def test_an_api_token_is_sent_with_its_address_and_others_as_they_are() -> None:
    assert JIRA.auth_header("eyJhbGciOi.x.y") == {"Authorization": "Bearer eyJhbGciOi.x.y"}
    given = JIRA.auth_header("ana@x.test:ATATT3x")["Authorization"].removeprefix("Basic ")
    assert base64.b64decode(given) == b"ana@x.test:ATATT3x"


async def test_a_page_token_that_is_no_longer_known_goes_on_by_date() -> None:
    async with staged("jira") as stage:
        stream = JIRA.stream("issues")
        partition = (await stage.partitions(stream))[0]
        with pytest.raises(CursorExpired):
            await stream.fetch(stage.api(), partition, ALL, {"token": "bm9uZQ=="})
        broken = dataclasses.replace(partition, facts={**partition.facts, "project": "10 OR"})
        with pytest.raises(RequestRejected):
            await stream.fetch(stage.api(), broken, ALL, None)


async def test_edges_inside_a_minute_lose_nothing() -> None:
    """The stand-in tells times apart by the minute only."""
    async with staged("jira") as stage:
        stream = JIRA.stream("issues")
        whole = sorted(record.occurred_at for record, _ in (await stage.read(stream)).rows.values())
        for moment in (whole[3], whole[len(whole) // 2], whole[-2]):
            for window in (
                Window(moment, moment + timedelta(milliseconds=1)),
                Window(moment - timedelta(milliseconds=1), moment),
            ):
                assert (await stage.read(stream, window)).ids == stage.truth(stream, window)


@pytest.mark.parametrize("name", ["comments", "worklogs", "changes"])
async def test_what_hangs_on_an_issue_that_was_touched_later_is_in_its_own_window(name: str) -> None:
    async with staged("jira") as stage:
        stream, held = JIRA.stream(name), stage.stand_in.held[stage.account]  # type: ignore[attr-defined]
        moment, place, _ = max(held.parts[name], key=lambda part: held.updated[part[1]] - part[0])
        assert held.updated[place] - moment > 3600
        since = datetime.fromtimestamp(moment, UTC)
        window = Window(since, since + timedelta(minutes=1))
        found = await stage.read(stream, window)
        assert found.ids == stage.truth(stream, window)
        assert found.ids


async def test_an_issue_that_goes_while_its_comments_are_read_leaves_those_that_came_with_it() -> None:
    listed = {"comments": [{"id": "1", "updated": "2026-01-05T12:00:00.123+0100"}], "total": 2}
    found = {"issues": [{"id": "7", "key": "OPS-7", "fields": {"comment": listed}}], "isLast": True}

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=found) if request.method == "POST" else httpx2.Response(404, json={})

    page = await JIRA.stream("comments").fetch(Api(JIRA, "https://api.test", answering(answer), "t"), ACME, ALL, None)
    assert [record.external_id for record in page.records] == ["s1:1"]
    assert page.records[0].occurred_at == datetime(2026, 1, 5, 11, 0, 0, 123_000, UTC)


@pytest.mark.parametrize(("name", "most"), [("changes", 40), ("changes", 20), ("comments", 20), ("worklogs", 20)])
async def test_what_a_search_cuts_off_is_read_from_the_issue_whatever_it_calls_the_total(name: str, most: int) -> None:
    """As Jira documents it, the total of such a list is "the number of results on the page"."""
    inline, listed, time_of = {
        "changes": ("changelog", "histories", "created"),
        "comments": ("comment", "comments", "updated"),
        "worklogs": ("worklog", "worklogs", "updated"),
    }[name]
    rows = [{"id": str(at), time_of: "2026-01-05T12:00:00.123+0100"} for at in range(most + 15)]
    part = {inline: {listed: rows[-most:], "startAt": 0, "maxResults": most, "total": most}}
    few = {inline: {listed: [], "total": 0}}
    asked = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            issues = [
                {"id": own, "key": f"OPS-{own}", "fields": {}, **held}
                if name == "changes"
                else {"id": own, "key": f"OPS-{own}", "fields": held}
                for own, held in (("7", part), ("8", few))
            ]
            return httpx2.Response(200, json={"issues": issues, "isLast": True})
        asked.append(request.url.path)
        start = int(request.url.params["startAt"])
        whole = {"values" if name == "changes" else listed: rows[start : start + 100], "total": len(rows)}
        return httpx2.Response(200, json=whole)

    page = await JIRA.stream(name).fetch(Api(JIRA, "https://api.test", answering(answer), "t"), ACME, ALL, None)
    assert len(page.records) == most + 15
    assert asked == [f"/b/issue/7/{inline}"]


# -- records to graph -----------------------------------------------------------------------------------------------------


def test_an_issue_is_known_by_its_id_and_found_by_its_key() -> None:
    own = issue(status={"name": "Done", "statusCategory": {"key": "done"}}, priority=None).entities[0]
    assert (own.kind, own.key, own.name) == ("issue", "jira:issue:s1:10421", "Rotate certs")
    assert own.handles == ("jira:key:s1:OPS-77",)
    assert own.aliases == ()
    assert own.properties is not None
    assert own.properties["url"] == "https://acme.atlassian.net/browse/OPS-77"
    assert own.properties["done"] is True


def test_people_are_one_by_account_id_and_by_address_where_it_shows() -> None:
    graph = issue(assignee=MIA, reporter=KAI, creator=KAI)
    people = {entity.name: entity for entity in graph.entities if entity.kind == "person"}
    assert people["Mia"].key == "person:email:mia@acme.com"
    assert people["Mia"].aliases == ("jira:user:5b:mia",)
    assert people["Kai"].key == "jira:user:5b:kai"
    assert said(graph) == {
        ("assigned_to", "jira:issue:s1:10421", "person:email:mia@acme.com"),
        ("raised_by", "jira:issue:s1:10421", "jira:user:5b:kai"),
        ("authored", "jira:user:5b:kai", "jira:issue:s1:10421"),
    }


def test_whom_jira_does_not_know_any_more_is_nobody() -> None:
    """All whose accounts were lost, by an import of a server's data say, have "unknown" for an id: they are not one person."""
    lost = {"accountId": "unknown", "displayName": "Former user", "accountType": "unknown"}
    assert said(
        issue(
            assignee=lost, reporter=lost, creator=KAI, description=text({"type": "mention", "attrs": {"id": "unknown"}})
        )
    ) == {
        ("authored", "jira:user:5b:kai", "jira:issue:s1:10421"),
    }
    with pytest.raises(RecordRejected):
        JIRA.stream("users").extract({**lost, "site": {"id": "s1"}}, CONTEXT)


def test_an_app_is_no_person_whatever_address_it_has() -> None:
    robot = {"accountId": "557058:f", "displayName": "Automation for Jira", "accountType": "app"}
    robot["emailAddress"] = "automation@connect.atlassian.com"
    graph = issue(creator=robot)
    assert [(e.kind, e.key, e.aliases) for e in graph.entities[1:]] == [("bot", "jira:user:557058:f", ())]
    own = JIRA.stream("users").extract({**robot, "site": {"id": "s1"}}, CONTEXT).entities[0]
    assert (own.kind, own.properties) == ("bot", {"type": "app"})


@pytest.mark.parametrize(
    ("link", "statement"),
    [
        ({"type": {"outward": "blocks"}, "outwardIssue": {"id": "9"}}, ("blocks", "10421", "9")),
        ({"type": {"outward": "blocks"}, "inwardIssue": {"id": "9"}}, ("blocks", "9", "10421")),
        ({"type": {"outward": "is cloned by"}, "outwardIssue": {"id": "9"}}, ("is_cloned_by", "10421", "9")),
        ({"type": {"outward": "блокирует"}, "outwardIssue": {"id": "9"}}, ("relates_to", "10421", "9")),
        ({"type": None, "outwardIssue": {"id": "9"}}, ("relates_to", "10421", "9")),
    ],
)
def test_links_between_issues_have_a_direction(link: Any, statement: tuple[str, str, str]) -> None:
    kind, source, target = statement
    assert said(issue(issuelinks=[link])) == {(kind, f"jira:issue:s1:{source}", f"jira:issue:s1:{target}")}


def test_an_issue_names_the_versions_components_and_labels_that_it_is_for() -> None:
    versions = [{"id": "2", "name": "2.0"}, {"id": "3", "name": "2.1"}]
    found = issue(labels=["größe-l"], components=[{"id": "1", "name": "Login"}], fixVersions=versions)
    own = "jira:issue:s1:10421"
    assert said(found) == {
        ("labelled", own, "jira:label:s1:größe-l"),
        ("labelled", own, "jira:component:s1:1"),
        ("in_milestone", own, "jira:version:s1:2"),
        ("in_milestone", own, "jira:version:s1:3"),
    }
    assert {(entity.kind, entity.name) for entity in found.entities[1:]} == {
        ("label", "größe-l"),
        ("label", "Login"),
        ("milestone", "2.0"),
        ("milestone", "2.1"),
    }


def test_an_issue_names_the_sprints_that_it_was_planned_in() -> None:
    knows = dataclasses.replace(ACME, facts={**ACME.facts, "sprints": ["customfield_10020"]})
    sprints = [{"id": 7, "name": "Sprint 7", "state": "closed", "boardId": 1}, {"id": 8, "state": "active"}]
    row = {"id": "10421", "key": "OPS-77", "fields": {"summary": "Rotate certs", "customfield_10020": sprints}}
    found = JIRA.stream("issues").extract(row, Context("jira", knows))
    own = "jira:issue:s1:10421"
    assert said(found) == {("in_milestone", own, "jira:sprint:s1:7"), ("in_milestone", own, "jira:sprint:s1:8")}
    assert [(entity.kind, entity.name) for entity in found.entities[1:]] == [
        ("milestone", "Sprint 7"),
        ("milestone", "Sprint"),
    ]
    row["fields"]["customfield_10020"] = None
    assert not said(JIRA.stream("issues").extract(row, Context("jira", knows)))


async def test_where_a_site_keeps_its_sprints_is_asked_with_its_projects() -> None:
    async with staged("jira") as stage:
        partitions = await JIRA.partitions(stage.api())  # type: ignore[misc]
        assert {name for part in partitions for name in part.facts["sprints"]} == {"customfield_10020"}
        stream, rows = JIRA.stream("issues"), []
        for part in partitions:
            rows += (await stream.fetch(stage.api(), part, ALL, None)).records
        assert any(row.payload["fields"]["customfield_10020"] for row in rows)
        # As a version before planned it.
        old = dataclasses.replace(part, facts={name: value for name, value in part.facts.items() if name != "sprints"})
        found = (await stream.fetch(stage.api(), old, ALL, None)).records
        assert found
        assert "customfield_10020" not in found[0].payload["fields"]


async def test_a_project_is_owned_by_who_leads_it() -> None:
    """Whom Jira names only to who asks for it (`expand` of its list of projects)."""
    async with staged("jira") as stage:
        found = (await stage.read(JIRA.stream("projects"))).graphs("jira")
    assert found
    for project in found:
        ((kind, own, lead),) = said(project)
        assert (kind, own) == ("owned_by", project.own)
        assert lead.startswith(("jira:user:", "person:email:"))


def test_an_issue_is_part_of_its_project_and_its_parent() -> None:
    graph = issue(project={"id": "10", "key": "OPS", "name": "Operations"}, parent={"id": "7", "key": "OPS-1"})
    assert said(graph) == {
        ("part_of", "jira:issue:s1:10421", "jira:project:s1:10"),
        ("part_of", "jira:issue:s1:10421", "jira:issue:s1:7"),
    }


def test_text_mentions_people_issues_and_addresses_but_not_what_looks_like_them() -> None:
    body = text(
        {"type": "text", "text": "Ask "},
        {"type": "mention", "attrs": {"id": "5b:kai", "text": "@Kai"}},
        {"type": "text", "text": " or b@acme.com about WEB-12, not UTF-8, OPS-77, X-1 or web-13. "},
        {"type": "inlineCard", "attrs": {"url": "https://acme.atlassian.net/browse/SUP-4"}},
    )
    assert said(issue(description=body)) == {
        ("mentions", "jira:issue:s1:10421", target)
        for target in ("jira:user:5b:kai", "jira:key:s1:WEB-12", "jira:key:s1:SUP-4", "person:email:b@acme.com")
    }


def test_the_items_of_a_list_are_lines_of_their_own() -> None:
    def item(kind: str, words: str) -> Any:
        return {"type": kind, "content": [{"type": "text", "text": words}]}

    body = {"type": "doc", "content": [
        {"type": "taskList", "content": [item("taskItem", "Ask jane@acme.com"), item("taskItem", "OPS-7 first")]},
        {"type": "decisionList", "content": [item("decisionItem", "We ship")]},
    ]}  # fmt: skip
    row = {"id": "3", "issue": {"id": "10421", "key": "OPS-77"}, "body": body}
    found = JIRA.stream("comments").extract(row, CONTEXT)
    assert found.entities[0].name == "Ask jane@acme.com"
    mentions = {target for kind, _, target in said(found) if kind == "mentions"}
    assert mentions == {"person:email:jane@acme.com", "jira:key:s1:OPS-7"}


def test_a_comment_is_named_by_its_first_line_and_hangs_on_its_issue() -> None:
    body = text(
        {"type": "text", "text": "First"}, {"type": "hardBreak"}, {"type": "text", "text": "OPS-77 is as WEB-1"}
    )
    row = {"id": "5", "body": body, "author": KAI, "issue": {"id": "10421", "key": "OPS-77"}}
    graph = JIRA.stream("comments").extract(row, CONTEXT)
    assert (graph.entities[0].kind, graph.entities[0].name) == ("message", "First")
    assert said(graph) == {
        ("comment_on", "jira:comment:s1:5", "jira:issue:s1:10421"),
        ("authored", "jira:user:5b:kai", "jira:comment:s1:5"),
        ("mentions", "jira:comment:s1:5", "jira:key:s1:WEB-1"),
    }
    empty = JIRA.stream("comments").extract({**row, "body": None, "author": None}, CONTEXT)
    assert empty.entities[0].name == "(empty comment)"


def test_an_issue_that_moved_to_another_project_is_led_to_by_the_key_that_it_had_before() -> None:
    """Only its history knows that one."""
    items = [
        {"field": "project", "fromString": "Support", "toString": "Operations"},
        {"field": "Key", "fromString": "SUP-3", "toString": "OPS-77"},
    ]
    row = {"id": "9", "issue": {"id": "10421", "key": "OPS-77"}, "items": items}
    found = JIRA.stream("changes").extract(row, CONTEXT)
    assert said(found) == {("about", "jira:change:s1:9", "jira:issue:s1:10421")}
    moved = found.entities[1]
    assert (moved.kind, moved.name, moved.properties, moved.aliases) == ("issue", "OPS-77", None, ())
    assert moved.handles == ("jira:key:s1:SUP-3",)
    other = JIRA.stream("changes").extract({**row, "items": [{"field": "status", "fromString": "SUP-3"}]}, CONTEXT)
    assert len(other.entities) == 1


def test_a_change_says_from_what_to_what() -> None:
    items = [{"field": "status", "fromString": "To Do", "toString": "Done"}, {"field": "assignee", "toString": "Mia"}]
    row = {"id": "5", "items": items, "issue": {"id": "10421", "key": "OPS-77"}}
    assert JIRA.stream("changes").extract(row, CONTEXT).entities[0].name == "status: To Do → Done; assignee: – → Mia"


@pytest.mark.parametrize(
    ("of_issue", "of_project", "others", "is_gone"),
    [
        (200, 200, [{"id": "1"}], False),
        (404, 200, [{"id": "1"}], True),
        (403, 200, [{"id": "1"}], False),
        (404, 200, [], False),
        (404, 400, [], None),
        (404, 403, [], None),
    ],
)
async def test_an_issue_is_gone_where_others_of_its_project_are_shown(
    of_issue: int, of_project: int, others: list[Any], is_gone: bool | None
) -> None:
    """None: it can't be told. Of a project that was archived since it was listed a search shows nothing."""
    hidden = {"errorMessages": ["The value '10' does not exist for the field 'project'."]}

    def answer(request: httpx2.Request) -> httpx2.Response:
        status = of_project if request.url.path == "/b/search/jql" else of_issue
        return httpx2.Response(status, json={"issues": others} if status == 200 else hidden)

    api, find = Api(JIRA, "https://acme.atlassian.net", answering(answer)), JIRA.stream("issues").gone
    assert find is not None
    record = Record("s1:10421", datetime(2025, 1, 1, tzinfo=UTC), {"id": "10421"})
    if is_gone is None:
        with pytest.raises(AccessDenied):
            await find(api, ACME, [record])
    else:
        assert list(await find(api, ACME, [record])) == (["s1:10421"] if is_gone else [])
