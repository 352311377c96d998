"""Microsoft Graph as far as a history import goes: OAuth v2, mail folders and messages, calendars and their view."""

from __future__ import annotations

import operator
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from integrations.sandbox.microsoft365_rows import ACCOUNTS, EXPANDED, FOLDERS, PROPERTIES, WELL_KNOWN, Holdings
from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World, seconds_of

MOST_DAYS = 1825  # of a calendar view
AT_ONCE = 4  # requests that a mailbox answers at the same time
LONGEST = 4 * 86_400  # seconds that an event lasts at most
_COMPARISONS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
_CONDITION = re.compile(r"receivedDateTime (ge|gt|le|lt) (\d{4}-\d\d-\d\dT[\d:.]+Z)")


def _error(status: int, code: str, message: str) -> Response:
    inner = {
        "date": "2026-01-01T00:00:00",
        "request-id": secrets.token_hex(8),
        "client-request-id": secrets.token_hex(8),
    }
    return Response(status, {"error": {"code": code, "message": message, "innerError": inner}})


class Microsoft365(StandIn):
    """The stand-in."""

    slug = "microsoft365"
    name = "Microsoft 365"
    prefix = "eyJ0eXAi."
    refresh_prefix = "0.AXoA"
    accounts = ACCOUNTS
    streams = ("folders", "messages", "calendars", "events")
    grants = Grants(
        "/oauth2/v2.0/authorize", "/oauth2/v2.0/token", pkce=False, expires_in=4171,
        scopes=("openid", "profile", "email", "User.Read", "Mail.Read", "Calendars.Read"),  # never offline_access
    )  # fmt: skip

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        me = "/v1.0/me"
        routes = (
            (me, self._me, ""),
            (f"{me}/mailFolders(?:/(?P<key>[^/]+)/childFolders)?", self._folders, "folders"),
            (f"{me}/mailFolders/(?P<key>[^/]+)", self._folder, "messages"),
            (f"{me}/messages", self._messages, "messages"),
            (f"{me}/messages/\\$count", self._count, "messages"),
            (f"{me}/messages/(?P<key>[^/]+)", self._message, "messages"),
            (f"{me}/calendars", self._calendars, "calendars"),
            (f"{me}/calendars/(?P<key>[^/]+)/calendarView", self._view, "events"),
        )
        self.routes = [Route("GET", re.compile(path), handler, stream) for path, handler, stream in routes]

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.holdings = {account: Holdings(world, account, empty=self.is_empty(account)) for account in ACCOUNTS}

    def table(self, account: str, stream: str) -> Table:
        own = self.holdings[account]
        if stream == "folders":
            return Table(own.folders, own.folder_id, own.folder, timeless=True, tombstones=True)
        if stream == "calendars":
            return Table(own.calendars, own.calendar_id, own.calendar, timeless=True, tombstones=True)
        if stream == "messages":
            return Table(own.messages, own.message_id, own.message)
        events = own.events
        return Table([e.at for e in events], lambda i: own.event_id(events[i]), lambda i: own.event(events[i]))

    def truth_ids(self, account: str, stream: str, since: float | None, until: float | None) -> list[str]:
        """Without junk, drafts and deleted items, which the list of all messages has among the mail."""
        found, own = super().truth_ids(account, stream, since, until), self.holdings[account]
        other = {own.message_id(place) for place in range(len(own.messages)) if not own.is_mail(place)}
        return [one for one in found if one not in other] if stream == "messages" else found

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        """Every use of a refresh token brings another; the used one goes on."""
        used = self.tokens.read(self.refresh_prefix, request.form.get("refresh_token", ""), "refresh")
        if used is not None:
            answer["refresh_token"] = self.tokens.make(self.refresh_prefix, self.slug, account, "refresh", used.grant)
        return Response(200, {**answer, "ext_expires_in": answer["expires_in"]})

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        numbers = {"invalid_grant": 50173 if "refresh" in words else 70008, "invalid_client": 7000215}
        number = numbers.get(error, 70003)
        answer = {"error": error, "error_description": f"AADSTS{number}: {words}", "error_codes": [number]}
        return Response(status, {**answer, "trace_id": secrets.token_hex(8), "correlation_id": secrets.token_hex(8)})

    # -- what is wrong ------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        return _error(401, "InvalidAuthenticationToken", "Access token has expired or is not yet valid.")

    def forbidden(self, request: Request, stream: str) -> Response:
        return _error(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")

    def not_found(self, request: Request) -> Response:
        return _error(404, "ErrorItemNotFound", "The specified object was not found in the store.")

    def rate_limited(self) -> Response:
        words = "Application is over its MailboxConcurrency limit."
        headers = {"Retry-After": str(self.control.faults.retry_after)}
        return _error(429, "ApplicationThrottled", words).with_headers(headers)

    # -- the API ------------------------------------------------------------------------------------------------------------

    def answer(self, request: Request, account: str) -> Response:
        if self.control.at_once[request.token] > AT_ONCE:
            return self.rate_limited()
        return super().answer(request, account)

    def _me(self, request: Request, account: str) -> Response:
        owner = self.holdings[account].owner
        return Response(
            200,
            {
                "id": account,
                "displayName": owner.name,
                "mail": owner.email,
                "userPrincipalName": owner.email,
                "jobTitle": None,
            },
        )

    def _listing(
        self, request: Request, places: Sequence[int], row: Callable[[int], JSON], default: int = 10
    ) -> Response:
        """A page, and the address of the next: all that was asked for, and how much of it is skipped."""
        asked = request.query
        skip = asked.get("$skip", "0")
        if not skip.isdigit():
            return _error(400, "ErrorInvalidUrlQuery", "The query parameter $skip is invalid.")
        if asked.get("$top") and not (asked["$top"].isdigit() and 1 <= int(asked["$top"]) <= 1000):
            return _error(400, "ErrorInvalidUrlQuery", "The limit of a page is 1000.")
        size = self.page_size(asked.get("$top"), default, 1000)
        end = int(skip) + size
        expanded = "$expand" in asked
        if expanded and asked["$expand"] != EXPANDED:
            return _error(400, "ErrorInvalidUrlQuery", "The query parameter $expand is invalid.")
        wanted = set(asked["$select"].split(",")) | {"@odata.etag"} if asked.get("$select") else None
        rows = [row(place) for place in places[int(skip) : end]]
        body: JSON = {"@odata.context": "https://graph.microsoft.com/v1.0/$metadata"}
        body |= {"@odata.count": len(places)} if asked.get("$count") == "true" else {}
        body["value"] = [
            {
                name: value
                for name, value in found.items()
                if (expanded if name == PROPERTIES else wanted is None or name in wanted)
            }
            for found in rows
        ]
        if end < len(places):
            query = urlencode({**asked, "$skip": end}, quote_via=quote, safe="$")
            body["@odata.nextLink"] = f"{request.base}{quote(request.path)}?{query}"
        return Response(200, body)

    def _folders(self, request: Request, account: str, key: str | None) -> Response:
        own = self.holdings[account]
        parent = None if key is None else _place(own, key)
        if key is not None and parent is None:
            return self.not_found(request)
        return self._listing(request, [place for place in own.folders if FOLDERS[place][1] == parent], own.folder)

    def _folder(self, request: Request, account: str, key: str) -> Response:
        own = self.holdings[account]
        place = _place(own, key)
        return self.not_found(request) if place is None else Response(200, own.folder(place))

    def _wanted(self, request: Request, account: str) -> list[int] | None:
        """Places of the messages that the filter lets through; None when it is none."""
        table, text = self.table(account, "messages"), request.query.get("$filter", "")
        conditions = text.split(" and ") if text else []
        found = self.rows(table, range(len(table.times)))
        for condition in conditions:
            match = _CONDITION.fullmatch(condition.strip())
            at = seconds_of(match[2]) if match else None
            if match is None or at is None:
                return None
            kept = _COMPARISONS[match[1]]
            found = [place for place in found if kept(table.times[place], at)]
        return found

    def _messages(self, request: Request, account: str) -> Response:
        asked, own, prefer = request.query, self.holdings[account], request.headers.get("prefer", "")
        order = asked.get("$orderby", "receivedDateTime desc").split()
        if "$filter" in asked and not asked["$filter"].startswith(order[0]):
            return _error(400, "InefficientFilter", "The restriction or sort order is too complex for this operation.")
        found = self._wanted(request, account)
        if found is None or order[0] != "receivedDateTime":
            return _error(400, "ErrorInvalidUrlQueryFilter", "The query filter contains one or more invalid nodes.")
        immutable, text = 'IdType="ImmutableId"' in prefer, 'outlook.body-content-type="text"' in prefer
        places = found[::-1] if order[1:] == ["desc"] else found
        return self._listing(request, places, lambda place: own.message(place, immutable=immutable, text=text))

    def _message(self, request: Request, account: str, key: str) -> Response:
        own, table = self.holdings[account], self.table(account, "messages")
        immutable = 'IdType="ImmutableId"' in request.headers.get("prefer", "")
        for place in self.rows(table, range(len(table.times))):
            if own.message_id(place, immutable=immutable) == key:
                return Response(200, own.message(place, immutable=immutable))
        return self.not_found(request)

    def _count(self, request: Request, account: str) -> Response:
        found = self._wanted(request, account)
        if found is None:
            return _error(400, "ErrorInvalidUrlQueryFilter", "The query filter contains one or more invalid nodes.")
        return Response(200, str(len(found)).encode(), {"Content-Type": "text/plain"})

    def _calendars(self, request: Request, account: str) -> Response:
        own = self.holdings[account]
        return self._listing(request, own.calendars, own.calendar)

    def _view(self, request: Request, account: str, key: str) -> Response:
        """What overlaps the span. Both bounds are left out here, which Microsoft does not say."""
        own, asked, table = self.holdings[account], request.query, self.table(account, "events")
        if key not in [own.calendar_id(place) for place in own.calendars]:
            return self.not_found(request)
        since, until = (seconds_of(asked.get(name, "")) for name in ("startDateTime", "endDateTime"))
        if since is None or until is None:
            return _error(
                400,
                "ErrorInvalidParameter",
                "This request requires a time window specified by startDateTime and endDateTime.",
            )
        if until - since > MOST_DAYS * 86_400:
            words = (
                "The range between the start and end dates is greater than the allowed range. Maximum number of days:"
            )
            return _error(400, "ErrorInvalidRequest", f"Your request can't be completed. {words} {MOST_DAYS}")
        if "$select" in asked and {"createdDateTime", "lastModifiedDateTime"} & set(asked["$select"].split(",")):
            return _error(400, "ErrorInvalidProperty", "The property can't be selected in a calendar view.")
        near = self.rows(table, table.within(since - LONGEST, until + 86_400))
        events = [(place, own.events[place]) for place in near]
        places = [
            place
            for place, event in events
            if own.calendar_id(event.calendar) == key and event.begins < until and event.ends > since
        ]
        immutable = 'IdType="ImmutableId"' in request.headers.get("prefer", "")
        return self._listing(request, places, lambda place: own.event(own.events[place], immutable=immutable))


def _place(own: Holdings, key: str) -> int | None:
    """Of the folder with this id, or the name by which it is found whatever the mailbox calls it."""
    known = WELL_KNOWN.get(key.lower())
    return next((place for place in own.folders if place == known or own.folder_id(place) == key), None)
