"""Pages without a browser: how many queries they take, what they say in which state, and the map of parts."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html import unescape
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
import time_machine
from django.db import connection as database
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from atom import audit
from atom.models import Tenant
from atom.tenancy import tenant_scope
from historical_sync import states
from historical_sync.admission import months_back
from historical_sync.automation import Delivery, Notice, QueuedStart, WebhookEndpoint
from historical_sync.models import Entity, JobEvent, QuarantinedRecord, SyncChunk, SyncSchedule
from historical_sync.pages.chunkmap import MOST_CELLS, MOST_PARTS, ChunkFacts, chunk_map
from integrations import gateway
from integrations.errors import Misconfigured
from integrations.models import ConnectionStatus
from tests.graphs import make_connection, make_job

START = datetime(2026, 7, 1, tzinfo=UTC)
END = datetime(2026, 10, 1, tzinfo=UTC)
LABELS = {"repositories": "Repositories", "issues": "Issues"}


@pytest.mark.parametrize("page", ["integrations", "jobs", "schedules", "coverage", "entities", "analytics"])
def test_no_browser_keeps_a_page(cast: SimpleNamespace, signed_in: Any, page: str) -> None:
    assert "no-store" in signed_in(cast.bob).get(f"/{page}")["Cache-Control"]


@pytest.mark.parametrize(
    ("page", "back"),
    [
        ("http://testserver/jobs?page=2", "/jobs?page=2"),
        ("//evil.test", "/integrations"),
        ("http://[", "/integrations"),
    ],
)
def test_a_fragment_of_somebody_signed_out_leads_to_sign_in_and_back(page: str, back: str) -> None:
    reply = Client().get("/jobs", headers={"HX-Request": "true", "HX-Current-URL": page})
    assert (reply.status_code, reply["HX-Redirect"]) == (401, f"/sign-in?{urlencode({'next': back})}")


def test_an_address_that_takes_forms_alone_says_so(cast: SimpleNamespace, signed_in: Any) -> None:
    for client in (Client(), signed_in(cast.bob)):
        for path in ("/sign-out", "/workspace", f"/jobs/{uuid4()}/pause"):
            reply = client.get(path)
            assert reply.status_code == 405, path
            assert reply["Allow"] == "POST"
            assert "Nothing was done." in reply.content.decode()
    assert signed_in(cast.bob).post("/jobs", headers={"HX-Request": "true"})["X-Fragments"] == "1"


def test_a_form_without_its_token_is_sent_again_from_the_page_before(cast: SimpleNamespace) -> None:
    """To load the answer again would send the same form again, and be refused again."""
    client = Client(enforce_csrf_checks=True)
    page = client.post("/sign-in", {"email": "bob@acme.test", "password": "bob"})
    assert page.status_code == 403
    assert "Go back, load that page anew and try again." in page.content.decode()
    toast = client.post("/sign-in", headers={"HX-Request": "true"}).content.decode()
    assert "Reload it and try again." in toast


@pytest.mark.parametrize("page", ["jobs", "schedules", "coverage", "entities", "analytics"])
def test_what_is_still_empty_offers_a_next_step_to_who_may_take_it(
    cast: SimpleNamespace, signed_in: Any, page: str
) -> None:
    offer = '<a class="button primary" href="/integrations">'
    assert offer in signed_in(cast.bob).get(f"/{page}").content.decode()
    looking = signed_in(cast.vera).get(f"/{page}").content.decode()
    assert 'class="empty' in looking
    assert offer not in looking


# -- lists ----------------------------------------------------------------------------------------------------------------


def jobs(cast: SimpleNamespace, count: int) -> None:
    for i in range(count):
        ended = {"status": states.COMPLETED, "completed_at": timezone.now(), "started_at": timezone.now()}
        make_job(make_connection(cast.acme, "github" if i % 2 else "salesforce"), **ended)


def connections(cast: SimpleNamespace, count: int) -> None:
    for i in range(count):
        job = make_job(make_connection(cast.acme, "github" if i % 2 else "salesforce"))
        job.status = (states.PENDING, states.FAILED)[i % 2]
        job.completed_at = timezone.now() if i % 2 else None
        job.save()


def entities(cast: SimpleNamespace, count: int) -> None:
    Entity.objects.bulk_create(
        Entity(id=uuid4(), tenant=cast.acme, kind="issue", key=f"k{uuid4()}", name=f"Issue {i}", as_of=timezone.now())
        for i in range(count)
    )


def parts(cast: SimpleNamespace, count: int) -> Any:
    job = make_job(make_connection(cast.acme), status=states.RUNNING, started_at=timezone.now())
    step = (job.end_date - job.start_date) / count
    for i in range(count):
        chunk = SyncChunk.objects.create(
            tenant=cast.acme, job=job, ordinal=i, stream="issues", partition=str(i % 3), partition_label=f"acme/{i % 3}",
            since=job.start_date + step * i, until=job.start_date + step * (i + 1),
        )  # fmt: skip
        JobEvent.objects.create(tenant=cast.acme, job=job, actor="Atom", kind="split", detail=str(i))
        QuarantinedRecord.objects.create(
            tenant=cast.acme,
            connection=job.connection,
            job=job,
            chunk=chunk,
            stream="issues",
            reason="odd",
            fingerprint=uuid4(),
            sealed_payload=b"x",
        )
    return job


def waiting(cast: SimpleNamespace, count: int) -> None:
    for i in range(count):
        QueuedStart.objects.create(
            tenant=cast.acme,
            connection=make_connection(cast.acme, "github" if i % 2 else "salesforce"),
            reason="",
            created_by_label="Bob",
        )


def deliveries(cast: SimpleNamespace, count: int) -> None:
    for _ in range(count):
        endpoint, _secret = WebhookEndpoint.objects.get_or_create(
            tenant=cast.acme, url="https://acme.test/hook", events=["failed"], sealed_secret=b"x"
        )
        job = make_job(make_connection(cast.acme))
        notice = Notice.objects.create(tenant=cast.acme, job=job, revision=1, event="failed", snapshot={})
        Delivery.objects.create(tenant=cast.acme, notice=notice, endpoint=endpoint)


def test_every_delivery_of_the_log_is_on_one_of_its_pages(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        deliveries(cast, 53)
    client = signed_in(cast.alice)
    pages = [client.get(f"/settings/webhooks{query}").content.decode() for query in ("", "?page=2")]
    sent = [re.findall(r"deliveries/([0-9a-f-]{36})/resend", page) for page in pages]
    assert [len(ids) for ids in sent] == [50, 3]
    assert len({*sent[0], *sent[1]}) == 53
    assert 'href="?page=2"' in pages[0]
    assert 'href="?page=1"' in pages[1]


LISTS: dict[str, tuple[Callable[[SimpleNamespace, int], Any], str]] = {
    "jobs": (jobs, "/jobs"),
    "integrations": (connections, "/integrations"),
    "schedules": (connections, "/schedules"),
    "waiting": (waiting, "/jobs"),
    "waiting-on-cards": (waiting, "/integrations"),
    "webhooks": (deliveries, "/settings/webhooks"),
    "entities": (entities, "/entities"),
    "live": (connections, "/live"),
    "job": (parts, "/jobs/{id}"),
    "job-detail": (parts, "/jobs/{id}/detail?open=issues"),
}


@pytest.mark.parametrize("name", LISTS)
def test_fifty_rows_take_as_many_queries_as_five(cast: SimpleNamespace, signed_in: Any, name: str) -> None:
    make, path = LISTS[name]
    client = signed_in(cast.alice)
    counts = []
    for more in (5, 45):
        with tenant_scope(cast.acme.id):
            made = make(cast, more)
        client.get(path.format(id=getattr(made, "id", "")))
        with CaptureQueriesContext(
            database,
        ) as queries:
            assert client.get(path.format(id=getattr(made, "id", ""))).status_code == 200
        counts.append(len(queries))
    assert counts[0] == counts[1], [query["sql"][:120] for query in queries]
    assert counts[0] < 25


# -- words ----------------------------------------------------------------------------------------------------------------


def test_the_monitor_shows_waiting_as_waiting_with_its_time(cast: SimpleNamespace, signed_in: Any) -> None:
    until = timezone.now() + timedelta(minutes=20)
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme), status=states.RUNNING, started_at=timezone.now(), planned=True, waiting_until=until,
            last_error_code="provider_throttled", last_error_message="GitHub's rate limit is used up",
        )  # fmt: skip
    client = signed_in(cast.alice)
    text = client.get(f"/jobs/{job.id}/live").content.decode()
    assert "Waiting for GitHub's limit until" in text.replace("&#x27;", "'")
    assert f'datetime="{until.astimezone(UTC).isoformat(timespec="seconds")}"' in text
    assert f"{until.astimezone(UTC):%H:%M} UTC" in text
    others = {
        "provider_unavailable": "GitHub had a problem; trying again at",
        "provider_preparing": "GitHub prepares an answer; looking again at",
    }
    for code, words in others.items():
        with tenant_scope(cast.acme.id):
            type(job).objects.filter(id=job.id).update(last_error_code=code)
        assert words in client.get(f"/jobs/{job.id}/live").content.decode()


@pytest.mark.parametrize(("seconds", "erred", "told"), [(3, 2, False), (40, 30, True), (40, 50, False)])
def test_a_provider_that_answers_with_errors_alone_is_told_of_beside_the_last_page(
    cast: SimpleNamespace, signed_in: Any, seconds: int, erred: int, told: bool
) -> None:
    """What it got over before the last page says nothing of why the next one takes long."""
    trouble = {"last_error_code": "provider_unavailable", "last_error_message": "GitHub answered 502 Bad Gateway",
               "last_error_at": timezone.now() - timedelta(seconds=erred)}  # fmt: skip
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status=states.RUNNING, planned=True, started_at=timezone.now(),
                       last_page_at=timezone.now() - timedelta(seconds=seconds), **trouble)  # fmt: skip
    with database.cursor() as cursor:
        cursor.execute("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now())")
    page = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    pulse = page.partition('id="job-pulse"')[2].partition("</p>")[0]
    assert "Last page stored" in pulse
    assert ("Last error: GitHub answered 502 Bad Gateway." in pulse) is told


@pytest.mark.parametrize("code", ["provider_throttled", "provider_preparing", states.NO_ROOM])
def test_what_an_import_waited_for_is_no_error_once_that_is_over(
    cast: SimpleNamespace, signed_in: Any, code: str
) -> None:
    """Its first page after a wait for the provider's limit is yet to come, and the last one lies as far back as the wait was long."""
    now = timezone.now()
    waited = {"last_error_code": code, "last_error_message": "GitHub's rate limit is used up",
              "last_error_at": now - timedelta(minutes=4)}  # fmt: skip
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status=states.RUNNING, planned=True, started_at=now,
                       last_page_at=now - timedelta(minutes=5), waiting_until=now - timedelta(seconds=1), **waited)  # fmt: skip
    with database.cursor() as cursor:
        cursor.execute("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now())")
    page = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    pulse = page.partition('id="job-pulse"')[2].partition("</p>")[0]
    assert "Last page stored" in pulse
    assert "Last error" not in pulse


def test_an_import_whose_parts_are_not_kept_says_so(cast: SimpleNamespace, signed_in: Any) -> None:
    now = timezone.now()
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme), status=states.COMPLETED, completed_at=now, planned=True, parts_forgotten=True
        )
    client = signed_in(cast.alice)
    assert "later ones went over all of its parts" in client.get(f"/jobs/{job.id}").content.decode()
    with tenant_scope(cast.acme.id):
        SyncChunk.objects.create(
            tenant=cast.acme, job=job, ordinal=0, stream="issues", since=job.start_date, until=job.end_date,
            status=states.CHUNK_COMPLETED, completed_at=now,
        )  # fmt: skip
    assert "Parts that later ones went over are not shown" in client.get(f"/jobs/{job.id}").content.decode()


@pytest.mark.parametrize(("status", "way_on"), [("running", "pause it instead"), ("paused", "leave it paused")])
def test_the_question_before_a_cancel_knows_what_else_there_is(
    cast: SimpleNamespace, signed_in: Any, status: str, way_on: str
) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme), status=status, records_processed=620,
            pause_reason="user" if status == "paused" else "",
        )  # fmt: skip
    text = signed_in(cast.bob).get(f"/jobs/{job.id}/cancel").content.decode()
    assert "What came in so far (620 records) is kept" in text
    assert way_on in text


@pytest.mark.parametrize("counted", ["nothing", "records_processed", "records_skipped"])
def test_what_was_cancelled_says_what_is_kept(cast: SimpleNamespace, signed_in: Any, counted: str) -> None:
    came_in = {} if counted == "nothing" else {counted: 5}
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status=states.CANCELLED, completed_at=timezone.now(), **came_in)
    text = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    assert ("What came in is kept" in text) is bool(came_in)
    assert ("Nothing had come in yet" in text) is not bool(came_in)
    assert "The import ended before it was planned." in text
    assert "There was nothing left" not in text


@pytest.mark.parametrize("status", [states.PAUSED, states.FAILED])
def test_who_only_looks_is_told_of_no_button_that_is_not_there(
    cast: SimpleNamespace, signed_in: Any, status: str
) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme), status=status, started_at=timezone.now(), planned=True, failed_chunks=2,
            last_error_message="Not imported: issues.", pause_reason="user" if status == states.PAUSED else "",
            completed_at=None if status == states.PAUSED else timezone.now(),
        )  # fmt: skip
    button = "Resume" if status == states.PAUSED else "Retry"
    for reader, may in ((cast.bob, True), (cast.vera, False)):
        text = re.sub("<[^>]+>", " ", signed_in(reader).get(f"/jobs/{job.id}/live").content.decode())
        assert (button in text) is may


def test_an_import_that_is_paused_has_not_taken_its_time_yet(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status=states.PAUSED, started_at=timezone.now(), pause_reason="user")
    text = signed_in(cast.bob).get(f"/jobs/{job.id}/live").content.decode()
    assert "<dt>Time so far</dt>" in text
    assert "Took" not in text


def test_the_estimate_shows_only_while_it_is_more_than_what_came(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme), status=states.RUNNING, started_at=timezone.now(), planned=True,
            total_records_estimate=16, records_processed=10,
        )  # fmt: skip
    client = signed_in(cast.alice)
    assert re.search(r"of (about )?16<", client.get(f"/jobs/{job.id}/live").content.decode())
    with tenant_scope(cast.acme.id):
        type(job).objects.filter(id=job.id).update(records_processed=200)
    assert not re.search(r"of (about )?16<", client.get(f"/jobs/{job.id}/live").content.decode())


def test_a_refused_choice_stays_as_it_was_made_and_is_refused_once(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
    client = signed_in(cast.alice)
    offered = client.get(f"/connections/{connection.id}/import", headers={"HX-Request": "true"}).content.decode()
    assert offered.count('name="streams"') == len(re.findall(r'name="streams"[^>]* checked', offered)) > 0
    assert 'hx-trigger="load, change' in offered
    reply = client.post(
        f"/connections/{connection.id}/import",
        {"start": "2026-10-01", "end": "2026-10-31"},
        headers={"HX-Request": "true"},
    )
    text = reply.content.decode()
    assert text.count("Choose at least one kind of object.") == 1
    assert not re.findall(r'name="streams"[^>]* checked', text)
    assert 'aria-invalid="true"' in text
    assert 'hx-trigger="change' in text  # no estimate that would refuse it again


def test_every_time_on_a_page_is_exact_in_utc_for_machines_and_on_hover(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        job = parts(cast, 3)
    text = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    times = re.findall(r"<time [^>]*>", text)
    assert len(times) > 5
    for tag in times:
        assert re.search(r'datetime="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00" title="[^"]+ UTC" data-as="\w+"', tag), tag


def test_the_same_event_many_times_in_a_row_is_one_line(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme))
        for _ in range(7):
            JobEvent.objects.create(tenant=cast.acme, job=job, actor="Atom", kind="chunk_failed", detail="commits: no")
        JobEvent.objects.create(tenant=cast.acme, job=job, actor="Alice", kind="resumed")
    text = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    assert text.count("gave up on a part") == 1
    assert "7 times" in text
    assert "<strong>Alice</strong> resumed" in text


def test_what_befalls_many_parts_in_turns_is_one_line(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme))
        for i in range(150):
            stream = ("Issues", "Commits", "Comments", "Pull requests", "Unheard of")[i % 5]
            words = "GitHub is down." if i % 3 else "GitHub is slow."
            JobEvent.objects.create(tenant=cast.acme, job=job, actor="Atom", kind="retry", detail=f"{stream}: {words}")
        JobEvent.objects.create(tenant=cast.acme, job=job, actor="Atom", kind="worker_lost")
        JobEvent.objects.create(tenant=cast.acme, job=job, actor="Atom", kind="retry", detail="Issues: GitHub is down.")
    text = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    lines = re.findall(
        r"will try a part again(?: <span class=\"num\">\((\d+) times\)</span>)?<span class=\"muted\">: ([^<]*)<", text
    )
    assert lines[0] == ("", "Issues: GitHub is down."), "before it something else happened"
    assert sorted(lines[1:]) == [
        ("10", "Unheard of: GitHub is slow."), ("20", "Unheard of: GitHub is down."),
        ("40", "Issues, Pull requests and 2 more: GitHub is slow."), ("80", "Issues, Pull requests and 2 more: GitHub is down."),
    ]  # fmt: skip


def test_pages_name_no_state_by_its_code(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        for status, reason in (("pending", ""), ("paused", "reauth_required"), ("failed", ""), ("cancelled", "")):
            ended = timezone.now() if status in states.FINISHED else None
            make_job(make_connection(cast.acme), status=status, pause_reason=reason, completed_at=ended)
    text = re.sub(r"<[^>]+>", " ", signed_in(cast.alice).get("/jobs").content.decode())
    for code in ("reauth_required", "None", "pending", "_"):
        assert code not in text
    for words in ("Queued", "Needs reconnect", "Failed", "Cancelled"):
        assert words in text


def test_the_style_guide_does_not_exist_in_production(cast: SimpleNamespace, signed_in: Any, settings: Any) -> None:
    client = signed_in(cast.alice)
    assert client.get("/styleguide").status_code == 200
    settings.SANDBOX = False
    assert client.get("/styleguide").status_code == 404


def test_the_appearance_leads_back_to_the_page_and_nowhere_else(cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(cast.alice)
    reply = client.post("/appearance", {"appearance": "dark"}, headers={"referer": "http://testserver/jobs"})
    assert reply["Location"] == "http://testserver/jobs"
    assert 'data-theme="dark"' in client.get("/jobs").content.decode()
    reply = client.post("/appearance", {"appearance": "dark"}, headers={"referer": "https://evil.example/"})
    assert reply["Location"] == "/integrations"
    client.post("/appearance", {"appearance": '"><script>'})
    assert "data-theme" not in client.get("/jobs").content.decode()


def test_what_a_provider_left_that_is_not_registered_any_more_is_shown(cast: SimpleNamespace, signed_in: Any) -> None:
    """Its connection goes by its slug, and nothing can be started of it; what others brought is not in its way."""
    with tenant_scope(cast.acme.id):
        gone = make_connection(cast.acme, "myspace")
        job = make_job(gone, status=states.COMPLETED, completed_at=timezone.now())
        running = make_job(gone, status=states.RUNNING, started_at=timezone.now())
        SyncSchedule.objects.create(
            tenant=cast.acme, connection=gone, interval=timedelta(days=1), next_run_at=timezone.now()
        )
    alice = signed_in(cast.alice)
    for page in (
        "/jobs",
        "/live",
        f"/jobs/{job.id}",
        f"/jobs/{running.id}",
        "/schedules",
        f"/connections/{gone.id}/import",
    ):
        reply = alice.get(page)
        assert reply.status_code == 200, page
        assert page == "/live" or "myspace" in reply.content.decode(), page
    for page in ("/integrations", "/coverage", "/analytics", f"/connections/{gone.id}/disconnect"):
        assert alice.get(page).status_code == 200, page
    words = "Nothing of myspace can be read here any more."
    assert words in alice.post(f"/connections/{gone.id}/import", {}).content.decode()
    assert words in alice.get(f"/connections/{gone.id}/import/estimate").content.decode()
    start = f"/api/integrations/{gone.id}/historical-sync/start"
    alice.post(f"/jobs/{running.id}/cancel")
    for body in ({}, {"streams": ["issues"]}, {"kind": "incremental"}, {"kind": "repair"}):
        reply = alice.post(start, body, "application/json")
        assert (reply.status_code, reply.json()["errors"][0]["detail"]) == (409, words), body
    with tenant_scope(cast.acme.id), pytest.raises(Misconfigured, match="knows no myspace any more"):
        asyncio.run(gateway.open_api(gone))
    alice.post(f"/connections/{gone.id}/disconnect")
    with tenant_scope(cast.acme.id):
        gone.refresh_from_db()
    assert gone.status == ConnectionStatus.DISCONNECTED


@pytest.mark.parametrize("slug", ["google", "microsoft365"])
def test_who_connects_a_mailbox_or_imports_it_is_told_who_will_see_it(
    cast: SimpleNamespace, signed_in: Any, slug: str
) -> None:
    words = "Everyone in this workspace can see who writes to whom, subjects"

    def card(user: Any, of: str) -> str:
        text = signed_in(user).get("/integrations").content.decode()
        return text.partition(f'id="card-{of}"')[2].partition("</article>")[0]

    assert words in card(cast.alice, slug)
    assert words not in card(cast.alice, "github")
    assert words not in card(cast.vera, slug), "who can't connect decides nothing"
    with tenant_scope(cast.acme.id):
        mailbox, other = (make_connection(cast.acme, one) for one in (slug, "github"))
    assert words in card(cast.alice, slug), "another can be added"
    for connection, told in ((mailbox, True), (other, False)):
        offer = signed_in(cast.alice).get(f"/connections/{connection.id}/import").content.decode()
        assert "Start Historical Sync" in offer
        assert (words in offer) is told


def test_a_card_says_when_access_ends_and_what_cannot_be_read(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        connection.grant_expires_at = timezone.now() + timedelta(days=3)
        connection.scopes = ["read:user"]
        connection.only = ["1", "2"]
        connection.save()
    text = signed_in(cast.alice).get("/integrations").content.decode()
    assert "Access ends" in text
    assert "the grant lacks repo" in text
    assert "Only 2 of the repositories" in text
    assert "Reconnect" in text
    assert "Reconnect" not in signed_in(cast.vera).get("/integrations").content.decode()


@pytest.mark.parametrize(
    ("code", "offered"), [("provider_access_denied", True), ("provider_unavailable", False)]
)  # fmt: skip
def test_what_failed_for_want_of_a_permission_leads_to_where_it_is_granted(
    cast: SimpleNamespace, signed_in: Any, code: str, offered: bool
) -> None:
    """Google's words say: connect again and tick it. Nothing on the page did that."""
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme, "google"), status="failed", last_error_code=code, completed_at=timezone.now()
        )
    page = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    assert "Retry" in page
    assert ("Reconnect" in page) is offered


# -- the map --------------------------------------------------------------------------------------------------------------


def chunk(stream: str, since: datetime, until: datetime, status: str = "pending", **given: Any) -> ChunkFacts:
    facts = {
        "partition": "", "partition_label": "", "progress": 1.0 if status == "completed" else 0.0, "weight": 1.0,
        "not_before": None, "records_processed": 0, "records_skipped": 0,
    } | given  # fmt: skip
    return ChunkFacts(stream=stream, since=since, until=until, status=status, **facts)


def test_few_chunks_side_by_side_are_drawn_as_they_are() -> None:
    middle = START + (END - START) / 4
    rows = chunk_map(
        [chunk("issues", START, middle), chunk("issues", middle, END, "running", progress=0.5)], START, END, LABELS
    )
    assert [row.label for row in rows] == ["Issues"]
    first, second = rows[0].cells
    assert (first.state, second.state) == ("pending", "running")
    assert first.x == 0
    assert first.width == pytest.approx(25, abs=0.5)
    assert second.x == pytest.approx(25, abs=0.1)
    assert second.done == 50
    assert second.done_width == pytest.approx(second.width / 2, abs=0.1)


def test_a_few_minutes_at_the_end_of_months_can_be_seen() -> None:
    (row,) = chunk_map([chunk("issues", END - timedelta(minutes=5), END)], START, END, LABELS)
    (cell,) = row.cells
    assert cell.width >= 1
    assert 98 <= cell.x <= 100 - cell.width


def test_five_thousand_chunks_become_rows_of_a_few_cells_quickly() -> None:
    step = (END - START) / 50
    chunks = [
        chunk(
            "issues", START + step * i, START + step * (i + 1), "completed" if i > 20 else "pending",
            partition=str(p), partition_label=f"acme/{p}", records_processed=10,
        )
        for p in range(100) for i in range(50)
    ]  # fmt: skip
    began = time.monotonic()
    rows = chunk_map(chunks, START, END, LABELS, ("issues",))
    assert time.monotonic() - began < 2
    (row,) = rows
    assert len(row.cells) <= MOST_CELLS
    assert (row.chunks, row.completed, row.records, row.partitions) == (5000, 2900, 50_000, 100)
    assert len(row.parts) == MOST_PARTS
    assert row.hidden == 40
    assert {cell.state for cell in row.cells} == {"pending", "completed"}
    assert all(a.x + a.width <= b.x for a, b in zip(row.cells, row.cells[1:], strict=False))


def test_a_cell_of_many_chunks_shows_what_needs_attention_and_how_much_is_done() -> None:
    for states_, want in (
        (("completed", "completed"), "completed"),
        (("completed", "pending"), "pending"),
        (("completed", "running"), "running"),
        (("failed", "running"), "failed"),
    ):
        chunks = [chunk("issues", START, END, s, partition=str(i)) for i, s in enumerate(states_)]
        (row,) = chunk_map(chunks, START, END, LABELS)
        assert row.cells[0].state == want
        assert "2 parts" in row.cells[0].words
    later = chunk("issues", START, END, not_before=END)
    assert chunk_map([later], START, END, LABELS)[0].cells[0].state == "waiting"


def test_parts_that_failed_come_first_and_streams_keep_their_order() -> None:
    chunks = [
        chunk("issues", START, END, "completed", partition="1", partition_label="a"),
        chunk("issues", START, END, "failed", partition="2", partition_label="z"),
        chunk("repositories", START, END, "completed"),
        chunk("wiki", START, END),
    ]
    rows = chunk_map(chunks, START, END, LABELS, ("issues",))
    assert [row.label for row in rows] == ["Repositories", "Issues", "wiki"]
    assert [part.label for part in rows[1].parts] == ["z", "a"]
    assert rows[0].partitions == 0


def test_chunks_that_reach_beyond_the_range_stay_in_the_picture() -> None:
    (row,) = chunk_map([chunk("issues", START - timedelta(days=9), END + timedelta(days=9))], START, END, LABELS)
    (cell,) = row.cells
    assert cell.x == 0
    assert cell.x + cell.width <= 100


@pytest.mark.parametrize(
    ("plan", "open_to"),
    [("free", "3 months"), ("solo", "12 months"), ("team", "3 years"), ("enterprise", "All")],
)
def test_the_furthest_range_that_a_plan_has_is_offered(
    cast: SimpleNamespace, signed_in: Any, plan: str, open_to: str
) -> None:
    Tenant.objects.filter(id=cast.acme.id).update(plan=plan)
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
    alice = signed_in(cast.alice)
    text = alice.get(f"/connections/{connection.id}/import").content.decode()
    ranges = re.findall(r'data-since="([\d-]+)" aria-pressed="\w+">([^<]+)<', text)
    since, label = ranges[-1]
    assert label == open_to
    assert [day for day, _ in ranges] == sorted((day for day, _ in ranges), reverse=True)
    if open_to != "All":
        count, unit = open_to.split()
        assert (
            date.fromisoformat(since) == months_back(timezone.now(), int(count) * (12 if unit == "years" else 1)).date()
        )
    reply = alice.post(f"/connections/{connection.id}/import", {"start": since, "streams": "issues"})
    assert "/jobs/" in reply.headers["Location"], "and is not refused"


@pytest.mark.parametrize("status", [states.CANCELLED, states.FAILED, states.COMPLETED])
@pytest.mark.parametrize("came", [True, False])
def test_the_page_of_an_import_that_is_over_leads_on(
    cast: SimpleNamespace, signed_in: Any, status: str, came: bool
) -> None:
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status=status, completed_at=timezone.now())
        job.entities_by_kind = {"issue": 3} if came else {}
        job.save()
    text = signed_in(cast.bob).get(f"/jobs/{job.id}").content.decode()
    assert ("Explore what came in" in text) is came
    offer = f"/connections/{job.connection_id}/import?start={job.start_date.date()}"
    assert (f'href="{offer}"' in text) is (status != states.COMPLETED)


def test_a_card_tells_why_the_last_import_failed_and_tries_again(cast: SimpleNamespace, signed_in: Any) -> None:
    words = "GitHub does not let this connection read it. " * 5
    with tenant_scope(cast.acme.id):
        job = make_job(make_connection(cast.acme), status=states.FAILED, completed_at=timezone.now())
        job.last_error_message = words
        job.save()
    text = signed_in(cast.bob).get("/integrations").content.decode()
    assert f'title="{words}"' in text
    assert f'formaction="/jobs/{job.id}/resume"' in text


def test_a_job_that_completed_without_what_is_refused_says_so_wherever_it_is_shown(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    words = "Not imported: issues of 1–30 Sep 2026 in acme/web (GitHub does not allow it)."
    with tenant_scope(cast.acme.id):
        job = make_job(
            make_connection(cast.acme), status=states.COMPLETED, completed_at=timezone.now() - timedelta(days=2), planned=True,
            total_chunks=3, completed_chunks=2, failed_chunks=1, records_processed=9, last_error_message=words,
        )  # fmt: skip
    client = signed_in(cast.bob)
    for path in ("/integrations", f"/jobs/{job.id}"):
        text = client.get(path).content.decode()
        assert words in text, path
        assert "Everything of" not in text


@pytest.mark.parametrize("by_oauth", [True, False])
def test_a_connection_that_lost_its_access_can_be_reconnected_from_where_that_is_said(
    cast: SimpleNamespace, signed_in: Any, by_oauth: bool
) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
        connection.status, connection.by_oauth = ConnectionStatus.REAUTH_REQUIRED, by_oauth
        connection.save()
        SyncSchedule.objects.create(
            tenant=cast.acme,
            connection=connection,
            enabled=True,
            interval=timedelta(days=1),
            next_run_at=timezone.now(),
        )
    client = signed_in(cast.bob)
    way = 'action="/integrations/github/connect"' if by_oauth else 'href="/integrations/github/token"'
    for path in ("/integrations", "/coverage", f"/coverage/{connection.id}", "/schedules"):
        text = client.get(path).content.decode()
        assert way in text.partition(f'Reconnect<span class="visually-hidden"> {connection}')[0][-900:], path


def test_an_offer_that_was_open_over_midnight_may_still_be_taken(cast: SimpleNamespace, signed_in: Any) -> None:
    """Three months before 30 November are 92 days, which is what the plan has."""
    Tenant.objects.filter(id=cast.acme.id).update(plan="free")
    with tenant_scope(cast.acme.id):
        address = f"/connections/{make_connection(cast.acme).id}/import"
    with time_machine.travel(datetime(2026, 11, 30, 23, 50, tzinfo=UTC)) as clock:
        alice = signed_in(cast.alice)
        offer = alice.get(address).content.decode()
        choice = {name: re.findall(rf'name="{name}" value="([^"]*)"', offer)[0] for name in ("start", "end")}
        assert choice == {"start": "2026-08-30", "end": "2026-11-30"}
        clock.move_to(datetime(2026, 12, 1, 0, 10, tzinfo=UTC))
        answer = alice.post(address, choice | {"streams": "issues"})
    assert answer.status_code == 302, re.findall(r'class="[^"]*error[^"]*"[^>]*>(.*?)<', answer.content.decode())


def test_a_range_is_written_alike_wherever_it_stands(cast: SimpleNamespace, signed_in: Any) -> None:
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
    alice = signed_in(cast.alice)
    choice = {"start": "2023-12-05", "end": "2026-10-31", "streams": "issues"}
    job = alice.post(f"/connections/{connection.id}/import", choice)["Location"]
    for path in (job, "/settings/audit"):
        text = alice.get(path).content.decode()
        assert "5 Dec 2023 – 31 Oct 2026" in text, path
        assert "05 Dec" not in text, path


def test_the_last_day_of_a_range_is_its_last_on_the_map_too(cast: SimpleNamespace, signed_in: Any) -> None:
    """A window ends as the next day begins."""
    with tenant_scope(cast.acme.id):
        whole = {"start_date": datetime(2023, 12, 5, tzinfo=UTC), "end_date": datetime(2024, 3, 1, tzinfo=UTC)}
        job = make_job(make_connection(cast.acme), planned=True, **whole)
        for number, (since, until) in enumerate(
            [
                (whole["start_date"], datetime(2024, 2, 29, tzinfo=UTC)),
                (datetime(2024, 2, 29, tzinfo=UTC), whole["end_date"]),
            ]
        ):
            SyncChunk.objects.create(
                tenant=cast.acme, job=job, ordinal=number, stream="commits", since=since, until=until
            )
    page = signed_in(cast.alice).get(f"/jobs/{job.id}").content.decode()
    titles = re.findall(r"<title>(.*?)</title>", page[page.index("map-cells") :])
    assert [re.sub("<.*?>", "", title) for title in titles] == [
        "5 Dec 2023 – 28 Feb 2024: to do, 0 records",
        "29 Feb 2024: to do, 0 records",
    ]
    assert "<span>5 Dec 2023</span><span>29 Feb 2024</span>" in page
    assert "1 Mar" not in page


def pager(page: str) -> dict[str, str]:
    """The words of the links below a list -> where they lead."""
    [links] = re.findall(r'(?s)<nav class="pages".*?</nav>', page)
    return {
        re.sub(r"<.*?>", "", words): unescape(to) for to, words in re.findall(r'(?s)href="([^"]*)">(.*?)</a>', links)
    }


@pytest.mark.parametrize(
    ("path", "asked", "onward", "back"),
    [
        ("/jobs", "integration=github", "Older", "Newer"),
        ("/coverage", "q=git%20hub", "Next", "Previous"),
        ("/settings/audit", "area=workspace", "Older", "Newer"),
    ],
)
def test_a_long_list_is_read_page_by_page(
    cast: SimpleNamespace, signed_in: Any, path: str, asked: str, onward: str, back: str
) -> None:
    with tenant_scope(cast.acme.id):
        for _ in range(26):
            make_job(make_connection(cast.acme), status="completed", completed_at=timezone.now())
        for number in range(51):
            audit.record(cast.acme.id, "Alice", "workspace.renamed", str(number))
    client = signed_in(cast.alice)
    first = client.get(f"{path}?{asked}").content.decode()
    assert pager(first).keys() == {onward}
    second = client.get(path + pager(first)[onward]).content.decode()
    assert "Page 2 of" in second
    assert "Page 1 of" in client.get(path + pager(second)[back]).content.decode()
    assert asked in pager(second)[back]
