"""The one gate for HTTP to providers: time-outs, size limits, no surprise redirects, redaction, status to error class.

Everything that leaves here is a decoded `Reply` or an error of `integrations.errors` whose class says what to do.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import json
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlencode, urljoin, urlsplit

import orjson

from integrations import transport
from integrations.errors import (
    AccessDenied,
    Misconfigured,
    NotFound,
    ProviderError,
    ReauthRequired,
    RequestRejected,
    Throttled,
    TookTooLong,
    Unavailable,
)
from integrations.providers.base import Provider
from integrations.transport import Answer, Client, PrivateAddress, Sender, is_public

# Seconds for a whole reply, however slowly it drips, besides what a provider may think before it answers.
TOTAL_TIMEOUT = 120.0
MAX_BODY = 64 * 1024 * 1024  # bytes, decoded
MAX_REDIRECTS = 3
LONGEST_WAIT = timedelta(days=1)  # whatever a provider says must not park a job for a week
CLOCKS_AGREE = timedelta(seconds=5)  # of two clocks that are as one
_SURROGATE = re.compile("[\ud800-\udfff]")
_REDIRECTS = (301, 302, 307, 308)


class Limiter(Protocol):
    """What bounds the requests of a connection. `before` may raise Throttled."""

    async def before(self) -> None: ...

    def after(self, reply: Reply) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A provider's answer. `data`: the decoded JSON, a text when a success brought no JSON (CSV, say), None when there was no body.
    `text`: the first 500 bytes of what came with any status but a success, "" with one. `url`: that answered, without its query."""

    status: int
    headers: Mapping[str, str]
    data: Any
    text: str
    url: str

    def retry_at(self, now: datetime | None = None) -> datetime | None:
        """The time that Retry-After names, by our clock; None when it names none."""
        now = now or datetime.now(UTC)
        return retry_after(self.headers.get("retry-after"), now, self._clock_ahead(now))

    def by_our_clock(self, moment: datetime) -> datetime:
        """A time that the provider named by its own clock (a reset header), as our clock will show it."""
        return moment - self._clock_ahead(datetime.now(UTC))

    def _clock_ahead(self, now: datetime) -> timedelta:
        """How far the provider's clock, as its Date header tells, is ahead of ours; what a slow answer explains is nothing."""
        try:
            ahead = _http_date(self.headers["date"]) - now
        except (KeyError, ValueError):
            return timedelta(0)
        return ahead if CLOCKS_AGREE < abs(ahead) < timedelta(days=1) else timedelta(0)


def retry_after(
    value: str | None, now: datetime | None = None, clock_ahead: timedelta = timedelta(0)
) -> datetime | None:
    """Retry-After as an aware UTC time: from seconds, an HTTP date, or epoch seconds or milliseconds.

    clock_ahead: how far the clock that made a date or an epoch is ahead of ours.
    """
    if not value:
        return None
    now = now or datetime.now(UTC)
    value = value.strip()
    try:
        number = float(value)
    except ValueError:
        try:
            moment = _http_date(value) - clock_ahead
        except ValueError:
            return None
    else:
        if not 0 <= number < 1e14:
            return None
        if number > 1e11:
            moment = datetime.fromtimestamp(number / 1000, UTC) - clock_ahead
        elif number > 1e9:
            moment = datetime.fromtimestamp(number, UTC) - clock_ahead
        else:
            moment = now + timedelta(seconds=number)
    return min(max(moment, now), now + LONGEST_WAIT)


def _http_date(value: str) -> datetime:
    """Aware UTC; ValueError for what is no date."""
    moment = email.utils.parsedate_to_datetime(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def clean_json(value: Any) -> Any:
    """`value` with lone surrogates, which UTF-8 and PostgreSQL can't hold, replaced by U+FFFD."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {clean_json(k): clean_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [clean_json(v) for v in value]
    return value


def decode(body: bytes) -> Any:
    """JSON as sent by the real world. ValueError when it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Escapes of lone surrogates and NaN are not JSON, but they do arrive.
        try:
            return clean_json(json.loads(body.decode("utf-8", "replace"), parse_constant=lambda _: None))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def check_address(url: str, *, with_query: bool = False) -> tuple[str, int]:
    """(host, port) of an address that a person typed, if it is http(s) and names a host and nobody's name and password.

    with_query: it may have one. Raises Misconfigured in words for the form.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        if port == 0:  # nobody can be asked there
            raise ValueError
    except ValueError:
        raise Misconfigured("This is not a valid address.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured("The address must begin with https:// or http:// and name a host.")
    if parts.username or parts.password:
        raise Misconfigured("The address must not contain a user name or password.")
    if parts.fragment:
        raise Misconfigured("The address must not contain a fragment.")
    if parts.query and not with_query:
        raise Misconfigured("The address must not contain a query.")
    return parts.hostname, port or (443 if parts.scheme == "https" else 80)


def check_public_address(url: str, *, with_query: bool = False) -> None:
    """Refuses an address that a person typed unless it leads to public hosts only.

    with_query: it may have one. Raises Misconfigured in words for the form. The connection itself is guarded again, as names can
    change their mind.
    """
    host, port = check_address(url, with_query=with_query)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Misconfigured(f"The host {host} can't be found.") from None
    if not all(is_public(str(address[4][0])) for address in found):
        raise Misconfigured("The address leads to a private network, which this deployment does not allow.")


def make_client(*, allow_private: bool) -> Client:
    """The HTTP client of one event loop, shared by its connections. `allow_private`: may reach private networks."""
    return Client(public_only=not allow_private)


@dataclass(slots=True)
class Api:
    """A provider's API as one connection sees it. Paths are joined to `root`; absolute URLs must be of its origin.

    refresh: old token -> new token, called once a request when `provider.expired` says so; may raise ReauthRequired.
    namespace: prefix of this account's keys in the graph.
    longest_wait: for a limit that is met in the middle of a list that is read whole; none where a person waits for the answer.
    notices: what the provider left out of a list of partitions, in words for people, where that is no failure.
    """

    provider: Provider
    root: str
    client: Sender = field(repr=False)
    token: str | None = field(default=None, repr=False)
    refresh: Callable[[str], Awaitable[str]] | None = field(default=None, repr=False)
    limiter: Limiter | None = field(default=None, repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    longest_wait: timedelta = timedelta(0)
    notices: list[str] = field(default_factory=list)
    refreshing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def get(
        self, path: str, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """GET; raises the error that the reply means."""
        return await self.request("GET", path, params=params, headers=headers)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
    ) -> Reply:
        """One request and its reply; an expired token is refreshed once. Raises errors of `integrations.errors` only."""
        url = self._url(path)
        refreshed = False
        while True:
            token = self.token
            if self.limiter is not None:
                await self.limiter.before()
            reply = await self._exchange(method, url, token, params, headers, json, form, auth)
            if self.limiter is not None:
                self.limiter.after(reply)
            if self.refresh is not None and token is not None and not refreshed and self.provider.expired(reply):
                refreshed = True
                # Others may have met the same end of the token: the first refreshes it, the rest wait for that.
                async with self.refreshing:
                    if self.token == token:
                        self.token = await self.refresh(token)
                continue
            if (error := self._error(reply)) is not None:
                raise error
            return reply

    def _url(self, path: str) -> str:
        if "://" not in path:
            roots = self.provider.path_roots if self.root == self.provider.api_url else {}
            root = next((root for start, root in roots.items() if path.startswith(start)), self.root)
            return root.rstrip("/") + "/" + path.lstrip("/")
        if not self._is_own(path):
            raise RequestRejected(f"{self.provider.name} named an address outside its own API.")
        return path

    def _is_own(self, address: str, base: str = "") -> bool:
        """Whether an address that the provider named is of the API's origin. base: what it is relative to."""
        try:
            return _origin(urljoin(base, address)) == _origin(self.root)
        except ValueError:  # a port that is none, half an IPv6 address
            raise RequestRejected(f"{self.provider.name} named an address that is none.") from None

    async def _exchange(
        self,
        method: str,
        url: str,
        token: str | None,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        json: Any,
        form: Mapping[str, str] | None,
        auth: tuple[str, str] | None,
    ) -> Reply:
        name, patience = self.provider.name, self.provider.patience or transport.READ_TIMEOUT
        total = TOTAL_TIMEOUT + (self.provider.patience or 0)
        sent = {**self.provider.headers, **(headers or {})}
        if auth is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        elif token is not None:
            sent.update(self.provider.auth_header(token))
        body = None
        if json is not None:
            body = orjson.dumps(json)
            sent.setdefault("Content-Type", "application/json")
        elif form is not None:
            body = urlencode(form).encode()
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        if params:
            url = f"{url.partition('?')[0]}?{_query(params)}"
        try:
            async with asyncio.timeout(total):
                for _ in range(MAX_REDIRECTS + 1):
                    answer = await self.client.send(method, url, sent, body, most=MAX_BODY, patience=patience)
                    location = answer.headers.get("location")
                    if answer.status in _REDIRECTS and method == "GET" and location:
                        if not self._is_own(location, url):
                            raise RequestRejected(f"{name} redirects to another host, which is not followed.")
                        url = urljoin(url, location)
                        continue
                    return self._reply(answer, url)
                raise RequestRejected(f"{name} redirects in circles.")
        except PrivateAddress:
            raise Misconfigured(
                "The address leads to a private network, which this deployment does not allow."
            ) from None
        except TimeoutError:
            raise Unavailable(f"{name} did not finish its answer within {total:.0f} s.") from None
        except transport.ConnectTimeout:
            raise Unavailable(f"{name} could not be reached within {transport.CONNECT_TIMEOUT:.0f} s.") from None
        except transport.ReadTimeout:
            raise TookTooLong(f"{name} did not answer within {patience:.0f} s.") from None
        except transport.CannotConnect:
            raise Unavailable(f"{name} could not be reached.") from None
        except transport.BrokenOff:
            raise Unavailable(f"The connection to {name} broke off.") from None
        except transport.InvalidAddress:
            raise RequestRejected(f"{name} named an address that is none.") from None
        except transport.TooLarge:
            raise RequestRejected(f"{name} sent more than {MAX_BODY // 1024 // 1024} MiB in one answer.") from None

    def _reply(self, answer: Answer, url: str) -> Reply:
        status, headers, body = answer
        data = None
        text = ""
        if body:
            if status >= 300:
                text = body[:500].decode("utf-8", "replace").replace("\0", "\ufffd")
            try:
                data = decode(body)
            except ValueError:
                if status < 300:
                    kind = headers.get("content-type", "").partition(";")[0]
                    if kind in ("", "text/html") or "json" in kind:
                        what = "a web page" if kind == "text/html" else "cut-off or invalid data"
                        raise Unavailable(f"{self.provider.name} answered with {what}.") from None
                    data = body.decode("utf-8", "replace")
        return Reply(status, headers, data, text, url.partition("?")[0])

    def _error(self, reply: Reply) -> ProviderError | None:
        error = self.provider.classify(reply)
        if error is not None or 200 <= reply.status < 300:
            return error
        name, status = self.provider.name, reply.status
        if status == 401:
            return ReauthRequired(f"{name} no longer accepts this connection's access.")
        if status in (403, 404, 410):
            kind: type[ProviderError] = AccessDenied if status == 403 else NotFound
            return kind(f"{name} does not let this connection read {urlsplit(reply.url).path} ({status}).")
        if status == 429:
            return Throttled(f"{name}'s rate limit is used up.", reply.retry_at())
        if status in (408, 425) or status >= 500:
            away = TookTooLong if status in (502, 504) else Unavailable
            return away(f"{name} has a problem of its own ({status}).", reply.retry_at())
        return RequestRejected(f"{name} refused the request ({status}): {reply.text[:200]}")


def _query(params: Mapping[str, Any]) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        for each in value if isinstance(value, (list, tuple)) else (value,):
            pairs.append((name, "" if each is None else str(each).lower() if isinstance(each, bool) else str(each)))
    return urlencode(pairs)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
