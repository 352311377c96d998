"""The contract's sockets: a snapshot first, then what happens, in the contract's words and no faster than it says."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.utils import timezone

from atom.access import actor_for_user
from atom.models import Membership, Role
from atom.tenancy import tenant_scope
from historical_sync import actions, consumers, live, queueing
from historical_sync.models import HistoricalSyncJob, JobEvent
from historical_sync.pages import jobs as jobs_page
from tests.test_api import FIELDS
from tests.test_hub import acme as acme  # the same stage
from tests.test_hub import change, changed, opened, progress_socket
from tests.test_walk import socket_to

pytestmark = pytest.mark.django_db(transaction=True)


def act(acme: SimpleNamespace, action: Any) -> Any:
    """Alice does it, as from a page of hers."""
    actor = actor_for_user(acme.cast.alice, acme.cast.acme.id)
    assert actor is not None
    with tenant_scope(acme.cast.acme.id):
        return action(actor, acme.job)


def test_events_have_the_contracts_fields_and_names(acme: SimpleNamespace) -> None:
    socket = progress_socket(acme)

    async def scene() -> list[Any]:
        async with opened(socket):
            events = [await socket.receive_json_from(timeout=5)]
            for action in (actions.pause, actions.resume, actions.cancel):
                await live.in_thread(act)(acme, action)
                events.append(await socket.receive_json_from(timeout=5))
            return events

    events = asyncio.run(scene())
    assert [event["type"] for event in events] == ["snapshot", "paused", "resumed", "cancelled"]
    assert [event["job"]["status"] for event in events] == ["running", "paused", "pending", "cancelled"]
    for event in events:
        assert set(event) == {"type", "seq", "at", "job"}
        assert set(event["job"]) == FIELDS
        assert event["at"].endswith("Z")
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_the_end_is_told_to_watchers_and_to_the_whole_workspace(acme: SimpleNamespace, status: str) -> None:
    watcher, anywhere = progress_socket(acme), socket_to("ws/notifications", acme, acme.cast.vera)
    elsewhere = socket_to("ws/notifications", acme, acme.cast.charlie)

    async def scene() -> tuple[Any, Any, bool]:
        async with opened(watcher, anywhere, elsewhere):
            assert (await watcher.receive_json_from(timeout=5))["type"] == "snapshot"
            await changed(acme.job, revision=3, records_processed=5)
            assert (await watcher.receive_json_from(timeout=5))["type"] == "progress"
            await changed(acme.job, revision=4, status=status, completed_at=timezone.now())
            told = await watcher.receive_json_from(timeout=5), await anywhere.receive_json_from(timeout=5)
            return *told, await elsewhere.receive_nothing(timeout=0.3)

    at_the_job, in_the_workspace, strangers_hear_nothing = asyncio.run(scene())
    assert (at_the_job["type"], in_the_workspace["type"]) == (status, status)
    assert in_the_workspace["job"]["id"] == str(acme.job.id)
    assert strangers_hear_nothing


def test_a_busy_job_is_told_at_most_five_times_a_second_and_its_last_state_always(acme: SimpleNamespace) -> None:
    socket = progress_socket(acme)

    async def scene() -> tuple[list[int], float]:
        async with opened(socket):
            await socket.receive_json_from(timeout=5)
            began, seen = time.monotonic(), []
            for revision in range(1, 41):
                await changed(acme.job, revision=revision, records_processed=revision)
                await asyncio.sleep(0.02)
            while not seen or seen[-1] < 40:
                seen.append((await socket.receive_json_from(timeout=5))["seq"])
            return seen, time.monotonic() - began

    seen, took = asyncio.run(scene())
    assert seen == sorted(set(seen))
    assert seen[-1] == 40
    assert len(seen) <= took * 5 + 2


def test_an_end_right_after_the_opening_is_told(acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when what was there before the opening takes long to read."""
    statuses = consumers._statuses

    def slow(tenant_id: str) -> dict[str, str]:
        time.sleep(0.3)
        return statuses(tenant_id)

    monkeypatch.setattr(consumers, "_statuses", slow)
    socket = socket_to("ws/notifications", acme, acme.cast.alice)

    async def scene() -> Any:
        async with opened(socket):
            await changed(acme.job, revision=2, status="completed", completed_at=timezone.now())
            return await socket.receive_json_from(timeout=5)

    assert asyncio.run(scene())["type"] == "completed"


@pytest.mark.parametrize("first", [0, 1])
def test_who_follows_an_import_takes_no_news_of_its_end_from_pages(acme: SimpleNamespace, first: int) -> None:
    """Both are told of one reading of the job, in either order: the page's news has a toast, the contract's event has not."""
    sockets = [progress_socket(acme), socket_to("ws/notifications", acme, acme.cast.alice)]

    async def scene() -> list[Any]:
        async with opened(sockets[first]), opened(sockets[1 - first]):
            await sockets[0].receive_json_from(timeout=5)
            await changed(acme.job, revision=2, status="completed", completed_at=timezone.now())
            return [await socket.receive_json_from(timeout=5) for socket in sockets]

    event, news = asyncio.run(scene())
    assert (event["type"], news["type"]) == ("completed", "completed")
    assert set(event) == {"type", "seq", "at", "job"}
    assert "GitHub import completed." in news["html"]


def test_a_page_is_told_on_opening_what_ended_since_it_was_made(acme: SimpleNamespace) -> None:
    made = timezone.now()
    for job, ended in ((acme.other, made - timedelta(seconds=1)), (acme.job, made + timedelta(seconds=1))):
        change(job, revision=2, status="completed", completed_at=ended)
    query = urlencode({"since": made.isoformat()})
    toasts = socket_to("ws/notifications", acme, acme.cast.alice, query=query)
    fragments = socket_to("ws/pages", acme, acme.cast.alice, query=query)
    strangers = socket_to("ws/notifications", acme, acme.cast.charlie, query=query)

    async def scene() -> tuple[Any, str, bool]:
        async with opened(toasts, fragments, strangers):
            told = await toasts.receive_json_from(timeout=5), await fragments.receive_from(timeout=5)
            assert await toasts.receive_nothing(timeout=0.2)
            assert await fragments.receive_nothing(timeout=0.2)
            return *told, await strangers.receive_nothing(timeout=0.2)

    toast, fragment, strangers_hear_nothing = asyncio.run(scene())
    assert (toast["type"], toast["job"]["id"]) == ("completed", str(acme.job.id))
    assert "GitHub import completed." in toast["html"]
    assert f'id="job-{acme.job.id}"' in fragment
    assert strangers_hear_nothing


def test_a_page_is_told_on_opening_what_was_paused_since_it_was_made(acme: SimpleNamespace) -> None:
    made = timezone.now()
    for job, paused in ((acme.other, made - timedelta(seconds=1)), (acme.job, made + timedelta(seconds=1))):
        change(job, revision=2, status="paused", pause_reason="user")
        with tenant_scope(job.tenant_id):
            JobEvent.objects.create(tenant_id=job.tenant_id, job=job, kind="paused", actor="Atom", at=paused)
    query = urlencode({"since": made.isoformat()})
    toasts = socket_to("ws/notifications", acme, acme.cast.alice, query=query)

    async def scene() -> Any:
        async with opened(toasts):
            told = await toasts.receive_json_from(timeout=5)
            assert await toasts.receive_nothing(timeout=0.2)
            return told

    toast = asyncio.run(scene())
    assert (toast["type"], toast["job"]["id"]) == ("paused", str(acme.job.id))
    client = Client()
    client.force_login(acme.cast.alice)
    text = client.get(f"/live?{query}").content.decode()
    assert re.findall(r'data-toast="([^"]+)-paused-', text) == [str(acme.job.id)]


def test_a_pause_is_the_same_news_however_often_it_is_told_and_the_next_pause_is_not(acme: SimpleNamespace) -> None:
    """A page drops the news that it has shown, by its name. The job's row may change while it is paused."""
    made = timezone.now()
    query = urlencode({"since": made.isoformat()})
    client = Client()
    client.force_login(acme.cast.alice)

    def names(html: str) -> list[str]:
        return re.findall(r'data-toast="([^"]+)"', html)

    def note(at: Any) -> None:
        with tenant_scope(acme.job.tenant_id):
            JobEvent.objects.create(tenant_id=acme.job.tenant_id, job=acme.job, kind="paused", actor="Atom", at=at)

    early = socket_to("ws/notifications", acme, acme.cast.alice)
    anew = socket_to("ws/notifications", acme, acme.cast.alice, query=query)

    async def at_once() -> Any:
        async with opened(early):
            await changed(acme.job, revision=2, status="paused", pause_reason="reauth_required")
            return await early.receive_json_from(timeout=5)

    async def when_it_opens_anew() -> Any:
        async with opened(anew):
            return await anew.receive_json_from(timeout=5)

    note(made + timedelta(seconds=1))
    first = names(asyncio.run(at_once())["html"])
    change(acme.job, revision=5)
    assert names(asyncio.run(when_it_opens_anew())["html"]) == first
    assert names(client.get(f"/live?{query}").content.decode()) == first
    note(made + timedelta(seconds=2))
    assert names(client.get(f"/live?{query}").content.decode()) != first


def test_what_ends_while_a_page_is_being_made_is_newer_than_the_page(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends_meanwhile(tenant: Any) -> Any:
        change(acme.job, revision=2, status="completed", completed_at=timezone.now())
        return waiting_of(tenant)

    # The page asks for what waits after it has read its rows.
    waiting_of = queueing.waiting_of
    monkeypatch.setattr(queueing, "waiting_of", ends_meanwhile)
    rows = jobs_page.job_context
    seen: list[str] = []

    def noted(job: HistoricalSyncJob, may_operate: bool) -> dict[str, Any]:
        seen.append(job.status)
        return rows(job, may_operate)

    monkeypatch.setattr(jobs_page, "job_context", noted)
    client = Client()
    client.force_login(acme.cast.alice)
    page = client.get("/jobs").content.decode()
    assert seen == ["running", "running"]
    (since,) = re.findall(r'<body[^>]* data-began="([^"]+)"', page)
    told = client.get("/live", {"since": since}).content.decode()
    assert f'data-toast="{acme.job.id}-completed' in told
    assert f'data-toast="{acme.other.id}' not in told


@pytest.mark.parametrize("status", ["completed", "paused"])
def test_news_of_an_import_of_long_ago_is_no_end(
    acme: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """Its records that were kept aside are read again, and there have been many newer imports."""
    monkeypatch.setattr(consumers, "KNOWN", 1)
    long_ago = timezone.now() - timedelta(days=9)
    how = {"completed_at": long_ago} if status == "completed" else {"pause_reason": "user"}
    change(acme.job, revision=2, status=status, created_at=long_ago, **how)
    socket = socket_to("ws/notifications", acme, acme.cast.alice)

    async def scene() -> tuple[bool, Any]:
        async with opened(socket):
            await changed(acme.job, revision=3, records_processed=1)
            quiet = await socket.receive_nothing(timeout=0.5)
            await changed(acme.other, revision=2, status="completed", completed_at=timezone.now())
            return quiet, await socket.receive_json_from(timeout=5)

    quiet, told = asyncio.run(scene())
    assert quiet
    assert told["job"]["id"] == str(acme.other.id)


def test_a_page_of_a_workspace_that_another_tab_has_left_is_told_nothing_of_the_next_one(acme: SimpleNamespace) -> None:
    with tenant_scope(acme.cast.globex.id):
        Membership.objects.create(user=acme.cast.alice, tenant=acme.cast.globex, role=Role.OWNER)
    client = Client()
    client.force_login(acme.cast.alice)
    client.post("/workspace", {"tenant": str(acme.cast.globex.id)})
    (place,) = re.findall(r'data-workspace="([^"]+)"', client.get("/jobs").content.decode())
    assert place == str(acme.cast.globex.id)
    assert client.get("/live", {"workspace": place}, headers={"HX-Request": "true"}).status_code == 200
    client.post("/workspace", {"tenant": str(acme.cast.acme.id)})

    told = client.get("/live", {"workspace": place}, headers={"HX-Request": "true"})
    assert (told.content, told["HX-Redirect"]) == (b"", "/integrations")

    sockets = [
        socket_to(route, acme, acme.cast.alice, query=urlencode({"workspace": one}))
        for one in (place, str(acme.cast.acme.id))
        for route in ("ws/pages", "ws/notifications")
    ]

    async def scene() -> list[bool]:
        found = [bool((await socket.connect(timeout=5))[0]) for socket in sockets]
        for socket in sockets:
            await socket.disconnect()
        return found

    assert asyncio.run(scene()) == [False, False, True, True]


@pytest.mark.parametrize("since", ["", "yesterday", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00"])
def test_a_page_that_says_no_time_is_refused(
    acme: SimpleNamespace, since: str, caplog: pytest.LogCaptureFixture
) -> None:
    query = urlencode({"since": since})
    socket = socket_to("ws/pages", acme, acme.cast.alice, query=query)

    async def scene() -> bool:
        return bool((await socket.connect(timeout=5))[0])

    assert not asyncio.run(scene())
    client = Client()
    client.force_login(acme.cast.alice)
    reply = client.get(f"/live?{query}")
    assert reply.status_code == 400
    assert "could not be understood" in reply.content.decode()
    assert "Traceback" not in caplog.text


def test_polling_tells_of_what_ended_since_the_page_was_made(acme: SimpleNamespace) -> None:
    made = timezone.now() - timedelta(minutes=5)
    for job, ended in ((acme.other, made - timedelta(seconds=1)), (acme.job, made + timedelta(seconds=1))):
        change(job, revision=2, status="completed", completed_at=ended)
    client = Client()
    client.force_login(acme.cast.alice)
    text = client.get("/live", {"since": made.isoformat()}).content.decode()
    assert f'data-toast="{acme.job.id}' in text
    assert f'data-toast="{acme.other.id}' not in text
    assert "data-toast" not in client.get("/live").content.decode(), (
        "those that don't say are told of the last half minute"
    )


def test_what_a_client_sends_is_ignored(acme: SimpleNamespace) -> None:
    socket = progress_socket(acme)

    async def scene() -> Any:
        async with opened(socket):
            await socket.receive_json_from(timeout=5)
            await socket.send_to(text_data='{"type": "job.changed", "tenant_id": "x"}')
            await socket.send_to(bytes_data=b"\xff\x00")
            await changed(acme.job, revision=2)
            return await socket.receive_json_from(timeout=5)

    assert asyncio.run(scene())["seq"] == 2
