"""Many watchers, one reading: what the sockets of a process are told, and what they are not."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from atom.db.base import as_owner
from atom.tenancy import across_tenants, tenant_scope
from historical_sync import broadcast, health, hub, live
from historical_sync.models import HistoricalSyncJob
from tests.graphs import make_connection, make_job
from tests.test_walk import socket_to

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def acme(live_cast: SimpleNamespace) -> SimpleNamespace:
    with tenant_scope(live_cast.acme.id):
        job = make_job(make_connection(live_cast.acme), status="running")
        other = make_job(make_connection(live_cast.acme), status="running")
    return SimpleNamespace(cast=live_cast, job=job, other=other, connection=job.connection, entity=job)


def change(job: HistoricalSyncJob, **fields: Any) -> None:
    with tenant_scope(job.tenant_id):
        HistoricalSyncJob.objects.filter(id=job.id).update(revision=fields.pop("revision"), **fields)


async def changed(job: HistoricalSyncJob, **fields: Any) -> None:
    await live.in_thread(change)(job, **fields)
    await broadcast.job_changed(job.id, job.tenant_id)


@asynccontextmanager
async def opened(*sockets: Any) -> Any:
    for socket in sockets:
        assert (await socket.connect(timeout=5))[0]
    try:
        yield
    finally:
        for socket in sockets:
            await socket.disconnect()


def progress_socket(acme: SimpleNamespace, job: HistoricalSyncJob | None = None, user: str = "alice") -> Any:
    route = "ws/historical-sync/<str:job_id>"
    return socket_to(route, SimpleNamespace(**vars(acme) | {"job": job or acme.job}), getattr(acme.cast, user))


async def test_flushing_waits_for_what_is_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    class Slow:
        async def group_send(self, group: str, message: dict[str, Any]) -> None:
            await asyncio.sleep(0.05)
            sent.append(message["job_id"])

    monkeypatch.setattr(broadcast, "get_channel_layer", Slow)
    await broadcast.job_changed("flushed", "a-tenant")
    await asyncio.sleep(0.01)  # it has begun
    await broadcast.flush()
    assert sent == ["flushed"]


def test_many_watchers_of_a_job_share_one_reading(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = []
    read = live.Reader.read

    async def counted(reader: live.Reader, job_ids: Any) -> Any:
        readings.append(set(job_ids))
        return await read(reader, job_ids)

    monkeypatch.setattr(live.Reader, "read", counted)
    sockets = [progress_socket(acme, user="alice" if n % 2 else "vera") for n in range(20)]

    async def scene() -> list[Any]:
        async with opened(*sockets):
            for socket in sockets:
                assert (await socket.receive_json_from(timeout=5))["type"] == "snapshot"
            await changed(acme.job, revision=7, records_processed=12)
            return [await socket.receive_json_from(timeout=5) for socket in sockets]

    events = asyncio.run(scene())
    assert readings == [{str(acme.job.id)}]
    assert {(e["type"], e["seq"], e["job"]["records_processed"]) for e in events} == {("progress", 7, 12)}
    assert [e["job"]["can"]["cancel"] for e in events] == [False, True] * 10


def test_a_watcher_of_one_job_hears_nothing_of_another(acme: SimpleNamespace) -> None:
    socket = progress_socket(acme)

    async def scene() -> Any:
        async with opened(socket):
            await socket.receive_json_from(timeout=5)
            await changed(acme.other, revision=3)
            await changed(acme.job, revision=4)
            return await socket.receive_json_from(timeout=5)

    assert asyncio.run(scene())["job"]["id"] == str(acme.job.id)


def test_a_message_with_a_wrong_tenant_reaches_nobody(acme: SimpleNamespace) -> None:
    """The group's name is no proof: what is read decides."""
    socket = socket_to("ws/notifications", acme, acme.cast.charlie)

    async def scene() -> bool:
        async with opened(socket):
            await live.in_thread(change)(acme.job, revision=9, status="failed", completed_at=acme.job.created_at)
            await broadcast.job_changed(acme.job.id, acme.cast.globex.id)
            return bool(await socket.receive_nothing(timeout=0.5))

    assert asyncio.run(scene())


def test_the_last_of_many_quick_changes_is_told(acme: SimpleNamespace) -> None:
    socket = progress_socket(acme)

    async def scene() -> tuple[list[int], float]:
        seen = []
        async with opened(socket):
            await socket.receive_json_from(timeout=5)
            began = time.monotonic()
            for revision in range(1, 31):
                await changed(acme.job, revision=revision)
            while not seen or seen[-1] < 30:
                seen.append((await socket.receive_json_from(timeout=5))["seq"])
        return seen, time.monotonic() - began

    seen, seconds = asyncio.run(scene())
    assert seen == sorted(set(seen))
    assert len(seen) <= 1 + seconds / broadcast.INTERVAL, "one an interval, however long a busy machine takes for all"


def test_a_change_whose_news_was_lost_is_told_of_a_little_later(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The channel layer was away, or the worker was killed right after its commit."""
    monkeypatch.setattr(hub, "LOOK_AGAIN", 0.3)
    socket = progress_socket(acme)

    async def scene() -> list[Any]:
        async with opened(socket):
            events = [await socket.receive_json_from(timeout=5)]
            await asyncio.sleep(0.5)
            await live.in_thread(change)(acme.job, revision=2, status="completed", completed_at=acme.job.created_at)
            events.append(await socket.receive_json_from(timeout=5))
            assert await socket.receive_nothing(timeout=0.8), "once"
            return events

    assert [(event["type"], event["seq"]) for event in asyncio.run(scene())] == [("snapshot", 0), ("completed", 2)]


def test_what_changes_while_a_socket_opens_is_not_lost(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    read = live.read
    first = []

    async def slow(tenant_id: str, job_id: str) -> Any:
        seen = await read(tenant_id, job_id)
        first.append(seen)
        if len(first) == 2:  # the snapshot is read, and then the job changes before it is sent
            await changed(acme.job, revision=5)
            await asyncio.sleep(0.3)
        return seen

    monkeypatch.setattr(live, "read", slow)
    socket = progress_socket(acme)

    async def scene() -> list[int]:
        async with opened(socket):
            return [(await socket.receive_json_from(timeout=5))["seq"] for _ in range(2)]

    assert asyncio.run(scene()) == [0, 5]


def test_who_lost_their_membership_hears_no_more(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from atom.models import Membership
    from historical_sync import consumers

    monkeypatch.setattr(consumers, "ACCESS_AGAIN", 0.0)
    socket = progress_socket(acme, user="bob")

    def leave() -> None:
        with tenant_scope(acme.cast.acme.id):
            Membership.objects.filter(user=acme.cast.bob).delete()

    async def scene() -> Any:
        async with opened(socket):
            await socket.receive_json_from(timeout=5)
            await live.in_thread(leave)()
            await changed(acme.job, revision=2)
            return await socket.receive_output(timeout=5)

    assert asyncio.run(scene()) == {"type": "websocket.close", "code": consumers.GONE}


def test_a_socket_whose_access_cannot_be_asked_for_closes(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from historical_sync import consumers

    monkeypatch.setattr(consumers, "ACCESS_AGAIN", 0.0)
    socket = progress_socket(acme)

    def away(*_: Any, **__: Any) -> None:
        raise OSError("the database is away")

    async def scene() -> Any:
        async with opened(socket):
            await socket.receive_json_from(timeout=5)
            monkeypatch.setattr(consumers, "actor_of_scope", away)
            await changed(acme.job, revision=2)
            return await socket.receive_output(timeout=5)

    assert asyncio.run(scene()) == {"type": "websocket.close", "code": consumers.TRY_AGAIN}


@pytest.mark.parametrize("how", ["signed out", "account closed", "password changed"])
def test_whose_session_ended_hears_no_more(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    from django.contrib.sessions.models import Session

    from atom.models import User
    from historical_sync import consumers

    monkeypatch.setattr(consumers, "ACCESS_AGAIN", 0.0)
    socket = progress_socket(acme, user="bob")

    def end() -> None:
        if how == "signed out":
            Session.objects.all().delete()
        elif how == "password changed":
            acme.cast.bob.set_password("another one indeed")
            acme.cast.bob.save()
        else:
            with across_tenants("the test's operator"):
                User.objects.filter(id=acme.cast.bob.id).update(is_active=False)

    async def scene() -> Any:
        async with opened(socket):
            await socket.receive_json_from(timeout=5)
            await changed(acme.job, revision=2)
            await socket.receive_json_from(timeout=5)  # as long as it lasts
            await live.in_thread(end)()
            await changed(acme.job, revision=3)
            return await socket.receive_output(timeout=5)

    assert asyncio.run(scene()) == {"type": "websocket.close", "code": consumers.GONE}


def test_a_connection_that_the_database_cut_is_made_again(acme: SimpleNamespace) -> None:
    socket = progress_socket(acme)

    async def scene() -> list[int]:
        async with opened(socket):
            seen = [(await socket.receive_json_from(timeout=5))["seq"]]
            await changed(acme.job, revision=2)
            seen.append((await socket.receive_json_from(timeout=5))["seq"])
            reading = hub.current().reader.connection
            assert reading is not None
            await live.in_thread(cut)(reading.info.backend_pid)
            await changed(acme.job, revision=3)
            seen.append((await socket.receive_json_from(timeout=5))["seq"])
        return seen

    def cut(process: int) -> None:
        with as_owner(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [process])

    assert asyncio.run(scene()) == [0, 2, 3]


def test_times_read_the_same_by_socket_as_by_the_api_whatever_the_databases_time_zone(acme: SimpleNamespace) -> None:
    """Pages order rows by the text of their times."""
    socket = progress_socket(acme)

    async def scene() -> list[dict[str, Any]]:
        async with opened(socket):
            seen = [(await socket.receive_json_from(timeout=5))["job"]]  # as Django read it
            await changed(acme.job, revision=2)
            seen.append((await socket.receive_json_from(timeout=5))["job"])
        return seen

    def set_default(to: str) -> None:
        with as_owner(), connection.cursor() as cursor:
            cursor.execute(f'ALTER DATABASE "{connection.settings_dict["NAME"]}" {to}')

    set_default("SET timezone = 'America/New_York'")
    try:
        opening, news = asyncio.run(scene())
    finally:
        set_default("RESET timezone")
    assert {name: news[name] for name in news if name.endswith(("_at", "_date"))} == {
        name: opening[name] for name in opening if name.endswith(("_at", "_date"))
    }
    assert opening["created_at"].endswith("Z")


def test_what_is_read_for_sockets_holds_no_credentials(acme: SimpleNamespace) -> None:
    async def scene() -> Any:
        reader = live.Reader()
        try:
            return await reader.read([str(acme.job.id), "00000000-0000-0000-0000-000000000000"])
        finally:
            await reader.close()

    (seen,) = asyncio.run(scene())
    assert seen.job == acme.job
    assert seen.job.connection.get_deferred_fields() >= {"sealed_credentials", "facts"}


def test_the_hub_sleeps_when_nobody_watches(acme: SimpleNamespace) -> None:
    socket = progress_socket(acme)

    async def scene() -> tuple[int, int]:
        async with opened(socket):
            awake = len(hub.current().tasks)
        return awake, len(hub.current().tasks) + len(hub.current().watchers)

    assert asyncio.run(scene()) == (3, 0)


def test_pages_get_rows_and_the_indicator(acme: SimpleNamespace) -> None:
    socket = socket_to("ws/pages", acme, acme.cast.vera)

    async def scene() -> str:
        async with opened(socket):
            await changed(acme.job, revision=2)
            return str(await socket.receive_from(timeout=5))

    html = asyncio.run(scene())
    assert f'id="job-{acme.job.id}"' in html
    assert 'id="running-indicator"' in html


def test_polling_asks_the_same_number_of_queries_for_few_jobs_as_for_many(acme: SimpleNamespace) -> None:
    client = Client()
    client.force_login(acme.cast.alice)

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert client.get("/live").status_code == 200
        return len(seen)

    few = queries()
    with tenant_scope(acme.cast.acme.id):
        for _ in range(10):
            make_job(make_connection(acme.cast.acme), status="running")
    assert queries() == few


def test_the_first_ones_of_two_tenants_are_heard_by_one_channel() -> None:
    """Where making a channel takes a moment, as with Redis."""

    class Layer(InMemoryChannelLayer):
        async def new_channel(self, prefix: str = "specific.") -> str:
            await asyncio.sleep(0.01)
            return str(await super().new_channel(prefix))

    async def run() -> list[list[str]]:
        layer = Layer()
        mine = hub.Hub(layer)
        heard: dict[str, list[str]] = {"a": [], "b": []}

        class Watcher:
            job_id = "1"

            def __init__(self, tenant_id: str) -> None:
                self.tenant_id = tenant_id

            async def tell_asking(self, message: dict[str, str]) -> None:
                heard[self.tenant_id].append(message["words"])

        watchers: list[Any] = [Watcher(tenant) for tenant in heard]
        await asyncio.gather(*map(mine.join, watchers))
        for words in ("one", "two", "three"):
            for tenant in heard:
                message = {"type": "job.asking", "tenant_id": tenant, "job_id": "1", "words": words}
                await layer.group_send(broadcast.tenant_group(tenant), message)
            await asyncio.sleep(0.05)
        for one in watchers:
            await mine.leave(one)
        return list(heard.values())

    assert asyncio.run(run()) == [["one", "two", "three"]] * 2


def test_what_a_page_is_told_and_what_is_stuck_is_found_without_a_look_at_what_ended(acme: SimpleNamespace) -> None:
    """Each open page asks for the first, and Prometheus for the second: of all imports of all tenants they were read one by one."""
    now = timezone.now()
    common: dict[str, Any] = {
        "tenant": acme.cast.acme, "connection": acme.connection, "streams": ["issues"], "status": "completed",
        "start_date": now - timedelta(days=1), "end_date": now,
    }  # fmt: skip
    with tenant_scope(acme.cast.acme.id):
        HistoricalSyncJob.objects.bulk_create(
            HistoricalSyncJob(completed_at=now - timedelta(hours=n), **common) for n in range(2000)
        )
    with as_owner(), connection.cursor() as cursor:
        cursor.execute("ANALYZE historical_sync_historicalsyncjob")
    with CaptureQueriesContext(connection) as asked:
        with tenant_scope(acme.cast.acme.id):
            assert len(live.of_late(acme.cast.acme.id, now - timedelta(minutes=1))) == 3
        with across_tenants("a test looks"):
            health.standing()
    statements = [
        query["sql"] for query in asked.captured_queries if "historical_sync_historicalsyncjob" in query["sql"]
    ]
    assert len(statements) == 2
    for statement in statements:
        with across_tenants("a test looks"), connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
            plans = [cursor.fetchone()[0][0]["Plan"]]
        for plan in plans:
            plans += plan.get("Plans", [])
        assert sum(plan.get("Rows Removed by Filter", 0) for plan in plans) < 50, plans[0]
