"""Google as far as a history import goes: OAuth, Gmail's labels and messages, Calendar's lists and events."""

from __future__ import annotations

import base64
import binascii
import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

from integrations.sandbox.google_rows import ACCOUNTS, CALENDARS, DOMAIN, Holdings
from integrations.sandbox.stand_in import JSON, Grants, Route, StandIn, Table
from integrations.sandbox.wire import Request, Response
from integrations.sandbox.world import World, seconds_of

SCOPES = (
    "openid",
    "https://www.googleapis.com/auth/userinfo.email",
    "https://www.googleapis.com/auth/gmail.readonly",
    "https://www.googleapis.com/auth/calendar.readonly",
)
PACIFIC = ZoneInfo("America/Los_Angeles")
LONGEST = 4 * 86_400  # seconds that an event lasts at most
_TERM = re.compile(r"\b(after|before):(\d+)(?:/(\d+)/(\d+))?")


def _error(status: int, reason: str, message: str, domain: str = "global", name: str = "INVALID_ARGUMENT") -> Response:
    part = {"message": message, "domain": domain, "reason": reason}
    return Response(status, {"error": {"code": status, "message": message, "errors": [part], "status": name}})


class Google(StandIn):
    """The stand-in."""

    slug = "google"
    name = "Google"
    prefix = "ya29."
    refresh_prefix = "1//"
    accounts = ACCOUNTS
    streams = ("labels", "messages", "calendars", "events")
    grants = Grants(
        "/o/oauth2/v2/auth", "/token", "/revoke", revokes_all=True, pkce=False, expires_in=3599, scopes=SCOPES
    )

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        mail, user = r"/gmail/v1/users/[^/]+", r"/calendar/v3"
        routes = (
            ("/oauth2/v2/userinfo", self._userinfo, ""),
            (f"{mail}/profile", self._profile, "messages"),
            (f"{mail}/labels", self._labels, "labels"),
            (f"{mail}/messages", self._messages, "messages"),
            (f"{mail}/messages/(?P<key>[^/]+)", self._message, "messages"),
            (f"{user}/users/me/calendarList", self._calendars, "calendars"),
            (f"{user}/calendars/(?P<key>[^/]+)/events", self._events, "events"),
        )
        self.routes = [Route("GET", re.compile(path), handler, stream) for path, handler, stream in routes]

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.online: set[str] = set()  # codes that bring no refresh token
        self.holdings = {account: Holdings(world, account, empty=self.is_empty(account)) for account in ACCOUNTS}

    def table(self, account: str, stream: str) -> Table:
        own = self.holdings[account]
        if stream == "labels":
            return Table(
                range(len(own.labels)),
                lambda place: str(own.labels[place]["id"]),
                own.labels.__getitem__,
                timeless=True,
            )
        if stream == "calendars":
            return Table(
                range(len(own.calendars)), own.calendar_id, own.calendars.__getitem__, timeless=True, tombstones=True
            )
        if stream == "messages":
            return Table([at / 1000 for at in own.messages], own.message_id, own.message)
        events = own.events
        return Table(
            [event.at for event in events],
            lambda place: f"{own.calendar_id(events[place].calendar)}:{own.event_id(events[place])}",
            lambda place: own.event(events[place], deleted=self.is_deleted(place)),
            tombstones=True,
        )

    def truth_ids(self, account: str, stream: str, since: float | None, until: float | None) -> list[str]:
        """Without drafts, which are no mail yet, and days that are no meetings."""
        own, table = self.holdings[account], self.table(account, stream)
        places = self.rows(table, table.within(since, until))
        if stream == "messages":
            places = [place for place in places if not own.is_draft(place)]
        elif stream == "events":
            places = [place for place in places if own.is_meeting(own.events[place])]
        return [table.id_of(place) for place in places]

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def oauth(self, request: Request) -> Response | None:
        """Who is not asked for offline access and consent anew gets no refresh token."""
        answer = super().oauth(request)
        if answer is not None and request.path == self.grants.authorize and "Location" in answer.headers:
            code = dict(parse_qsl(urlsplit(answer.headers["Location"]).query)).get("code", "")
            if (request.query.get("access_type"), request.query.get("prompt")) != ("offline", "consent"):
                self.online.add(code)
        return answer

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        if request.form.get("code") in self.online:
            answer.pop("refresh_token", None)
        return Response(200, answer)

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        own = {"invalid_grant": "Token has been expired or revoked." if "refresh" in words else "Malformed auth code."}
        return super().token_refused(error, own.get(error, words), status)

    def revoked(self, request: Request) -> Response:
        given = request.form.get("token") or request.query.get("token")
        if request.method == "POST" and self.take_back(given):
            return Response(200, {})
        return Response(400, {"error": "invalid_token", "error_description": "Token expired or revoked"})

    # -- what is wrong ------------------------------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        return _error(401, "authError", "Request had invalid authentication credentials.", name="UNAUTHENTICATED")

    def forbidden(self, request: Request, stream: str) -> Response:
        words = "Request had insufficient authentication scopes."
        headers = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="insufficient_scope"'}
        return _error(403, "insufficientPermissions", words, name="PERMISSION_DENIED").with_headers(headers)

    def not_found(self, request: Request) -> Response:
        return _error(404, "notFound", "Requested entity was not found.", name="NOT_FOUND")

    def rate_limited(self) -> Response:
        """Its end stands in the words only."""
        ends = datetime.fromtimestamp(time.time() + self.control.faults.retry_after, UTC)
        words = f"User-rate limit exceeded.  Retry after {ends:%Y-%m-%dT%H:%M:%S}.{ends.microsecond // 1000:03d}Z"
        return _error(429, "rateLimitExceeded", words, "usageLimits", "RESOURCE_EXHAUSTED")

    def quota_used_up(self) -> Response:
        return _error(403, "dailyLimitExceeded", "Daily Limit Exceeded", "usageLimits", "RESOURCE_EXHAUSTED")

    # -- the API ------------------------------------------------------------------------------------------------------------

    def _userinfo(self, request: Request, account: str) -> Response:
        owner = self.holdings[account].owner
        return Response(200, {"id": account, "email": owner.email, "verified_email": True, "hd": DOMAIN})

    def _profile(self, request: Request, account: str) -> Response:
        own = self.holdings[account]
        return Response(
            200,
            {
                "emailAddress": own.owner.email,
                "messagesTotal": len(own.messages),
                "threadsTotal": -(-len(own.messages) // 3),
                "historyId": "998877",
            },
        )

    def _labels(self, request: Request, account: str) -> Response:
        table = self.table(account, "labels")
        return Response(200, {"labels": [table.row(place) for place in self.rows(table, range(len(table.times)))]})

    def _page(self, request: Request, places: list[int], default: int, most: int) -> tuple[list[int], JSON] | None:
        """(places of the page, what names the next); None for a token that is none."""
        start = _start(request.query["pageToken"]) if request.query.get("pageToken") else 0
        if start is None:
            return None
        end = start + self.page_size(request.query.get("maxResults"), default, most)
        return places[start:end], {"nextPageToken": _token(end)} if end < len(places) else {}

    def _messages(self, request: Request, account: str) -> Response:
        """Newest first, ids only. Both bounds of a search are left out here, which Google does not say."""
        table, since, until = self.table(account, "messages"), None, None
        for name, first, month, day in _TERM.findall(request.query.get("q", "")):
            at = datetime(int(first), int(month), int(day), tzinfo=PACIFIC).timestamp() if day else int(first)
            since, until = (at + 1, until) if name == "after" else (since, at)
        own, among = self.holdings[account], self.rows(table, table.within(since, until))[::-1]
        if "-in:drafts" in request.query.get("q", "").split():
            among = [place for place in among if not own.is_draft(place)]
        found = self._page(request, among, 100, 500)
        if found is None:
            return _error(400, "invalidArgument", "Invalid pageToken")
        places, following = found
        rows = [{"id": own.message_id(place), "threadId": own.message_id(place - place % 3)} for place in places]
        return Response(
            200,
            {**({"messages": rows} if rows else {}), **following, "resultSizeEstimate": min(201, len(own.messages))},
        )

    def _message(self, request: Request, account: str, key: str) -> Response:
        own, table = self.holdings[account], self.table(account, "messages")
        place = next(
            (place for place in self.rows(table, range(len(table.times))) if own.message_id(place) == key), None
        )
        if place is None:
            return self.not_found(request)
        return Response(
            200, own.message(place, request.query.get("format", "full"), request.query.get("metadataHeaders"))
        )

    def _calendars(self, request: Request, account: str) -> Response:
        rows = self.holdings[account].calendars
        found = self._page(request, list(range(len(rows))), 100, 250)
        if found is None:
            return _error(400, "invalid", "Invalid page token value.")
        return Response(
            200, {"kind": "calendar#calendarList", "items": [rows[place] for place in found[0]], **found[1]}
        )

    def _events(self, request: Request, account: str, key: str) -> Response:
        own, asked, table = self.holdings[account], request.query, self.table(account, "events")
        keys = [row["id"] for row in own.calendars]
        key = keys[0] if key == "primary" and keys else key
        if key not in keys:
            return self.not_found(request)
        since, until = (seconds_of(asked[name]) if asked.get(name) else None for name in ("timeMin", "timeMax"))
        if any(asked.get(name) and at is None for name, at in (("timeMin", since), ("timeMax", until))):
            return _error(400, "badRequest", "Bad Request")
        single = asked.get("singleEvents") == "true"
        if asked.get("orderBy") == "startTime" and not single:
            return _error(400, "invalid", "The requested ordering is not available for the particular query.")
        places = []
        for place in table.within(
            None if since is None else since - LONGEST, None if until is None else until + 86_400
        ):
            event = own.events[place]
            if own.calendar_id(event.calendar) != key or (
                self.is_deleted(place) and asked.get("showDeleted") != "true"
            ):
                continue
            # The lower bound is on the end, the upper on the beginning; both are left out.
            if (since is None or event.ends > since) and (until is None or event.begins < until):
                places.append(place)
        if not single:  # a series is one row
            series: dict[str, int] = {}
            for place in places:
                event = own.events[place]
                series.setdefault(own.series_id(event) if own.is_of_series(event) else own.event_id(event), place)
            places = list(series.values())
        places.sort(key=lambda place: own.events[place].begins)
        found = self._page(request, places, 250, 2500)
        if found is None:
            return _error(400, "invalid", "Invalid page token value.")
        rows = [self._event(own, table.row(place), single=single, place=place) for place in found[0]]
        head = {
            "kind": "calendar#events",
            "summary": own.calendars[keys.index(key)]["summary"],
            "timeZone": CALENDARS[keys.index(key)][1],
        }
        return Response(200, {**head, "items": rows, **(found[1] or {"nextSyncToken": "CPDAlvWDx70CEPDAlvWDx70CGAU="})})

    def _event(self, own: Holdings, row: JSON, *, single: bool, place: int) -> JSON:
        if single or "recurringEventId" not in row:
            return row
        master = {name: value for name, value in row.items() if name not in ("recurringEventId", "originalStartTime")}
        return {**master, "id": row["recurringEventId"], "recurrence": ["RRULE:FREQ=WEEKLY"]}


def _token(end: int) -> str:
    return base64.urlsafe_b64encode(f"place:{end}".encode()).decode()


def _start(token: str) -> int | None:
    try:
        kind, _, value = base64.urlsafe_b64decode(token).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return int(value) if kind == "place" and value.isdigit() else None
