"""Linear's GraphQL API: teams, people, projects, cycles, issues, comments and what is attached to them.

Issues and projects that are deleted lie in a bin and say so. Of a comment or an attachment it is found by a full import: these are listed by
their last update only, which that is none of. Of a cycle it is not found.

Status codes say little: what an answer means stands in `errors[0].extensions.code`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    ProviderError,
    ReauthRequired,
    RecordRejected,
    RequestRejected,
    Throttled,
    Unavailable,
)
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Context,
    Entity,
    Extract,
    FindGone,
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Record,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.graph import besides, facts, headline, person
from integrations.providers.replies import ErrorTable, Means, body, error_in, inner, rate_headers, reset_of
from integrations.providers.text import MOST_MENTIONS, mentioned_emails
from integrations.providers.wire import Rows, all_rows, page, pages, reader, stamp, utc

_PERSON = "{ id name displayName email app }"
# Who wrote what comes from a tool that Linear is synced with: somebody who is no user of Linear's, or the integration itself.
_EXTERNAL, _BOT = "{ id name displayName email }", "{ id type name }"
# What each connection selects of a row. A query may cost 10,000 points, so pages of rows with lists of their own stay small.
FIELDS = {
    "teams": "id key name description private createdAt updatedAt archivedAt",
    "users": "id name displayName email app active admin guest url createdAt updatedAt archivedAt",
    "projects": "id name description url progress startDate targetDate trashed createdAt updatedAt archivedAt "
    f"status {{ name type }} lead {_PERSON} teams(first: 10) {{ nodes {{ id key name }} }}",
    "cycles": "id number name description startsAt endsAt completedAt createdAt updatedAt archivedAt team { id key name }",
    "issues": "id identifier previousIdentifiers title description url priorityLabel estimate dueDate trashed createdAt updatedAt archivedAt "
    f"startedAt completedAt canceledAt state {{ name type }} team {{ id key name }} assignee {_PERSON} creator {_PERSON} "
    f"externalUserCreator {_EXTERNAL} botActor {_BOT} "
    "project { id name } cycle { id number name } parent { id identifier title } labels(first: 20) { nodes { id name } }",
    "comments": "id body url createdAt updatedAt archivedAt editedAt "
    f"issue {{ id identifier title }} user {_PERSON} externalUser {_EXTERNAL} botActor {_BOT} parent {{ id }}",
    "attachments": "id title subtitle url sourceType createdAt updatedAt archivedAt "
    f"issue {{ id identifier title }} creator {_PERSON} externalUserCreator {_EXTERNAL}",
    "issueRelations": "id type createdAt updatedAt archivedAt issue { id identifier title } relatedIssue { id identifier title }",
}
PAGE_SIZES = {"projects": 50, "issues": 100, "issueRelations": 250}
# Those that are read by time; the others are read whole: they are few, and what is archived or deleted is no update of a row.
_FILTERS = {
    "cycles": "CycleFilter",
    "issues": "IssueFilter",
    "comments": "CommentFilter",
    "attachments": "AttachmentFilter",
}
# What an issue is to a related one; that two are alike is Linear's own guess.
_RELATIONS = {"blocks": "blocks", "duplicate": "duplicates", "related": "relates_to"}
WHO = "query { organization { id urlKey name } viewer { id name email } }"
_IDENTIFIER = re.compile(r"(?<![\w/-])([A-Z][A-Z0-9]{0,6}-[1-9][0-9]{0,6})(?![\w-])")
_NAME = re.compile(r"(?<![\w/.@+-])@([a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?)(?![\w@]*@)")
_WORKSPACE = re.compile(r"https://[^/]+/([^/]+)/")
_LINK = re.compile(r"https://linear\.app/([\w-]{1,60})/issue/([A-Z][A-Z0-9]{0,6}-[0-9]{1,7})")
_UPDATED, _ARCHIVED = reader("id", "updatedAt"), reader("id", "archivedAt")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)


def document(connection: str) -> str:
    """The query for one page of a connection, newest first. Archived rows would vanish if they were not asked for.

    A window's rows come by their update, as one that is updated meanwhile leaves the window; all rows by their making, as one that
    is updated meanwhile would go where has been read already.
    """
    declared, asked, order = "", "", "createdAt"
    if connection in _FILTERS:
        declared, asked, order = f", $filter: {_FILTERS[connection]}", ", filter: $filter", "updatedAt"
    disabled = ", includeDisabled: true" if connection == "users" else ""
    return (
        f"query Page($first: Int!, $after: String{declared}) {{ {connection}(first: $first, after: $after{asked}, orderBy: {order}, "
        f"includeArchived: true{disabled}) {{ nodes {{ {FIELDS[connection]} }} pageInfo {{ hasNextPage endCursor }} }} }}"
    )


# -- wire format --------------------------------------------------------------------------------------------------------------

_ERRORS: ErrorTable = {
    "AUTHENTICATION_ERROR": Means(ReauthRequired, "Linear no longer accepts this connection's access."),
    "FORBIDDEN": Means(AccessDenied, "Linear does not let this user read it: {said}"),
    "FEATURE_NOT_ACCESSIBLE": Means(AccessDenied, "Linear does not let this user read it: {said}"),
    "INTERNAL_SERVER_ERROR": Means(Unavailable, "Linear has a problem of its own ({status})."),
    "LOCK_TIMEOUT": Means(Unavailable, "Linear has a problem of its own ({status})."),
}


def _error(reply: Reply) -> tuple[str, str]:
    """(code, words) of an answer's first error; both empty when it has none."""
    first = inner(body(reply), "errors")
    if not first:
        return "", ""
    more = first.get("extensions") or {}
    code = str(more.get("code") or "UNKNOWN").upper().replace(" ", "_")
    return code, str(more.get("userPresentableMessage") or first.get("message") or code)[:300]


def _classify(reply: Reply) -> ProviderError | None:
    code, words = _error(reply)
    if code == "RATELIMITED" or reply.status == 429:
        return Throttled("Linear's rate limit is used up.", _reset(reply))
    if _expired(reply):
        code = "AUTHENTICATION_ERROR"
    elif reply.status >= 500 and code in ("", "UNKNOWN"):
        code = "INTERNAL_SERVER_ERROR"
    if not code:
        return None
    if code not in _ERRORS and "cursor" in words.lower():
        return CursorExpired("Linear no longer knows the page; going on by date.")
    return error_in(_ERRORS, reply, code, words) or RequestRejected(f"Linear refused the request ({code}): {words}")


def _expired(reply: Reply) -> bool:
    return reply.status == 401 or _error(reply)[0] == "AUTHENTICATION_ERROR"


def _reset(reply: Reply) -> datetime:
    """When the limit that is used up is whole again: epoch milliseconds; requests and complexity are counted apart."""
    for kind in ("complexity", "requests"):
        left = reply.headers.get(f"x-ratelimit-{kind}-remaining")
        at = reset_of(reply, f"x-ratelimit-{kind}-reset")
        if at is not None and (left == "0" or kind == "requests"):
            return reply.by_our_clock(at)
    return reply.retry_at() or datetime.now(UTC) + timedelta(seconds=60)


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _span(window: Window) -> JSON:
    """To the millisecond that Linear keeps."""
    until = window.until + timedelta(microseconds=-window.until.microsecond % 1000)
    return {"updatedAt": {"gte": stamp(window.since, "milliseconds"), "lt": stamp(until, "milliseconds")}}


async def _page(connection: str, api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    return await _ask(api, connection, cursor, _span(window) if connection in _FILTERS else None)


async def _ask(api: Api, connection: str, cursor: JSON | None, wanted: JSON | None) -> Rows:
    variables: JSON = {"first": PAGE_SIZES.get(connection, 100), "after": cursor["after"] if cursor else None}
    variables |= {"filter": wanted} if wanted else {}
    asked = {"query": document(connection), "variables": variables}
    found = (await api.request("POST", "/graphql", json=asked)).data["data"][connection]
    info = found["pageInfo"]
    return found["nodes"], {"after": info["endCursor"]} if info["hasNextPage"] and info["endCursor"] else None


async def _fetch_issues(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """What was archived or deleted in the window, which is no update of an issue; then what was updated in it.

    In this order, as the window goes on by the time of the updates if a cursor dies. cursor: {"archived": cursor} of the former.
    """
    if cursor is None or "archived" in cursor:
        span = _span(window)["updatedAt"]
        rows, following = await _ask(
            api, "issues", cursor and cursor["archived"], {"archivedAt": span, "updatedAt": {"lt": span["gte"]}}
        )
        return page(rows, _ARCHIVED, {"archived": following} if following else {"after": None})
    rows, following = await _page("issues", api, partition, window, cursor)
    return page(rows, _UPDATED, following, min)


async def _gone(connection: str, api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
    """Those that are not found, though the issue is that they hang on: who is shown that is shown them as well."""

    async def found(name: str, ids: set[str]) -> set[str]:
        wanted = {"id": {"in": sorted(ids)}}
        rows = await all_rows(lambda cursor: _ask(api, name, cursor, wanted), api.longest_wait)
        return {row["id"] for row in rows}

    there = await found(connection, {record.external_id for record in records})
    on = {
        r.external_id: r.payload["issue"]["id"]
        for r in records
        if r.external_id not in there and r.payload.get("issue")
    }
    issues = await found("issues", set(on.values())) if on else set()
    return [own for own, issue in on.items() if issue in issues]


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _workspace(row: JSON) -> str:
    """The workspace's part of the row's address; "" where it has none."""
    found = _WORKSPACE.match(row.get("url") or "")
    return found[1] if found else ""


def _person(
    row: JSON | None, context: Context, known: JSON | None = None, handles: tuple[str, ...] = ()
) -> Entity | None:
    if not row or not row.get("id"):
        return None
    own, name = (
        context.key("user", row["id"]),
        row.get("name") or row.get("displayName") or row.get("email") or "Linear user",
    )
    if row.get("app"):  # an agent or integration, whose address Linear made up
        return Entity("bot", own, name, known, (), handles)
    return person(own, name, row.get("email"), known, handles)


def _author(row: JSON, context: Context, user: str, external: str) -> Entity | None:
    """Who made the row, by the names of its fields."""
    if (found := _person(row.get(user), context)) is not None:
        return found
    if (outside := row.get(external)) and outside.get("id"):
        name = outside.get("name") or outside.get("displayName")
        return person(context.key("external", outside["id"]), name, outside.get("email"))
    bot = row.get("botActor") or {}
    own_id = bot.get("id") or bot.get("type")
    return Entity("bot", context.key("bot", own_id), bot.get("name") or str(own_id)) if own_id else None


def _part(kind: str, row: JSON | None, context: Context, key: str = "") -> Entity | None:
    """Something of Linear's own that comes with its id."""
    if not row or not row.get("id"):
        return None
    name = row.get("title") or row.get("name") or row.get("identifier") or kind.capitalize()
    return Entity(kind, context.key(key or kind, row["id"]), str(name))


def _mentions(text: str | None, workspace: str, context: Context) -> Iterator[str]:
    """Issues by identifier or address, people by @name or e-mail address. Code is not text."""
    text = _CODE.sub(" ", text or "")
    yield from (context.key("identifier", f"{where}/{one}") for where, one in _LINK.findall(text)[:MOST_MENTIONS])
    for kind, pattern in (("identifier", _IDENTIFIER), ("name", _NAME)) if workspace else ():
        yield from (context.key(kind, f"{workspace}/{one}") for one in pattern.findall(text)[:MOST_MENTIONS])
    yield from mentioned_emails(text)


def _facts(row: JSON, *names: str, **more: object) -> JSON:
    return facts(row, *names, deleted=row.get("trashed"), archived_at=row.get("archivedAt"), **more)


def _extract_team(row: JSON, context: Context) -> Graph:
    known = _facts(row, "key", "description", "private")
    return Graph(Entity("team", context.key("team", row["id"]), row.get("name") or row["key"], known))


def _extract_user(row: JSON, context: Context) -> Graph:
    workspace, name = _workspace(row), row.get("displayName")
    handles = (context.key("name", f"{workspace}/{name}"),) if workspace and name else ()
    known = _facts(row, *(() if row.get("app") else ("email",)), "active", "admin", "guest", "url")
    own = _person(row, context, known, handles)
    if own is None:
        raise RecordRejected("it does not say whom it is about")
    return Graph(own)


def _extract_project(row: JSON, context: Context) -> Graph:
    status = (row.get("status") or {}).get("name")
    known = _facts(row, "url", "progress", "startDate", "targetDate", status=status)
    said = Graph(Entity("project", context.key("project", row["id"]), row.get("name") or "Project", known))
    said.to("owned_by", _person(row.get("lead"), context))
    said.to("part_of", *(_part("team", team, context) for team in (row.get("teams") or {}).get("nodes") or ()))
    said.refer("mentions", _mentions(row.get("description"), _workspace(row), context))
    return said


def _extract_cycle(row: JSON, context: Context) -> Graph:
    known, name = (
        _facts(row, "number", "startsAt", "endsAt", "completedAt"),
        row.get("name") or f"Cycle {row.get('number')}",
    )
    said = Graph(Entity("milestone", context.key("cycle", row["id"]), name, known))
    said.to("part_of", _part("team", row.get("team"), context))
    return said


def _extract_issue(row: JSON, context: Context) -> Graph:
    state, workspace, cycle = row.get("state") or {}, _workspace(row), row.get("cycle")
    known = _facts(row, "identifier", "url", "estimate", "dueDate", "completedAt", "canceledAt")
    known |= {"state": state.get("name"), "state_type": state.get("type"), "priority": row.get("priorityLabel")}
    # The identifier changes when the issue moves to another team; Linear keeps what texts from before call it.
    identifiers = [row["identifier"], *(row.get("previousIdentifiers") or ())] if workspace else []
    handles = tuple(context.key("identifier", f"{workspace}/{one}") for one in identifiers)
    name = row.get("title") or row["identifier"]
    said = Graph(Entity("issue", context.key("issue", row["id"]), name, known, (), handles))
    for kind in ("team", "project"):
        said.to("part_of", _part(kind, row.get(kind), context))
    if cycle:
        called = {**cycle, "name": cycle.get("name") or f"Cycle {cycle.get('number')}"}
        said.to("in_milestone", _part("milestone", called, context, "cycle"))
    said.to("part_of", _part("issue", row.get("parent"), context))
    said.by("authored", _author(row, context, "creator", "externalUserCreator"))
    said.to("assigned_to", _person(row.get("assignee"), context))
    said.to("labelled", *(_part("label", label, context) for label in (row.get("labels") or {}).get("nodes") or ()))
    said.refer("mentions", _mentions(row.get("description"), workspace, context))
    return said


def _extract_relation(row: JSON, context: Context) -> Graph:
    """What an issue is to another: a statement of the issue's."""
    own, kind = _part("issue", row.get("issue"), context), _RELATIONS.get(row["type"])
    if own is None:
        raise RecordRejected("it does not say which issue it is of")
    said = besides(own, utc(row["updatedAt"]))
    if kind and not row.get("archivedAt"):
        said.to(kind, _part("issue", row.get("relatedIssue"), context))
    return said


def _extract_comment(row: JSON, context: Context) -> Graph:
    name, known = headline(row.get("body"), "(empty comment)"), _facts(row, "url", "editedAt")
    said = Graph(Entity("message", context.key("comment", row["id"]), name, known))
    said.to("comment_on", _part("issue", row.get("issue"), context))
    said.by("authored", _author(row, context, "user", "externalUser"))
    if row.get("parent"):
        said.to("replied_to", Entity("message", context.key("comment", row["parent"]["id"]), "Comment"))
    said.refer("mentions", _mentions(row.get("body"), _workspace(row), context))
    return said


def _extract_attachment(row: JSON, context: Context) -> Graph:
    name, known = row.get("title") or row.get("url") or "Attachment", _facts(row, "url", "subtitle", "sourceType")
    said = Graph(Entity("document", context.key("attachment", row["id"]), name, known))
    said.to("part_of", _part("issue", row.get("issue"), context))
    said.by("authored", _author(row, context, "creator", "externalUserCreator"))
    return said


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.request("POST", "/graphql", json={"query": WHO})
    workspace, viewer = reply.data["data"]["organization"], reply.data["data"]["viewer"]
    facts = {"url_key": workspace.get("urlKey"), "user": viewer["id"]}
    return Account(str(workspace["id"]), str(workspace["name"]), None, facts)


async def _revoke(grant: Revocation) -> None:
    form = {"token": grant.refresh_token or grant.access_token}
    form["token_type_hint"] = "refresh_token" if grant.refresh_token else "access_token"
    await grant.api.request("POST", "/oauth/revoke", form=form)


def _auth_header(token: str) -> dict[str, str]:
    """Personal keys go without a scheme."""
    return {"Authorization": token if token.startswith("lin_api_") else f"Bearer {token}"}


def _stream(name: str, label: str, extract: Extract, connection: str = "", gone: FindGone | None = None) -> Stream:
    connection = connection or name
    timed, size = connection in _FILTERS, PAGE_SIZES.get(connection, 100)
    kind = WindowKind.EXACT if timed else WindowKind.SNAPSHOT
    listed = pages(partial(_page, connection), _UPDATED, min if timed else None)
    fetch = _fetch_issues if connection == "issues" else listed
    return Stream(
        name, label, kind, fetch, extract, ascending=False, needs=("read",), page_size=size, record=_UPDATED, gone=gone,
    )  # fmt: skip


LINEAR = Provider(
    links=(
        Link(
            "linear.app",
            r"([\w-]{1,60})/issue/([A-Z][A-Z0-9]{0,6}-[0-9]{1,7})\b",
            lambda match: f"linear:identifier:{match[1]}/{match[2]}",
        ),
    ),
    slug="linear",
    name="Linear",
    category="Engineering",
    summary="What is being built, by whom and when: issues, projects, cycles and the talk around them.",
    brings=("Issues and their relations", "Comments", "Projects", "Cycles", "Teams", "People", "Attachments"),
    api_url="https://api.linear.app",
    auth_url="https://linear.app",
    identify=_identify,
    classify=_classify,
    expired=_expired,
    rate_state=rate_headers(*(f"x-ratelimit-requests-{part}" for part in ("remaining", "limit", "reset"))),
    auth_header=_auth_header,
    # What a personal key has; an OAuth app has twice as many, as the first reply says.
    budget=RateBudget(requests=2500, seconds=3600, concurrency=4),
    oauth=OAuth(
        "/oauth/authorize", "/oauth/token", ("read",), scope_separator=",", extra_authorize={"prompt": "consent"},
        token_root="https://api.linear.app", revoke=_revoke,
    ),
    token_help="A personal API key (lin_api_...) with read access, from Linear's settings under Security & access. "
    "It sees the teams that its owner sees.",
    settle=timedelta(minutes=1),
    streams=(
        _stream("teams", "Teams", _extract_team),
        _stream("users", "People", _extract_user),
        _stream("projects", "Projects", _extract_project),
        _stream("cycles", "Cycles", _extract_cycle),
        _stream("issues", "Issues", _extract_issue),
        _stream("relations", "Relations of issues", _extract_relation, "issueRelations"),
        _stream("comments", "Comments", _extract_comment, gone=partial(_gone, "comments")),
        _stream("attachments", "Attachments", _extract_attachment, gone=partial(_gone, "attachments")),
    ),
)  # fmt: skip
