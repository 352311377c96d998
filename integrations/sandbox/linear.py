"""Linear's GraphQL API: connections by cursor with filters by time, costs of a query, limits, and OAuth."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from typing import Any

from integrations.sandbox.graphql import GraphqlError, Selection, check, parse, pick
from integrations.sandbox.linear_rows import END, KINDS, SCHEMA, WORKSPACES, Workspace
from integrations.sandbox.stand_in import JSON, Grants, StandIn, Table
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World, seconds_of

STREAMS = tuple(name for name in KINDS if name != "labels")
NAMED = {"issueRelations": "relations"}  # connections whose streams are called otherwise
UNFILTERED = ("relations",)
ARGUMENTS = {"first", "last", "after", "before", "filter", "orderBy", "includeArchived"}
MOST = 250
COSTLIEST, POINTS_AN_HOUR = 10_000, 250_000
TRASHED = ("issues", "projects")  # which go to a bin; the rest is gone without a trace


def _error(status: int, code: str, message: str, kind: str = "") -> Response:
    more = {"code": code, "type": kind or code.lower().replace("_", " "), "userPresentableMessage": message}
    return Response(status, {"errors": [{"message": message, "extensions": more}], "data": None})


class Linear(StandIn):
    """The stand-in."""

    slug = "linear"
    name = "Linear"
    prefix = "lin_oauth_"
    refresh_prefix = "lin_refresh_"
    pasted_prefix = "lin_api_"
    accounts = {key: name for key, (_, name) in WORKSPACES.items()}
    streams = STREAMS
    grants = Grants(
        "/oauth/authorize", "/oauth/token", "/oauth/revoke", pkce=False, rotates=True, expires_in=86_399,
        scopes=("read",), separator=",",
    )  # fmt: skip

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.used: dict[str, int] = {}
        self.workspaces = {account: Workspace(world, account, empty=self.is_empty(account)) for account in WORKSPACES}

    def reset(self) -> None:
        self.used = {}

    def table(self, account: str, stream: str) -> Table:
        workspace = self.workspaces[account]
        return Table(
            [moment / 1000 for moment in workspace.times(stream)],
            lambda place: workspace.id_of(stream, place),
            lambda place: self._row(workspace, stream, place),
            timeless=stream in ("teams", "users", "projects", "relations"),
            tombstones=stream in TRASHED,
        )

    def _row(self, workspace: Workspace, stream: str, place: int) -> JSON:
        row = workspace.row(stream, place)
        if stream in TRASHED and self.is_deleted(place):
            row |= {"trashed": True, "archivedAt": row["updatedAt"]}
        return row

    # -- the API ------------------------------------------------------------------------------------------------------------

    def token_of(self, request: Request) -> str:
        """Personal keys come without a scheme, and only so."""
        given = request.headers.get("authorization", "")
        if given.startswith(self.pasted_prefix):
            return given
        return "" if request.token.startswith(self.pasted_prefix) else request.token

    def unauthorized(self, request: Request) -> Response:
        return _error(401, "AUTHENTICATION_ERROR", "Authentication required, not authenticated", "authentication error")

    def forbidden(self, request: Request, stream: str) -> Response:
        return _error(200, "FORBIDDEN", f"You don't have access to {stream}.", "forbidden")

    def rate_limited(self) -> Response:
        reset = int((time.time() + self.control.faults.retry_after) * 1000)
        headers = {"X-RateLimit-Requests-Limit": "5000", "X-RateLimit-Requests-Remaining": "0"}
        answer = _error(
            400, "RATELIMITED", "Rate limit exceeded. Only 5000 requests are allowed per 1 hour.", "ratelimited"
        )
        return answer.with_headers({**headers, "X-RateLimit-Requests-Reset": str(reset)})

    def finished(self, request: Request, account: str, response: Response) -> Response:
        """Headers of both budgets: requests and complexity, each to be whole again in an hour."""
        token, cost = self.token_of(request), int(response.headers.get("X-Complexity", "1"))
        self.used[token] = self.used.get(token, 0) + 1
        limit = 2500 if token.startswith(self.pasted_prefix) else 5000
        reset = str(int(time.time() * 1000) + 3_600_000)
        return response.with_headers(
            {
                "X-RateLimit-Requests-Limit": str(limit),
                "X-RateLimit-Requests-Remaining": str(max(0, limit - self.used[token])),
                "X-RateLimit-Requests-Reset": reset,
                "X-RateLimit-Complexity-Limit": str(POINTS_AN_HOUR),
                "X-RateLimit-Complexity-Remaining": str(max(0, POINTS_AN_HOUR - cost)),
                "X-RateLimit-Complexity-Reset": reset,
            }
        )

    def answer(self, request: Request, account: str) -> Response:
        if request.path != "/graphql" or request.method != "POST":
            return self.not_found(request)
        body = request.json
        if not isinstance(body, dict) or not isinstance(body.get("query"), str):
            return _error(400, "BAD_REQUEST", "POST body missing, invalid Content-Type, or JSON object has no keys.")
        variables = body.get("variables") or {}
        try:
            chosen = parse(body["query"], variables if isinstance(variables, dict) else {})
            check(SCHEMA, "Query", chosen)
        except GraphqlError as error:
            return _error(400, "GRAPHQL_VALIDATION_FAILED", str(error), "graphql error")
        cost = _cost("Query", chosen)
        if cost > COSTLIEST:
            words = f"Query is too complex ({cost:.0f}). The maximum allowed complexity is {COSTLIEST}."
            return _error(400, "INPUT_ERROR", words, "invalid input")
        data: JSON = {}
        for field in chosen:
            if (stream := NAMED.get(field.name, field.name)) in STREAMS and self.denies(stream):
                return self.forbidden(request, field.name)
            try:
                value = self._value(account, field)
            except GraphqlError as error:
                return _error(400, "GRAPHQL_VALIDATION_FAILED", str(error), "graphql error")
            except ValueError as error:
                return _error(400, "INPUT_ERROR", str(error), "invalid input")
            data[field.answer] = pick(SCHEMA, SCHEMA["Query"][field.name], field.selections, value)
        return Response(200, {"data": data}, {"X-Complexity": str(round(cost))})

    def _value(self, account: str, field: Selection) -> Any:
        workspace = self.workspaces[account]
        if field.name == "organization":
            key, name = WORKSPACES[account]
            return {"id": account, "urlKey": key, "name": name}
        if field.name == "viewer":
            # Somebody must have granted access, even to a workspace that holds nothing else.
            own = Workspace(self.world, account) if workspace.empty else workspace
            return own.row("users", 0)
        if field.name == "rateLimitStatus":
            limit = {"type": "request", "allowedAmount": 5000, "remainingAmount": 4999, "requestedAmount": 1}
            reset = int(time.time() * 1000) + 3_600_000
            return {"identifier": "u", "kind": "oauth", "limits": [{**limit, "period": 3_600_000, "reset": reset}]}
        return self._connection(account, workspace, field)

    def _connection(self, account: str, workspace: Workspace, field: Selection) -> JSON:
        stream, given = NAMED.get(field.name, field.name), field.arguments
        known = ARGUMENTS | ({"includeDisabled"} if stream == "users" else set())
        known -= {"filter"} if stream in UNFILTERED else set()
        if wrong := sorted(set(given) - known):
            raise GraphqlError(f'Unknown argument "{wrong[0]}" on field "Query.{field.name}".')
        first = given.get("first", 50)
        if type(first) is not int or not 1 <= first <= MOST:
            raise ValueError(f"first must be between 1 and {MOST}")
        order = given.get("orderBy", "createdAt")
        if order not in ("createdAt", "updatedAt"):
            raise GraphqlError(f'Value "{order}" does not exist in "PaginationOrderBy" enum.')
        table = self.table(account, stream)
        # When they were archived is asked of issues only.
        known_times = ("createdAt", "archivedAt") if stream == "issues" else ("createdAt",)
        places = self._filtered(table, given.get("filter"), known_times)
        if not given.get("includeArchived"):
            places = [place for place in places if table.row(place)["archivedAt"] is None]
        if stream == "users" and not given.get("includeDisabled"):
            places = [place for place in places if table.row(place)["active"]]
        # Places lie by updatedAt, so that rows need only be made when it is the other order that is asked for.
        if order == "createdAt":
            places.sort(key=lambda place: (table.row(place)["createdAt"], place))
        places.reverse()
        if "after" in given:
            after = workspace.place_of(stream, str(given["after"]))
            if after is None:
                raise ValueError("Argument Validation Error: the cursor is not valid.")
            if order == "updatedAt":
                places = [place for place in places if place < after]
            elif after in places:
                places = places[places.index(after) + 1 :]
        page = places[: self.page_size(first, 50, MOST)]
        info = {**END, "hasNextPage": len(places) > len(page)}
        if page:
            info |= {"endCursor": table.id_of(page[-1]), "startCursor": table.id_of(page[0])}
        return {"nodes": [table.row(place) for place in page], "pageInfo": info}

    def _filtered(self, table: Table, given: Any, known: tuple[str, ...]) -> list[int]:
        """filter: {updatedAt: {gte, lt, ...}, createdAt: {...}, archivedAt: {...}, id: {in: [...]}}"""
        low, high = 0, len(table.times)
        given = dict(given or {})
        named = given.pop("id", None)
        if named is not None and not (
            isinstance(named, dict) and isinstance(named.get("in"), list) and len(named) == 1
        ):
            raise GraphqlError('Only "in" of type "IDComparator" is known here.')
        others: list[tuple[str, str, float]] = []
        for name, comparator in given.items():
            if name not in ("updatedAt", *known) or not isinstance(comparator, dict):
                raise GraphqlError(f'Field "{name}" is not defined by the filter.')
            for operator, value in comparator.items():
                moment = seconds_of(value) if isinstance(value, str) else None
                if operator not in ("eq", "gt", "gte", "lt", "lte"):
                    raise GraphqlError(f'Field "{operator}" is not defined by type "DateComparator".')
                if moment is None:
                    raise ValueError(f"{value!r} is not a valid date.")
                if name != "updatedAt":
                    others.append((name, operator, moment))
                    continue
                left, right = bisect_left(table.times, moment), bisect_right(table.times, moment)
                if operator in ("gte", "gt", "eq"):
                    low = max(low, right if operator == "gt" else left)
                if operator in ("lte", "lt", "eq"):
                    high = min(high, left if operator == "lt" else right)
        places = self.rows(table, range(low, max(low, high)))
        return [
            at
            for at in places
            if all(_fits(table.row(at)[name], operator, moment) for name, operator, moment in others)
            and (named is None or table.id_of(at) in named["in"])
        ]


def _fits(value: str | None, operator: str, moment: float) -> bool:
    if value is None:
        return False
    own = seconds_of(value) or 0.0
    return {"eq": own == moment, "gt": own > moment, "gte": own >= moment, "lt": own < moment, "lte": own <= moment}[
        operator
    ]


def _cost(kind: str, selections: list[Selection]) -> float:
    """A tenth of a point a property, one an object; lists cost as many times as they may have rows."""
    total = 0.0
    for chosen in selections:
        inner = "" if chosen.name == "__typename" else SCHEMA[kind][chosen.name].strip("[]")
        if not inner:
            total += 0.1
        elif inner.endswith("Connection"):
            first = chosen.arguments.get("first", 50)
            total += (first if type(first) is int else 50) * _cost(inner, chosen.selections)
        else:
            total += 1 + _cost(inner, chosen.selections)
    return total
