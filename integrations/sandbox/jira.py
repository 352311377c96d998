"""Jira Cloud behind Atlassian's gateway: sites, projects, people, the enhanced JQL search, and OAuth (3LO)."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson

from integrations.sandbox.jira_rows import SITES, SPRINT, ZONE, Holdings, Site
from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response, whole
from integrations.sandbox.world import World

SCOPES = ("read:jira-work", "read:jira-user", "read:me", "offline_access")
PARTS = {"comment": ("comments", "comments"), "worklog": ("worklogs", "worklogs"), "changelog": ("changes", "values")}
INLINE = 20  # comments and worklogs that come with an issue
_REST = re.compile(r"(?:/ex/jira/([0-9a-f-]{36}))?/rest/api/[23](/.*)")
_CLAUSE = re.compile(r"""(project|updated|created|key|id)\s*(=|>=|<=|>|<)\s*("[^"]*"|[\w-]+)""", re.I)
_ORDER = re.compile(r"\s*ORDER\s+BY\s+(.+)$", re.I | re.S)


class _BadJql(Exception):
    pass


def _errors(status: int, *words: str) -> Response:
    return Response(status, {"errorMessages": list(words), "errors": {}})


def _gateway(code: int, message: str) -> Response:
    return Response(code, {"code": code, "message": message})


class Jira(StandIn):
    """The stand-in."""

    slug = "jira"
    name = "Jira"
    prefix = "eyJsb"
    refresh_prefix = "eyRsb"
    pasted_prefix = "ana@northwind.test:"
    accounts = {account: f"{sites[0].name}.atlassian.net" for account, sites in SITES.items()}
    streams = ("projects", "users", "issues", "comments", "worklogs", "changes")
    places = tuple(site.name for sites in SITES.values() for site in sites)
    grants = Grants("/authorize", "/oauth/token", json=True, pkce=False, rotates=True, expires_in=3600, scopes=SCOPES)

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.held = {account: Holdings(world, account, partial(self.count, account)) for account in self.accounts}

    # -- what it holds ------------------------------------------------------------------------------------------------------

    def table(self, account: str, stream: str) -> Table:
        held = self.held[account]
        if stream == "projects":
            ids = [f"{site.id}:{held.project_id(i)}" for i, (site, _) in enumerate(held.projects)]
            return Table(
                [0.0] * len(ids), ids.__getitem__, lambda i: held.project(i, ""), timeless=True, tombstones=True
            )
        if stream == "users":
            seats = [(site, i) for site in held.sites for i in range(held.seats[site.id])]
            ids = [f"{site.id}:{held.user_id(i)}" for site, i in seats]
            return Table([0.0] * len(ids), ids.__getitem__, lambda place: held.user(seats[place][1]), timeless=True)
        if stream == "issues":
            return Table(
                held.updated, lambda p: f"{held.site_of(p).id}:{held.issue_id(p)}", lambda p: held.issue(p, "")
            )
        rows = held.parts[stream]
        return Table([row[0] for row in rows], lambda i: f"{held.site_of(rows[i][1]).id}:{held.part_id(stream, i)}", lambda i: held.part(stream, i, ""))  # fmt: skip

    def truth_ids(self, account: str, stream: str, since: float | None, until: float | None) -> list[str]:
        table, held = self.table(account, stream), self.held[account]
        places = self.rows(table, table.within(since, until))
        if stream == "users":
            seats = [i for site in held.sites for i in range(held.seats[site.id])]
            places = [place for place, i in enumerate(seats) if not self.is_deleted(i)]
        elif stream in held.parts:  # goes with its issue
            places = [place for place in places if self._issue_is_listed(held, held.parts[stream][place][1])]
        elif stream == "issues":
            places = [place for place in places if self._issue_is_listed(held, place)]
        return [table.id_of(place) for place in places]

    def _issue_is_listed(self, held: Holdings, place: int) -> bool:
        return not self.is_deleted(place) and not self.is_deleted(held.project_of[place])

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        if error == "invalid_client":
            return Response(401, {"error": "access_denied", "error_description": "Unauthorized"})
        if "refresh" in words:
            words = "Unknown or invalid refresh token."
            return Response(403, {"error": "unauthorized_client", "error_description": words})
        return Response(status, {"error": error, "error_description": words})

    def token_of(self, request: Request) -> str:
        return ":".join(request.basic) if request.basic[0] else request.token

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        return _gateway(401, "Unauthorized")

    def forbidden(self, request: Request, stream: str) -> Response:
        if stream == "users":
            return _errors(403, "You don't have permission to browse users and groups.")
        return _gateway(401, "Unauthorized; scope does not match")

    def not_found(self, request: Request) -> Response:
        return _errors(404, "Issue does not exist or you do not have permission to see it.")

    def _too_many(self, reason: str, seconds: int) -> Response:
        reset = datetime.now(UTC) + timedelta(seconds=seconds)
        headers = {"Retry-After": str(seconds), "RateLimit-Reason": reason, "X-RateLimit-Limit": "65000"}
        headers |= {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset.strftime("%Y-%m-%dT%H:%MZ")}
        return _gateway(429, "Rate limit exceeded").with_headers(headers)

    def rate_limited(self) -> Response:
        return self._too_many("jira-burst-based", self.control.faults.retry_after)

    def quota_used_up(self) -> Response:
        return self._too_many("jira-quota-tenant-based", 1800)

    def answer(self, request: Request, account: str) -> Response:
        if request.path == "/oauth/token/accessible-resources" and request.method == "GET":
            return Response(200, [row for site in SITES[account] for row in _resources(site)])
        if request.path == "/me" and request.method == "GET":
            person = self.world.people()[0]
            return Response(
                200, {"account_type": "atlassian", "account_id": account, "email": person.email, "name": person.name}
            )
        match = _REST.fullmatch(request.path)
        if match is None:
            return self.not_found(request)
        # A personal token goes to the site itself, one of OAuth through the gateway.
        sites = [site for site in SITES[account] if match[1] in (site.id, None)]
        if not sites or (match[1] is None) != bool(request.basic[0]):
            return _gateway(404, "Not Found")
        if self.denies(sites[0].name):
            return _errors(403, "The app is not allowed on this site.")
        return self._on_site(request, account, sites[0], match[2])

    def _on_site(self, request: Request, account: str, site: Site, path: str) -> Response:
        base = request.base + request.path.removesuffix(path)
        held = self.held[account]
        routes: list[Route] = [
            Route("GET", re.compile("/serverInfo"), partial(self._server, site)),
            Route("GET", re.compile("/myself"), self._myself),
            Route("GET", re.compile("/field"), self._fields),
            Route("GET", re.compile("/project/search"), partial(self._projects, held, site, base), "projects"),
            Route("GET", re.compile("/users/search"), partial(self._users, held, site), "users"),
            Route("GET", re.compile("/search/jql"), partial(self._search, held, site, base)),
            Route("POST", re.compile("/search/jql"), partial(self._search, held, site, base)),
            Route("POST", re.compile("/search/approximate-count"), partial(self._count, held, site), "issues"),
            Route("GET", re.compile("/issue/(?P<which>[A-Z0-9-]+)"), partial(self._issue, held, site, base), "issues"),
            Route("GET", re.compile("/issue/(?P<which>[A-Z0-9-]+)/(?P<part>comment|worklog|changelog)"), partial(self._part, held, site, base)),
            Route("GET", re.compile("/issue/(?P<which>[A-Z0-9-]+)/(?P<part>comment|worklog)/(?P<own>[0-9]+)"), partial(self._one_part, held, site, base)),
        ]  # fmt: skip
        for route in routes:
            found = route.path.fullmatch(path) if route.method == request.method else None
            if found is not None:
                if route.stream and self.denies(route.stream):
                    return self.forbidden(request, route.stream)
                return route.handler(request, account, **found.groupdict())
        return self.not_found(request)

    def _server(self, site: Site, request: Request, account: str) -> Response:
        version = {"version": "1001.0.0-SNAPSHOT", "versionNumbers": [1001, 0, 0], "deploymentType": "Cloud"}
        return Response(200, {"baseUrl": site.url, "serverTitle": "Jira", "buildNumber": 100_300, **version})

    def _myself(self, request: Request, account: str) -> Response:
        person = self.world.people()[0]
        about = {
            "accountId": account,
            "accountType": "atlassian",
            "emailAddress": person.email,
            "displayName": person.name,
        }
        return Response(200, {**about, "active": True, "timeZone": "Europe/Berlin", "locale": "de_DE"})

    def _fields(self, request: Request, account: str) -> Response:
        names = {
            "summary": "Summary",
            "updated": "Updated",
            "created": "Created",
            "status": "Status",
            "project": "Project",
        }
        about = {"custom": False, "orderable": True, "navigable": True, "searchable": True}
        rows = [{"id": key, "key": key, "name": name, "clauseNames": [key], **about} for key, name in names.items()]
        own = {
            "id": "customfield_10016",
            "key": "customfield_10016",
            "name": "Story point estimate",
            "clauseNames": ["cf[10016]"],
        }
        sprint = {"id": SPRINT, "key": SPRINT, "name": "Sprint", "clauseNames": ["cf[10020]", "Sprint"]}
        schema = {"type": "array", "items": "json", "custom": "com.pyxis.greenhopper.jira:gh-sprint", "customId": 10020}
        return Response(
            200, [*rows, {**about, **own, "custom": True}, {**about, **sprint, "custom": True, "schema": schema}]
        )

    def _projects(self, held: Holdings, site: Site, base: str, request: Request, account: str) -> Response:
        # `status` may be repeated; whoever asks for archived ones too names them last.
        archived = request.query.get("status") == "archived"
        found = [i for i, (own, _) in enumerate(held.projects) if own == site and (archived or not self.is_deleted(i))]
        start, size = (
            whole(request.query.get("startAt"), 0, 0, 10**6),
            self.page_size(request.query.get("maxResults"), 50, 50),
        )
        leads = "lead" in request.query.get("expand", "").split(",")
        rows = [
            held.project(i, base)
            | ({"archived": True} if self.is_deleted(i) else {})
            | ({"lead": held.user(i)} if leads else {})
            for i in found[start : start + size]
        ]
        page = {"self": f"{base}/project/search", "maxResults": size, "startAt": start, "total": len(found)}
        return Response(200, {**page, "isLast": start + size >= len(found), "values": rows})

    def _users(self, held: Holdings, site: Site, request: Request, account: str) -> Response:
        found = [i for i in range(held.seats[site.id]) if not self.is_deleted(i)]
        start = whole(request.query.get("startAt"), 0, 0, 10**6)
        size = self.page_size(request.query.get("maxResults"), 50, 1000)
        return Response(200, [held.user(i) for i in found[start : start + size]])

    # -- searching ----------------------------------------------------------------------------------------------------------

    def _search(self, held: Holdings, site: Site, base: str, request: Request, account: str) -> Response:
        asked = request.json if request.method == "POST" else request.query
        if not isinstance(asked, dict):
            return _errors(400, "The request body is no JSON object.")
        fields, jql = asked.get("fields") or ["id"], str(asked.get("jql") or "")
        fields = fields.split(",") if isinstance(fields, str) else fields
        expand = str(asked.get("expand") or "")
        parts = [part for part in PARTS if part in fields or part in expand]
        stream = PARTS[parts[0]][0] if parts else "issues"
        if self.denies(stream):
            return self.forbidden(request, stream)
        try:
            found = self._matching(held, site, jql)
            start = _offset(asked.get("nextPageToken"), jql)
        except _BadJql as wrong:
            return _errors(400, str(wrong))
        size = self.page_size(asked.get("maxResults"), 50, 100 if fields != ["id"] else 5000)
        rows = [self._render(held, place, base, fields, parts) for place in found[start : start + size]]
        last = start + size >= len(found)
        return Response(
            200, {"issues": rows, "isLast": last, **({} if last else {"nextPageToken": _token(start + size, jql)})}
        )

    def _count(self, held: Holdings, site: Site, request: Request, account: str) -> Response:
        jql = request.json.get("jql") if isinstance(request.json, dict) else None
        try:
            return Response(200, {"count": len(self._matching(held, site, str(jql or "")))})
        except _BadJql as wrong:
            return _errors(400, str(wrong))

    def _matching(self, held: Holdings, site: Site, jql: str) -> list[int]:
        """Places of the issues that the JQL finds, in its order."""
        order = _ORDER.search(jql)
        where = jql[: order.start()].strip() if order else jql.strip()
        if not where:
            raise _BadJql("Unbounded JQL queries are not allowed here. Please add a search restriction to your query.")
        projects = {held.project_id(i): i for i, (own, _) in enumerate(held.projects) if own == site}
        projects |= {own.projects[n][0]: i for i, (own, n) in enumerate(held.projects) if own == site}
        found = [p for p in range(len(held.updated)) if held.site_of(p) == site and self._issue_is_listed(held, p)]
        for clause in re.split(r"\s+AND\s+", where, flags=re.I):
            match = _CLAUSE.fullmatch(clause.strip())
            if match is None:
                raise _BadJql(f"Error in the JQL Query: '{clause[:60]}' is not understood.")
            name, operator, value = match[1].lower(), match[2], match[3].strip('"')
            if name == "project":
                if value not in projects:
                    raise _BadJql(f"The value '{value}' does not exist for the field 'project'.")
                found = [place for place in found if held.project_of[place] == projects[value]]
            elif name in ("key", "id"):
                found = [place for place in found if value in (held.key(place), held.issue_id(place))]
            else:
                times = held.updated if name == "updated" else held.created
                compare, moment = _COMPARE[operator], _minute(_moment(value, quoted=match[3].startswith('"')))
                found = [place for place in found if compare(_minute(times[place]), moment)]
        for by in reversed([part.strip().lower() for part in (order[1] if order else "updated desc").split(",")]):
            name, _, direction = by.partition(" ")
            if name not in ("updated", "created", "key", "id"):
                raise _BadJql(f"Field '{name}' does not exist or you do not have permission to view it.")
            keys: dict[str, Callable[[int], Any]] = {
                "updated": held.updated.__getitem__,
                "created": held.created.__getitem__,
                "key": held.numbers.__getitem__,
                "id": int,
            }
            found.sort(key=keys[name], reverse=direction.strip() == "desc")
        return found

    def _render(self, held: Holdings, place: int, base: str, fields: list[str], parts: list[str]) -> JSON:
        row = held.issue(place, base)
        if fields == ["id"]:
            return {"id": row["id"]}
        if "*all" not in fields and "*navigable" not in fields:
            row["fields"] = {name: row["fields"][name] for name in fields if name in row["fields"]}
        for part in parts:
            stream, listed = PARTS[part]
            indexes = [i for i in held.parts_of(stream, place) if not self.is_deleted(i)]
            size = self.page_size(INLINE, INLINE, INLINE)
            page = {"startAt": 0, "maxResults": size, "total": len(indexes)}
            rows = [held.part(stream, i, base) for i in indexes[:size]]
            if part == "changelog":
                row["changelog"] = {**page, "histories": rows}
            else:
                row["fields"][part] = {**page, listed: rows, "self": f"{base}/issue/{row['id']}/{part}"}
        return row

    def _place(self, held: Holdings, site: Site, which: str) -> int | None:
        for place in range(len(held.updated)):
            if which in (held.issue_id(place), held.key(place)) and held.site_of(place) == site:
                return place if self._issue_is_listed(held, place) else None
        return None

    def _issue(self, held: Holdings, site: Site, base: str, request: Request, account: str, which: str) -> Response:
        place = self._place(held, site, which)
        return (
            self.not_found(request) if place is None else Response(200, self._render(held, place, base, ["*all"], []))
        )

    def _part(
        self, held: Holdings, site: Site, base: str, request: Request, account: str, which: str, part: str
    ) -> Response:
        stream, listed = PARTS[part]
        place = self._place(held, site, which)
        if self.denies(stream):
            return self.forbidden(request, stream)
        if place is None:
            return self.not_found(request)
        indexes = [i for i in held.parts_of(stream, place) if not self.is_deleted(i)]
        start, size = (
            whole(request.query.get("startAt"), 0, 0, 10**6),
            self.page_size(request.query.get("maxResults"), 100, 100),
        )
        rows = [held.part(stream, i, base) for i in indexes[start : start + size]]
        page: JSON = {"startAt": start, "maxResults": size, "total": len(indexes), listed: rows}
        return Response(200, {**page, "isLast": start + size >= len(indexes)} if part == "changelog" else page)

    def _one_part(
        self, held: Holdings, site: Site, base: str, request: Request, account: str, which: str, part: str, own: str
    ) -> Response:
        stream, place = PARTS[part][0], self._place(held, site, which)
        if self.denies(stream):
            return self.forbidden(request, stream)
        for i in held.parts_of(stream, place) if place is not None else ():
            if held.part_id(stream, i) == own and not self.is_deleted(i):
                return Response(200, held.part(stream, i, base))
        return self.not_found(request)


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def _resources(site: Site) -> list[JSON]:
    """A site as Jira's and as Confluence's, under one id."""
    about = {"id": site.id, "name": site.name, "url": site.url, "avatarUrl": f"{site.url}/avatar.png"}
    return [
        {**about, "scopes": ["read:jira-work", "read:jira-user"]},
        {**about, "scopes": ["read:confluence-content.all"]},
    ]


def _minute(seconds: float) -> int:
    """The search tells times apart by the minute, as it is not known to do better."""
    return int(seconds // 60)


def _moment(value: str, *, quoted: bool) -> float:
    """Milliseconds are absolute; words are read in the user's time zone."""
    if value.isdigit() and not quoted:
        return int(value) / 1000
    try:
        return datetime.fromisoformat(value.replace("/", "-")).replace(tzinfo=ZONE).timestamp()
    except ValueError:
        raise _BadJql(f"Date value '{value[:40]}' is invalid. Valid formats include: 'yyyy/MM/dd HH:mm'.") from None


def _token(offset: int, jql: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([offset, zlib.crc32(jql.encode())])).decode()


def _offset(token: Any, jql: str) -> int:
    """Where a page token goes on; it belongs to its JQL."""
    if not token:
        return 0
    try:
        offset, check = orjson.loads(base64.urlsafe_b64decode(str(token)))
    except (ValueError, binascii.Error, TypeError):
        raise _BadJql("The next page token is invalid.") from None
    if check != zlib.crc32(jql.encode()):
        raise _BadJql("The next page token does not belong to this query.")
    return int(offset)
