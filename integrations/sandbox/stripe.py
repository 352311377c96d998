"""Stripe's REST API: lists by cursor and time of creation, single objects, the search's totals, and OAuth of Stripe Apps."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from integrations.sandbox.stand_in import JSON, Grants, StandIn, Table
from integrations.sandbox.stripe_rows import ACCOUNTS, PREFIXES, Books
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World

STREAMS = {("payments" if name == "payment_intents" else name): name for name in PREFIXES}
SEARCHED = ("customers", "products", "subscriptions", "invoices", "payment_intents", "charges")
UNDATED = ("products",)  # searched, but not by when they were made
# What a list takes, besides what all take.
FILTERS = {
    "customers": {"email"},
    "products": {"active"},
    "prices": {"active", "product", "currency", "type"},
    "subscriptions": {"customer", "status", "collection_method"},
    "invoices": {"customer", "status", "subscription"},
    "payment_intents": {"customer"},
    "charges": {"customer", "payment_intent"},
    "refunds": {"charge", "payment_intent"},
    "disputes": {"charge", "payment_intent"},
    "events": {"type", "types"},
}
PAGING = {"limit", "starting_after", "ending_before", "created", "expand"}
EXPANDS = {"data.customer", "data.payments"}
_PATH = re.compile(r"/v1/([a-z_]+)(?:/([A-Za-z0-9_]+))?")
_LINES = re.compile(r"/v1/invoices/([A-Za-z0-9_]+)/lines")
_TERM = re.compile(r"created(>=|<=|>|<)([0-9]{1,11})")


class _Wrong(Exception):
    """A request that Stripe refuses."""

    def __init__(self, message: str, param: str = "", code: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.response = _error(status, message, code, param)


def _error(status: int, message: str, code: str = "", param: str = "") -> Response:
    error = {"type": "invalid_request_error", "message": message}
    if code:
        error |= {"code": code, "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"}
    return Response(status, {"error": error | ({"param": param} if param else {})})


class Stripe(StandIn):
    """The stand-in."""

    slug = "stripe"
    name = "Stripe"
    prefix = "sk_live_sb_"
    refresh_prefix = "rt_sb_"
    pasted_prefix = "rk_live_"
    accounts = ACCOUNTS
    streams = tuple(STREAMS)
    grants = Grants("/authorize", "/v1/oauth/token", secret_as_user=True, pkce=False, rotates=True)

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.books = {account: Books(world, account, empty=self.is_empty(account)) for account in ACCOUNTS}

    def table(self, account: str, stream: str) -> Table:
        books, resource = self.books[account], STREAMS[stream]
        return Table(
            books.times(resource),
            lambda place: books.id_of(resource, place),
            lambda place: books.row(resource, place),
        )

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_of(self, request: Request) -> str:
        return request.token or request.basic[0]

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        return Response(
            200,
            {
                **answer,
                "token_type": "bearer",
                "scope": "stripe_apps",
                "livemode": True,
                "stripe_user_id": account,
                "stripe_publishable_key": "pk_live_sandbox",
            },
        )

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        if error == "invalid_client":
            return _error(401, "Invalid API Key provided: sk_live_******cret")
        return super().token_refused(error, words, status)

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        if not self.token_of(request):
            return _error(401, "You did not provide an API key.")
        return _error(401, "Invalid API Key provided: rk_live_*********************4242")

    def forbidden(self, request: Request, stream: str) -> Response:
        words = f"Having the 'rak_{STREAMS[stream].removesuffix('s')}_read' permission would allow this request to continue."
        return _error(403, f"The provided key 'rk_live_****4242' does not have the required permissions. {words}")

    def not_found(self, request: Request) -> Response:
        return _error(404, f"Unrecognized request URL ({request.method}: {request.path}).")

    def rate_limited(self) -> Response:
        answer = _error(429, "Request rate limit exceeded.", "rate_limit")
        return answer.with_headers({"Stripe-Rate-Limited-Reason": "endpoint-rate", "Stripe-Should-Retry": "true"})

    def finished(self, request: Request, account: str, response: Response) -> Response:
        version = request.headers.get("stripe-version", "2026-10-28.endive")
        return response.with_headers({"Request-Id": f"req_{secrets.token_hex(7)}", "Stripe-Version": version})

    def answer(self, request: Request, account: str) -> Response:
        if request.method != "GET":
            return self.not_found(request)
        if request.path == "/v1/account":
            return Response(200, self._account(account))
        if (lines := _LINES.fullmatch(request.path)) is not None:
            return self._lines(request, account, lines[1])
        found = _PATH.fullmatch(request.path)
        if found is None or found[1] not in FILTERS:
            return self.not_found(request)
        resource, one = found[1], found[2]
        stream = next(name for name, held in STREAMS.items() if held == resource)
        if self.denies(stream):
            return self.forbidden(request, stream)
        try:
            if one == "search" and resource in SEARCHED:
                return self._search(request, account, resource)
            return self._one(account, resource, one) if one else self._list(request, account, stream)
        except _Wrong as wrong:
            return wrong.response

    def _account(self, account: str) -> JSON:
        name = ACCOUNTS[account]
        return {
            "id": account,
            "object": "account",
            "business_profile": {"name": name, "url": None},
            "country": "DE",
            "default_currency": "eur",
            "email": None,
            "settings": {"dashboard": {"display_name": name, "timezone": "Etc/UTC"}},
        }

    def _one(self, account: str, resource: str, given: str) -> Response:
        books = self.books[account]
        place, kind = books.place_of(resource, given), resource.removesuffix("s")
        if place is None:
            raise _Wrong(f"No such {kind}: '{given}'", "id", "resource_missing", 404)
        if self.is_deleted(place):
            return Response(200, {"id": given, "object": kind, "deleted": True})
        return Response(200, books.row(resource, place))

    def _lines(self, request: Request, account: str, given: str) -> Response:
        books = self.books[account]
        place = books.place_of("invoices", given)
        if self.denies("invoices"):
            return self.forbidden(request, "invoices")
        if place is None or self.is_deleted(place):
            return _error(404, f"No such invoice: '{given}'", "resource_missing", "id")
        rows, after = books.lines_of(place), request.query.get("starting_after")
        first = next((at + 1 for at, row in enumerate(rows) if row["id"] == after), 0)
        page = rows[first : first + self.page_size(request.query.get("limit"), 10, 100)]
        more = first + len(page) < len(rows)
        return Response(200, {"object": "list", "url": request.path, "has_more": more, "data": page})

    def _list(self, request: Request, account: str, stream: str) -> Response:
        resource, query = STREAMS[stream], request.query
        for name in query:
            if name.partition("[")[0] not in PAGING | FILTERS[resource]:
                raise _Wrong(f"Received unknown parameter: {name}", name, "parameter_unknown")
        expanded = {value for name, value in query.items() if name.startswith("expand[")}
        if wrong := sorted(expanded - EXPANDS):
            raise _Wrong(f"This property cannot be expanded ({wrong[0]}).", "expand")
        table = self.table(account, stream)
        places = self._filtered(query, account, resource, self.rows(table, self._created(query, table)))[::-1]
        limit = self.page_size(_limit(query), 10, 100)
        after, before = query.get("starting_after"), query.get("ending_before")
        if after and before:
            raise _Wrong("You cannot specify both starting_after and ending_before.")
        if after:
            place = self._place(account, resource, after, "starting_after")
            places = [other for other in places if other < place]
        elif before:
            place = self._place(account, resource, before, "ending_before")
            places = [other for other in places if other > place]
        more = len(places) > limit
        page = places[-limit:] if before else places[:limit]
        data = [self._row(account, resource, place, expanded) for place in page]
        return Response(200, {"object": "list", "url": f"/v1/{resource}", "has_more": more, "data": data})

    def _row(self, account: str, resource: str, place: int, expanded: set[str]) -> JSON:
        books = self.books[account]
        row = books.row(resource, place)
        if resource == "invoices" and "data.payments" in expanded:
            row["payments"] = books.payments_of(place)
        if "data.customer" in expanded and row.get("customer"):
            customer = books.place_of("customers", row["customer"])
            row["customer"] = books.row("customers", customer or 0)
        return row

    def _place(self, account: str, resource: str, given: str, param: str) -> int:
        place = self.books[account].place_of(resource, given)
        if place is None or self.is_deleted(place):
            raise _Wrong(f"No such {resource.removesuffix('s')}: '{given}'", param, "resource_missing")
        return place

    def _created(self, query: dict[str, str], table: Table) -> range:
        since = until = None
        for name, value in query.items():
            if name.partition("[")[0] != "created":
                continue
            if not value.isdigit():
                raise _Wrong(f"Invalid integer: {value}", name, "parameter_invalid_integer")
            moment = int(value)
            if name == "created":
                since, until = moment, moment + 1
            elif name in ("created[gte]", "created[gt]"):
                since = max(since or 0, moment + (name == "created[gt]"))
            elif name in ("created[lt]", "created[lte]"):
                until = min(until or moment + 1, moment + (name == "created[lte]"))
            else:
                raise _Wrong(f"Received unknown parameter: {name}", name, "parameter_unknown")
        return table.within(since, until)

    def _filtered(self, query: dict[str, str], account: str, resource: str, places: Sequence[int]) -> list[int]:
        wanted = {name: query[name] for name in FILTERS[resource] if name in query}
        types = {value for name, value in query.items() if name.startswith("types[")} | {wanted.pop("type", "")}
        if len(types - {""}) > 20:
            raise _Wrong("You may only specify up to 20 event types.", "types")
        status = wanted.pop("status", "")
        if resource == "events":
            wanted.pop("types", None)
        if resource == "prices":
            wanted.setdefault("active", "true")
        if "active" in wanted:
            wanted["active"] = str(wanted["active"] == "true")
        if not wanted and not status and resource not in ("events", "subscriptions"):
            return list(places)
        kept = []
        for place in places:
            row = self.books[account].row(resource, place)
            if resource == "events" and types - {""} and row["type"] not in types:
                continue
            if resource == "subscriptions" and status in ("", "all"):
                if not status and row["status"] == "canceled":
                    continue
            elif status and row.get("status") != status:
                continue
            if all(str(row.get(name)) == value for name, value in wanted.items()):
                kept.append(place)
        return kept

    def _search(self, request: Request, account: str, resource: str) -> Response:
        """created>=N AND created<N"""
        if resource in UNDATED:
            raise _Wrong(f"Field `created` is an unsupported search field for resource `{resource}`.", "query")
        since = until = None
        for term in re.split(r"\s+AND\s+", request.query.get("query", "")):
            found = _TERM.fullmatch(term.strip())
            if found is None:
                raise _Wrong("We were unable to parse your search query.", "query")
            moment = int(found[2])
            if found[1].startswith(">"):
                since = moment + (found[1] == ">")
            else:
                until = moment + (found[1] == "<=")
        stream = next(name for name, held in STREAMS.items() if held == resource)
        table = self.table(account, stream)
        places = self.rows(table, table.within(since, until))[::-1]
        page = places[: self.page_size(_limit(request.query), 10, 100)]
        body = {
            "object": "search_result",
            "url": f"/v1/{resource}/search",
            "has_more": len(places) > len(page),
            "next_page": None,
            "data": [self.books[account].row(resource, place) for place in page],
        }
        if "total_count" in request.query.values():
            body["total_count"] = len(places)
        return Response(200, body)


def _limit(query: dict[str, str]) -> str | None:
    given = query.get("limit")
    if given is not None and (not given.isdigit() or not 1 <= int(given) <= 100):
        raise _Wrong(f"Invalid integer: {given[:20]}", "limit", "parameter_invalid_integer")
    return given
