"""Intercom's REST API (search, scroll, single conversations) and OAuth."""

from __future__ import annotations

import base64
import re
import secrets
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import orjson

from integrations.sandbox.intercom_rows import Workspace
from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World

VERSIONS = ("2.10", "2.11", "2.12", "2.13", "2.14", "2.15", "2.16", "Unstable")
ZONE = timezone(timedelta(hours=-5))  # the workspace's
SCROLL_SECONDS = 60
LISTED = {"contacts": "data", "conversations": "conversations", "tickets": "tickets"}


def _error(status: int, code: str, message: str) -> Response:
    errors = [{"code": code, "message": message}]
    return Response(status, {"type": "error.list", "request_id": "b68959ghi30ri2jdmx9i", "errors": errors})


class _Wrong(Exception):
    """What is wrong with a search."""


class Intercom(StandIn):
    """The stand-in."""

    slug = "intercom"
    name = "Intercom"
    prefix = "dG9rOsb"
    pasted_prefix = "dG9rOper"
    accounts = {"nw8ind01": "Northwind Traders", "c0nt0s02": "Contoso", "br4ndn03": "Brand New"}
    streams = ("admins", "teams", "companies", "contacts", "conversations", "messages", "tickets")
    grants = Grants("/oauth", "/auth/eagle/token", "/auth/uninstall", revokes_all=True, pkce=False, refreshes=False)

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.workspaces = {
            account: Workspace(world, account, partial(self.count, account)) for account in self.accounts
        }
        self.scrolls: dict[str, tuple[str, int, float]] = {}  # account -> (param, offset, when it was used)
        self.routes = [
            Route("GET", re.compile("/me"), self._me),
            Route("GET", re.compile("/(?P<name>admins)"), self._all, "admins"),
            Route("GET", re.compile("/(?P<name>teams)"), self._all, "teams"),
            Route("GET", re.compile("/companies/scroll"), self._scroll, "companies"),
            *(Route("POST", re.compile(f"/(?P<name>{name})/search"), self._search, name) for name in LISTED),
            Route("GET", re.compile("/conversations/(?P<which>[0-9]+)"), self._conversation, "messages"),
        ]

    def table(self, account: str, stream: str) -> Table:
        held = self.workspaces[account]
        if stream in ("admins", "teams"):
            row: Callable[[int], JSON] = held.admin if stream == "admins" else held.team
            count = held.admins if stream == "admins" else held.teams
            return Table([0.0] * count, lambda place: row(place)["id"], row, timeless=True)
        if stream == "messages":
            return Table([part[0] for part in held.parts], held.part_id, lambda index: held.part(index, plain=True))
        timeless = stream == "companies"
        return Table(held.updated[stream], partial(held.id_of, stream), partial(held.row, stream), timeless=timeless)

    def truth_ids(self, account: str, stream: str, since: float | None, until: float | None) -> list[str]:
        if stream != "messages":
            return super().truth_ids(account, stream, since, until)
        table, held = self.table(account, stream), self.workspaces[account]
        places = self.rows(table, table.within(since, until))
        return [held.part_id(index) for index in places if not self.is_deleted(held.parts[index][1])]

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        return Response(
            200, {"token_type": "Bearer", "token": answer["access_token"], "access_token": answer["access_token"]}
        )

    def revoked(self, request: Request) -> Response:
        """The app takes itself away, with the token that it was given."""
        if request.method != "POST" or not self.take_back(request.token):
            return self.unauthorized(request)
        return Response(200, {"type": "app.uninstalled"})

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        return _error(401, "unauthorized", "Access Token Invalid")

    def forbidden(self, request: Request, stream: str) -> Response:
        return _error(401, "token_unauthorized", "Not authorized to access resource")

    def not_found(self, request: Request) -> Response:
        return _error(404, "not_found", "Resource Not Found")

    def rate_limited(self) -> Response:
        reset = str(int(time.time()) + self.control.faults.retry_after)
        headers = {"X-RateLimit-Limit": "10000", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
        return _error(429, "rate_limit_exceeded", "Exceeded rate limit of 1666 in 10_seconds").with_headers(headers)

    def finished(self, request: Request, account: str, response: Response) -> Response:
        headers = {
            "X-RateLimit-Limit": "10000",
            "X-RateLimit-Remaining": "1665",
            "X-RateLimit-Reset": str(int(time.time()) // 10 * 10 + 10),
        }
        version = request.headers.get("intercom-version", VERSIONS[0])
        return response.with_headers({**headers, "Intercom-Version": version[:20]})

    def answer(self, request: Request, account: str) -> Response:
        if request.headers.get("intercom-version", VERSIONS[0]) not in VERSIONS:
            return _error(400, "intercom_version_invalid", "The requested version could not be found")
        return super().answer(request, account)

    def _me(self, request: Request, account: str) -> Response:
        app = {
            "type": "app",
            "id_code": account,
            "name": self.accounts[account],
            "region": "US",
            "timezone": "America/New_York",
        }
        admin = Workspace(self.world, account, lambda share: 1).admin(0)
        return Response(
            200,
            {
                **admin,
                "email_verified": True,
                "app": {**app, "created_at": 1_600_000_000, "identity_verification": False},
            },
        )

    def _all(self, request: Request, account: str, name: str) -> Response:
        table = self.table(account, name)
        places = self.rows(table, range(len(table.times)))
        return Response(200, {"type": f"{name[:-1]}.list", name: [table.row(place) for place in places]})

    def _scroll(self, request: Request, account: str) -> Response:
        """Each scroll has one reader: whoever begins anew ends the one before, and it ends by itself after a minute."""
        given, now = request.query.get("scroll_param"), time.time()
        param, offset, used = self.scrolls.get(account, ("", 0, 0.0))
        if given is None:
            param, offset = secrets.token_hex(12), 0
        elif given != param or now - used > SCROLL_SECONDS:
            return _error(404, "not_found", "scroll parameter not found")
        table = self.table(account, "companies")
        places = self.rows(table, range(len(table.times)))
        end = offset + self.page_size(None, 100, 100)
        self.scrolls[account] = (param, end, now)
        rows = [table.row(place) for place in places[offset:end]]
        return Response(
            200, {"type": "list", "data": rows, "pages": None, "total_count": len(places), "scroll_param": param}
        )

    def _conversation(self, request: Request, account: str, which: str) -> Response:
        held = self.workspaces[account]
        place = int(which[:9]) - int(held.id_of("conversations", 0))
        if not 0 <= place < len(held.updated["conversations"]) or self.is_deleted(place):
            return _error(404, "not_found", "Resource Not Found")
        listed = [index for index in held.parts_of.get(place, []) if not self.is_deleted(index)]
        return Response(200, held.conversation(place, listed, plain=request.query.get("display_as") == "plaintext"))

    # -- search -------------------------------------------------------------------------------------------------------------

    def _search(self, request: Request, account: str, name: str) -> Response:
        body = request.json if isinstance(request.json, dict) else {}
        held, table = self.workspaces[account], self.table(account, name)
        try:
            matches = _matcher(body.get("query"), name)
            sort, paging = body.get("sort") or {}, body.get("pagination") or {}
            start = _offset(paging.get("starting_after"))
        except _Wrong as wrong:
            return _error(400, "parameter_invalid", str(wrong))

        def value(place: int, field: str) -> Any:
            return (
                held.created(name, place)
                if field == "created_at"
                else table.times[place]
                if field == "updated_at"
                else table.row(place).get(field)
            )

        found = [place for place in self.rows(table, range(len(table.times))) if matches(partial(value, place))]
        by = sort.get("field", "updated_at")
        found.sort(
            key=lambda place: str(value(place, by)) if by not in ("created_at", "updated_at") else value(place, by)
        )
        if sort.get("order") != "ascending":
            found.reverse()
        size = self.page_size(paging.get("per_page"), 50 if name == "contacts" else 20, 150)
        pages: JSON = {
            "type": "pages",
            "page": start // size + 1,
            "per_page": size,
            "total_pages": -(-len(found) // size),
        }
        if start + size < len(found):
            pages["next"] = {
                "per_page": size,
                "starting_after": base64.b64encode(orjson.dumps([start + size])).decode(),
            }
        rows = [table.row(place) for place in found[start : start + size]]
        kind = "list" if name == "contacts" else f"{name[:-1]}.list"
        return Response(200, {"type": kind, LISTED[name]: rows, "total_count": len(found), "pages": pages})


def _offset(token: Any) -> int:
    if not token:
        return 0
    try:
        return int(orjson.loads(base64.b64decode(str(token)))[0])
    except (ValueError, TypeError, LookupError):
        raise _Wrong("starting_after is invalid") from None


def _matcher(query: Any, name: str, depth: int = 0) -> Callable[[Callable[[str], Any]], bool]:
    """The query as a test of a row, which is given as field -> value."""
    if not isinstance(query, dict):
        raise _Wrong("query must be an object")
    if query.get("operator") in ("AND", "OR"):
        inner = query.get("value")
        if depth == 2 or not isinstance(inner, list) or not 0 < len(inner) <= 15:
            raise _Wrong("a group holds from 1 to 15 filters, two levels deep at most")
        tests = [_matcher(part, name, depth + 1) for part in inner]
        both = query["operator"] == "AND"
        return lambda value: all(test(value) for test in tests) if both else any(test(value) for test in tests)
    field, operator, wanted = query.get("field"), query.get("operator"), query.get("value")
    if field in ("created_at", "updated_at"):
        if type(wanted) is not int and not str(wanted).isdigit():
            raise _Wrong(f"{field} must be a date")
        return _on_time(str(field), str(operator), int(str(wanted)), days=name == "contacts")
    if operator not in ("=", "!="):
        raise _Wrong(f"operator {operator} is not supported")
    return lambda value: (str(value(str(field))) == str(wanted)) == (operator == "=")


def _on_time(field: str, operator: str, wanted: int, *, days: bool) -> Callable[[Callable[[str], Any]], bool]:
    """Contacts are compared by whole days of the workspace; the rest by seconds, edges included."""
    if operator not in ((">", "<", "=") if days else (">", "<", "=", ">=", "<=")):
        raise _Wrong(f"operator {operator} is not supported for {field}")
    if not days:
        if operator == "=":
            return lambda value: value(field) == wanted
        return (
            (lambda value: value(field) >= wanted)
            if operator.startswith(">")
            else (lambda value: value(field) <= wanted)
        )
    begins = datetime.fromtimestamp(wanted, ZONE).replace(hour=0, minute=0, second=0).timestamp()
    if operator == ">":
        return lambda value: value(field) >= begins + 86_400
    if operator == "<":
        return lambda value: value(field) < begins
    return lambda value: begins <= value(field) < begins + 86_400
