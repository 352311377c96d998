"""Zendesk's Support API and OAuth, as far as a history import goes: incremental exports, two lists, the search's count."""

from __future__ import annotations

import base64
import binascii
import re
import time
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World, seconds_of
from integrations.sandbox.zendesk_rows import ACCOUNTS, GROUPS, Desk

PLAN = 700  # calls a minute
KINDS = {"ticket": "tickets", "user": "users", "organization": "organizations"}
_UPDATED = re.compile(r"updated(>=|<|>|<=)(\S+)")


def _wrong(status: int, error: str, description: str) -> Response:
    return Response(status, {"error": error, "description": description})


class Zendesk(StandIn):
    """The stand-in."""

    slug = "zendesk"
    name = "Zendesk"
    prefix = "zdsb-"
    refresh_prefix = "zdsbr-"
    pasted_prefix = "admin@northwind.test/token:"
    accounts = ACCOUNTS
    streams = ("groups", "organizations", "users", "tickets", "comments", "ratings")
    grants = Grants(
        "/oauth/authorizations/new", "/oauth/tokens", rotates=True, expires_in=7200, scopes=("read",), pkce=False
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

        def route(path: str, handler: Callable[..., Response], stream: str = "", method: str = "GET") -> Route:
            return Route(method, re.compile(rf"/api/v2/{path}(?:\.json)?"), handler, stream)

        self.routes = [
            route("users/me", self._me),
            route("oauth/tokens/current", self._current),
            route(r"oauth/tokens/(?P<key>\d+)", self._revoke, method="DELETE"),
            route("incremental/tickets/cursor", self._tickets, "tickets"),
            route("incremental/users/cursor", self._users, "users"),
            route("incremental/organizations", self._organizations, "organizations"),
            route("incremental/ticket_events", self._events, "comments"),
            route("groups", self._groups, "groups"),
            route("satisfaction_ratings", self._ratings, "ratings"),
            route("search/count", self._search_count),
        ]

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.desks = {account: Desk(world, account, empty=self.is_empty(account)) for account in ACCOUNTS}

    # -- what it holds ------------------------------------------------------------------------------------------------------

    def table(self, account: str, stream: str) -> Table:
        desk = self.desks[account]
        if stream == "groups":
            places = range(0 if desk.empty else len(GROUPS))
            return Table(places, lambda place: str(desk.group_id(place)), desk.group, timeless=True)
        if stream == "comments":
            times = [desk.times("comments")[place] for place in desk.talk]
            row = lambda i: desk.event(desk.talk[i], comments=True)  # noqa: E731
            return Table(times, lambda i: str(desk.event_id(desk.talk[i])), row)
        if stream == "users":
            row = lambda place: desk.user(place, self.is_deleted(place))  # noqa: E731
            return Table(desk.times("users"), lambda place: str(desk.user_id(place)), row, tombstones=True)
        if stream == "tickets":
            row = lambda place: desk.ticket(place, self.is_deleted(place))  # noqa: E731
            return Table(desk.times("tickets"), lambda place: str(desk.ticket_id(place)), row, tombstones=True)
        if stream == "organizations":
            return Table(desk.times("organizations"), lambda place: str(desk.organization_id(place)), desk.organization)
        return Table(desk.times("ratings"), lambda place: str(desk.rating_id(place)), desk.rating)

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_of(self, request: Request) -> str:
        user, password = request.basic
        return f"{user}:{password}" if user else request.token

    def _number(self, request: Request) -> int:
        """The token's id: a number that says nothing about it."""
        return zlib.crc32(self.token_of(request).encode())

    def _current(self, request: Request, account: str) -> Response:
        token = {"id": self._number(request), "token": self.token_of(request)[:10], "scopes": ["read"], "client_id": 1}
        return Response(200, {"token": token})

    def _revoke(self, request: Request, account: str, key: str) -> Response:
        if int(key) != self._number(request):
            return self.not_found(request)
        self.take_back(request.token)
        return Response(204)

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        words = "The access token provided is expired, revoked, malformed or invalid for other reasons."
        return Response(401, {"error": "invalid_token", "error_description": words})

    def forbidden(self, request: Request, stream: str) -> Response:
        words = (
            "You do not have access to this page. Please contact the account owner of this help desk for further help."
        )
        return Response(403, {"error": {"title": "Forbidden", "message": words}})

    def not_found(self, request: Request) -> Response:
        return _wrong(404, "RecordNotFound", "Not found")

    def rate_limited(self) -> Response:
        words = "Number of allowed incremental export API requests per minute exceeded"
        return _wrong(429, "APIRateLimitExceeded", words).with_headers(
            {
                "Retry-After": str(self.control.faults.retry_after),
                "X-Rate-Limit": str(PLAN),
                "X-Rate-Limit-Remaining": "0",
            }
        )

    def finished(self, request: Request, account: str, response: Response) -> Response:
        left = str(PLAN - 1)
        return response.with_headers(
            {
                "X-Rate-Limit": str(PLAN),
                "X-Rate-Limit-Remaining": left,
                "ratelimit-limit": str(PLAN),
                "ratelimit-remaining": left,
                "ratelimit-reset": "41",
            }
        )

    def _me(self, request: Request, account: str) -> Response:
        desk = self.desks[account]
        me = {"id": desk.user_id(0), "url": f"https://{account}.zendesk.com/api/v2/users/{desk.user_id(0)}.json"}
        return Response(
            200, {"user": {**me, "name": "Sandbox Admin", "email": f"admin@{account}.test", "role": "admin"}}
        )

    def _start(self, request: Request) -> int | Response:
        given = request.query.get("start_time", "")
        if not given.lstrip("-").isdigit():
            return _wrong(400, "InvalidValue", "start_time is missing or is no Unix time")
        if int(given) > time.time() - 60:
            return _wrong(422, "StartTimeTooRecent", "Too recent start_time. Use a start_time older than 60 seconds")
        return int(given)

    def _by_cursor(self, request: Request, account: str, stream: str) -> Response:
        """A page of an export by cursor, which names the place that was read last."""
        table = self.table(account, stream)
        if "cursor" in request.query:
            start = _place(request.query["cursor"])
            if start is None or start > len(table.times):
                return _wrong(400, "InvalidPaginationParameter", "cursor is not valid")
        else:
            since = self._start(request)
            if isinstance(since, Response):
                return since
            start = bisect_left(table.times, since)
        end = min(start + self.page_size(request.query.get("per_page"), 1000, 1000), len(table.times))
        places = list(range(start, end))
        if request.query.get("exclude_deleted") == "true":
            places = [place for place in places if not self.is_deleted(place)]
        after = _cursor(table.times[end - 1] if end else 0, end)
        return Response(
            200,
            {
                stream: [table.row(place) for place in places],
                "after_url": f"{request.base}{request.path}?{urlencode({'cursor': after})}",
                "after_cursor": after,
                "before_url": None,
                "before_cursor": None,
                "end_of_stream": end >= len(table.times),
            },
        )

    def _tickets(self, request: Request, account: str) -> Response:
        return self._by_cursor(request, account, "tickets")

    def _users(self, request: Request, account: str) -> Response:
        return self._by_cursor(request, account, "users")

    def _by_time(self, request: Request, name: str, times: list[int], row: Callable[[int], JSON | None]) -> Response:
        """A page of an export by time. The rows of the second that it ends in come again with the next."""
        since = self._start(request)
        if isinstance(since, Response):
            return since
        start = bisect_left(times, since)
        end = start + self.page_size(request.query.get("per_page"), 1000, 1000)
        end = min(max(end, bisect_right(times, since) + 1), len(times))
        last = times[end - 1] if end > start else None
        more = {**request.query, "start_time": str(last or since)}
        rows = [found for found in map(row, range(start, end)) if found is not None]
        return Response(
            200,
            {
                name: rows,
                "count": len(rows),
                "end_time": last,
                "end_of_stream": end >= len(times),
                "next_page": f"{request.base}{request.path}?{urlencode(more)}",
            },
        )

    def _organizations(self, request: Request, account: str) -> Response:
        desk = self.desks[account]
        row = lambda place: None if self.is_deleted(place) else desk.organization(place)  # noqa: E731
        return self._by_time(request, "organizations", desk.times("organizations"), row)

    def _events(self, request: Request, account: str) -> Response:
        desk = self.desks[account]
        comments = "comment_events" in request.query.get("include", "")
        gone = {desk.talk[i] for i in range(len(desk.talk)) if self.is_deleted(i)}
        row = lambda place: None if place in gone else desk.event(place, comments=comments)  # noqa: E731
        return self._by_time(request, "ticket_events", desk.times("comments"), row)

    def _list(self, request: Request, table: Table, name: str, places: list[int]) -> Response:
        size = self.page_size(request.query.get("page[size]"), 100, 100)
        start = _place(request.query["page[after]"]) if request.query.get("page[after]") else 0
        if start is None:
            return _wrong(400, "InvalidPaginationParameter", "page[after] is not valid")
        end = start + size
        after = _cursor(0, end)
        following = f"{request.base}{request.path}?{urlencode({**request.query, 'page[after]': after})}"
        more = end < len(places)
        return Response(
            200,
            {
                name: [table.row(place) for place in places[start:end]],
                "meta": {"has_more": more, "after_cursor": after, "before_cursor": None},
                "links": {"next": following if more else None, "prev": None},
                # For clients that page by number.
                "next_page": None,
                "count": len(places),
            },
        )

    def _groups(self, request: Request, account: str) -> Response:
        table = self.table(account, "groups")
        return self._list(request, table, "groups", self.rows(table, range(len(table.times))))

    def _ratings(self, request: Request, account: str) -> Response:
        table = self.table(account, "ratings")
        since, until = (
            float(request.query[name]) if name in request.query else None for name in ("start_time", "end_time")
        )
        places = self.rows(table, table.within(since, until))
        return self._list(request, table, "satisfaction_ratings", places)

    def _search_count(self, request: Request, account: str) -> Response:
        query, desk = request.query.get("query", ""), self.desks[account]
        kind = re.search(r"type:(\w+)", query)
        if kind is None or kind[1] not in KINDS:
            return _wrong(422, "invalid", "Invalid search: type is needed here")
        times = desk.times(KINDS[kind[1]])
        low, high = 0, len(times)
        for sign, value in _UPDATED.findall(query):
            at = seconds_of(value)
            if at is None:
                return _wrong(422, "invalid", "Invalid search: bad date")
            edge = (bisect_left if sign in (">=", "<") else bisect_right)(times, at)
            low, high = (max(low, edge), high) if sign[0] == ">" else (low, min(high, edge))
        return Response(200, {"count": max(0, high - low)})


def _cursor(at: int | float, place: int) -> str:
    return base64.b64encode(f"{at}.0||{place}".encode()).decode()


def _place(cursor: str) -> int | None:
    try:
        place = base64.b64decode(cursor, validate=True).decode().partition("||")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None
    return int(place) if place.isdigit() else None
