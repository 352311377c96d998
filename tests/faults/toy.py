"""A provider that exists in tests only, and a server for it that can do whatever a bad network or a bad day does.

The engine has never heard of it: that it works shows that nothing in the engine knows a provider. Its world is small and fixed:
two boxes of things (windows with both bounds), events (lower bound only), visits (no filter, newest first) and labels (no time).
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from integrations.errors import CursorExpired, NotReady, ProviderError, RecordRejected, Throttled, WindowTooLarge
from integrations.http import Api, Reply
from integrations.providers.base import (
    JSON,
    Account,
    Context,
    Entity,
    Graph,
    OAuth,
    Page,
    Partition,
    Provider,
    RateBudget,
    Record,
    Stream,
    Window,
    WindowKind,
)

PAGE = 20
END = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
START = END - timedelta(days=60)
BOXES = ("attic", "cellar")


def row(number: int, at: datetime, **more: Any) -> JSON:
    return {
        "id": f"n{number}",
        "at": at.isoformat(),
        "title": f"Row {number}",
        "owner": {"id": number % 7, "email": f"p{number % 7}@toy.test"},
        "tags": [f"t{number % 3}"],
        **more,
    }


def spread(count: int, first: int) -> list[JSON]:
    """Rows evenly over START to END, ascending."""
    step = (END - START) / count
    return [row(first + i, START + step * i) for i in range(count)]


def fresh_world() -> dict[str, list[JSON]]:
    return {
        "attic": spread(130, 1000),
        "cellar": spread(50, 2000),
        "events": spread(90, 3000),
        "visits": spread(70, 4000),
        "labels": [row(5000 + i, START - timedelta(days=900)) for i in range(30)],
    }


# -- the server ---------------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("content-length", 0))))

    def _serve(self, body: bytes) -> None:
        parts = urlsplit(self.path)
        call = Call(parts.path, dict(parse_qsl(parts.query)), self.headers.get("authorization", ""), body)
        answer = self.server.answer(call)
        try:
            if callable(answer):
                answer(self)
            else:
                self.send(answer)
        except OSError:
            self.close_connection = True

    def send(self, answer: Answer) -> None:
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def date_time_string(self, timestamp: float | None = None) -> str:
        moment = datetime.now(UTC) + self.server.clock_ahead
        return super().date_time_string(moment.timestamp())


@dataclass(frozen=True)
class Call:
    path: str
    query: dict[str, str]
    authorization: str
    body: bytes


Fault = Callable[["Server", Call], "Answer | Callable[[Handler], None]"]


class Server(ThreadingHTTPServer):
    """The toy's API. `faults`: who may answer instead, in the order of their being asked; None lets the next one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self.reset()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def reset(self) -> None:
        self.world = fresh_world()
        self.faults: list[Callable[[Call], Any]] = []
        self.calls: list[Call] = []
        self.hits = 0
        self.clock_ahead = timedelta(0)
        self.good: set[str] | None = None  # access tokens that count; None: any
        self.refresh_tokens: list[str] = ["refresh-0"]  # the last one counts
        self.refreshes: list[tuple[str, int]] = []  # (token given, status)
        self.refresh_seconds = 0.0
        self.cap = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def stop(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()

    def pages(self, path: str = "") -> list[Call]:
        """The data calls so far, in order; `path` begins theirs."""
        return [call for call in self.calls if call.path.startswith(f"/rows/{path}")]

    def inject(self, fault: Fault, *, every: int = 3, times: int = 6, path: str = "/rows/") -> None:
        """Each `every`-th call below `path` meets the fault, `times` times in all."""
        seen = {"calls": 0, "left": times}

        def maybe(call: Call) -> Any:
            if not call.path.startswith(path):
                return None
            seen["calls"] += 1
            if seen["left"] == 0 or seen["calls"] % every:
                return None
            seen["left"] -= 1
            self.hits += 1
            return fault(self, call)

        self.faults.append(maybe)

    # -- answers ----------------------------------------------------------------------------------------------------------------

    def answer(self, call: Call) -> Any:
        with self.lock:
            self.calls.append(call)
            if call.path == "/token":
                return self._refresh(call)
            if self.good is not None and call.authorization.removeprefix("Bearer ") not in self.good:
                return Answer(401, {"error": "token"})
            for maybe in self.faults:
                if (instead := maybe(call)) is not None:
                    return instead
            return self.proper(call)

    def proper(self, call: Call) -> Answer:
        """What the API answers on a good day."""
        if call.path == "/me":
            return Answer(200, {"id": "toy-account", "name": "Toy"})
        if call.path == "/boxes":
            return Answer(200, {"boxes": list(BOXES)})
        if call.path.startswith("/row/"):
            own = call.path.removeprefix("/row/")
            return Answer(200, {"there": any(r.get("id") == own for rows in self.world.values() for r in rows)})
        name = call.path.removeprefix("/rows/")
        rows = self.world.get(name)
        if rows is None:
            return Answer(404, {"error": "no such list"})
        rows = sorted(rows, key=lambda r: (r["at"], r.get("id", "")))
        query = call.query
        if name == "visits":
            rows.reverse()
        if query.get("since"):
            rows = [r for r in rows if r["at"] >= query["since"]]
        if query.get("until"):
            rows = [r for r in rows if r["at"] < query["until"]]
        if self.cap and len(rows) > self.cap and name in BOXES:
            return Answer(400, {"error": "too many results"})
        start = int(query.get("after", 0))
        following = start + PAGE if start + PAGE < len(rows) else None
        return Answer(200, {"rows": rows[start : start + PAGE], "next": following})

    def _refresh(self, call: Call) -> Any:
        given = dict(parse_qsl(call.body.decode())).get("refresh_token", "")
        good = bool(self.refresh_tokens) and given == self.refresh_tokens[-1]
        self.refreshes.append((given, 200 if good else 400))
        if not good:
            return Answer(400, {"error": "invalid_grant"})
        number = len(self.refresh_tokens)
        self.refresh_tokens.append(f"refresh-{number}")  # the old one is worth nothing from now on
        self.good = {f"access-{number}"}

        def slowly(handler: Handler) -> None:
            time.sleep(self.refresh_seconds)
            handler.send(
                Answer(
                    200, {"access_token": f"access-{number}", "refresh_token": f"refresh-{number}", "expires_in": 3600}
                )
            )

        return slowly


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()


# -- faults -------------------------------------------------------------------------------------------------------------------


def says(status: int, body: Any = b"", **headers: str) -> Fault:
    """An answer as given; header names with _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda server, call: Answer(status, body, named)


def throttled(form: str, seconds: float = 1.0) -> Fault:
    """429 with Retry-After in the form: seconds, date, epoch, epoch_ms, none."""

    def fault(server: Server, call: Call) -> Answer:
        moment = time.time() + server.clock_ahead.total_seconds() + seconds
        value = {
            "seconds": f"{seconds:.0f}",
            "date": datetime.fromtimestamp(moment, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "epoch": f"{moment:.0f}",
            "epoch_ms": f"{moment * 1000:.0f}",
            "none": "",
        }[form]
        return Answer(429, {"error": "slow down"}, {"Retry-After": value} if value else {})

    return fault


def reset(server: Server, call: Call) -> Callable[[Handler], None]:
    """The connection is reset before the answer."""

    def act(handler: Handler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        handler.connection.close()

    return act


def hang(server: Server, call: Call) -> Callable[[Handler], None]:
    """No answer at all."""

    def act(handler: Handler) -> None:
        handler.close_connection = True
        server.ended.wait(5)

    return act


def drip(server: Server, call: Call) -> Callable[[Handler], None]:
    """The answer, one byte at a time."""
    content = json.dumps(server.proper(call).body).encode()

    def act(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        for byte in content:
            if server.ended.wait(0.05):
                return
            handler.wfile.write(bytes([byte]))

    return act


def cut_off(server: Server, call: Call) -> Callable[[Handler], None]:
    """Half of the answer, then the connection closes."""
    content = json.dumps(server.proper(call).body).encode()

    def act(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        )
        handler.wfile.write(content[: len(content) // 2])

    return act


def half_json(server: Server, call: Call) -> Answer:
    """Half of the JSON, as if it were all."""
    content = json.dumps(server.proper(call).body).encode()
    return Answer(200, content[: len(content) // 2])


# -- the provider -------------------------------------------------------------------------------------------------------------


def _classify(reply: Reply) -> ProviderError | None:
    error = reply.data.get("error") if isinstance(reply.data, dict) else None
    if reply.status == 403 and error in ("quota", "daily quota"):
        return Throttled("The toy's quota is used up.", reply.retry_at(), daily=error == "daily quota")
    if reply.status == 202:
        return NotReady("The toy is winding up.", reply.retry_at())
    if reply.status == 410:
        return CursorExpired("The toy forgot the page.")
    if reply.status == 400 and error == "too many results":
        return WindowTooLarge("The toy lists only so many.")
    return None


def _page(reply: Reply, *, position: str = "last") -> Page:
    records, rejected = [], []
    for found in reply.data["rows"]:
        try:
            records.append(to_record(found))
        except (KeyError, TypeError, ValueError) as error:
            rejected.append((str(found.get("id", "")), found, f"no usable id or time: {error!r}"))
    times = [record.occurred_at for record in records]
    following = reply.data["next"]
    at = None if not times or position == "none" else times[-1]
    return Page(records, None if following is None else {"after": following}, at, rejected)


def to_record(found: JSON) -> Record:
    return Record(found["id"], datetime.fromisoformat(found["at"]), found)


def _after(cursor: JSON | None) -> dict[str, str]:
    return {"after": str(cursor["after"])} if cursor else {}


def _span(window: Window) -> dict[str, str]:
    return {"since": window.since.isoformat(), "until": window.until.isoformat()}


async def _things(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    return _page(await api.get(f"/rows/{partition.key}", {**_span(window), **_after(cursor)}))


async def _events(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    """Oldest first from the last time seen: rows that move to the end meanwhile shift nothing."""
    since = cursor["since"] if cursor else window.since.isoformat()
    reply = await api.get("/rows/events", {"since": since, "after": "0"})
    page = _page(reply)
    if reply.data["next"] is None or (page.position is not None and page.position >= window.until):
        return page._replace(next_cursor=None)
    return page._replace(next_cursor={"since": page.records[-1].payload["at"]})


async def _visits(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    page = _page(await api.get("/rows/visits", _after(cursor)))
    if page.position is not None and page.position < window.since:
        return page._replace(next_cursor=None)
    return page


async def _labels(api: Api, partition: Partition, window: Window, cursor: JSON | None) -> Page:
    return _page(await api.get("/rows/labels", _after(cursor)), position="none")


async def _gone(api: Api, partition: Partition, records: Sequence[Record]) -> list[str]:
    return [r.external_id for r in records if not (await api.get(f"/row/{r.external_id}")).data["there"]]


async def _boxes(api: Api) -> list[Partition]:
    reply = await api.get("/boxes")
    return [Partition(key, f"the {key}", {"shelf": key}) for key in reply.data["boxes"]]


async def _identify(api: Api) -> Account:
    reply = await api.get("/me")
    return Account(reply.data["id"], reply.data["name"])


def _extract(found: JSON, context: Context) -> Graph:
    if found.get("broken"):
        raise RecordRejected("it is broken")
    ns = context.namespace
    key = f"{ns}:row:{found['id']}"
    owner = Entity(
        "person",
        f"person:{found['owner']['email']}",
        found["owner"]["email"],
        None,
        (f"{ns}:user:{found['owner']['id']}",),
    )
    said = Graph(Entity("thing", key, found["title"], {"title": found["title"], "note": found.get("note")}))
    said.to("owned_by", owner)
    said.to("tagged", *(Entity("tag", f"{ns}:tag:{tag}", tag) for tag in found["tags"]))
    return said


def provider(root: str) -> Provider:
    """The toy, served at `root`."""
    return Provider(
        slug="toy",
        name="Toy",
        category="Tests",
        summary="",
        brings=(),
        api_url=root,
        auth_url=root,
        identify=_identify,
        partitions=_boxes,
        classify=_classify,
        oauth=OAuth("/authorize", "/token", ("read",)),
        budget=RateBudget(requests=1_000_000, seconds=60, concurrency=4),
        streams=(
            Stream("labels", "Labels", WindowKind.SNAPSHOT, _labels, _extract, gone=_gone),
            Stream(
                "things",
                "Things",
                WindowKind.EXACT,
                _things,
                _extract,
                partitioned=True,
                needs=("things:read",),
                gone=_gone,
                shared=True,
            ),
            Stream("events", "Events", WindowKind.LOWER_BOUND, _events, _extract, record=to_record),
            Stream("visits", "Visits", WindowKind.SCAN, _visits, _extract, ascending=False),
        ),
    )
