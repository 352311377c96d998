"""An API to measure against: GitHub's issue list with made-up rows of about 1 KB, in a process of its own.

    python -m bench.mock_api --port 4500 --records 200000 --latency-ms 0

Speaks what an import of issues needs (`/user`, `/user/repos`, the issue list with `since`, `page` and Link headers; all other lists
are empty), and what peers need (`/rows?page=N`). Rows are encoded once, so the server costs next to nothing a page.
Several repositories: `--repositories N` shares the rows among them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import time
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

import orjson

DAYS = 88
PEOPLE, LABELS, MILESTONES = 500, 25, 12
WORDS = [
    "the",
    "queue",
    "drops",
    "a",
    "page",
    "when",
    "a",
    "worker",
    "restarts",
    "during",
    "import",
    "and",
    "the",
    "cursor",
    "is",
    "written",
    "too",
    "late",
    "so",
    "rows",
    "come",
    "twice",
    "after",
    "a",
    "deploy",
    "users",
    "see",
    "a",
    "stale",
    "number",
    "until",
    "they",
    "reload",
    "which",
    "looks",
    "like",
    "data",
    "loss",
    "although",
    "nothing",
    "is",
    "missing",
]
_TOKEN = re.compile(rb"(?i)\r\nauthorization: bearer ([^\r]+)")
_ISSUES = re.compile(r"/repos/bench/r(\d+)/issues")


def user(number: int) -> dict[str, object]:
    return {"login": f"dev{number}", "id": 1000 + number, "type": "User", "site_admin": False}


def issue(number: int, updated: str, rng: random.Random) -> dict[str, object]:
    """One row, about 1 KB."""
    body = " ".join(rng.choices(WORDS, k=70))
    if number % 10 == 0:
        body += f" see #{number // 2 + 1}"
    label = rng.randrange(LABELS)
    row: dict[str, object] = {
        "id": 5_000_000 + number,
        "number": number,
        "title": " ".join(rng.choices(WORDS, k=7)),
        "state": "closed" if number % 3 else "open",
        "html_url": f"https://github.com/bench/r0/issues/{number}",
        "user": user(rng.randrange(PEOPLE)),
        "labels": [{"id": label, "name": f"label-{label}", "color": "ededed", "default": False}],
        "assignees": [user(rng.randrange(PEOPLE))] if number % 2 else [],
        "milestone": {"id": number % MILESTONES, "number": number % MILESTONES, "title": f"v{number % MILESTONES}"},
        "comments": number % 7,
        "created_at": updated,
        "updated_at": updated,
        "closed_at": None,
        "author_association": "NONE",
        "body": body,
    }
    return row


class Rows:
    def __init__(self, records: int, seed: int = 1, base: datetime | None = None) -> None:
        rng = random.Random(seed)
        end = (base or datetime.now(UTC)).replace(hour=0, minute=0, second=0, microsecond=0)
        step = DAYS * 86_400 / records
        self.times: list[str] = []
        self.rows: list[bytes] = []
        for number in range(1, records + 1):
            stamp = (end - timedelta(seconds=int(step * (records - number)))).strftime("%Y-%m-%dT%H:%M:%SZ")
            self.times.append(stamp)
            self.rows.append(orjson.dumps(issue(number, stamp, rng)))


class Server:
    def __init__(self, rows: Rows, repositories: int, latency: float) -> None:
        self.rows, self.repositories, self.latency = rows, repositories, latency
        self.host = ""
        self.resets_at = int(time.time()) + 3600  # GitHub's window
        self.requests = 0
        self.first_request_at: dict[str, float] = {}

    @lru_cache(maxsize=2000)  # noqa: B019 - there is one server a process
    def rows_of(self, repository: int) -> tuple[list[bytes], list[str]]:
        """The repository's rows, from all of the time, and their times."""
        return self.rows.rows[repository :: self.repositories], self.rows.times[repository :: self.repositories]

    def answer(self, target: str, token: str) -> tuple[bytes, str]:
        """(body, Link header) of a GET. A token "only-N" sees repository N alone."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/__first":
            return orjson.dumps(self.first_request_at.get(query["token"])), ""
        self.first_request_at.setdefault(token, time.time())
        if parts.path == "/user":
            return b'{"id": 1, "login": "bench"}', ""
        if parts.path == "/user/repos":
            repos = [
                {
                    "id": n,
                    "full_name": f"bench/r{n}",
                    "owner": user(0),
                    "created_at": "2020-01-01T00:00:00Z",
                    "updated_at": "2020-01-01T00:00:00Z",
                }
                for n in ([int(token.removeprefix("only-"))] if token.startswith("only-") else range(self.repositories))
            ]
            return orjson.dumps(repos), ""
        if parts.path == "/rows":
            size = int(query.get("per_page", 100))
            first = (int(query.get("page", 1)) - 1) * size
            since = bisect_left(self.rows.times, query["since"]) if "since" in query else 0
            until = bisect_left(self.rows.times, query["until"]) if "until" in query else len(self.rows.rows)
            return b"[" + b",".join(self.rows.rows[since + first : min(since + first + size, until)]) + b"]", ""
        if found := _ISSUES.fullmatch(parts.path):
            return self._issues(parts.path, int(found[1]), query)
        return b"[]", ""

    def _issues(self, path: str, repository: int, query: dict[str, str]) -> tuple[bytes, str]:
        rows, times = self.rows_of(repository)
        low = bisect_left(times, query.get("since", ""))
        size, page = int(query.get("per_page", 30)), int(query.get("page", 1))
        first = low + (page - 1) * size
        chosen = rows[first : first + size]
        last = max(1, -(-(len(rows) - low) // size))
        link = ""
        if page < last:
            rest = "&".join(f"{name}={value}" for name, value in query.items() if name != "page")
            link = f'<http://{self.host}{path}?{rest}&page={page + 1}>; rel="next", <http://{self.host}{path}?{rest}&page={last}>; rel="last"'
        return b"[" + b",".join(chosen) + b"]", link

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode()
                token = found[1].decode() if (found := _TOKEN.search(head)) else ""
                self.requests += 1
                if self.latency:
                    await asyncio.sleep(self.latency)
                body, link = self.answer(target, token)
                lines = (
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-RateLimit-Limit: 10000000\r\nX-RateLimit-Remaining: 9999999\r\n"
                    f"X-RateLimit-Reset: {self.resets_at}\r\nContent-Length: {len(body)}\r\n"
                )
                writer.write((lines + (f"Link: {link}\r\n" if link else "") + "\r\n").encode())
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.mock_api", description=__doc__)
    parser.add_argument("--port", type=int, default=4500)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--repositories", type=int, default=1)
    parser.add_argument("--latency-ms", type=float, default=0)
    options = parser.parse_args()
    server = Server(Rows(options.records), options.repositories, options.latency_ms / 1000)
    server.host = f"127.0.0.1:{options.port}"
    listening = await asyncio.start_server(server.serve, "127.0.0.1", options.port, limit=1 << 16)
    print("ready", flush=True)
    async with listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
