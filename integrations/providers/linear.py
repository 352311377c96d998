"""Linear's GraphQL API: teams, people, projects, cycles, issues, comments and what is attached to them.

Status codes say little: what an answer means stands in `errors[0].extensions.code`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.errors import (
    AccessDenied,
    CursorExpired,
    ProviderError,
    ReauthRequired,
    RequestRejected,
    Throttled,
    Unavailable,
)
from integrations.http import Api, Reply, retry_after
from integrations.providers.base import (
    JSON,
    Account,
    Context,
    Entity,
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    RateState,
    Record,
    Relationship,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import MOST_MENTIONS, email_key, mentioned_emails

_PERSON = "{ id name displayName email }"
# What each connection selects of a row. A query may cost 10,000 points, so pages of rows with lists of their own stay small.
FIELDS = {
    "teams": "id key name description private createdAt updatedAt archivedAt",
    "users": "id name displayName email active admin guest url createdAt updatedAt archivedAt",
    "projects": "id name description url progress startDate targetDate trashed createdAt updatedAt archivedAt "
    f"status {{ name type }} lead {_PERSON} teams(first: 10) {{ nodes {{ id key name }} }}",
    "cycles": "id number name description startsAt endsAt completedAt createdAt updatedAt archivedAt team { id key name }",
    "issues": "id identifier title description url priorityLabel estimate dueDate trashed createdAt updatedAt archivedAt "
    f"startedAt completedAt canceledAt state {{ name type }} team {{ id key name }} assignee {_PERSON} creator {_PERSON} "
    "project { id name } cycle { id number name } parent { id identifier title } labels(first: 20) { nodes { id name } }",
    "comments": "id body url createdAt updatedAt archivedAt editedAt "
    f"issue {{ id identifier title }} user {_PERSON} parent {{ id }}",
    "attachments": "id title subtitle url sourceType createdAt updatedAt archivedAt "
    f"issue {{ id identifier title }} creator {_PERSON}",
}
PAGE_SIZES = {"projects": 50, "issues": 100}
_FILTERS = {"teams": "TeamFilter", "users": "UserFilter", "projects": "ProjectFilter", "cycles": "CycleFilter",
            "issues": "IssueFilter", "comments": "CommentFilter", "attachments": "AttachmentFilter"}  # fmt: skip
WHO = "query { organization { id urlKey name } viewer { id name email } }"
_IDENTIFIER = re.compile(r"(?<![\w/-])([A-Z][A-Z0-9]{0,6}-[1-9][0-9]{0,6})(?![\w-])")
_NAME = re.compile(r"(?<![\w/.@+-])@([a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?)(?![\w@]*@)")
_WORKSPACE = re.compile(r"https://[^/]+/([^/]+)/")
_LINK = re.compile(r"https://linear\.app/([\w-]{1,60})/issue/([A-Z][A-Z0-9]{0,6}-[0-9]{1,7})")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)


def document(connection: str) -> str:
    """The query for one page of a connection. Newest update first; archived rows would vanish if they were not asked for."""
    disabled = ", includeDisabled: true" if connection == "users" else ""
    return (
        f"query Page($first: Int!, $after: String, $filter: {_FILTERS[connection]}) {{ {connection}(first: $first, after: $after, "
        f"filter: $filter, orderBy: updatedAt, includeArchived: true{disabled}) {{ nodes {{ {FIELDS[connection]} }} "
        "pageInfo { hasNextPage endCursor } } }"
    )


# -- wire format --------------------------------------------------------------------------------------------------------------


def _error(reply: Reply) -> tuple[str, str]:
    """(code, words) of an answer's first error; both empty when it has none."""
    errors = reply.data.get("errors") if isinstance(reply.data, dict) else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else None
    if first is None:
        return "", ""
    more = first.get("extensions") or {}
    code = str(more.get("code") or "UNKNOWN").upper().replace(" ", "_")
    return code, str(more.get("userPresentableMessage") or first.get("message") or code)[:300]


def _classify(reply: Reply) -> ProviderError | None:
    code, words = _error(reply)
    if code == "RATELIMITED" or reply.status == 429:
        return Throttled("Linear's rate limit is used up.", _reset(reply))
    if code == "AUTHENTICATION_ERROR" or reply.status == 401:
        return ReauthRequired("Linear no longer accepts this connection's access.")
    if code in ("FORBIDDEN", "FEATURE_NOT_ACCESSIBLE"):
        return AccessDenied(f"Linear does not let this user read it: {words}")
    if code in ("INTERNAL_SERVER_ERROR", "LOCK_TIMEOUT") or (reply.status >= 500 and code in ("", "UNKNOWN")):
        return Unavailable(f"Linear has a problem of its own ({reply.status}).", reply.retry_at())
    if code and "cursor" in words.lower():
        return CursorExpired("Linear no longer knows the page; going on by date.")
    if code:
        return RequestRejected(f"Linear refused the request ({code}): {words}")
    return None


def _expired(reply: Reply) -> bool:
    return reply.status == 401 or _error(reply)[0] == "AUTHENTICATION_ERROR"


def _reset(reply: Reply) -> datetime:
    """When the limit that is used up is whole again: epoch milliseconds; requests and complexity are counted apart."""
    for kind in ("complexity", "requests"):
        left = reply.headers.get(f"x-ratelimit-{kind}-remaining")
        at = retry_after(reply.headers.get(f"x-ratelimit-{kind}-reset"))
        if at is not None and (left == "0" or kind == "requests"):
            return at
    return reply.retry_at() or datetime.now(UTC) + timedelta(seconds=60)


def _rate_state(reply: Reply) -> RateState | None:
    headers = reply.headers
    try:
        reset = datetime.fromtimestamp(int(headers["x-ratelimit-requests-reset"]) / 1000, UTC)
        limit = int(headers["x-ratelimit-requests-limit"])
        return RateState(int(headers["x-ratelimit-requests-remaining"]), limit, reset)
    except (KeyError, ValueError, OverflowError):
        return None


def _stamp(moment: datetime) -> str:
    """To the millisecond that Linear keeps."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


# -- fetching -----------------------------------------------------------------------------------------------------------------


def _fetch(connection: str, *, snapshot: bool = False) -> Callable[..., Any]:
    query, first = document(connection), PAGE_SIZES.get(connection, 100)

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        variables: JSON = {"first": first, "after": cursor["after"] if cursor else None}
        if not snapshot:
            until = window.until + timedelta(microseconds=-window.until.microsecond % 1000)
            variables["filter"] = {"updatedAt": {"gte": _stamp(window.since), "lt": _stamp(until)}}
        reply = await api.request("POST", "/graphql", json={"query": query, "variables": variables})
        found = reply.data["data"][connection]
        records, rejected = [], []
        for row in found["nodes"]:
            try:
                records.append(Record(str(row["id"]), datetime.fromisoformat(row["updatedAt"]), row))
            except (KeyError, TypeError, ValueError) as error:
                named = str(row.get("id", "")) if isinstance(row, dict) else ""
                rejected.append((named, row, f"no usable id or time: {type(error).__name__} {error}"))
        info = found["pageInfo"]
        following = {"after": info["endCursor"]} if info["hasNextPage"] and info["endCursor"] else None
        return Page(records, following, records[-1].occurred_at if records and not snapshot else None, rejected)

    return fetch


# -- records to graph ---------------------------------------------------------------------------------------------------------


class _Saying:
    """One record's graph as it grows."""

    def __init__(self, own: Entity, row: JSON, context: Context) -> None:
        self.graph, self.key, self.ns = Graph([own], []), own.key, context.namespace
        found = _WORKSPACE.match(row.get("url") or "")
        self.workspace = found[1] if found else ""

    def link(self, kind: str, other: Entity | None, *, back: bool = False) -> None:
        if other is not None and other.key != self.key:
            self.graph.entities.append(other)
            ends = (other.key, self.key) if back else (self.key, other.key)
            self.graph.relationships.append(Relationship(kind, *ends))

    def part(self, kind: str, entity_kind: str, row: JSON | None, key: str = "") -> None:
        """A link to something of Linear's own that comes with its id."""
        if row and row.get("id"):
            name = row.get("title") or row.get("name") or row.get("identifier") or f"{entity_kind.capitalize()}"
            self.link(kind, Entity(entity_kind, f"{self.ns}:{key or entity_kind}:{row['id']}", str(name)))

    def person(self, kind: str, row: JSON | None, *, back: bool = False) -> None:
        if row and row.get("id"):
            self.link(kind, _person(row, self.ns), back=back)

    def mentions(self, text: str | None) -> None:
        """Issues by identifier or address, people by @name or e-mail address. Code is not text."""
        if not text:
            return
        text = _CODE.sub(" ", text)
        found: dict[str, None] = {}
        for workspace, identifier in _LINK.findall(text)[:MOST_MENTIONS]:
            found[f"{self.ns}:identifier:{workspace}/{identifier}"] = None
        if self.workspace:
            for identifier in _IDENTIFIER.findall(text)[:MOST_MENTIONS]:
                found[f"{self.ns}:identifier:{self.workspace}/{identifier}"] = None
            for name in _NAME.findall(text)[:MOST_MENTIONS]:
                found[f"{self.ns}:name:{self.workspace}/{name}"] = None
        found.update(dict.fromkeys(mentioned_emails(text)))
        known = {self.key, *self.graph.entities[0].handles}
        self.graph.relationships.extend(Relationship("mentions", self.key, key) for key in found if key not in known)


def _person(row: JSON, ns: str, properties: JSON | None = None, handles: tuple[str, ...] = ()) -> Entity:
    own, address = f"{ns}:user:{row['id']}", email_key(row.get("email"))
    name = row.get("name") or row.get("displayName") or row.get("email") or "Linear user"
    return Entity("person", address or own, name, properties, (own,) if address else (), handles)


def _facts(row: JSON, *names: str) -> JSON:
    facts = {name: row[name] for name in names if row.get(name) is not None}
    if row.get("archivedAt"):
        facts["archived_at"] = row["archivedAt"]
    if row.get("trashed"):
        facts["deleted"] = True
    return facts


def _extract_team(row: JSON, context: Context) -> Graph:
    facts = _facts(row, "key", "description", "private")
    return Graph([Entity("team", f"{context.namespace}:team:{row['id']}", row.get("name") or row["key"], facts)], [])


def _extract_user(row: JSON, context: Context) -> Graph:
    workspace = _WORKSPACE.match(row.get("url") or "")
    name = row.get("displayName")
    handles = (f"{context.namespace}:name:{workspace[1]}/{name}",) if workspace and name else ()
    return Graph(
        [_person(row, context.namespace, _facts(row, "email", "active", "admin", "guest", "url"), handles)], []
    )


def _extract_project(row: JSON, context: Context) -> Graph:
    facts = _facts(row, "url", "progress", "startDate", "targetDate")
    facts["status"] = (row.get("status") or {}).get("name")
    key = f"{context.namespace}:project:{row['id']}"
    said = _Saying(Entity("project", key, row.get("name") or "Project", facts), row, context)
    said.person("owned_by", row.get("lead"))
    for team in (row.get("teams") or {}).get("nodes") or ():
        said.part("part_of", "team", team)
    said.mentions(row.get("description"))
    return said.graph


def _extract_cycle(row: JSON, context: Context) -> Graph:
    facts = _facts(row, "number", "startsAt", "endsAt", "completedAt")
    key = f"{context.namespace}:cycle:{row['id']}"
    said = _Saying(Entity("milestone", key, row.get("name") or f"Cycle {row.get('number')}", facts), row, context)
    said.part("part_of", "team", row.get("team"))
    return said.graph


def _extract_issue(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    state = row.get("state") or {}
    facts = _facts(row, "identifier", "url", "estimate", "dueDate", "completedAt", "canceledAt")
    facts |= {"state": state.get("name"), "state_type": state.get("type"), "priority": row.get("priorityLabel")}
    workspace = _WORKSPACE.match(row.get("url") or "")
    # The identifier changes when the issue moves to another team.
    handles = (f"{ns}:identifier:{workspace[1]}/{row['identifier']}",) if workspace else ()
    name = row.get("title") or row["identifier"]
    said = _Saying(Entity("issue", f"{ns}:issue:{row['id']}", name, facts, (), handles), row, context)
    said.part("part_of", "team", row.get("team"))
    said.part("part_of", "project", row.get("project"))
    cycle = row.get("cycle")
    if cycle:
        said.part(
            "in_milestone", "milestone", {**cycle, "name": cycle.get("name") or f"Cycle {cycle.get('number')}"}, "cycle"
        )
    said.part("part_of", "issue", row.get("parent"))
    said.person("authored", row.get("creator"), back=True)
    said.person("assigned_to", row.get("assignee"))
    for label in (row.get("labels") or {}).get("nodes") or ():
        said.part("labelled", "label", label)
    said.mentions(row.get("description"))
    return said.graph


def _extract_comment(row: JSON, context: Context) -> Graph:
    text = row.get("body") or ""
    name = text.strip().partition("\n")[0][:120].strip() or "(empty comment)"
    key = f"{context.namespace}:comment:{row['id']}"
    said = _Saying(Entity("message", key, name, _facts(row, "url", "editedAt")), row, context)
    said.part("comment_on", "issue", row.get("issue"))
    said.person("authored", row.get("user"), back=True)
    if row.get("parent"):
        said.link("replied_to", Entity("message", f"{context.namespace}:comment:{row['parent']['id']}", "Comment"))
    said.mentions(text)
    return said.graph


def _extract_attachment(row: JSON, context: Context) -> Graph:
    key = f"{context.namespace}:attachment:{row['id']}"
    name = row.get("title") or row.get("url") or "Attachment"
    said = _Saying(Entity("document", key, name, _facts(row, "url", "subtitle", "sourceType")), {}, context)
    said.part("part_of", "issue", row.get("issue"))
    said.person("authored", row.get("creator"), back=True)
    return said.graph


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    reply = await api.request("POST", "/graphql", json={"query": WHO})
    workspace, viewer = reply.data["data"]["organization"], reply.data["data"]["viewer"]
    return Account(
        str(workspace["id"]), str(workspace["name"]), None, {"url_key": workspace.get("urlKey"), "user": viewer["id"]}
    )


async def _revoke(grant: Revocation) -> None:
    form = {"token": grant.refresh_token or grant.access_token}
    form["token_type_hint"] = "refresh_token" if grant.refresh_token else "access_token"
    await grant.api.request("POST", "/oauth/revoke", form=form)


def _auth_header(token: str) -> dict[str, str]:
    """Personal keys go without a scheme."""
    return {"Authorization": token if token.startswith("lin_api_") else f"Bearer {token}"}


def _stream(name: str, label: str, extract: Callable[[JSON, Context], Graph], *, snapshot: bool = False) -> Stream:
    return Stream(
        name, label, WindowKind.SNAPSHOT if snapshot else WindowKind.EXACT, _fetch(name, snapshot=snapshot), extract,
        ascending=False, needs=("read",), page_size=PAGE_SIZES.get(name, 100),
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
    brings=("Issues", "Comments", "Projects", "Cycles", "Teams", "People", "Attachments"),
    api_url="https://api.linear.app",
    auth_url="https://linear.app",
    identify=_identify,
    classify=_classify,
    expired=_expired,
    rate_state=_rate_state,
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
        _stream("teams", "Teams", _extract_team, snapshot=True),
        _stream("users", "People", _extract_user, snapshot=True),
        _stream("projects", "Projects", _extract_project),
        _stream("cycles", "Cycles", _extract_cycle),
        _stream("issues", "Issues", _extract_issue),
        _stream("comments", "Comments", _extract_comment),
        _stream("attachments", "Attachments", _extract_attachment),
    ),
)  # fmt: skip
