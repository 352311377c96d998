"""The ASGI application: routes to the stand-ins, adds latency and faults, answers the switches."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

from integrations.sandbox.asana import Asana
from integrations.sandbox.consent import STYLE
from integrations.sandbox.faults import Control
from integrations.sandbox.github import GitHub
from integrations.sandbox.google import Google
from integrations.sandbox.hubspot import HubSpot
from integrations.sandbox.intercom import Intercom
from integrations.sandbox.jira import Jira
from integrations.sandbox.linear import Linear
from integrations.sandbox.microsoft365 import Microsoft365
from integrations.sandbox.notion import Notion
from integrations.sandbox.salesforce import Salesforce
from integrations.sandbox.slack import Slack
from integrations.sandbox.stand_in import StandIn
from integrations.sandbox.stripe import Stripe
from integrations.sandbox.tokens import Tokens
from integrations.sandbox.wire import MAX_BODY, Request, Response
from integrations.sandbox.world import World, present, seconds_of
from integrations.sandbox.zendesk import Zendesk

# One a line.
STAND_INS: tuple[type[StandIn], ...] = (
    GitHub,
    Salesforce,
    Slack,
    Asana,
    HubSpot,
    Stripe,
    Linear,
    Notion,
    Zendesk,
    Jira,
    Intercom,
    Google,
    Microsoft365,
)
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ROOT = "/sandbox"
LEAST_RECORDS, MOST_RECORDS = 50, 1_000_000
# HTTP gives an application no way to hang up; no client goes on with a reply whose length is none.
HANG_UP = {"Content-Length": "none", "Connection": "close"}


class Sandbox:
    def __init__(self, seed: int, records: int, now: datetime | None, latency_ms: float) -> None:
        self.control = Control(latency_ms)
        self.tokens = Tokens()
        self.now = present(now)
        self.world = World(seed, records, self.now)
        self.providers: dict[str, StandIn] = {
            standin.slug: standin(self.world, self.tokens, self.control) for standin in STAND_INS
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        body = await _body(receive)
        if body is None:
            response: Response | None = Response(413, {"message": "too large"})
        else:
            response = await self._unless_gone(self._respond(scope, body), receive)
        if response is None:
            return
        content, headers = response.encoded()
        headers.setdefault("Content-Length", str(len(content)))
        pairs = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": response.status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})

    async def _unless_gone(self, answer: Coroutine[Any, Any, Response], receive: Receive) -> Response | None:
        """The answer; None when who asked has hung up before it was ready: then nobody works on it, nor is it counted, any more."""
        answering, gone = asyncio.ensure_future(answer), asyncio.ensure_future(receive())
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else None
        finally:
            answering.cancel()
            gone.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    async def _respond(self, scope: dict[str, Any], body: bytes) -> Response:
        path: str = scope["path"]
        if not path.startswith(f"{ROOT}/"):
            return Response(404, {"message": "Not Found"})
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
        if path == f"{ROOT}/style.css":
            return Response(200, STYLE, {"Content-Type": "text/css"})
        if path.startswith(f"{ROOT}/__"):
            if not _from_loopback(scope):
                return Response(404, {"message": "Not Found"})
            return self._switches(scope["method"], path.removeprefix(f"{ROOT}/__"), query, body, headers)
        slug, _, rest = path.removeprefix(f"{ROOT}/").partition("/")
        provider = self.providers.get(slug)
        if provider is None:
            return Response(404, {"message": "Not Found"})
        base = f"{scope.get('scheme', 'http')}://{headers.get('host', 'localhost')}{ROOT}/{slug}"
        request = Request(scope["method"], f"/{rest}", query, headers, body, base)
        answer = provider.oauth(request)
        if answer is not None:
            return answer
        with self.control.counted(request.token):
            response = await self._call(provider, request)
        self.control.statuses[str(response.status)] += 1
        return response

    async def _call(self, provider: StandIn, request: Request) -> Response:
        faults = self.control.faults
        if faults.latency_ms or faults.jitter_ms:
            await asyncio.sleep((faults.latency_ms + random.random() * faults.jitter_ms) / 1000)  # noqa: S311
        fault = self.control.next_fault()
        if fault == "daily_quota":
            response = provider.quota_used_up()
        elif fault == "rate_limit":
            response = provider.rate_limited()
        elif fault == "error":
            response = Response(502, b"<html><body>Bad gateway</body></html>", {"Content-Type": "text/html"})
        elif fault == "html":
            response = Response(200, b"<html><body>We are back soon.</body></html>", {"Content-Type": "text/html"})
        elif fault == "drop":
            response = Response(200, b"", HANG_UP)
        else:
            response = provider.api(request)
            if fault == "truncate" and response.status == 200:
                content, headers = response.encoded()
                response = Response(200, content[: len(content) // 2], headers)
        self.control.log.append(
            {
                "provider": provider.slug,
                "method": request.method,
                "path": request.path,
                "query": request.query,
                "status": 0 if fault == "drop" else response.status,
                "fault": fault,
            }
        )
        return response

    # -- switches -----------------------------------------------------------------------------------------------------------

    def _switches(
        self, method: str, name: str, query: dict[str, str], body: bytes, headers: dict[str, str]
    ) -> Response:
        if name == "log" and method == "GET":
            return Response(200, list(self.control.log))
        if name == "truth" and method == "GET":
            return self._truth(query)
        if name != "control":
            return Response(404, {"message": "Not Found"})
        if method == "POST":
            # A page on another site can't send this type without asking first.
            request = Request(method, "", {}, headers, body, "")
            if request.media_type != "application/json":
                return Response(400, {"message": "Content-Type must be application/json"})
            given = request.json
            if not isinstance(given, dict):
                return Response(400, {"message": "a JSON object is needed"})
            wrong = self._set(dict(given))
            if wrong:
                return Response(400, {"message": wrong})
        elif method != "GET":
            return Response(405, {"message": "Method Not Allowed"}, {"Allow": "GET, POST"})
        return Response(
            200,
            {
                **self.control.state(),
                "seed": self.world.seed,
                "records": self.world.records,
                "now": self.now.isoformat(),
            },
        )

    def _set(self, given: dict[str, Any]) -> str:
        """Takes the settings, all or none; returns what is wrong."""
        reset, revoke, expire = given.pop("reset", False), given.pop("revoke", None), given.pop("expire", None)
        changed = "records" in given
        records, seed = given.pop("records", self.world.records), given.pop("seed", self.world.seed)
        for which in (revoke, expire):
            if which is not None and (not isinstance(which, str) or which not in self.providers):
                return f"there is no provider {which!r}"
        if not isinstance(reset, bool):
            return "reset must be true or false"
        if type(seed) is not int:
            return "seed must be a whole number"
        if type(records) is not int or (changed and not LEAST_RECORDS <= records <= MOST_RECORDS):
            return f"records must be a whole number from {LEAST_RECORDS} to {MOST_RECORDS}"
        wrong = self.control.wrong(given)
        if wrong:
            return wrong
        for denied in given.get("deny", ()):
            slug, _, name = denied.partition(".")
            stand_in = self.providers.get(slug)
            if stand_in is None or name not in (*stand_in.streams, *stand_in.places):
                return f"there is no stream {denied!r}"
        if reset:
            self.control.reset()
            for provider in self.providers.values():
                provider.reset()
        self.control.set(given)
        if revoke:
            self.tokens.revoked_before[revoke] = time.time_ns()
        if expire:
            self.tokens.expired_before[expire] = time.time_ns()
        if (records, seed) != (self.world.records, self.world.seed):
            self.world = World(seed, records, self.now)
            for provider in self.providers.values():
                provider.set_world(self.world)
        return ""

    def _truth(self, query: dict[str, str]) -> Response:
        provider = self.providers.get(query.get("provider", ""))
        if provider is None:
            return Response(400, {"message": "provider is needed"})
        account = query.get("account") or next(iter(provider.accounts))
        if account not in provider.accounts:
            return Response(404, {"message": "there is no such account"})
        since, until = (seconds_of(query[name]) if query.get(name) else None for name in ("since", "until"))
        if (query.get("since") and since is None) or (query.get("until") and until is None):
            return Response(400, {"message": "since and until must be ISO date-times"})
        stream = query.get("stream")
        if stream is not None:
            if stream not in provider.streams:
                return Response(404, {"message": "there is no such stream"})
            return Response(200, provider.truth_ids(account, stream, since, until))
        return Response(200, provider.truth(account, since, until))


def _from_loopback(scope: dict[str, Any]) -> bool:
    try:
        return ipaddress.ip_address((scope.get("client") or ("",))[0]).is_loopback
    except ValueError:
        return False


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None when it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        size += len(message.get("body", b""))
        if size > MAX_BODY:
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def make_app(seed: int = 1, records: int = 2000, now: datetime | None = None, latency_ms: float = 0) -> Sandbox:
    """The stand-ins as an ASGI application for paths below /sandbox/. records: about how many each account holds."""
    return Sandbox(seed, records, now, latency_ms)
