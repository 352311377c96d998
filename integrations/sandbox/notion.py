"""Notion's API: search, data sources by filter, comments, blocks, people, and OAuth by Basic authentication and JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from integrations.sandbox.notion_rows import IN_WIKI, KINDS, LISTED, UNSHARED, WIKI, WORKSPACES, Workspace, cut
from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World, seconds_of

TRASHED = ("rows", "pages", "data_sources")  # what can lie in the trash
MOST_LISTED = 10_000
VERSIONS = ("2025-09-03", "2026-03-11")
REQUEST_ID = "7c0e6c1e-0000-4000-8000-000000000000"
_ID = r"(?P<given>[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12})"


def _error(status: int, code: str, message: str, **more: Any) -> Response:
    body = {"object": "error", "status": status, "code": code, "message": message, **more, "request_id": REQUEST_ID}
    return Response(status, body)


def _wrong_version(request: Request) -> Response | None:
    """The refusal of a request that names no version, or one that there is not."""
    version = request.headers.get("notion-version")
    if version is None:
        return _error(400, "missing_version", "Notion-Version header should be defined.")
    if version not in VERSIONS:
        return _error(400, "validation_error", f"Notion-Version header failed validation: {version[:20]}")
    return None


class _Wrong(Exception):
    """A request that Notion refuses as not valid."""


class Notion(StandIn):
    """The stand-in."""

    slug = "notion"
    name = "Notion"
    prefix = "secret_sb_"
    refresh_prefix = "nrt_sb_"
    pasted_prefix = "ntn_"
    accounts = WORKSPACES
    streams = tuple(KINDS)
    grants = Grants(
        "/v1/oauth/authorize", "/v1/oauth/token", "/v1/oauth/revoke", basic=True, json=True, pkce=False, rotates=True
    )

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.routes = [
            Route("GET", re.compile(r"/v1/users/me"), self._me),
            Route("GET", re.compile(r"/v1/users"), self._users, "users"),
            Route("POST", re.compile(r"/v1/search"), self._search),
            Route("POST", re.compile(rf"/v1/data_sources/{_ID}/query"), self._query, "rows"),
            Route("GET", re.compile(rf"/v1/data_sources/{_ID}"), self._data_source, "data_sources"),
            Route("GET", re.compile(rf"/v1/pages/{_ID}"), self._one_page),
            Route("GET", re.compile(rf"/v1/pages/{_ID}/properties/(?P<name>[^/]+)"), self._property),
            Route("GET", re.compile(r"/v1/comments"), self._comments, "comments"),
            Route("GET", re.compile(rf"/v1/blocks/{_ID}/children"), self._children, "content"),
        ]

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.workspaces = {account: Workspace(world, account, empty=self.is_empty(account)) for account in WORKSPACES}

    def table(self, account: str, stream: str) -> Table:
        workspace = self.workspaces[account]
        if stream == "content":
            written = workspace.written()
            return Table(
                workspace.times(stream),
                lambda place: f"{workspace.id_of(*written[place][1:])}:0",
                lambda place: {"blocks": workspace.blocks(*written[place][1:])},
            )
        return Table(
            workspace.times(stream),
            lambda place: workspace.id_of(stream, place),
            lambda place: self._row(workspace, stream, place),
            timeless=stream in ("users", "data_sources"),
            tombstones=stream in TRASHED,
        )

    def _row(self, workspace: Workspace, stream: str, place: int) -> JSON:
        row = workspace.row(stream, place)
        row = cut(row) if stream in ("rows", "pages") else row
        return {**row, "in_trash": True} if stream in TRASHED and self.is_deleted(place) else row

    def truth_ids(self, account: str, stream: str, since: float | None, until: float | None) -> list[str]:
        workspace = self.workspaces[account]
        if stream == "content":
            return self._lists(workspace, self.table(account, stream).within(since, until))
        found = super().truth_ids(account, stream, since, until)
        if stream == "rows":  # which are only reached through their data source
            sources = {own: workspace.source_of(int(own[-10:], 16)) for own in found}
            return [own for own in found if sources[own] != UNSHARED and not self.is_deleted(sources[own])]
        if stream == "pages":  # among them the rows of a data source that is not shared
            rows = self.table(account, "rows").within(since, until)
            return found + [workspace.id_of("rows", row) for row in rows if workspace.source_of(row) == UNSHARED]
        if stream != "comments":
            return found
        # What lies in the trash is not found, and its comments with it.
        places = {workspace.id_of(stream, at): workspace.target_of(at)[1] for at in range(len(workspace.times(stream)))}
        return [own for own in found if not self.is_deleted(places[own])]

    def _lists(self, workspace: Workspace, places: Iterable[int]) -> list[str]:
        """Of what was written last there: its lists of blocks, as they are paged."""
        found, written, size = [], workspace.written(), self.page_size(None, 100, 100)
        for _, stream, place in (written[at] for at in places):
            if self.is_deleted(place) or workspace.unshown(stream, place):
                continue
            own, blocks = workspace.id_of(stream, place), workspace.blocks(stream, place)
            closed = ("child_page", "unsupported")
            nested = [block["id"] for block in blocks if block["has_children"] and block["type"] not in closed]
            found += [f"{own}:{number}" for number in range(max(1, -(-len(blocks) // size)))]
            found += [f"{block}:{number}" for block in nested for number in range(-(-2 // size))]
        return found

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def oauth(self, request: Request) -> Response | None:
        is_asked = request.path in (self.grants.token, self.grants.revoke)
        return (_wrong_version(request) if is_asked else None) or super().oauth(request)

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        bot = {"bot_id": f"bb{account[2:]}", "workspace_id": account, "workspace_name": WORKSPACES[account]}
        more = {"workspace_icon": None, "owner": {"type": "user"}, "duplicated_template_id": None}
        return Response(200, {"refresh_token": None, **answer, "token_type": "bearer", **bot, **more})

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        return _error(status, error, words)

    def revoked(self, request: Request) -> Response:
        if request.basic != (f"sandbox-{self.slug}", "sandbox-secret"):
            return _error(401, "unauthorized", "Invalid client credentials.")
        given = request.json
        self.take_back(given.get("token") if isinstance(given, dict) else None)
        return Response(200, {"request_id": REQUEST_ID})

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        return _error(401, "unauthorized", "API token is invalid.")

    def forbidden(self, request: Request, stream: str) -> Response:
        return _error(403, "restricted_resource", "Insufficient permissions for this endpoint.")

    def not_found(self, request: Request) -> Response:
        return _error(400, "invalid_request_url", "Invalid request URL.")

    def rate_limited(self) -> Response:
        more = {"additional_data": {"rate_limit_reason": "public_api_request_rate_limit"}}
        answer = _error(429, "rate_limited", "You have been rate limited. Please try again in a few minutes.", **more)
        return answer.with_headers({"Retry-After": str(self.control.faults.retry_after)})

    def answer(self, request: Request, account: str) -> Response:
        if (refusal := _wrong_version(request)) is not None:
            return refusal
        try:
            return super().answer(request, account)
        except _Wrong as wrong:
            return _error(400, "validation_error", str(wrong))

    def _me(self, request: Request, account: str) -> Response:
        name = WORKSPACES[account]
        bot = {"owner": {"type": "workspace", "workspace": True}, "workspace_id": account, "workspace_name": name}
        who = {
            "object": "user",
            "id": f"bb{account[2:]}",
            "type": "bot",
            "name": "Atom",
            "avatar_url": None,
            "bot": bot,
        }
        return Response(200, {**who, "request_id": REQUEST_ID})

    def _users(self, request: Request, account: str) -> Response:
        table = self.table(account, "users")
        pairs = [("users", place) for place in self.rows(table, range(len(table.times)))]
        return self._page(request.query, account, pairs, "user")

    def _data_source(self, request: Request, account: str, given: str) -> Response:
        return self._one(account, "data_sources", given)

    def _one_page(self, request: Request, account: str, given: str) -> Response:
        return self._one(account, "rows" if given.startswith("03b") else "pages", given)

    def _one(self, account: str, stream: str, given: str) -> Response:
        place = self.workspaces[account].place_of(stream, given)
        if place is None or self.denies(stream):
            return _lost(given)
        return Response(200, {**self.table(account, stream).row(place), "request_id": REQUEST_ID})

    def _property(self, request: Request, account: str, given: str, name: str) -> Response:
        """name: the property's id, which pages name as it stands in an address."""
        workspace, stream = self.workspaces[account], "rows" if given.startswith("03b") else "pages"
        place = workspace.place_of(stream, given)
        values = () if place is None else workspace.row(stream, place)["properties"].values()
        value = next((value for value in values if unquote(value["id"]) == name), None)
        if value is None:
            return _lost(given)
        kind, own = value["type"], {"object": "property_item", "id": value["id"], "type": value["type"]}
        if kind not in LISTED:
            return Response(200, {**own, kind: value[kind], "request_id": REQUEST_ID})
        found = list(enumerate(value[kind]))
        answer = self._cut(
            request.query, found, lambda one: f"{given}-{one[0]}", lambda one: {**own, kind: one[1]}, "property_item"
        )
        about = {"id": value["id"], "type": kind, kind: {}, "next_url": None}
        if after := answer.body["next_cursor"]:
            address = f"https://api.notion.com/v1/pages/{given}/properties/{value['id']}"
            about["next_url"] = f"{address}?start_cursor={after}"
        return Response(200, {**answer.body, "property_item": about})

    def _search(self, request: Request, account: str) -> Response:
        body = _object(request)
        wanted = body.get("filter") or {}
        of_a_kind = wanted.keys() - {"in_trash"}
        if of_a_kind and (wanted.get("property") != "object" or wanted.get("value") not in ("page", "data_source")):
            raise _Wrong('body.filter.value should be "page" or "data_source".')
        if not isinstance(trash := wanted.get("in_trash", False), bool):
            raise _Wrong("body.filter.in_trash should be a boolean.")
        streams = {"page": ("rows", "pages"), "data_source": ("data_sources",)}
        among = streams.get(str(wanted.get("value")), ("rows", "pages", "data_sources"))
        if "pages" in among and self.denies("pages"):
            return self.forbidden(request, "pages")
        if "data_sources" in among and self.denies("data_sources"):
            return self.forbidden(request, "data_sources")
        workspace = self.workspaces[account]
        found = [
            (workspace.times(stream)[place], stream, place)
            for stream in among
            for place in range(len(workspace.times(stream)))
            if self.is_deleted(place) == trash
        ]
        found.sort(reverse=(body.get("sort") or {}).get("direction", "descending") == "descending")
        return self._page(
            body, account, [(stream, place) for _, stream, place in found], "page_or_data_source", MOST_LISTED
        )

    def _query(self, request: Request, account: str, given: str) -> Response:
        workspace, body = self.workspaces[account], _object(request)
        source = workspace.place_of("data_sources", given)
        if source is None:
            return _lost(given)
        bounds = _bounds(body.get("filter"))
        trash = body.get("in_trash") is True
        if (wanted := body.get("result_type")) not in (None, "page", "data_source"):
            raise _Wrong('body.result_type should be "page" or "data_source".')
        places = [
            place
            for place, edited in enumerate(workspace.times("rows"))
            if workspace.source_of(place) == source
            and self.is_deleted(place) == trash
            and all(
                fits(edited if name == "last_edited_time" else workspace.created("rows", place))
                for name, fits in bounds
            )
        ]
        for order in reversed(body.get("sorts") or [{"timestamp": "created_time", "direction": "descending"}]):
            if order.get("timestamp") not in ("created_time", "last_edited_time"):
                raise _Wrong("body.sorts should name a timestamp that there is.")
            if order["timestamp"] == "created_time":
                places.sort(key=_created(workspace), reverse=order.get("direction") == "descending")
            elif order.get("direction") == "descending":
                places.reverse()
        pairs = [("rows", place) for place in places if wanted != "data_source"]
        if source == WIKI and wanted != "page":
            times = {
                "created_time": workspace.created("data_sources", IN_WIKI),
                "last_edited_time": workspace.times("data_sources")[IN_WIKI],
            }
            there = all(fits(times[name]) for name, fits in bounds)
            pairs += [("data_sources", IN_WIKI)] if there and self.is_deleted(IN_WIKI) == trash else []
        return self._page(body, account, pairs, "page_or_data_source", self.cap(MOST_LISTED))

    def _comments(self, request: Request, account: str) -> Response:
        workspace, given = self.workspaces[account], request.query.get("block_id", "")
        stream = "rows" if given.startswith("03b") else "pages"
        target = workspace.place_of(stream, given)
        if target is None or self.is_deleted(target):
            return _lost(given)
        table = self.table(account, "comments")
        places = self.rows(table, range(len(table.times)))
        pairs = [("comments", place) for place in places if workspace.target_of(place) == (stream, target)]
        return self._page(request.query, account, pairs, "comment")

    def _children(self, request: Request, account: str, given: str) -> Response:
        workspace = self.workspaces[account]
        holder = workspace.holder(given)
        if holder is None or self.is_deleted(holder[1]):
            return _lost(given)
        if unshown := workspace.unshown(*holder):
            raise _Wrong(f"Block type {unshown} is not supported via the API.")
        blocks = workspace.blocks(*holder)
        return self._cut(request.query, blocks, lambda block: str(block["id"]), lambda block: block, "block")

    def _page(self, asked: Any, account: str, pairs: list[tuple[str, int]], kind: str, most: int = 0) -> Response:
        """pairs: (stream, place) of all results. most: how many of them can be listed at all; 0 is all."""
        workspace = self.workspaces[account]
        return self._cut(
            asked,
            pairs,
            lambda pair: workspace.id_of(*pair),
            lambda pair: self.table(account, pair[0]).row(pair[1]),
            kind,
            most,
        )

    def _cut(
        self,
        asked: Any,
        found: list[Any],
        id_of: Callable[[Any], str],
        row: Callable[[Any], JSON],
        kind: str,
        most: int = 0,
    ) -> Response:
        given = asked.get("page_size")
        if given is not None and not (str(given).isdigit() and 1 <= int(given) <= 100):
            raise _Wrong("page_size should be a number from 1 to 100.")
        listed = found[:most] if most else found
        start = 0
        if cursor := asked.get("start_cursor"):
            ids = [id_of(one) for one in listed]
            if cursor not in ids:
                raise _Wrong(f"The start_cursor provided is invalid: {str(cursor)[:40]}")
            start = ids.index(cursor)
        end = start + self.page_size(given, 100, 100)
        more = end < len(listed)
        body: JSON = {
            "object": "list",
            "results": [row(one) for one in listed[start:end]],
            "next_cursor": id_of(listed[end]) if more else None,
            "has_more": more,
            "type": kind,
            kind: {},
            "request_id": REQUEST_ID,
        }
        if not more and len(found) > len(listed):
            body["request_status"] = {"type": "incomplete", "incomplete_reason": "query_result_limit_reached"}
        return Response(200, body)


def _created(workspace: Workspace) -> Callable[[int], int]:
    return lambda place: workspace.created("rows", place)


def _lost(given: str) -> Response:
    words = f"Could not find the object with ID: {given[:40]}. Make sure it is shared with your integration."
    return _error(404, "object_not_found", words)


def _object(request: Request) -> JSON:
    body = request.json if request.body else {}
    if not isinstance(body, dict):
        raise _Wrong("body should be an object.")
    return body


def _bounds(given: Any) -> list[tuple[str, Callable[[float], bool]]]:
    """A filter by timestamps, or several joined by `and`: (which time, whether it fits)."""
    if not given:
        return []
    if not isinstance(given, dict):
        raise _Wrong("body.filter should be an object.")
    if "and" in given:
        return [bound for part in given["and"] for bound in _bounds(part)]
    name = given.get("timestamp")
    if name not in ("created_time", "last_edited_time") or not isinstance(given.get(name), dict):
        raise _Wrong("body.filter should name a timestamp and a condition on it.")
    return [(name, _fits(operator, value)) for operator, value in given[name].items()]


def _fits(operator: str, value: Any) -> Callable[[float], bool]:
    moment = seconds_of(value) if isinstance(value, str) else None
    tests: dict[str, Callable[[float, float], bool]] = {
        "on_or_after": lambda own, bound: own >= bound,
        "after": lambda own, bound: own > bound,
        "on_or_before": lambda own, bound: own <= bound,
        "before": lambda own, bound: own < bound,
    }
    if moment is None or operator not in tests:
        raise _Wrong(f"body.filter: {operator} is no condition on a time, or its value is none.")
    bound, test = moment, tests[operator]
    return lambda own: test(own, bound)
