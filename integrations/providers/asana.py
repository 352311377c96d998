"""Asana's REST API: workspaces, people, projects, tasks and their subtasks, comments and history.

That a task or a comment was deleted is found by a full import: lists no longer have it. Not found is what was said on a task before it came
into a project that is imported, until that project is imported in full: the task changes by that, and its comments do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from html import unescape
from typing import Any

from integrations.errors import AccessDenied, CursorExpired, Gone, ProviderError, Throttled
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Clock,
    Context,
    Entity,
    Fetch,
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
from integrations.providers.graph import facts, headline, organization, person
from integrations.providers.replies import ErrorTable, Means, body, error_in, inner
from integrations.providers.text import MOST_MENTIONS, mentioned_emails
from integrations.providers.wire import (
    MOST_PAGES,
    Reader,
    Rows,
    all_rows,
    listing,
    page,
    pages,
    partitions_in,
    reader,
    rows_in,
    utc,
)

# What replies hold besides ids; without it they are compact.
_FIELDS = {
    "workspaces": "name,is_organization,email_domains",
    "users": "name,email",
    "projects": "name,notes,archived,created_at,modified_at,permalink_url,owner.name,owner.email,team.name,workspace.name",
    "tasks": "name,notes,resource_subtype,completed,created_at,modified_at,due_on,permalink_url,num_subtasks,assignee.name,assignee.email,"
    "created_by.name,followers.name,memberships.project.name,parent.name,tags.name,dependencies.name",
    "steps": "modified_at,num_subtasks",
    "stories": "type,resource_subtype,text,html_text,created_at,created_by.name,target.name",
}
_TASK_LINK = re.compile(r"https://app\.asana\.com/(?:0/\d+/|1/\d+/(?:project/\d+/)?task/)(\d+)")
# A person who is mentioned is an address in plain text, and has a name in the formatted one only.
_PROFILE_LINK = re.compile(r"https://app\.asana\.com/(?:0|1/\d+)/profile/(\d+)")
_CALLED = re.compile(r'/profile/(\d{1,20})"[^<>]{0,300}>([^<>]{1,200})</a>')

# -- wire format --------------------------------------------------------------------------------------------------------------

_ERRORS: ErrorTable = {
    402: Means(AccessDenied, "Asana shows this to paying organizations only."),
    403: Means(AccessDenied, "Asana does not let this connection read it: {said}"),
    404: Means(Gone, "Asana has nothing there for this connection: {said}"),
    429: Means(Throttled, "Asana asks to slow down.", wait=60),
    "offset": Means(CursorExpired, "Asana no longer knows the page; starting over."),
}


def _classify(reply: Reply) -> ProviderError | None:
    message = str(inner(body(reply), "errors").get("message", ""))
    return error_in(_ERRORS, reply, "offset" if reply.status == 400 and "offset" in message else "", message)


async def _list(api: Api, path: str, fields: str, cursor: JSON | None = None, **params: Any) -> Rows:
    asked = {**params, "limit": 100, "opt_fields": fields, **(cursor or {})}
    data = (await api.get(f"/api/1.0/{path}", asked)).data
    following = data.get("next_page") or {}
    return data["data"], {"offset": following["offset"]} if following.get("offset") else None


_CHANGED, _CREATED = reader("gid", "modified_at"), reader("gid", "created_at")

# -- fetching -----------------------------------------------------------------------------------------------------------------


def _of_all(name: str) -> Fetch:
    """Of all workspaces at once. The rows have no time."""

    async def fetch(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
        rows, following = await _list(api, name, _FIELDS[name], cursor)
        return page(rows, reader("gid", lambda row: window.until), following)

    return fetch


async def _workspaces(api: Api) -> list[JSON]:
    return await all_rows(partial(_list, api, "workspaces", "name"), api.longest_wait)


async def _projects(api: Api, cursor: JSON | None) -> Rows:
    """Workspace after workspace."""

    async def rows_of(workspace: JSON, at: JSON | None) -> Rows:
        return await _list(api, f"workspaces/{workspace['gid']}/projects", _FIELDS["projects"], at)

    return await rows_in(partial(_workspaces, api), rows_of, cursor)


async def _partitions(api: Api) -> list[Partition]:
    """The projects, archived ones too, and for each workspace what the connected person does outside of projects."""

    async def parts_of(workspace: JSON) -> list[Partition]:
        gid = workspace["gid"]
        rows = await all_rows(partial(_list, api, f"workspaces/{gid}/projects", "name"), api.longest_wait)
        mine = Partition(f"me:{gid}", f"My tasks in {workspace['name']}", {"assignee": "me", "workspace": gid})
        return [*(Partition(row["gid"], row["name"], {"project": row["gid"]}) for row in rows), mine]

    return await partitions_in(await _workspaces(api), parts_of)


def _bound(window: Window) -> datetime:
    """A second earlier, as nobody says whether the bound itself is in."""
    return window.since - timedelta(seconds=1)


async def _tasks(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Rows:
    """All that changed since, in the project's own order."""
    asked = {**partition.facts, "modified_since": _bound(window).isoformat()}
    return await _list(api, "tasks", _FIELDS["tasks"], cursor, **asked)


async def _below(
    api: Api,
    partition: Partition,
    cursor: JSON | None,
    what: str,
    steps: Callable[[JSON], list[list[str]]],
    read: Reader,
) -> Page:
    """A page of what the partition's tasks have below them. steps: what is to be asked for below a task: [kind, its id] each.

    cursor: {"tasks": offset in their list, None at its end, "last": id of the last one listed, "left": steps still to go,
    "offset": in the first of them}.
    """
    state = cursor or {"tasks": "", "last": "", "left": [], "offset": None}
    # A cursor that a version before this one stored has no last one.
    left, offset, last = state["left"], state["tasks"], state.get("last", "")
    if not left:
        rows, following = await _more_tasks(api, partition, offset, last)
        offset, last = (following or {}).get("offset"), rows[-1]["gid"] if rows else last
        left = [step for row in rows for step in steps(row)]
        if not left:
            following = {"tasks": offset, "last": last, "left": [], "offset": None} if offset else None
            return Page([], following, looked_into=last)
    kind, task = left[0]
    fields = _FIELDS["stories" if kind == "stories" else "tasks" if what == "subtasks" else "steps"]
    at = {"offset": state["offset"]} if state["offset"] else None
    try:
        rows, more = await _list(api, f"tasks/{task}/{kind}", fields, at)
    except CursorExpired:
        if at is None:
            raise
        rows, more = await _list(api, f"tasks/{task}/{kind}", fields)  # this one from its beginning
    except Gone:
        rows, more = [], None
    below = [step for row in rows for step in steps(row)] if kind == "subtasks" else []
    left = [*(left if more else left[1:]), *below]
    following = (
        {"tasks": offset, "last": last, "left": left, "offset": None, **(more or {})} if left or offset else None
    )
    return page(rows if kind == what else [], read, following)._replace(looked_into=task)


async def _more_tasks(api: Api, partition: Partition, offset: str, last: str) -> Rows:
    """The page of the partition's tasks at the offset.

    An offset is good for a quarter of an hour, as the tokens themselves say, and what lies below the page before may take longer to
    read: then the list is gone through anew, to behind the last task that was read.
    """

    async def ask(at: JSON | None) -> Rows:
        return await _list(api, "tasks", _FIELDS["steps"], at, **partition.facts)

    try:
        return await ask({"offset": offset} if offset else None)
    except CursorExpired:
        if not offset or not last:
            raise
    rows, following = await ask(None)
    for _ in range(MOST_PAGES):
        gids = [row["gid"] for row in rows]
        if last in gids:
            return rows[gids.index(last) + 1 :], following
        if following is None:
            break
        rows, following = await ask(following)
    raise CursorExpired("Asana no longer knows the page, nor the task before it; starting over.")


def _deeper(row: JSON) -> list[list[str]]:
    return [["subtasks", row["gid"]]] if row.get("num_subtasks") else []


async def _fetch_subtasks(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Below all tasks: one that only a subtask changed of is not changed itself."""
    return await _below(api, partition, cursor, "subtasks", _deeper, _CHANGED)


async def _fetch_stories(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Of the tasks and subtasks that changed since: a new story changes its task, but not what that is a part of.

    So each task that has subtasks costs a request, as it does for these themselves, whether anything below it changed or not.
    """

    def steps(row: JSON) -> list[list[str]]:
        at = row.get("modified_at")
        changed = at is None or utc(at) >= _bound(window)
        return [*([["stories", row["gid"]]] if changed else []), *_deeper(row)]

    return await _below(api, partition, cursor, "stories", steps, _CREATED)


def _gone(path: str) -> FindGone:
    """Asks for one after the other. In Asana's words 404 means that the object does not exist, and 403 that one may not see it; were it
    otherwise for those of a project, its list would not be shown either."""

    async def gone(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
        missing = []
        for record in records:
            try:
                await api.get(f"/api/1.0/{path}/{record.external_id}", {"opt_fields": "gid"})
            except Gone:
                missing.append(record.external_id)
            except AccessDenied:
                continue  # it is there, and not for us
        if missing:
            await _list(api, "tasks", "gid", **partition.facts)
        return missing

    return gone


# -- records to graph ---------------------------------------------------------------------------------------------------------


def _person(row: JSON | None, context: Context) -> Entity | None:
    """A user; nobody for what is none, or somebody who was removed."""
    if not row or not row.get("gid"):
        return None
    name = row.get("name") or row.get("email") or "Somebody"
    return person(context.key("user", row["gid"]), name, row.get("email"))


def _thing(kind: str, row: JSON | None, context: Context, key: str = "") -> Entity | None:
    return Entity(kind, context.key(key or kind, row["gid"]), row.get("name") or kind.capitalize()) if row else None


def _mentions(text: str | None, context: Context) -> list[str]:
    tasks, people = (found.findall(text or "")[:MOST_MENTIONS] for found in (_TASK_LINK, _PROFILE_LINK))
    return [*context.keys("task", *tasks), *context.keys("user", *people), *mentioned_emails(text)]


def _by_name(row: JSON) -> str:
    """A story's text, with people's names where it has their addresses."""
    names = {gid: unescape(name) for gid, name in _CALLED.findall(row.get("html_text") or "")}
    return _PROFILE_LINK.sub(lambda found: names.get(found[1], found[0]), row.get("text") or "")


def _extract_workspace(row: JSON, context: Context) -> Graph:
    own, known = context.key("workspace", row["gid"]), facts(row, "is_organization")
    return Graph(organization(own, row.get("name") or "Workspace", row.get("email_domains") or [], known))


def _extract_user(row: JSON, context: Context) -> Graph:
    name = row.get("name") or row.get("email") or "Somebody"
    return Graph(person(context.key("user", row["gid"]), name, row.get("email"), facts(row, "email")))


def _extract_project(row: JSON, context: Context) -> Graph:
    known = facts(row, "archived", "created_at", url=row.get("permalink_url"))
    said = Graph(Entity("project", context.key("project", row["gid"]), row.get("name") or "Project", known))
    said.to("part_of", _thing("group", row.get("team"), context, "team"))
    said.to("part_of", _thing("organization", row.get("workspace"), context, "workspace"))
    said.to("owned_by", _person(row.get("owner"), context))
    said.refer("mentions", _mentions(row.get("notes"), context))
    return said


def _extract_task(row: JSON, context: Context) -> Graph:
    known = facts(row, "completed", "due_on", "created_at", "resource_subtype", url=row.get("permalink_url"))
    said = Graph(Entity("task", context.key("task", row["gid"]), row.get("name") or "(no name)", known))
    said.by("authored", _person(row.get("created_by"), context))
    said.to("part_of", *(_thing("project", place.get("project"), context) for place in row.get("memberships") or ()))
    said.to("part_of", _thing("task", row.get("parent"), context))
    said.to("assigned_to", _person(row.get("assignee"), context))
    said.to("with", *(_person(follower, context) for follower in row.get("followers") or ()))
    said.to("labelled", *(_thing("label", tag, context, "tag") for tag in row.get("tags") or ()))
    said.to("depends_on", *(_thing("task", needed, context) for needed in row.get("dependencies") or ()))
    said.refer("mentions", _mentions(row.get("notes"), context))
    return said


def _extract_story(row: JSON, context: Context) -> Graph:
    is_comment = row.get("resource_subtype") == "comment_added" or row.get("type") == "comment"
    kind, known = "message" if is_comment else "event", facts(row, "resource_subtype", "created_at")
    said = Graph(Entity(kind, context.key("story", row["gid"]), headline(_by_name(row), "(no text)"), known))
    said.to("comment_on" if is_comment else "about", _thing("task", row.get("target"), context))
    said.by("authored", _person(row.get("created_by"), context))
    said.refer("mentions", _mentions(row.get("text"), context) if is_comment else ())
    return said


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
        ("workspaces:read", "users:read", "teams:read", "projects:read", "tasks:read", "stories:read", "tags:read"),
        revoke=_revoke,
    ),
    token_help="A personal access token, or a service account's token to read the whole organization.",
    settle=timedelta(minutes=1),
    streams=(
        Stream(
            "workspaces", "Workspaces", WindowKind.SNAPSHOT, _of_all("workspaces"), _extract_workspace,
            needs=("workspaces:read",),
        ),
        Stream("users", "People", WindowKind.SNAPSHOT, _of_all("users"), _extract_user, needs=("users:read",)),
        Stream(
            "projects", "Projects", WindowKind.SNAPSHOT, listing(_projects, _CHANGED), _extract_project,
            needs=("projects:read", "workspaces:read"), names_partitions=True, record=_CHANGED,
        ),
        # In no order of time, so that a project is read in one go.
        Stream(
            "tasks", "Tasks", WindowKind.SCAN, pages(_tasks, _CHANGED), _extract_task, ascending=False,
            partitioned=True, needs=_TASKS, record=_CHANGED, gone=_gone("tasks"), shared=True,
        ),
        Stream(
            "subtasks", "Subtasks", WindowKind.SCAN, _fetch_subtasks, _extract_task, ascending=False,
            partitioned=True, needs=_TASKS, page_size=5, record=_CHANGED, gone=_gone("tasks"), shared=True,
        ),
        Stream(
            "stories", "Comments and history", WindowKind.SCAN, _fetch_stories, _extract_story, ascending=False, partitioned=True,
            needs=(*_TASKS, "stories:read"), page_size=5, clock=Clock.CREATED, record=_CREATED,
            gone=_gone("stories"), shared=True,
        ),
    ),
)  # fmt: skip
