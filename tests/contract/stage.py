"""The stage of the contract suite: a sandbox in this process, a provider's API through the real gate, and an import in small."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2

from historical_sync.course import Course
from integrations.errors import CursorExpired, WindowTooLarge
from integrations.gateway import namespace
from integrations.grants import read_token, token_request
from integrations.http import Api
from integrations.providers import PROVIDERS
from integrations.providers.base import (
    JSON,
    WHOLE,
    Account,
    Context,
    Graph,
    Page,
    Partition,
    Provider,
    Record,
    Stream,
    Window,
    WindowKind,
)
from integrations.sandbox import make_app
from integrations.sandbox.stand_in import StandIn
from tests.senders import Into

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ALL = Window(NOW - timedelta(days=500), NOW + timedelta(days=1))
ROOT = "http://sandbox.test/sandbox"
MOST_PAGES = 2000


class Stage:
    """One provider and its stand-in. `api()` is the connection as a worker would have it."""

    def __init__(self, slug: str, records: int = 240, account: str = "") -> None:
        self.provider: Provider = PROVIDERS[slug]
        self.app = make_app(seed=5, records=records, now=NOW)
        self.stand_in: StandIn = self.app.providers[slug]
        self.client = httpx2.AsyncClient(transport=httpx2.ASGITransport(self.app), follow_redirects=False)
        self.refreshed = 0
        self.account = account or next(iter(self.stand_in.accounts))

    async def use(self, account: str) -> Account:
        """Connects as this account."""
        self.account = account
        self.facts: dict[str, Any] = {ask.name: ask.default or "example" for ask in self.provider.asks}
        self.namespace = self.provider.slug
        make = self.app.tokens.make
        slug, grant = self.provider.slug, f"grant-{account}"
        self.token = make(self.stand_in.prefix, slug, account, "access", grant)
        prefix = self.stand_in.refresh_prefix
        self.refresh_token = make(prefix, slug, account, "refresh", grant) if prefix else ""
        found = await self.provider.identify(self.api())
        self.facts |= found.facts
        self.namespace = namespace(self.provider, "", found.external_id)
        return found

    async def control(self, **settings: Any) -> None:
        reply = await self.client.post(f"{ROOT}/__control", json=settings)
        assert reply.status_code == 200, reply.text

    def api(self) -> Api:
        return Api(
            self.provider,
            f"{ROOT}/{self.provider.slug}",
            Into(self.app),
            self.token,
            self._refresh if self.refresh_token else None,
            facts=self.facts,
            namespace=self.namespace,
        )

    async def _refresh(self, old: str) -> str:
        assert old == self.token
        slug = self.provider.slug
        fields = {"grant_type": "refresh_token", "refresh_token": self.refresh_token}
        headers, content = token_request(self.provider, f"sandbox-{slug}", "sandbox-secret", fields)
        assert self.provider.oauth is not None
        url = f"{ROOT}/{slug}{self.provider.oauth.token_path}"
        reply = await self.client.post(url, headers=headers, content=content)
        answer = read_token(self.provider, reply.status_code, reply.headers, reply.content)
        self.refreshed += 1
        self.token, self.refresh_token = answer["access_token"], answer.get("refresh_token") or self.refresh_token
        return self.token

    def truth(self, stream: Stream, window: Window) -> set[str]:
        ids = self.stand_in.truth_ids(self.account, stream.name, window.since.timestamp(), window.until.timestamp())
        assert len(ids) == len(set(ids)), "two rows share an id"
        return set(ids)

    async def partitions(self, stream: Stream) -> list[Partition]:
        if not stream.partitioned:
            return [WHOLE]
        assert self.provider.partitions is not None
        found = await self.provider.partitions(self.api())
        assert len({partition.key for partition in found}) == len(found)
        return found

    async def read(self, stream: Stream, window: Window = ALL) -> Import:
        """All of the stream in the window, as the engine goes about it."""
        done = Import(stream, window)
        for partition in await self.partitions(stream):
            windows = [window]
            while windows:
                span = windows.pop()
                try:
                    await self._pages(stream, partition, span, done)
                except WindowTooLarge:
                    seconds = int((span.until - span.since).total_seconds())
                    assert seconds >= 2, "a second holds more than can be listed"
                    middle = span.since + timedelta(seconds=seconds // 2)
                    windows += [Window(middle, span.until), Window(span.since, middle)]
                    done.splits += 1
        return done

    async def _pages(self, stream: Stream, partition: Partition, window: Window, done: Import) -> None:
        cursor: JSON | None = None
        position = None
        while True:
            # Each page in a process of its own, as far as the provider's file can tell.
            try:
                page = await stream.fetch(self.api(), partition, window, cursor)
            except CursorExpired:
                assert cursor is not None
                if position is not None and stream.ascending:
                    window = Window(position, window.until)
                elif position is not None:
                    window = Window(window.since, min(position + timedelta(seconds=1), window.until))
                cursor, position = None, None
                done.restarts += 1
                assert done.restarts < 50, "the cursor dies again and again"
                continue
            done.take(page, partition)
            assert done.pages < MOST_PAGES, "no end of pages"
            position = page.position or position
            if page.next_cursor is None:
                return
            text = json.dumps(page.next_cursor)
            assert json.loads(text) == page.next_cursor, "the cursor does not survive JSON"
            assert text != json.dumps(cursor), "the cursor stands still"
            cursor = json.loads(text)


async def read_on_course(api: Api, stream: Stream, partition: Partition, window: Window) -> list[Page]:
    """The window's pages to their end, each checked as the engine checks it: Endless where they seem to lead nowhere."""
    course, pages, cursor = Course(stream, api.provider.name, None), [], None
    while True:
        page = await stream.fetch(api, partition, window, cursor)
        course.check(cursor, page)
        pages.append(page)
        if (cursor := page.next_cursor) is None:
            return pages


@asynccontextmanager
async def staged(slug: str, records: int = 240) -> AsyncIterator[Stage]:
    """A stage for a provider's own tests, connected as the first account."""
    stage = Stage(slug, records)
    async with stage.client:
        await stage.use(stage.account)
        yield stage


@dataclass
class Import:
    """What came, as it would be stored: the last row of each id, within the window."""

    stream: Stream
    window: Window
    rows: dict[str, tuple[Record, Partition]] = field(default_factory=dict)
    rejected: list[tuple[str, Any, str]] = field(default_factory=list)
    pages: int = 0
    splits: int = 0
    restarts: int = 0

    def take(self, page: Page, partition: Partition) -> None:
        self.pages += 1
        self.rejected += page.rejected
        for record in page.records:
            if self.stream.window is WindowKind.SNAPSHOT or record.occurred_at in self.window:
                self.rows[record.external_id] = (record, partition)

    @property
    def ids(self) -> set[str]:
        return set(self.rows)

    def graphs(self, namespace: str) -> list[Graph]:
        return [self.stream.extract(record.payload, Context(namespace, part)) for record, part in self.rows.values()]
