"""Asana's REST API: workspaces, people, projects, tasks and their subtasks, comments and history."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.errors import AccessDenied, CursorExpired, ProviderError, Throttled
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Clock,
    Context,
    Entity,
    Graph,
    Link,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Relationship,
    Revocation,
    Stream,
    Window,
    WindowKind,
)
from integrations.providers.text import MOST_MENTIONS, domain_key, email_key, mentioned_emails
from integrations.providers.wire import records, utc

# What replies hold besides ids; without it they are compact.
_FIELDS = {
    "workspaces": "name,is_organization,email_domains",
    "users": "name,email",
    "projects": "name,notes,archived,created_at,modified_at,permalink_url,owner.name,owner.email,team.name,workspace.name",
    "tasks": "name,notes,resource_subtype,completed,created_at,modified_at,due_on,permalink_url,num_subtasks,assignee.name,assignee.email,"
    "created_by.name,followers.name,memberships.project.name,parent.name,tags.name,dependencies.name",
    "stories": "type,resource_subtype,text,created_at,created_by.name,target.name",
}
_TASK_LINK = re.compile(r"https://app\.asana\.com/(?:0/\d+/|1/\d+/(?:project/\d+/)?task/)(\d+)")

# -- wire format --------------------------------------------------------------------------------------------------------------


class _Gone(AccessDenied):
    """What was listed a moment ago and is not there any more, or not for us."""


def _classify(reply: Reply) -> ProviderError | None:
    if reply.status < 400:
        return None
    errors = reply.data.get("errors") if isinstance(reply.data, dict) else None
    message = str(errors[0].get("message", ""))[:300] if errors else ""
    if reply.status == 429:
        return Throttled("Asana asks to slow down.", reply.retry_at() or datetime.now(UTC) + timedelta(minutes=1))
    if reply.status == 402:
        return AccessDenied("Asana shows this to paying organizations only.")
    if reply.status == 403:
        return AccessDenied(f"Asana does not let this connection read it: {message or 'permission missing'}")
    if reply.status == 404:
        return _Gone(f"Asana has nothing there for this connection: {message or 'not found'}")
    if reply.status == 400 and "offset" in message:
        return CursorExpired("Asana no longer knows the page; starting over.")
    return None


async def _list(api: Api, path: str, fields: str, offset: str | None = None, **params: Any) -> tuple[Any, str | None]:
    """One page of a list and the next one's offset."""
    query = {**params, "limit": 100, "opt_fields": fields, **({"offset": offset} if offset else {})}
    data = (await api.get(f"/api/1.0/{path}", query)).data
    return data["data"], (data.get("next_page") or {}).get("offset")


def _page(rows: list[Any], time_of: str, following: JSON | None, otherwise: datetime | None = None) -> Page:
    """otherwise: the time of rows that have none."""
    found, rejected = records(rows, lambda row: row["gid"], lambda row: otherwise or utc(row[time_of]))
    return Page(found, following, None, rejected)


# -- fetching -----------------------------------------------------------------------------------------------------------------


async def _fetch_workspaces(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    rows, offset = await _list(api, "workspaces", _FIELDS["workspaces"], **(cursor or {}))
    return _page(rows, "", {"offset": offset} if offset else None, window.until)


async def _fetch_users(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Of all workspaces at once."""
    rows, offset = await _list(api, "users", _FIELDS["users"], **(cursor or {}))
    return _page(rows, "", {"offset": offset} if offset else None, window.until)


async def _workspaces(api: Api) -> list[JSON]:
    rows, offset = await _list(api, "workspaces", "name")
    while offset:
        more, offset = await _list(api, "workspaces", "name", offset)
        rows += more
    return list(rows)


async def _fetch_projects(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Workspace after workspace. cursor: {"left": [workspace, ...], "offset": in the first of them}."""
    left = cursor["left"] if cursor else [row["gid"] for row in await _workspaces(api)]
    if not left:
        return Page([], None)
    path = f"workspaces/{left[0]}/projects"
    rows, offset = await _list(api, path, _FIELDS["projects"], cursor["offset"] if cursor else None)
    left = left if offset else left[1:]
    return _page(rows, "modified_at", {"left": left, "offset": offset} if left else None)


async def _partitions(api: Api) -> list[Partition]:
    """The projects, archived ones too, and for each workspace what the connected person does outside of projects."""
    found = []
    for workspace in await _workspaces(api):
        gid, offset = workspace["gid"], None
        while True:
            rows, offset = await _list(api, f"workspaces/{gid}/projects", "name", offset)
            found += [Partition(row["gid"], row["name"], {"project": row["gid"]}) for row in rows]
            if not offset:
                break
        found.append(Partition(f"me:{gid}", f"My tasks in {workspace['name']}", {"assignee": "me", "workspace": gid}))
    return found


def _since(partition: Partition, window: Window) -> JSON:
    """A second earlier, as nobody says whether the bound itself is in."""
    return {**partition.facts, "modified_since": (window.since - timedelta(seconds=1)).isoformat()}


async def _fetch_tasks(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """All that changed since, in the project's own order."""
    rows, offset = await _list(api, "tasks", _FIELDS["tasks"], **_since(partition, window), **(cursor or {}))
    return _page(rows, "modified_at", {"offset": offset} if offset else None)


async def _below(api: Api, what: str, cursor: JSON | None, tasks: Mapping[str, Any]) -> tuple[Any, JSON | None]:
    """A page of what the listed tasks have below them: (rows, cursor).

    cursor: {"tasks": offset in their list, None at its end, "left": [task, ...] still to read, "offset": in the first of them}.
    """
    state = cursor or {"tasks": "", "left": [], "offset": None}
    left, offset = state["left"], state["tasks"]
    if not left:
        rows, offset = await _list(api, "tasks", "num_subtasks", offset, **tasks)
        left = [row["gid"] for row in rows if what != "subtasks" or row.get("num_subtasks")]
        if not left:
            return [], {"tasks": offset, "left": [], "offset": None} if offset else None
    fields = _FIELDS["tasks" if what == "subtasks" else what]
    try:
        rows, more = await _list(api, f"tasks/{left[0]}/{what}", fields, state["offset"])
    except _Gone:
        rows, more = [], None
    below = [row["gid"] for row in rows if what == "subtasks" and row.get("num_subtasks")]
    left = [*(left if more else left[1:]), *below]
    return rows, {"tasks": offset, "left": left, "offset": more} if left or offset else None


async def _fetch_subtasks(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Below all tasks: one that only a subtask changed of is not changed itself."""
    rows, following = await _below(api, "subtasks", cursor, partition.facts)
    return _page(rows, "modified_at", following)


async def _fetch_stories(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Below the tasks that changed since: a new story changes its task."""
    rows, following = await _below(api, "stories", cursor, _since(partition, window))
    return _page(rows, "created_at", following)


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _person(row: JSON | None, ns: str, properties: JSON | None = None) -> list[Entity]:
    """A user by address if it is told, by id besides; nobody for what is none, or somebody who was removed."""
    if not row or not row.get("gid"):
        return []
    own, address = f"{ns}:user:{row['gid']}", email_key(row.get("email"))
    name = row.get("name") or row.get("email") or "Somebody"
    return [Entity("person", address or own, name, properties, (own,) if address else ())]


def _thing(kind: str, row: JSON | None, ns: str, key: str = "") -> list[Entity]:
    return [Entity(kind, f"{ns}:{key or kind}:{row['gid']}", row.get("name") or kind.capitalize())] if row else []


def _graph(own: Entity, authors: list[Entity], *links: tuple[str, list[Entity]]) -> Graph:
    entities, said = [own], []
    for kind, others in links:
        entities += others
        said += [Relationship(kind, own.key, other.key) for other in others if other.key != own.key]
    said += [Relationship("authored", author.key, own.key) for author in authors]
    return Graph([*entities, *authors], said)


def _mentions(graph: Graph, text: str | None, ns: str) -> Graph:
    own = graph.entities[0].key
    found = [f"{ns}:task:{task}" for task in _TASK_LINK.findall(text or "")[:MOST_MENTIONS]]
    keys = dict.fromkeys([*found, *mentioned_emails(text or "")])
    graph.relationships.extend(Relationship("mentions", own, key) for key in keys if key != own)
    return graph


def _facts(row: JSON, *names: str) -> JSON:
    facts = {name: row[name] for name in names if row.get(name) is not None}
    return {**facts, "url": row["permalink_url"]} if row.get("permalink_url") else facts


def _extract_workspace(row: JSON, context: Context) -> Graph:
    own = f"{context.namespace}:workspace:{row['gid']}"
    domains = [key for key in map(domain_key, row.get("email_domains") or ()) if key]
    first, *others = [*dict.fromkeys(domains), own]
    name = row.get("name") or "Workspace"
    return Graph([Entity("organization", first, name, _facts(row, "is_organization"), tuple(others))], [])


def _extract_user(row: JSON, context: Context) -> Graph:
    return Graph(_person(row, context.namespace, _facts(row, "email")), [])


def _extract_project(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    facts = _facts(row, "archived", "created_at")
    project = Entity("project", f"{ns}:project:{row['gid']}", row.get("name") or "Project", facts)
    places = _thing("group", row.get("team"), ns, "team") + _thing(
        "organization", row.get("workspace"), ns, "workspace"
    )
    graph = _graph(project, [], ("part_of", places), ("owned_by", _person(row.get("owner"), ns)))
    return _mentions(graph, row.get("notes"), ns)


def _extract_task(row: JSON, context: Context) -> Graph:
    ns = context.namespace
    facts = _facts(row, "completed", "due_on", "created_at", "resource_subtype")
    task = Entity("task", f"{ns}:task:{row['gid']}", row.get("name") or "(no name)", facts)
    projects = [
        project for place in row.get("memberships") or () for project in _thing("project", place.get("project"), ns)
    ]
    graph = _graph(
        task,
        _person(row.get("created_by"), ns),
        ("part_of", projects),
        ("part_of", _thing("task", row.get("parent"), ns)),
        ("assigned_to", _person(row.get("assignee"), ns)),
        ("with", [person for follower in row.get("followers") or () for person in _person(follower, ns)]),
        ("labelled", [label for tag in row.get("tags") or () for label in _thing("label", tag, ns, "tag")]),
        ("depends_on", [other for needed in row.get("dependencies") or () for other in _thing("task", needed, ns)]),
    )
    return _mentions(graph, row.get("notes"), ns)


def _extract_story(row: JSON, context: Context) -> Graph:
    ns, text = context.namespace, row.get("text") or ""
    said = row.get("resource_subtype") == "comment_added" or row.get("type") == "comment"
    name = text.strip().partition("\n")[0][:120] or "(no text)"
    own = Entity(
        "message" if said else "event", f"{ns}:story:{row['gid']}", name, _facts(row, "resource_subtype", "created_at")
    )
    task = _thing("task", row.get("target"), ns)
    graph = _graph(own, _person(row.get("created_by"), ns), ("comment_on" if said else "about", task))
    return _mentions(graph, text if said else None, ns)


# -- who ----------------------------------------------------------------------------------------------------------------------


async def _identify(api: Api) -> Account:
    who = (await api.get("/api/1.0/users/me", {"opt_fields": "name,email"})).data["data"]
    return Account(str(who["gid"]), str(who.get("email") or who.get("name") or who["gid"]))


async def _revoke(grant: Revocation) -> None:
    client = {"client_id": grant.client_id, "client_secret": grant.client_secret}
    await grant.api.request(
        "POST", "/-/oauth_revoke", form={**client, "token": grant.refresh_token or grant.access_token}
    )


_TASKS = ("tasks:read", "projects:read")

ASANA = Provider(
    links=(
        Link(
            "app.asana.com",
            r"(?:0/\d+/|1/\d+/(?:project/\d+/)?task/)(\d+)",
            lambda match: f"asana:task:{match[1]}",
        ),
    ),
    slug="asana",
    name="Asana",
    category="Project management",
    summary="What is to be done: projects, tasks, subtasks and the talk on them.",
    brings=("Workspaces", "People", "Projects", "Tasks", "Subtasks", "Comments"),
    api_url="https://app.asana.com",
    auth_url="https://app.asana.com",
    identify=_identify,
    partitions=_partitions,
    partition_label="Projects",
    classify=_classify,
    # Of paying organizations; others have 150 and say so by 429.
    budget=RateBudget(requests=1500, seconds=60, concurrency=5),
    oauth=OAuth(
        "/-/oauth_authorize", "/-/oauth_token",
        ("workspaces:read", "users:read", "teams:read", "projects:read", "tasks:read", "stories:read", "tags:read", "openid", "email", "profile"),
        revoke=_revoke,
    ),
    token_help="A personal access token, or a service account's token to read the whole organization.",
    settle=timedelta(minutes=1),
    streams=(
        Stream("workspaces", "Workspaces", WindowKind.SNAPSHOT, _fetch_workspaces, _extract_workspace, needs=("workspaces:read",)),
        Stream("users", "People", WindowKind.SNAPSHOT, _fetch_users, _extract_user, needs=("users:read",)),
        Stream("projects", "Projects", WindowKind.SNAPSHOT, _fetch_projects, _extract_project, needs=("projects:read", "workspaces:read")),
        # In no order of time, so that a project is read in one go.
        Stream("tasks", "Tasks", WindowKind.SCAN, _fetch_tasks, _extract_task, ascending=False, partitioned=True, needs=_TASKS),
        Stream("subtasks", "Subtasks", WindowKind.SCAN, _fetch_subtasks, _extract_task, ascending=False, partitioned=True, needs=_TASKS, page_size=5),
        Stream(
            "stories", "Comments and history", WindowKind.SCAN, _fetch_stories, _extract_story, ascending=False, partitioned=True,
            needs=(*_TASKS, "stories:read"), page_size=5, clock=Clock.CREATED,
        ),
    ),
)  # fmt: skip
