"""HubSpot's CRM API (objects, search, associations, owners) and OAuth."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from integrations.sandbox.hubspot_rows import ANY_COMPANY, FIRST_ID, PIPELINES, PRIMARY, TYPES, Portal
from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response, whole
from integrations.sandbox.world import World, seconds_of

SEARCH_CAP = 10_000
TOKEN = "/oauth/2026-03/token"
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "EQ": lambda a, b: a == b,
    "NEQ": lambda a, b: a != b,
    "GT": lambda a, b: a > b,
    "GTE": lambda a, b: a >= b,
    "LT": lambda a, b: a < b,
    "LTE": lambda a, b: a <= b,
}


def _error(status: int, category: str, message: str, **more: Any) -> Response:
    correlation = "aeb5f871-7f07-4993-9211-075dc63e7cbf"
    return Response(
        status, {"status": "error", "message": message, "correlationId": correlation, "category": category, **more}
    )


class _Wrong(Exception):
    """What is wrong with a search."""


class HubSpot(StandIn):
    """The stand-in."""

    slug = "hubspot"
    name = "HubSpot"
    prefix = "CNsb"
    refresh_prefix = "eu1-"
    pasted_prefix = "pat-eu1-"
    accounts = {"7700001": "Northwind Traders", "7700002": "Contoso", "7700003": "Brand New"}
    streams = ("owners", *TYPES, "archived")
    grants = Grants("/oauth/authorize", TOKEN, f"{TOKEN}/revoke", pkce=False, expires_in=1800)

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.portals = {account: Portal(world, account, partial(self.count, account)) for account in self.accounts}
        types, to = "|".join(TYPES), "contacts|companies|deals|tickets"
        self.routes = [
            Route("GET", re.compile("/account-info/v3/details"), self._details),
            Route("GET", re.compile("/crm/v3/owners/?"), self._owners, "owners"),
            Route("POST", re.compile(f"/crm/v3/objects/(?P<name>{types})/search"), self._search),
            Route("GET", re.compile(f"/crm/v3/objects/(?P<name>{types})"), self._list),
            Route("GET", re.compile("/crm/v3/pipelines/(?P<name>deals|tickets)"), self._pipelines),
            Route(
                "POST",
                re.compile(f"/crm/v4/associations/(?P<name>{types})/(?P<to>{to})/batch/read"),
                self._associations,
            ),
        ]

    def table(self, account: str, stream: str) -> Table:
        portal = self.portals[account]
        if stream == "owners":
            changed = [0.0] * portal.owner_count
            return Table(changed, lambda i: portal.owner(i)["id"], portal.owner, timeless=True)
        if stream == "archived":
            binned = [(name, place) for name, count in portal.binned.items() for place in range(count)]

            def row(place: int) -> JSON:
                return portal.archived(*binned[place])

            return Table([0.0] * len(binned), lambda i: f"{binned[i][0]}:{row(i)['id']}", row, timeless=True)
        objects = portal.objects[stream]
        return Table(objects.times, objects.id_of, lambda place: portal.row(stream, place))

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        scopes = [
            "oauth",
            *(f"crm.objects.{name}.read" for name in ("contacts", "companies", "deals", "owners")),
            "tickets",
            "sales-email-read",
        ]
        about = {"hub_id": int(account), "scopes": scopes, "user_id": 51_000, "token_use": "access_token"}
        if request.form.get("grant_type") == "refresh_token":  # which stays as it is, and comes back
            about["refresh_token"] = request.form["refresh_token"]
        return Response(200, {**answer, "token_type": "bearer", **about})

    def revoked(self, request: Request) -> Response:
        """Only the refresh token ends."""
        token = self.tokens.read(self.refresh_prefix, request.form.get("token", ""), "refresh")
        if request.method != "POST" or request.form.get("client_secret") != "sandbox-secret" or token is None:
            return Response(400, {"error": "invalid_request", "error_description": "missing or invalid token"})
        self.tokens.rotated(token)
        return Response(200)

    # -- the API ------------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        if request.token.startswith(self.prefix):
            words = "The OAuth token used to make this call expired 5 minute(s) ago."
            return _error(401, "EXPIRED_AUTHENTICATION", words, context={"expire time": ["2026-01-01T00:00:00.000Z"]})
        return _error(401, "INVALID_AUTHENTICATION", "Authentication credentials not found.")

    def forbidden(self, request: Request, stream: str) -> Response:
        scope = "crm.objects.owners.read" if stream == "owners" else f"crm.objects.{stream}.read"
        words = "This app hasn't been granted all required scopes to make this call."
        context = {"requiredGranularScopes": [scope]}
        return _error(403, "MISSING_SCOPES", words, errors=[{"message": words, "context": context}])

    def not_found(self, request: Request) -> Response:
        return _error(404, "OBJECT_NOT_FOUND", "resource not found")

    def rate_limited(self) -> Response:
        words = "You have reached your ten_secondly_rolling limit."
        return self._too_many("TEN_SECONDLY_ROLLING", words).with_headers(
            {"Retry-After": str(self.control.faults.retry_after)}
        )

    def quota_used_up(self) -> Response:
        return self._too_many("DAILY", "You have reached your daily limit.")

    def _too_many(self, policy: str, words: str) -> Response:
        body = {"status": "error", "message": words, "errorType": "RATE_LIMIT", "policyName": policy}
        return Response(429, {**body, "correlationId": secrets.token_hex(16)})

    def finished(self, request: Request, account: str, response: Response) -> Response:
        if request.path.endswith("/search"):
            return response
        names = {"Max": "110", "Remaining": "109", "Interval-Milliseconds": "10000"}
        return response.with_headers({f"X-HubSpot-RateLimit-{name}": value for name, value in names.items()})

    def _details(self, request: Request, account: str) -> Response:
        return Response(
            200,
            {
                "portalId": int(account),
                "accountType": "STANDARD",
                "timeZone": "Europe/Berlin",
                "companyCurrency": "EUR",
                "additionalCurrencies": [],
                "utcOffset": "+01:00",
                "utcOffsetMilliseconds": 3_600_000,
                "uiDomain": "app-eu1.hubspot.com",
                "dataHostingLocation": "eu1",
            },
        )

    def _owners(self, request: Request, account: str) -> Response:
        portal, archived = self.portals[account], request.query.get("archived", "").lower() == "true"
        table = self.table(account, "owners")
        places = [p for p in self.rows(table, range(portal.owner_count)) if portal.has_left(p) == archived]
        return self._slice(request, places, table.row, 500)

    def _pipelines(self, request: Request, account: str, name: str) -> Response:
        if self.denies("pipelines"):
            return self.forbidden(request, name)
        pipeline, label, stages = PIPELINES[name]
        more = {
            "archived": False,
            "displayOrder": 0,
            "createdAt": "2024-01-01T00:00:00Z",
            "updatedAt": "2024-01-01T00:00:00Z",
        }
        told = [{"id": stage, "label": called, "metadata": {}, **more} for stage, called in stages.items()]
        return Response(200, {"results": [{"id": pipeline, "label": label, "stages": told, **more}]})

    def _list(self, request: Request, account: str, name: str) -> Response:
        portal, archived = self.portals[account], request.query.get("archived", "").lower() == "true"
        if self.denies("archived" if archived else name):
            return self.forbidden(request, name)
        wanted = request.query.get("properties", "").split(",")
        if archived:
            before = sum(
                count for other, count in portal.binned.items() if list(TYPES).index(other) < list(TYPES).index(name)
            )
            table = self.table(account, "archived")
            places = self.rows(table, range(before, before + portal.binned[name]))
        else:
            table, objects = self.table(account, name), portal.objects[name]
            places = sorted(self.rows(table, range(objects.count)), key=objects.order.__getitem__)
        return self._slice(request, places, lambda place: _pick(table.row(place), wanted, name), 100)

    def _slice(self, request: Request, places: list[int], row: Callable[[int], JSON], most: int) -> Response:
        asked = request.query.get("limit")
        if asked and not 0 < whole(asked, 0, 0, most + 1) <= most:
            return _error(400, "VALIDATION_ERROR", f"Invalid input: limit must be from 1 to {most}")
        start = whole(request.query.get("after"), 0, 0, len(places))
        end = start + self.page_size(asked, 10 if most == 100 else most, most)
        body: JSON = {"results": [row(place) for place in places[start:end]]}
        if end < len(places):
            body["paging"] = {"next": {"after": str(end), "link": f"{request.base}{request.path}?after={end}"}}
        return Response(200, body)

    # -- search -------------------------------------------------------------------------------------------------------------

    def _search(self, request: Request, account: str, name: str) -> Response:
        if self.denies(name):
            return self.forbidden(request, name)
        body = request.json
        if not isinstance(body, dict):
            return _error(400, "VALIDATION_ERROR", "Invalid input JSON")
        try:
            found = self._found(account, name, body.get("filterGroups") or [], body.get("sorts") or [])
        except _Wrong as wrong:
            return _error(400, "VALIDATION_ERROR", f"There was a problem with the request: {wrong}")
        limit, start = body.get("limit", 10), whole(str(body.get("after") or 0), 0, 0, 10**9)
        if type(limit) is not int or not 0 < limit <= 200:
            return _error(400, "VALIDATION_ERROR", "limit must be from 1 to 200")
        end = start + self.page_size(limit, 10, 200)
        if start + min(limit, end - start) > self.cap(SEARCH_CAP):
            return _error(400, "VALIDATION_ERROR", "The offset of a search is limited to 10000")
        table, wanted = self.table(account, name), body.get("properties") or []
        answer: JSON = {"total": len(found), "results": [_pick(table.row(p), wanted, name) for p in found[start:end]]}
        if end < len(found):
            answer["paging"] = {"next": {"after": str(end)}}
        return Response(200, answer)

    def _found(self, account: str, name: str, groups: list[JSON], sorts: list[Any]) -> list[int]:
        """Places of the objects that any group's filters all match, sorted."""
        if len(groups) > 5 or sum(len(group.get("filters") or []) for group in groups) > 18 or len(sorts) > 1:
            raise _Wrong("too many filter groups, filters or sorts")
        objects, table = self.portals[account].objects[name], self.table(account, name)

        def value(place: int, prop: str) -> float | str | None:
            if prop == "hs_object_id":
                return FIRST_ID + objects.order[place]
            if prop == objects.modified:
                return round(objects.times[place] * 1000)
            return _comparable(table.row(place)["properties"].get(prop))

        def matches(place: int, condition: JSON) -> bool:
            prop, operator = condition["propertyName"], condition["operator"]
            own = value(place, prop)
            if operator in ("HAS_PROPERTY", "NOT_HAS_PROPERTY"):
                return (own is not None) == (operator == "HAS_PROPERTY")
            wanted = _comparable(condition.get("value"))
            if own is None or isinstance(own, str) != isinstance(wanted, str):
                return False
            if operator == "BETWEEN":
                return bool(wanted <= own <= _comparable(condition.get("highValue")))  # type: ignore[operator]
            return COMPARE[operator](own, wanted)

        places: set[int] = set() if groups else set(range(objects.count))
        for group in groups:
            span, rest = range(objects.count), []
            for condition in group.get("filters") or []:
                operator = condition.get("operator")
                if not condition.get("propertyName") or operator not in (
                    *COMPARE,
                    "BETWEEN",
                    "HAS_PROPERTY",
                    "NOT_HAS_PROPERTY",
                ):
                    raise _Wrong(f"unknown operator or no property in {condition}")
                rest.append(condition)
                if condition["propertyName"] == objects.modified and operator in ("GTE", "LT"):
                    moment = _comparable(condition.get("value"))
                    if not isinstance(moment, float):
                        raise _Wrong(f"{condition.get('value')!r} is no time")
                    edge = table.within((moment - 1) / 1000, (moment + 1) / 1000)  # exact milliseconds decide below
                    span = (
                        range(max(span.start, edge.start), span.stop)
                        if operator == "GTE"
                        else range(span.start, min(span.stop, edge.stop))
                    )
            places.update(place for place in span if all(matches(place, condition) for condition in rest))
        listed = self.rows(table, sorted(places))
        sort = sorts[0] if sorts else {"propertyName": "hs_object_id"}
        by, descending = sort["propertyName"], sort.get("direction") == "DESCENDING"
        return sorted(listed, key=lambda place: (value(place, by) is None, value(place, by)), reverse=descending)

    # -- associations ---------------------------------------------------------------------------------------------------------

    def _associations(self, request: Request, account: str, name: str, to: str) -> Response:
        if self.denies(to):
            return self.forbidden(request, to)
        inputs = request.json.get("inputs") if isinstance(request.json, dict) else None
        if not isinstance(inputs, list) or not 0 < len(inputs) <= 1000:
            return _error(400, "VALIDATION_ERROR", "inputs must hold from 1 to 1000 objects")
        results, missing = [], []
        for entry in inputs:
            found = self.portals[account].linked(name, str(entry.get("id")), to)
            start = whole(entry.get("after"), 0, 0, len(found))
            end = start + self.page_size(None, 500, 500)
            if not found:
                missing.append(str(entry.get("id")))
                continue
            result: JSON = {
                "from": {"id": str(entry["id"])},
                "to": [
                    {"toObjectId": int(other), "associationTypes": _kinds(name, to, other == found[-1])}
                    for other in found[start:end]
                ],
            }
            if end < len(found):
                result["paging"] = {"next": {"after": str(end), "link": f"{request.base}{request.path}"}}
            results.append(result)
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        body: JSON = {"status": "COMPLETE", "results": results, "startedAt": now, "completedAt": now}
        if missing:
            words = f"No {to} is associated with {name} {', '.join(missing[:5])}."
            error: JSON = {"status": "error", "category": "OBJECT_NOT_FOUND", "message": words}
            error |= {"subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND", "context": {"fromObjectId": missing}}
            body |= {"numErrors": 1, "errors": [error]}
        return Response(207 if missing else 200, body)


def _kinds(name: str, to: str, is_last: bool) -> list[JSON]:
    """What an association means: each has the kind without a label; that with the primary company has one more, and so have others
    by the portal's own labels, whose numbers HubSpot's kinds have as well."""
    number = ANY_COMPANY.get(name, 450) if to == "companies" else 3
    kinds: list[JSON] = [{"category": "HUBSPOT_DEFINED", "typeId": number, "label": None}]
    if to == "companies" and name in PRIMARY:
        number, label = PRIMARY[name]
        category, label = ("HUBSPOT_DEFINED", label) if is_last else ("USER_DEFINED", "Partner")
        kinds.insert(0, {"category": category, "typeId": number, "label": label})
    return kinds


def _comparable(value: Any) -> float | str | None:
    """Numbers and times (as epoch milliseconds) compare as numbers, the rest as text."""
    if value in (None, ""):
        return None
    text = str(value)
    try:
        return float(text)
    except ValueError:
        moment = seconds_of(text) if text[:4].isdigit() and "T" in text else None
        return text.lower() if moment is None else round(moment * 1000)


def _pick(row: JSON, wanted: list[str], name: str) -> JSON:
    """The row with the properties asked for, and those that always come. Unknown ones are left out without a word."""
    always = ("hs_object_id", "createdate", "hs_createdate", TYPES[name][2])
    known = row["properties"]
    return {**row, "properties": {prop: known[prop] for prop in dict.fromkeys((*always, *wanted)) if prop in known}}
