"""Salesforce's REST API, the SOQL that an import needs, and OAuth."""

from __future__ import annotations

import re
import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from integrations.sandbox import salesforce_bulk as bulk
from integrations.sandbox.salesforce_rows import ACCOUNTS, TABLES, UNMARKED, Organization
from integrations.sandbox.soql import Query, SoqlError, parse
from integrations.sandbox.stand_in import JSON, Grants, StandIn, Table
from integrations.sandbox.wire import Request, Response, whole
from integrations.sandbox.world import COMPANIES, World

PAGE = 2000
DAILY_LIMIT = 100_000
MOST_CURSORS = 200
EXPIRED = Response(401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}])
STREAMS = {
    "User": "users",
    "Account": "accounts",
    "Contact": "contacts",
    "Lead": "leads",
    "Opportunity": "opportunities",
    "OpportunityContactRole": "contact_roles",
    "Case": "cases",
    "Task": "tasks",
    "Event": "events",
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


class Salesforce(StandIn):
    """The stand-in."""

    slug = "salesforce"
    name = "Salesforce"
    prefix = "00Dsb0000000001!"
    refresh_prefix = "5Aep"
    accounts = ACCOUNTS
    streams = tuple(STREAMS.values())
    grants = Grants(
        "/services/oauth2/authorize",
        "/services/oauth2/token",
        "/services/oauth2/revoke",
        scopes=("refresh_token", "openid", "email", "api"),
    )

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.used = 0
        self.cursors: dict[str, Cursor] = {}
        self.jobs = bulk.Jobs()
        self.organizations = {
            account: Organization(world, account, empty=self.is_empty(account)) for account in ACCOUNTS
        }

    def reset(self) -> None:
        self.used = 0
        self.jobs.left = None

    def table(self, account: str, stream: str) -> Table:
        name = next(table for table, named in STREAMS.items() if named == stream)
        organization = self.organizations[account]
        return Table(
            organization.modified(name),
            lambda index: organization.id_of(name, index),
            lambda index: organization.row(name, index) | self._deletion(organization, name, index),
            timeless=name == "User",
            tombstones=name not in UNMARKED,
        )

    def _deletion(self, organization: Organization, table: str, index: int) -> JSON:
        return {
            "IsDeleted": (self.is_deleted(index) and table not in UNMARKED) or organization.is_deleted(table, index)
        }

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        return Response(
            200,
            {
                **answer,
                "signature": secrets.token_hex(22),
                "instance_url": request.base,
                "id": f"{request.base}/id/{account}/005sb0000000000AAA",
                "issued_at": str(int(time.time() * 1000)),
            },
        )

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        own = "invalid_client_id" if "client id" in words else error
        return Response(400, {"error": own, "error_description": words})

    def revoked(self, request: Request) -> Response:
        if request.method == "POST" and self.take_back(request.form.get("token", "")):
            return Response(200)
        words = "this token type is not supported"
        return Response(400, {"error": "unsupported_token_type", "error_description": words})

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        if request.path == "/services/oauth2/userinfo":
            return Response(403, b"Bad_OAuth_Token", {"Content-Type": "text/html; charset=UTF-8"})
        return EXPIRED

    def forbidden(self, request: Request, stream: str) -> Response:
        table = next(table for table, named in STREAMS.items() if named == stream)
        return _error(400, "INVALID_TYPE", f"sObject type '{table}' is not supported.")

    def rate_limited(self) -> Response:
        return _error(
            403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded."
        ).with_headers({"Retry-After": str(self.control.faults.retry_after)})

    def quota_used_up(self) -> Response:
        return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")

    def finished(self, request: Request, account: str, response: Response) -> Response:
        self.used += 1
        limit = self.control.faults.daily_quota or DAILY_LIMIT
        return response.with_headers({"Sforce-Limit-Info": f"api-usage={self.used}/{limit}"})

    def answer(self, request: Request, account: str) -> Response:
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
        asked = bulk.PATH.fullmatch(request.path)
        if asked is not None:
            return self._bulk(request, account, *asked.groups())
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
        if self.denies(STREAMS[table]):
            return self.forbidden(request, STREAMS[table])
        rows = self._selected(account, query, everything)
        if query.fields is None:
            return Response(200, {"totalSize": len(rows), "done": True, "records": []})
        return self._page(request, version, Cursor(account, table, query.fields, rows), 0, "")

    def _bulk(self, request: Request, account: str, version: str, job_id: str | None, results: str | None) -> Response:
        """The Bulk API: makes a job, looks at it, aborts or deletes it, or brings a page of its results."""
        if job_id is None:
            given = request.json if request.method == "POST" and isinstance(request.json, dict) else {}
            operation, soql = given.get("operation"), given.get("query")
            if operation not in bulk.OPERATIONS or not isinstance(soql, str):
                return bulk.error(400, "INVALIDJOB", "operation must be query or queryAll, with a query.")
            try:
                query = parse(soql, TABLES)
            except SoqlError as error:
                return _error(400, error.code, str(error))
            if query.fields is None:
                return bulk.error(400, "INVALIDENTITY", "Aggregate queries are not supported by the Bulk API.")
            if self.denies(STREAMS[query.table.name]):
                return self.forbidden(request, STREAMS[query.table.name])
            rows = self._selected(account, query, bulk.OPERATIONS[operation])
            return self.jobs.make(account, version, query.table.name, operation, query.fields, rows)
        job = self.jobs.of(account, job_id)
        if job is None:
            return bulk.NO_JOB
        if results:
            render = self.table(account, STREAMS[job.table]).row
            return self.jobs.results(job, request, render, self.control.faults.page_size)
        return self.jobs.look(job) if request.method == "GET" else self.jobs.change(job, request)

    def _selected(self, account: str, query: Query, everything: bool) -> Sequence[int]:
        """Places of the rows that the query asks for. everything: deleted rows too."""
        rows, table = self._matching(account, query), query.table.name
        if table in UNMARKED:
            rows = [index for index in rows if not self.is_deleted(index)]
        if not everything:
            organization = self.organizations[account]
            rows = [index for index in rows if not self._deletion(organization, table, index)["IsDeleted"]]
        if query.descending:
            rows = rows[::-1]
        return rows if query.limit is None else rows[: query.limit]

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
        size = whole(asked[1] if asked else None, PAGE, 200, PAGE)
        end = offset + min(size, self.control.faults.page_size or size)
        render, table = self.table(cursor.account, STREAMS[cursor.table]).row, cursor.table
        body: dict[str, Any] = {
            "totalSize": len(cursor.rows),
            "done": end >= len(cursor.rows),
            "records": [_pick(render(index), cursor.fields, table, version) for index in cursor.rows[offset:end]],
        }
        if not body["done"]:
            if not locator:
                locator = "01gsb" + secrets.token_hex(5)
                while len(self.cursors) >= MOST_CURSORS:
                    self.cursors.pop(next(iter(self.cursors)))
                self.cursors[locator] = cursor
            body["nextRecordsUrl"] = f"/services/data/v{version}.0/query/{locator}-{end}"
        return Response(200, body)


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
