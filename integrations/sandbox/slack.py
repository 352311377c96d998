"""Slack's Web API and OAuth v2, as far as a history import goes. What goes wrong comes with status 200, too."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from integrations.sandbox.slack_rows import ACCOUNTS, CHANNELS, Workspace, ts
from integrations.sandbox.stand_in import JSON, Grants, StandIn, Table
from integrations.sandbox.wire import Request, Response, whole
from integrations.sandbox.world import World

SCOPES = ("channels:history", "channels:read", "files:read", "groups:history", "groups:read", "users:read", "users:read.email")  # fmt: skip
NEEDED = {"public_channel": "channels:read", "private_channel": "groups:read", "mpim": "mpim:read", "im": "im:read"}
# Method -> the streams that are read by it, and the scope that it takes. Replies take the same as what they reply to.
METHODS = {
    "users.list": (("users",), "users:read"),
    "conversations.list": (("channels",), "channels:read"),
    "conversations.members": (("members",), "channels:read"),
    "conversations.history": (("messages", "replies"), "channels:history"),
    "conversations.replies": (("messages", "replies"), "channels:history"),
    "files.list": (("files",), "files:read"),
}


def _failed(error: str, **more: Any) -> Response:
    return Response(200, {"ok": False, "error": error, **more})


def _micros(value: str | None) -> int | None:
    """A ts in Unix microseconds; None for none or what is none."""
    seconds, _, fraction = (value or "").partition(".")
    if not seconds.isdigit() or not (fraction or "0").isdigit():
        return None
    return int(seconds) * 10**6 + int(fraction[:6].ljust(6, "0"))


class Slack(StandIn):
    """The stand-in."""

    slug = "slack"
    name = "Slack"
    prefix = "xoxe.xoxp-"
    refresh_prefix = "xoxe-1-"
    pasted_prefix = "xoxp-"
    accounts = ACCOUNTS
    streams = ("users", "channels", "members", "messages", "replies", "files")
    grants = Grants(
        "/oauth/v2/authorize",
        "/api/oauth.v2.access",
        "/api/auth.revoke",
        pkce=False,
        rotates=True,
        expires_in=43_200,
        scopes=SCOPES,
        separator=",",
    )

    def set_world(self, world: World) -> None:
        super().set_world(world)
        self.workspaces = {account: Workspace(world, account, empty=self.is_empty(account)) for account in ACCOUNTS}

    # -- what it holds ------------------------------------------------------------------------------------------------------

    def table(self, account: str, stream: str) -> Table:
        own = self.workspaces[account]
        if stream == "users":
            ids = [own.user(place, False)["id"] for place in own.users]
            row = lambda place: own.user(place, self.is_deleted(place))  # noqa: E731
            return Table(ids, ids.__getitem__, row, timeless=True, tombstones=True)
        if stream in ("channels", "members"):
            row = lambda place: own.channel(place, self.is_deleted(place))  # noqa: E731
            return Table(own.channels, own.channel_id, row, timeless=True, tombstones=True)
        if stream == "files":
            return Table(own.files, own.file_id, own.file)
        if stream == "replies":
            times = [reply.at / 10**6 for reply in own.replies]
            return Table(
                times, lambda place: self._id(own, own.replies[place].parent, own.replies[place].at), own.reply
            )
        # Of a deleted message that began a thread a tombstone stays.
        listed = [place for place in range(len(own.messages)) if self._is_listed(own, place)]
        return Table(
            [own.messages[place] / 10**6 for place in listed],
            lambda i: self._id(own, listed[i], own.messages[listed[i]]),
            lambda i: own.message(listed[i], deleted=self.is_deleted(listed[i])),
            tombstones=True,
        )

    def _id(self, own: Workspace, message: int, micros: int) -> str:
        return f"{own.channel_id(own.channel_of(message))}:{ts(micros)}"

    def _is_listed(self, own: Workspace, place: int) -> bool:
        return not self.is_deleted(place) or place in own.threads

    # -- tokens -------------------------------------------------------------------------------------------------------------

    def oauth(self, request: Request) -> Response | None:
        """The client may say who it is by Basic authentication or in the form; what a person is asked for is `user_scope`."""
        if request.path == self.grants.token and request.basic[0]:
            client = dict(zip(("client_id", "client_secret"), request.basic, strict=True))
            request = replace(request, body=urlencode({**request.form, **client}).encode())
        if request.path == self.grants.authorize:
            request = replace(request, query={**request.query, "scope": request.query.get("user_scope", "")})
        return super().oauth(request)

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        user = {**answer, "token_type": "user"}
        team = {"id": account, "name": ACCOUNTS[account]}
        about = {"ok": True, "app_id": "A0SBATOM", "team": team, "enterprise": None, "is_enterprise_install": False}
        if request.form.get("grant_type") == "refresh_token":
            return Response(200, {**about, **user})
        return Response(200, {**about, "authed_user": {"id": self.workspaces[account].user_id(0), **user}})

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        own = {"invalid_grant": "invalid_refresh_token" if "refresh" in words else "invalid_code"}
        own["invalid_client"] = "invalid_client_id" if "client id" in words else "bad_client_secret"
        return _failed(own.get(error, "invalid_arguments"))

    def revoked(self, request: Request) -> Response:
        given = request.token or request.form.get("token", "")
        return Response(200, {"ok": True, "revoked": True}) if self.take_back(given) else _failed("invalid_auth")

    # -- the API ------------------------------------------------------------------------------------------------------------

    def token_of(self, request: Request) -> str:
        return request.token or request.form.get("token", "") or request.query.get("token", "")

    def unauthorized(self, request: Request) -> Response:
        given = self.token_of(request)
        if not given:
            return _failed("not_authed")
        if self.tokens.read(self.prefix, given, stale=True) is not None:
            return _failed("token_expired")
        return _failed("token_revoked" if given.startswith(self.prefix) else "invalid_auth")

    def forbidden(self, request: Request, stream: str) -> Response:
        needed = next(scope for streams, scope in METHODS.values() if stream in streams)
        return _failed("missing_scope", needed=needed, provided=",".join(scope for scope in SCOPES if scope != needed))

    def not_found(self, request: Request) -> Response:
        return _failed("unknown_method", req_method=request.path.rpartition("/")[2])

    def rate_limited(self) -> Response:
        retry = {"Retry-After": str(self.control.faults.retry_after)}
        return Response(429, {"ok": False, "error": "ratelimited"}, retry)

    def finished(self, request: Request, account: str, response: Response) -> Response:
        return response.with_headers({"x-oauth-scopes": ",".join(SCOPES), "x-slack-req-id": secrets.token_hex(16)})

    def answer(self, request: Request, account: str) -> Response:
        method = request.path.removeprefix("/api/")
        body = request.json if request.media_type == "application/json" else request.form
        asked = {**request.query, **(body if isinstance(body, dict) else {})}
        asked = {name: str(value) for name, value in asked.items() if value is not None}
        own = self.workspaces[account]
        if method == "auth.test":
            return Response(200, {"ok": True, "url": own.url, "team": ACCOUNTS[account], "user": "sandbox", "team_id": account,
                                  "user_id": own.user_id(0), "is_enterprise_install": False})  # fmt: skip
        streams, _ = METHODS.get(method, ((), ""))
        for stream in streams:
            if self.denies(stream):
                return self.forbidden(request, stream)
        answer: Callable[[Workspace, JSON], Response] | None = getattr(self, f"_{method.replace('.', '_')}", None)
        return answer(own, asked) if streams and answer else self.not_found(request)

    def _listing(self, asked: JSON, name: str, rows: Sequence[int], row: Callable[[int], Any]) -> Response:
        """A page of a list that goes on by a cursor, which names the row that the next page begins with."""
        start = _cursor(asked["cursor"], "place") if asked.get("cursor") else 0
        if start is None or start > max(len(rows) - 1, 0):
            return _failed("invalid_cursor")
        end = start + self.page_size(asked.get("limit"), 100, 1000)
        following = _made("place", end) if end < len(rows) else ""
        body = {
            "ok": True,
            name: [row(place) for place in rows[start:end]],
            "response_metadata": {"next_cursor": following},
        }
        return Response(200, body)

    def _users_list(self, own: Workspace, asked: JSON) -> Response:
        return self._listing(asked, "members", own.users, self.table(own.account, "users").row)

    def _conversations_list(self, own: Workspace, asked: JSON) -> Response:
        types = asked.get("types", "public_channel").split(",")
        for kind in types:
            if NEEDED.get(kind) not in SCOPES:
                return _failed(
                    "missing_scope" if kind in NEEDED else "invalid_types",
                    needed=NEEDED.get(kind),
                    provided=",".join(SCOPES),
                )
        row = self.table(own.account, "channels").row
        kinds = {False: "public_channel" in types, True: "private_channel" in types}
        rows = [place for place in own.channels if kinds[CHANNELS[place][2]]]
        if asked.get("exclude_archived") in ("true", "1"):
            rows = [place for place in rows if not row(place)["is_archived"]]
        return self._listing(asked, "channels", rows, row)

    def _conversations_members(self, own: Workspace, asked: JSON) -> Response:
        channel = self._channel(own, asked)
        if channel is None:
            return _failed("channel_not_found")
        members = own.members(channel)
        return self._listing(asked, "members", range(len(members)), members.__getitem__)

    def _channel(self, own: Workspace, asked: JSON) -> int | None:
        return next((place for place in own.channels if own.channel_id(place) == asked.get("channel")), None)

    def _conversations_history(self, own: Workspace, asked: JSON) -> Response:
        channel = self._channel(own, asked)
        if channel is None:
            return _failed("channel_not_found")
        rows = [
            place
            for place in reversed(own.places[channel])
            if self._is_listed(own, place) and _inside(own.messages[place], asked)
        ]
        if asked.get("cursor"):
            after = _cursor(asked["cursor"], "next_ts")
            if after is None:
                return _failed("invalid_cursor")
            rows = [place for place in rows if own.messages[place] <= after]
        size = self.page_size(asked.get("limit"), 100, 999)
        page, more = rows[:size], rows[size:]
        body: JSON = {"ok": True, "messages": [own.message(place, deleted=self.is_deleted(place)) for place in page],
                      "has_more": bool(more), "pin_count": 0, "channel_actions_ts": None, "channel_actions_count": 0}  # fmt: skip
        if more:
            body["response_metadata"] = {"next_cursor": _made("next_ts", own.messages[more[0]])}
        return Response(200, body)

    def _conversations_replies(self, own: Workspace, asked: JSON) -> Response:
        channel = self._channel(own, asked)
        if channel is None:
            return _failed("channel_not_found")
        wanted = _micros(asked.get("ts"))
        parent = next(
            (place for place in own.places[channel] if own.messages[place] == wanted and self._is_listed(own, place)),
            None,
        )
        if parent is None:
            return _failed("thread_not_found")
        rows = [
            place
            for place in own.threads.get(parent, ())
            if not self.is_deleted(place) and _inside(own.replies[place].at, asked)
        ]
        if asked.get("cursor"):
            after = _cursor(asked["cursor"], "next_ts")
            if after is None:
                return _failed("invalid_cursor")
            rows = [place for place in rows if own.replies[place].at >= after]
        size = self.page_size(asked.get("limit"), 1000, 1000)
        page, more = rows[:size], rows[size:]
        # The parent comes again on top of every page, whatever the bounds.
        messages = [own.message(parent, deleted=self.is_deleted(parent)), *(own.reply(place) for place in page)]
        body: JSON = {"ok": True, "messages": messages, "has_more": bool(more)}
        if more:
            body["response_metadata"] = {"next_cursor": _made("next_ts", own.replies[more[0]].at)}
        return Response(200, body)

    def _files_list(self, own: Workspace, asked: JSON) -> Response:
        table = self.table(own.account, "files")
        since, until = (
            int(asked[name]) if str(asked.get(name, "")).isdigit() else None for name in ("ts_from", "ts_to")
        )
        rows = self.rows(table, table.within(since, until, through=True))[::-1]
        size, page = self.page_size(asked.get("count"), 100, 1000), whole(asked.get("page"), 1, 1, 10**6)
        paging = {"count": size, "total": len(rows), "page": page, "pages": -(-len(rows) // size)}
        found = [table.row(place) for place in rows[(page - 1) * size : page * size]]
        return Response(200, {"ok": True, "files": found, "paging": paging})


def _inside(micros: int, asked: JSON) -> bool:
    """Both bounds are left out, unless `inclusive` takes both in."""
    oldest, latest = _micros(asked.get("oldest")), _micros(asked.get("latest"))
    inclusive = asked.get("inclusive") in ("true", "True", "1")
    low = oldest is None or micros > oldest or (inclusive and micros == oldest)
    return low and (latest is None or micros < latest or (inclusive and micros == latest))


def _made(kind: str, value: int) -> str:
    return base64.b64encode(f"{kind}:{value}".encode()).decode()


def _cursor(text: str, kind: str) -> int | None:
    try:
        found, _, value = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return int(value) if found == kind and value.isdigit() else None
