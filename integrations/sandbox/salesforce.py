"""Salesforce's REST API, the SOQL that an import needs, and OAuth."""

from __future__ import annotations

import re
import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from integrations.sandbox.consent import authorize
from integrations.sandbox.faults import Control
from integrations.sandbox.salesforce_rows import ACCOUNTS, TABLES, Organization
from integrations.sandbox.soql import Query, SoqlError, parse
from integrations.sandbox.tokens import Tokens
from integrations.sandbox.wire import Request, Response, whole
from integrations.sandbox.world import COMPANIES, World

__all__ = ["ACCOUNTS", "PREFIX", "Salesforce"]

SLUG, NAME, PREFIX, REFRESH_PREFIX = "salesforce", "Salesforce", "00Dsb0000000001!", "5Aep"
PAGE = 2000
DAILY_LIMIT = 100_000
MOST_CURSORS = 200
EXPIRED = Response(401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}])
STREAMS = {
    "Account": "accounts",
    "Contact": "contacts",
    "Opportunity": "opportunities",
    "Case": "cases",
    "Task": "tasks",
}
_PATH = re.compile(r"/services/data/v([0-9]{1,3})\.0/(query|queryAll)(?:/([^/]+))?/?")
_LOCATOR = re.compile(r"([0-9A-Za-z]+)-([0-9]{1,9})")


@dataclass(frozen=True)
class Cursor:
    """A query's rows, to be read on from an offset."""

    account: str
    table: str
    fields: list[tuple[str, str]]
    rows: Sequence[int]


def _error(status: int, code: str, message: str) -> Response:
    return Response(status, [{"message": message, "errorCode": code}])


class Salesforce:
    """The stand-in. `world` may be replaced while it runs."""

    slug = SLUG
    prefix = PREFIX
    refresh_prefix = REFRESH_PREFIX
    accounts = ACCOUNTS

    def __init__(self, world: World, tokens: Tokens, control: Control) -> None:
        self.tokens, self.control = tokens, control
        self.used = 0
        self.cursors: dict[str, Cursor] = {}
        self.set_world(world)

    def set_world(self, world: World) -> None:
        self.organizations = {account: Organization(world, account) for account in ACCOUNTS}
        self.cursors.clear()

    def reset(self) -> None:
        self.used = 0

    # -- OAuth --------------------------------------------------------------------------------------------------------------

    def oauth(self, request: Request) -> Response | None:
        """OAuth's endpoints; None for another path."""
        if request.path == "/services/oauth2/authorize":
            return authorize(request, self.tokens, SLUG, NAME, ACCOUNTS)
        if request.path == "/services/oauth2/token" and request.method == "POST":
            return self._token(request)
        if request.path == "/services/oauth2/revoke" and request.method == "POST":
            given = request.form.get("token", "")
            token = self.tokens.read(REFRESH_PREFIX, given, "refresh") or self.tokens.read(PREFIX, given)
            if token is None:
                return Response(
                    400, {"error": "unsupported_token_type", "error_description": "this token type is not supported"}
                )
            self.tokens.revoke(token)
            return Response(200)
        return None

    def _token(self, request: Request) -> Response:
        form = request.form

        def refused(error: str, words: str) -> Response:
            return Response(400, {"error": error, "error_description": words})

        if form.get("client_id") != f"sandbox-{SLUG}":
            return refused("invalid_client_id", "client identifier invalid")
        if form.get("client_secret") != "sandbox-secret":
            return refused("invalid_client", "invalid client credentials")
        if form.get("grant_type") == "authorization_code":
            code = self.tokens.redeem(
                SLUG, form.get("code", ""), form.get("redirect_uri", ""), form.get("code_verifier", "")
            )
            if code is None:
                return refused("invalid_grant", "expired authorization code")
            grant = secrets.token_hex(8)
            account = code.account
            more = {"refresh_token": self.tokens.make(REFRESH_PREFIX, SLUG, account, "refresh", grant)}
        elif form.get("grant_type") == "refresh_token":
            old = self.tokens.read(REFRESH_PREFIX, form.get("refresh_token", ""), "refresh")
            if old is None:
                return refused("invalid_grant", "expired access/refresh token")
            self.tokens.refreshed(old)
            grant, account, more = old.grant, old.account, {}
        else:
            return refused("unsupported_grant_type", "grant type not supported")
        return Response(
            200,
            {
                "access_token": self.tokens.make(PREFIX, SLUG, account, "access", grant),
                **more,
                "signature": secrets.token_hex(22),
                "scope": "refresh_token openid email api",
                "instance_url": request.base,
                "id": f"{request.base}/id/{account}/005sb0000000000AAA",
                "token_type": "Bearer",
                "issued_at": str(int(time.time() * 1000)),
            },
        )

    # -- the API ------------------------------------------------------------------------------------------------------------

    def account_of(self, request: Request) -> str | None:
        token = self.tokens.read(PREFIX, request.token)
        return token.account if token is not None and token.account in ACCOUNTS else None

    def rate_limited(self) -> Response:
        return _error(
            403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded."
        ).with_headers({"Retry-After": str(self.control.faults.retry_after)})

    def quota_used_up(self) -> Response:
        return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")

    def api(self, request: Request) -> Response:
        account = self.account_of(request)
        if account is None:
            return EXPIRED
        self.used += 1
        response = self._answer(request, account)
        return response.with_headers(
            {"Sforce-Limit-Info": f"api-usage={self.used}/{self.control.faults.daily_quota or DAILY_LIMIT}"}
        )

    def _answer(self, request: Request, account: str) -> Response:
        if request.path == "/services/oauth2/userinfo":
            return Response(
                200,
                {
                    "sub": f"{request.base}/id/{account}/005sb0000000000AAA",
                    "user_id": "005sb0000000000AAA",
                    "organization_id": account,
                    "preferred_username": f"admin@{COMPANIES[list(ACCOUNTS).index(account)][1]}",
                    "name": ACCOUNTS[account],
                    "email": f"admin@{COMPANIES[list(ACCOUNTS).index(account)][1]}",
                },
            )
        match = _PATH.fullmatch(request.path)
        if match is None:
            return _error(404, "NOT_FOUND", "The requested resource does not exist")
        if request.method != "GET":
            return _error(
                405, "METHOD_NOT_ALLOWED", f"HTTP Method '{request.method[:20]}' not allowed. Allowed are GET"
            )
        version, everything, locator = match[1], match[2] == "queryAll", match[3]
        if locator:
            return self._go_on(request, account, version, locator)
        try:
            query = parse(request.query.get("q", ""), TABLES)
        except SoqlError as error:
            return _error(400, error.code, str(error))
        return self._query(request, account, version, query, everything)

    def _query(self, request: Request, account: str, version: str, query: Query, everything: bool) -> Response:
        table = query.table.name
        rows = self._matching(account, query)
        if not everything:
            organization = self.organizations[account]
            rows = [index for index in rows if not organization.is_deleted(table, index)]
        if query.descending:
            rows = rows[::-1]
        if query.limit is not None:
            rows = rows[: query.limit]
        if query.fields is None:
            return Response(200, {"totalSize": len(rows), "done": True, "records": []})
        return self._page(request, version, Cursor(account, table, query.fields, rows), 0, "")

    def _matching(self, account: str, query: Query) -> Sequence[int]:
        times = self.organizations[account].modified(query.table.name)
        low, high = 0, len(times)
        for condition in query.conditions:
            left, right = bisect_left(times, condition.seconds), bisect_right(times, condition.seconds)
            if condition.operator in (">=", "="):
                low = max(low, left)
            if condition.operator in ("<=", "="):
                high = min(high, right)
            if condition.operator == ">":
                low = max(low, right)
            if condition.operator == "<":
                high = min(high, left)
        return range(low, max(low, high))

    def _go_on(self, request: Request, account: str, version: str, locator: str) -> Response:
        found = _LOCATOR.fullmatch(locator)
        cursor = self.cursors.get(found[1]) if found else None
        if found is None or cursor is None or cursor.account != account or int(found[2]) >= len(cursor.rows):
            return _error(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
        return self._page(request, version, cursor, int(found[2]), found[1])

    def _page(self, request: Request, version: str, cursor: Cursor, offset: int, locator: str) -> Response:
        asked = re.search(r"batchSize=([0-9]{1,9})", request.headers.get("sforce-query-options", ""))
        end = offset + whole(asked[1] if asked else None, PAGE, 200, PAGE)
        organization, table = self.organizations[cursor.account], cursor.table
        body: dict[str, Any] = {
            "totalSize": len(cursor.rows),
            "done": end >= len(cursor.rows),
            "records": [
                _pick(organization.row(table, index), cursor.fields, table, version)
                for index in cursor.rows[offset:end]
            ],
        }
        if not body["done"]:
            if not locator:
                locator = "01gsb" + secrets.token_hex(5)
                while len(self.cursors) >= MOST_CURSORS:
                    self.cursors.pop(next(iter(self.cursors)))
                self.cursors[locator] = cursor
            body["nextRecordsUrl"] = f"/services/data/v{version}.0/query/{locator}-{end}"
        return Response(200, body)

    def truth(self, account: str, since: float | None, until: float | None) -> dict[str, int]:
        """How many rows each stream holds in [since, until)."""
        found = {}
        for table, name in STREAMS.items():
            times = self.organizations[account].modified(table)
            low = 0 if since is None else bisect_left(times, since)
            high = len(times) if until is None else bisect_left(times, until)
            found[name] = max(0, high - low)
        return found


def _pick(row: dict[str, Any], fields: list[tuple[str, str]], table: str, version: str) -> dict[str, Any]:
    """The chosen fields of a row, parents as objects, with the attributes that Salesforce adds."""
    picked: dict[str, Any] = {
        "attributes": {"type": table, "url": f"/services/data/v{version}.0/sobjects/{table}/{row['Id']}"}
    }
    for name, tail in fields:
        if not tail or row[name] is None:
            picked[name] = row[name]
        else:
            kind = {"Parent": "Account", "Owner": "User", "Who": "Name", "What": "Name"}.get(name, name)
            parent = picked.setdefault(name, {"attributes": {"type": kind}})
            parent[tail] = row[name][tail]
    return picked
