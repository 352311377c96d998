"""Asana's REST API and OAuth, as far as a history import goes. Replies are compact unless `opt_fields` asks for more."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from integrations.sandbox.asana_rows import ACCOUNTS, PROJECTS, WORKSPACES, Organization
from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World, seconds_of

COMPACT = ("gid", "resource_type", "name", "resource_subtype")
HELP = "For more information on API status codes and how to handle them, read the docs on errors: https://developers.asana.com/docs/errors"


def _error(status: int, message: str, **headers: str) -> Response:
    return Response(status, {"errors": [{"message": message, "help": HELP}]}, headers)


class Asana(StandIn):
    """The stand-in."""

    slug = "asana"
    name = "Asana"
    prefix = "2/sb/"
    refresh_prefix = "2/sbr/"
    pasted_prefix = "2/1200/"
    accounts = ACCOUNTS
    streams = ("workspaces", "users", "projects", "tasks", "subtasks", "stories")
    places = tuple(name for name, _, _ in WORKSPACES)
    grants = Grants("/-/oauth_authorize", "/-/oauth_token", "/-/oauth_revoke", expires_in=3600, pkce=False)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

        def route(path: str, handler: Callable[..., Response], stream: str = "") -> Route:
            return Route("GET", re.compile(rf"/api/1\.0/{path}"), handler, stream)

        self.routes = [
            route("users/me", self._me),
            route("users", self._users, "users"),
            route("workspaces", self._workspaces, "workspaces"),
            route(r"workspaces/(?P<gid>\d+)/projects", self._projects, "projects"),
            route("tasks", self._tasks, "tasks"),
            route(r"tasks/(?P<gid>\d+)", self._task, "tasks"),
            route(r"tasks/(?P<gid>\d+)/subtasks", self._subtasks, "subtasks"),
            route(r"tasks/(?P<gid>\d+)/stories", self._stories, "stories"),
            route(r"stories/(?P<gid>\d+)", self._story, "stories"),
        ]

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.organizations = {
            account: Organization(world, account, empty=self.is_empty(account)) for account in ACCOUNTS
        }

    # -- what it holds ------------------------------------------------------------------------------------------------------

    def table(self, account: str, stream: str) -> Table:
        own = self.organizations[account]
        if stream == "workspaces":
            return Table(own.workspaces, own.workspace_gid, own.workspace, timeless=True, tombstones=True)
        if stream == "users":
            return Table(range(len(own.people)), own.user_gid, own.user, timeless=True)
        if stream == "projects":
            return Table(own.projects, own.project_gid, own.project, timeless=True, tombstones=True)
        # What hangs below a deleted task is gone with it.
        every: Sequence[int]
        if stream == "tasks":
            every, id_of, row = own.tasks, own.task_gid, own.task
            listed = [place for place in range(len(every)) if not self.is_deleted(place)]
        elif stream == "subtasks":
            every, id_of, row = own.subtasks, own.subtask_gid, own.subtask
            listed = [place for place in range(len(every)) if self._there(own, "subtask", place)]
        else:
            every, id_of, row = [story.at for story in own.stories], own.story_gid, own.story
            listed = [place for place in range(len(every)) if self._is_told(own, place)]
        times = [every[place] / 1000 for place in listed]
        return Table(times, lambda i: id_of(listed[i]), lambda i: row(listed[i]), tombstones=True)

    def _there(self, own: Organization, kind: str, place: int) -> bool:
        """Whether a task or subtask is there, with everything above it."""
        while kind == "subtask":
            if self.is_deleted(place):
                return False
            kind, place = own.parent_of(place)
        return not self.is_deleted(place)

    def _is_told(self, own: Organization, place: int) -> bool:
        return not self.is_deleted(place) and self._there(own, *own.stories[place].on)

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        own = self.organizations[account]
        name = own.people[0].name if own.people else ACCOUNTS[account]
        return Response(
            200, {**answer, "token_type": "bearer", "data": {"id": int(account), "gid": account, "name": name}}
        )

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        return _error(401, "Not Authorized")

    def forbidden(self, request: Request, stream: str) -> Response:
        scope = "tasks" if stream == "subtasks" else stream
        return _error(403, f"Your token does not have the required scope: {scope}:read")

    def not_found(self, request: Request) -> Response:
        return _error(404, "Not a recognized ID, or you may not see it")

    def rate_limited(self) -> Response:
        words = "You have made too many requests recently. Please, be chill."
        return _error(429, words, **{"Retry-After": str(self.control.faults.retry_after)})

    def _listing(self, request: Request, rows: Sequence[int], row: Callable[[int], JSON]) -> Response:
        """A page; only who asks for a limit gets one, and then the way to the next."""
        asked, start = request.query, 0
        size = self.page_size(asked["limit"], 100, 100) if "limit" in asked else len(rows)
        if asked.get("offset"):
            found = _place(asked["offset"])
            if found is None:
                return _error(400, "offset: Your pagination token is invalid or has expired.")
            start = found
        body: JSON = {"data": [_pick(row(place), asked.get("opt_fields", "")) for place in rows[start : start + size]]}
        if "limit" in asked:
            end = start + size
            offset = base64.b64encode(f"page:{end}".encode()).decode()
            query = urlencode({**asked, "offset": offset})
            path = request.path.removeprefix("/api/1.0")
            following = {"offset": offset, "path": f"{path}?{query}", "uri": f"{request.base}{request.path}?{query}"}
            body["next_page"] = following if end < len(rows) else None
        return Response(200, body)

    def _one(self, request: Request, row: JSON) -> Response:
        fields = request.query.get("opt_fields", "")
        return Response(200, {"data": _pick(row, fields) if fields else row})

    def _me(self, request: Request, account: str) -> Response:
        own = self.organizations[account]
        if own.people:
            return self._one(request, own.user(0))
        return self._one(
            request, {"gid": account, "resource_type": "user", "name": "Nobody", "email": None, "workspaces": []}
        )

    def _users(self, request: Request, account: str) -> Response:
        table = self.table(account, "users")
        return self._listing(request, self.rows(table, range(len(table.times))), table.row)

    def _workspaces(self, request: Request, account: str) -> Response:
        own = self.organizations[account]
        return self._listing(request, own.workspaces, own.workspace)

    def _projects(self, request: Request, account: str, gid: str) -> Response:
        own = self.organizations[account]
        workspace = next((place for place in own.workspaces if own.workspace_gid(place) == gid), None)
        if workspace is None:
            return self.not_found(request)
        if self.denies(WORKSPACES[workspace][0]):
            return _error(403, "You do not have access to this workspace")
        places = [place for place in own.projects if PROJECTS[place][1] == workspace]
        if "archived" in request.query:
            places = [place for place in places if PROJECTS[place][2] == (request.query["archived"] == "true")]
        return self._listing(request, places, own.project)

    def _tasks(self, request: Request, account: str) -> Response:
        own, asked = self.organizations[account], request.query
        since = seconds_of(asked["modified_since"]) if "modified_since" in asked else 0
        if since is None:
            return _error(400, "modified_since: Not a valid date-time")
        if "project" in asked:
            project = next((place for place in own.projects if own.project_gid(place) == asked["project"]), None)
            if project is None:
                return _error(404, f"project: Unknown object: {asked['project']}")
            places = [place for place in range(len(own.tasks)) if project in own.projects_of(place)]
        elif asked.get("assignee") in ("me", account) and "workspace" in asked:
            workspaces = {own.workspace_gid(place): place for place in own.workspaces}
            wanted = workspaces.get(asked["workspace"])
            places = [p for p in range(len(own.tasks)) if own.assignee_of(p) == 0 and own.workspace_of(p) == wanted]
        else:
            words = "You should specify one of workspace, project, tag, section, user_task_list: and assignee with workspace"
            return _error(400, words)
        places = [place for place in places if own.tasks[place] / 1000 >= since and not self.is_deleted(place)]
        # In the order that people gave them, which is none of time.
        places.sort(key=own.task_gid, reverse=True)
        places = places[1::2] + places[::2]
        return self._listing(request, places, own.task)

    def _known(self, own: Organization, gid: str) -> tuple[str, int] | None:
        kind, place = {"04": "task", "05": "subtask"}.get(gid[2:4], ""), int(gid[6:] or 0)
        count = {"task": len(own.tasks), "subtask": len(own.subtasks)}.get(kind, 0)
        ours = place < count and gid == own.gid_of(kind, place)
        return (kind, place) if ours and self._there(own, kind, place) else None

    def _task(self, request: Request, account: str, gid: str) -> Response:
        own = self.organizations[account]
        if gid[2:4] == "05" and self.denies("subtasks"):
            return self.forbidden(request, "subtasks")
        known = self._known(own, gid)
        if known is None:
            return self.not_found(request)
        return self._one(request, own.task(known[1]) if known[0] == "task" else own.subtask(known[1]))

    def _story(self, request: Request, account: str, gid: str) -> Response:
        own, place = self.organizations[account], int(gid[6:] or 0)
        ours = place < len(own.stories) and gid == own.story_gid(place)
        return self._one(request, own.story(place)) if ours and self._is_told(own, place) else self.not_found(request)

    def _subtasks(self, request: Request, account: str, gid: str) -> Response:
        own = self.organizations[account]
        known = self._known(own, gid)
        if known is None:
            return self.not_found(request)
        places = [place for place in own.below.get(known, ()) if not self.is_deleted(place)]
        return self._listing(request, places, own.subtask)

    def _stories(self, request: Request, account: str, gid: str) -> Response:
        own = self.organizations[account]
        known = self._known(own, gid)
        if known is None:
            return self.not_found(request)
        places = own.stories_of.get(known, ())
        return self._listing(request, [place for place in places if self._is_told(own, place)], own.story)


def _pick(row: JSON, fields: str) -> JSON:
    """The compact row and the fields asked for; "assignee.name" is a field of what `assignee` leads to."""
    picked = {name: row[name] for name in COMPACT if name in row}
    wanted: dict[str, list[str]] = {}
    for field in filter(None, fields.split(",")):
        name, _, rest = field.strip().partition(".")
        if name in row:
            wanted.setdefault(name, []).append(rest)
    for name, rests in wanted.items():
        picked[name] = _picked(row[name], ",".join(filter(None, rests)))
    return picked


def _picked(value: Any, fields: str) -> Any:
    if isinstance(value, list):
        return [_picked(item, fields) for item in value]
    return _pick(value, fields) if isinstance(value, dict) else value


def _place(offset: str) -> int | None:
    try:
        place = base64.b64decode(offset, validate=True).decode().removeprefix("page:")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return int(place) if place.isdigit() else None
