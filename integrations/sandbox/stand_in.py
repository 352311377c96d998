"""What the stand-ins share: consent, tokens, who asks, the switches, and the truth. A vendor's own file is data and paging."""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from integrations.sandbox.consent import authorize
from integrations.sandbox.faults import Control
from integrations.sandbox.tokens import Token, Tokens
from integrations.sandbox.wire import Request, Response, whole
from integrations.sandbox.world import World

JSON = dict[str, Any]


@dataclass(frozen=True)
class Grants:
    """How the vendor grants access.

    authorize, token, revoke: paths below the stand-in's root; revoke "" where the vendor has none. revokes_all: it ends all that the
        account granted, not one grant alone.
    basic: the client says who it is by HTTP Basic authentication, otherwise in the body. json: the token endpoint takes a JSON
        object, otherwise a form. secret_as_user: by Basic authentication with the secret alone, as user name. pkce: a challenge is
        demanded (one that is sent is always held to).
    refreshes: it hands out refresh tokens. rotates: each refresh token serves once. expires_in: seconds, None when it does not say.
    scopes: what it says was granted; `separator` joins them.
    """

    authorize: str
    token: str
    revoke: str = ""
    revokes_all: bool = False
    basic: bool = False
    secret_as_user: bool = False
    json: bool = False
    pkce: bool = True
    refreshes: bool = True
    rotates: bool = False
    expires_in: int | None = None
    scopes: tuple[str, ...] = ()
    separator: str = " "


@dataclass(frozen=True)
class Table:
    """The rows of one stream of an account. Row i was last touched at `times[i]` (ascending Unix seconds).

    id_of: the external id that the provider's file gives the record. row: the wire format. timeless: no window applies.
    tombstones: deleted rows are still listed, marked; elsewhere they vanish.
    """

    times: Sequence[float]
    id_of: Callable[[int], str]
    row: Callable[[int], JSON]
    timeless: bool = False
    tombstones: bool = False

    def within(self, since: float | None, until: float | None, *, after: bool = False, through: bool = False) -> range:
        """Places in [since, until). after: `since` itself is left out; through: `until` itself is taken in."""
        if self.timeless:
            return range(len(self.times))
        low = 0 if since is None else (bisect_right if after else bisect_left)(self.times, since)
        high = len(self.times) if until is None else (bisect_right if through else bisect_left)(self.times, until)
        return range(low, max(low, high))


@dataclass(frozen=True)
class Route:
    """A path (a regular expression for the whole of it) and who answers: handler(request, account, **named groups).

    stream: what is read there; when the switches deny it, the vendor's words for a missing permission come back.
    """

    method: str
    path: re.Pattern[str]
    handler: Callable[..., Response]
    stream: str = ""


class StandIn:
    """A vendor's stand-in. The class says what it is; `tables` and `routes` (or `answer`) say what it holds and how it is asked.

    slug, name: as the provider's. accounts: id -> label; the first has the data, the last is empty, others are there for tenancy.
    prefix, refresh_prefix: how its tokens begin (they must differ); refresh_prefix "" where there is no refresh.
    pasted_prefix: any token that begins so is a personal token of the first account; "" where there are none.
    streams: names of the provider's streams.
    places: names of the sites or workspaces of an account that can refuse by themselves.
    """

    slug: ClassVar[str]
    name: ClassVar[str]
    accounts: ClassVar[dict[str, str]]
    prefix: ClassVar[str]
    refresh_prefix: ClassVar[str] = ""
    pasted_prefix: ClassVar[str] = ""
    streams: ClassVar[tuple[str, ...]]
    places: ClassVar[tuple[str, ...]] = ()
    grants: ClassVar[Grants]

    def __init__(self, world: World, tokens: Tokens, control: Control) -> None:
        self.tokens, self.control = tokens, control
        self.routes: list[Route] = []
        self.set_world(world)

    def set_world(self, world: World) -> None:
        """Takes a world, at the start and whenever it is replaced; forgets what belonged to the one before."""
        self.world = world

    def reset(self) -> None:
        """Forgets what it counted."""

    # -- what it holds ------------------------------------------------------------------------------------------------------

    def is_empty(self, account: str) -> bool:
        """Whether this is the account that holds nothing."""
        return account == list(self.accounts)[-1]

    def count(self, account: str, share: float) -> int:
        """How many rows a table with this share of the account's records has."""
        return 0 if self.is_empty(account) else max(1, round(self.world.records * share))

    def table(self, account: str, stream: str) -> Table:
        """The stream's rows, over all partitions."""
        raise NotImplementedError

    def is_deleted(self, place: int) -> bool:
        """Whether the switch `delete_every` took the row at this place of its table."""
        every = self.control.faults.delete_every
        return every > 0 and place % every == every - 1

    def rows(self, table: Table, places: Sequence[int]) -> list[int]:
        """The places that are still listed."""
        if table.tombstones or not self.control.faults.delete_every:
            return list(places)
        return [place for place in places if not self.is_deleted(place)]

    def truth(self, account: str, since: float | None, until: float | None) -> dict[str, int]:
        """How many rows each stream lists in [since, until)."""
        return {stream: len(self.truth_ids(account, stream, since, until)) for stream in self.streams}

    def truth_ids(self, account: str, stream: str, since: float | None, until: float | None) -> list[str]:
        """Ids of the rows that the stream lists in [since, until), as the provider's file names its records."""
        table = self.table(account, stream)
        return [table.id_of(place) for place in self.rows(table, table.within(since, until))]

    # -- switches -----------------------------------------------------------------------------------------------------------

    def denies(self, stream: str) -> bool:
        """Whether the switches deny the stream or place."""
        return f"{self.slug}.{stream}" in self.control.faults.deny

    def page_size(self, asked: str | int | None, default: int, most: int) -> int:
        """Rows of a page: what was asked for, within the vendor's bounds; the switch `page_size` makes pages smaller."""
        size = whole(None if asked is None else str(asked), default, 1, most)
        return min(size, self.control.faults.page_size or size)

    def cap(self, own: int) -> int:
        """How many results of one query can be listed: the vendor's own number, or what the switch `cap` says."""
        return self.control.faults.cap or own

    # -- OAuth --------------------------------------------------------------------------------------------------------------

    def oauth(self, request: Request) -> Response | None:
        """OAuth's endpoints; None for another path."""
        grants = self.grants
        if request.path == grants.authorize:
            return authorize(request, self.tokens, self.slug, self.name, self.accounts, pkce=grants.pkce)
        if request.path == grants.token and request.method == "POST":
            return self._token(request)
        if grants.revoke and request.path == grants.revoke:
            return self.revoked(request)
        return None

    def _token(self, request: Request) -> Response:
        grants = self.grants
        body = request.json if grants.json else request.form
        form = {name: value for name, value in body.items() if isinstance(value, str)} if isinstance(body, dict) else {}
        client = request.basic if grants.basic else (form.get("client_id", ""), form.get("client_secret", ""))
        if grants.secret_as_user:
            client = (f"sandbox-{self.slug}", request.basic[0] or request.token)
        if client[0] != f"sandbox-{self.slug}":
            return self.token_refused("invalid_client", "The client id is not known.", 401)
        if client[1] != "sandbox-secret":
            return self.token_refused("invalid_client", "The client secret is wrong.", 401)
        refresh = ""
        if form.get("grant_type", "authorization_code") == "authorization_code":
            code = self.tokens.redeem(
                self.slug, form.get("code", ""), form.get("redirect_uri", ""), form.get("code_verifier", "")
            )
            if code is None:
                return self.token_refused("invalid_grant", "The authorization code is expired or not valid.")
            grant, account = secrets.token_hex(8), code.account
            if grants.refreshes:
                refresh = self.tokens.make(self.refresh_prefix, self.slug, account, "refresh", grant)
        elif form["grant_type"] == "refresh_token" and grants.refreshes:
            old = self.tokens.read(self.refresh_prefix, form.get("refresh_token", ""), "refresh")
            if old is None:
                return self.token_refused("invalid_grant", "The refresh token is expired or revoked.")
            self.tokens.refreshed(old)
            grant, account = old.grant, old.account
            if grants.rotates:
                self.tokens.rotated(old)
                refresh = self.tokens.make(self.refresh_prefix, self.slug, account, "refresh", grant)
        else:
            return self.token_refused("unsupported_grant_type", "The grant type is not supported.")
        answer: JSON = {
            "access_token": self.tokens.make(self.prefix, self.slug, account, "access", grant),
            "token_type": "Bearer",
        }
        if refresh:
            answer["refresh_token"] = refresh
        if grants.expires_in is not None:
            answer["expires_in"] = grants.expires_in
        if grants.scopes:
            answer["scope"] = grants.separator.join(grants.scopes)
        return self.token_granted(request, answer, account)

    def token_granted(self, request: Request, answer: JSON, account: str) -> Response:
        """The vendor's reply with tokens. answer: as RFC 6749 has it."""
        return Response(200, answer)

    def token_refused(self, error: str, words: str, status: int = 400) -> Response:
        """The vendor's reply to a wrong token request. error: RFC 6749's code for it."""
        return Response(status, {"error": error, "error_description": words})

    def revoked(self, request: Request) -> Response:
        """The vendor's reply on the revocation path; by default RFC 7009: a form with `token`, 200 whatever it was."""
        if request.method != "POST":
            return Response(405)
        self.take_back(request.form.get("token", ""))
        return Response(200)

    def take_back(self, given: object) -> bool:
        """Ends the grant that an access or refresh token belongs to, or all of its account; False when it is no token."""
        if not isinstance(given, str):
            return False
        token = self._read(given)
        if token is None and self.refresh_prefix:
            token = self.tokens.read(self.refresh_prefix, given, "refresh")
        if token is None or token.provider != self.slug:
            return False
        self.tokens.revoke(token, all_of_account=self.grants.revokes_all)
        return True

    # -- the API ------------------------------------------------------------------------------------------------------------

    def api(self, request: Request) -> Response:
        """An API call's reply: who asks, then `answer`, then the headers that every reply has."""
        account = self.account_of(request)
        if account is None:
            return self.unauthorized(request)
        return self.finished(request, account, self.answer(request, account))

    def answer(self, request: Request, account: str) -> Response:
        """The reply to somebody known: by `routes`, the first whose path and method fit."""
        for route in self.routes:
            found = route.path.fullmatch(request.path) if route.method == request.method else None
            if found is not None:
                if route.stream and self.denies(route.stream):
                    return self.forbidden(request, route.stream)
                return route.handler(request, account, **found.groupdict())
        return self.not_found(request)

    def finished(self, request: Request, account: str, response: Response) -> Response:
        """Adds what every reply has (the state of the budget, say)."""
        return response

    def token_of(self, request: Request) -> str:
        """The token that a request carries."""
        return request.token

    def account_of(self, request: Request) -> str | None:
        """Whose token the request carries; None when it is none, or no longer good."""
        given = self.token_of(request)
        token = self._read(given)
        if token is not None:
            return token.account if token.account in self.accounts else None
        if self.pasted_prefix and given.startswith(self.pasted_prefix):
            return next(iter(self.accounts))
        return None

    def _read(self, given: str) -> Token | None:
        token = self.tokens.read(self.prefix, given)
        return token if token is not None and token.provider == self.slug else None

    # -- the vendor's words for what is wrong ---------------------------------------------------------------------------------

    def unauthorized(self, request: Request) -> Response:
        """A token that is missing, expired or revoked."""
        return Response(401, {"message": "unauthorized"})

    def forbidden(self, request: Request, stream: str) -> Response:
        """A permission that the token lacks."""
        return Response(403, {"message": "forbidden"})

    def not_found(self, request: Request) -> Response:
        return Response(404, {"message": "not found"})

    def rate_limited(self) -> Response:
        """A client that must wait `self.control.faults.retry_after` seconds (where the vendor says how long)."""
        return Response(429, {"message": "slow down"}, {"Retry-After": str(self.control.faults.retry_after)})

    def quota_used_up(self) -> Response:
        """The long-term quota is used up; the same as `rate_limited` where there is none."""
        return self.rate_limited()
