"""Whatever a provider does to us: once it stops, the import is what it would have been on a good day.

Each fault strikes every third page of an import, six times; then all is well again. Compared are rows, entities, relationships,
quarantine, coverage and every counter.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from atom.access import system_actor
from atom.tenancy import tenant_scope
from historical_sync import trouble
from historical_sync.actions import pause, start_sync
from historical_sync.models import SyncChunk
from integrations.providers import wire
from tests.conftest import Sandbox, Worker, connected, job_now, until, wait_for
from tests.faults import toy as toys
from tests.faults.toy_stage import ToyStage
from tests.graphs import make_connection

pytestmark = pytest.mark.django_db(transaction=True)

LIMITS = {
    "429 with Retry-After in seconds": toys.throttled("seconds"),
    "429 with Retry-After as a date": toys.throttled("date"),
    "429 with Retry-After in epoch seconds": toys.throttled("epoch"),
    "429 with Retry-After in epoch milliseconds": toys.throttled("epoch_ms"),
    "429 without Retry-After": toys.throttled("none"),
    "403 that means quota": toys.says(403, {"error": "quota"}),
    "daily quota used up": toys.says(403, {"error": "daily quota"}),
}
HICCUPS = {
    "500": toys.says(500, {"error": "oops"}),
    "502 with a web page": toys.says(502, b"<html>Bad gateway</html>", Content_Type="text/html"),
    "503 with Retry-After 0": toys.says(503, b"", Retry_After="0"),
    "504": toys.says(504, b""),
    "connection reset": toys.reset,
    "slow drip": toys.drip,
    "hang": toys.hang,
    "connection closed in mid-answer": toys.cut_off,
    "truncated JSON": toys.half_json,
    "invalid JSON": toys.says(200, b'{"rows": [}'),
    "empty answer": toys.says(200, b""),
    "HTML instead of JSON": toys.says(200, b"<html>We are back soon.</html>", Content_Type="text/html"),
    "JSON of another shape": toys.says(200, {"message": "hello"}),
    "a list instead of an object": toys.says(200, []),
}


def test_the_engine_imports_a_provider_it_has_never_heard_of(toy: ToyStage, worker: Worker) -> None:
    job = toy.done(toy.job())
    assert not toy.damage()
    assert job.records_processed == 130 + 50 + 90 + 70 + 30
    assert (job.records_quarantined, job.failed_chunks) == (0, 0)


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_costs_time_and_no_retry(toy: ToyStage, worker: Worker, name: str) -> None:
    toy.server.inject(LIMITS[name], times=2 if "in" in name.split() or "date" in name else 6)
    job = toy.done(toy.job())
    assert toy.server.hits >= 2
    assert not toy.damage()
    assert toy.events(job, "retry") == []
    assert not toy.chunks(job, attempts__gt=0)


@pytest.mark.parametrize("name", HICCUPS)
def test_a_hiccup_leaves_no_trace_in_the_data(toy: ToyStage, worker: Worker, name: str) -> None:
    toy.server.inject(HICCUPS[name], times=4 if name in ("hang", "slow drip") else 6)
    job = toy.done(toy.job())
    assert toy.server.hits >= 4
    assert not toy.damage()
    # A connection that was kept open and breaks is tried once more at once: such things happen.
    noted = toy.events(job, "retry")
    assert noted or name == "connection reset", "each of them was noted"
    labels = {stream.label for stream in toys.provider("").streams}
    assert {detail.partition(": ")[0] for detail in noted} <= labels, "by the names that people know"


def test_an_outage_is_told_in_the_workers_log_without_flooding_it(
    toy: ToyStage, worker: Worker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks after a deployment sees no tenant's pages. Of what a tenant has the log says nothing, whatever the provider answers."""
    caplog.set_level(logging.INFO, "historical_sync.trouble")
    toy.server.inject(toys.says(502), times=6)
    job = toy.done(toy.job())
    (line,) = [record for record in caplog.records if record.name == "historical_sync.trouble"]
    assert line.levelname == "WARNING"
    assert re.fullmatch(
        rf"job {job.id} of Toy, \w+ tries again at [\d-]+ [\d:]+ UTC; "
        r"provider_unavailable: Toy has a problem of its own \(502\)\.",
        line.getMessage(),
    ), line.getMessage()
    caplog.clear()
    monkeypatch.setattr(trouble, "AGAIN_SECONDS", 0.0)
    toy.server.inject(toys.throttled("seconds"), every=1, times=1)
    toy.server.inject(toys.says(400, {"error": "no row of Jane Doe"}), every=1, times=1)
    toy.done(toy.job(full=True), "failed")
    said = [record.getMessage() for record in caplog.records if record.name == "historical_sync.trouble"]
    assert [words for words in said if words.endswith(" gave up; provider_rejected_request")], said
    assert not [words for words in said if "Jane" in words]


def test_an_outage_in_planning_is_waited_out(toy: ToyStage, worker: Worker) -> None:
    toy.server.inject(toys.says(502), every=1, times=3, path="/boxes")
    toy.done(toy.job())
    assert toy.server.hits == 3
    assert not toy.damage()


def test_a_limit_in_planning_is_waited_out_however_often(toy: ToyStage, worker: Worker, monkeypatch: Any) -> None:
    from datetime import timedelta

    from historical_sync import retrying

    monkeypatch.setattr(retrying, "THROTTLE_DEFAULT", timedelta(milliseconds=10))
    monkeypatch.setattr(retrying, "MAX_ATTEMPTS", 2)
    toy.server.inject(toys.throttled("none"), every=1, times=4, path="/boxes")
    toy.done(toy.job())
    assert not toy.damage()


def test_a_list_that_takes_more_requests_than_a_limit_allows_at_once_is_read_to_its_end(
    live_cast: SimpleNamespace, worker: Worker, sandbox: Sandbox
) -> None:
    """Six pages of channels, of which Slack answers three at a time: anew from the first one each time, none of the rest would come."""
    sandbox.control(records=60, page_size=1, rate_limit_every=4)
    connection = connected(live_cast.acme, "slack", sandbox.root)
    with tenant_scope(live_cast.acme.id):
        job = start_sync(system_actor(live_cast.acme, "a test"), connection, streams=["files", "members"])
    wait_for(lambda: job_now(job).planned)
    sandbox.control(page_size=0, rate_limit_every=0)
    with tenant_scope(live_cast.acme.id):
        partitions = SyncChunk.objects.filter(job=job, stream="members").values_list("partition", flat=True)
        assert len(set(partitions)) == sandbox.truth("slack")["channels"]
    assert until(job, "completed").last_error_message == ""


def test_a_job_that_waits_in_the_middle_of_a_list_can_be_stopped(
    live_cast: SimpleNamespace, worker: Worker, sandbox: Sandbox
) -> None:
    sandbox.control(records=60, page_size=1, rate_limit_every=4, retry_after=60)
    connection = connected(live_cast.acme, "slack", sandbox.root)
    actor = system_actor(live_cast.acme, "a test")
    with tenant_scope(live_cast.acme.id):
        job = start_sync(actor, connection, streams=["members"])
        wait_for(lambda: sandbox.control()["statuses"].get("429"))
        pause(actor, job)
    until(job, "paused", seconds=10)


def test_a_server_whose_lists_have_no_end_fails_the_job_in_words(
    live_cast: SimpleNamespace, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A self-hosted one, broken or ill-willed: each page of its repositories names another as the next."""
    monkeypatch.setattr(wire, "MOST_PAGES", 30)

    class Endless(BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self) -> None:
            Endless.asked += 1
            body = json.dumps([{"id": Endless.asked, "full_name": f"acme/r{Endless.asked}"}]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Link", f'<http://{self.headers["host"]}/user/repos?page={Endless.asked}>; rel="next"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    try:
        with tenant_scope(live_cast.acme.id):
            connection = make_connection(live_cast.acme)
            connection.by_oauth, connection.private_host_allowed = False, True
            connection.base_url = f"http://127.0.0.1:{server.server_address[1]}"
            connection.save()
            job = start_sync(system_actor(live_cast.acme, "a test"), connection)
        failed = until(job, "failed")
    finally:
        server.shutdown()
        server.server_close()
    assert failed.last_error_code == "provider_rejected_request"
    assert "has no end" in failed.last_error_message
    assert Endless.asked == wire.MOST_PAGES + 1
