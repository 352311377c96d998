"""Who is told what: from the end of a job to a signed request at a real server, and an e-mail. Time is given, not waited for."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.db import connection as database
from django.db import transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from standardwebhooks import Webhook, WebhookVerificationError

from atom.access import system_actor
from atom.errors import InvalidInput, Refused
from atom.models import Membership, Role, User
from atom.tenancy import tenant_scope
from historical_sync import actions, delivering, notices, webhooks
from historical_sync.automation import Delivery, Notice, NotificationPreference, WebhookEndpoint
from historical_sync.models import HistoricalSyncJob
from historical_sync.serializers import job_json
from historical_sync.upkeep import after_an_end
from integrations import outgoing
from tests.conftest import Sandbox, Worker, connected, job_now, until, wait_for
from tests.graphs import make_connection, make_job
from tests.processes import Running, on_the_tests_database

pytestmark = pytest.mark.django_db(transaction=True)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Receiver:
    """A customer's server. `answers`: the status of each request, in order; 204 when there are none left."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.targets: list[str] = []  # of each request, with its query
        self.answers: list[int] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                arrived = {name.lower(): value for name, value in self.headers.items()}
                receiver.targets.append(self.path)
                receiver.got.append((arrived, body))
                receiver.may_answer.wait(20)
                status = receiver.answers.pop(0) if receiver.answers else 204
                with suppress(OSError):  # whoever asked may be dead by now
                    self.answer(status)

            def answer(self, status: int) -> None:
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True)
        self.thread.start()


@pytest.fixture
def receivers(settings: Any) -> Iterator[Any]:
    """Makes one."""
    settings.ALLOW_PRIVATE_HOSTS = True
    made: list[Receiver] = []

    def make() -> Receiver:
        made.append(Receiver())
        return made[-1]

    yield make
    for one in made:
        one.may_answer.set()
        one.server.shutdown()
        one.thread.join(5)
        one.server.server_close()


@pytest.fixture
def receiver(receivers: Any) -> Receiver:
    return receivers()


@pytest.fixture
def hooked(live_cast: SimpleNamespace, receiver: Receiver) -> SimpleNamespace:
    """Acme with an endpoint for everything and a job."""
    with tenant_scope(live_cast.acme.id):
        actor = system_actor(live_cast.acme, "Alice")
        endpoint, secret = webhooks.add(actor, receiver.url, ["completed", "failed", "paused"])
        job = make_job(make_connection(live_cast.acme), records_processed=12)
    return SimpleNamespace(
        cast=live_cast, tenant=live_cast.acme, actor=actor, endpoint=endpoint, secret=secret, job=job, receiver=receiver
    )


def end(job: HistoricalSyncJob, status: str, **fields: Any) -> None:
    """The job's row as the engine would leave it."""
    now = timezone.now()
    reason = {"pause_reason": "user"} if status == "paused" else {"pause_reason": "", "completed_at": now}
    with tenant_scope(job.tenant_id):
        found = HistoricalSyncJob.objects.get(id=job.id)
        HistoricalSyncJob.objects.filter(id=job.id).update(
            status=status, revision=found.revision + 1, **(reason | fields)
        )


def tell(tenant: Any, now: Any = None) -> Any:
    """What a worker does when it hears of an end."""
    after_an_end(str(tenant.id))
    return deliver_due(tenant, now)


def deliver_due(tenant: Any, now: Any = None) -> Any:
    """The next attempt that follows, of all receivers."""
    for one in delivering.receivers(tenant.id):
        asyncio.run(delivering.deliver_due(tenant.id, one, now))
    return min(filter(None, (one.next_attempt_at for one in deliveries(tenant))), default=None)


def deliveries(tenant: Any) -> list[Delivery]:
    with tenant_scope(tenant.id):
        return list(Delivery.objects.select_related("notice", "endpoint").order_by("created_at", "id"))


def posts(tenant: Any) -> list[Delivery]:
    """Deliveries to endpoints."""
    return [one for one in deliveries(tenant) if one.endpoint]


def verified(stage: SimpleNamespace, number: int = -1) -> Any:
    headers, body = stage.receiver.got[number]
    return Webhook(stage.secret).verify(body, headers)


# -- webhooks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["completed", "failed", "paused"])
def test_an_end_is_told_signed_with_the_job_as_the_contract_shows_it(hooked: SimpleNamespace, status: str) -> None:
    end(hooked.job, status)
    tell(hooked.tenant)
    said = verified(hooked)
    assert said["type"] == f"job.{status}"
    assert set(said) == {"type", "timestamp", "data"}
    assert said["data"] == job_json(job_now(hooked.job))
    assert said["data"]["status"] == status
    (delivery,) = posts(hooked.tenant)
    assert (delivery.status, delivery.response_code, delivery.attempts) == ("delivered", 204, 1)
    tell(hooked.tenant)
    assert len(hooked.receiver.got) == 1


def test_a_body_that_was_tampered_with_and_another_secret_are_found_out(hooked: SimpleNamespace) -> None:
    end(hooked.job, "completed")
    tell(hooked.tenant)
    headers, body = hooked.receiver.got[0]
    with pytest.raises(WebhookVerificationError):
        Webhook(hooked.secret).verify(body.replace(b"completed", b"cancelled"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_c29tZWJvZHkgZWxzZQ==").verify(body, headers)


def test_without_the_key_of_its_secret_a_message_waits_and_says_why(hooked: SimpleNamespace) -> None:
    with tenant_scope(hooked.tenant.id):
        WebhookEndpoint.objects.filter(id=hooked.endpoint.id).update(sealed_secret=b"of another key")
    end(hooked.job, "completed")
    tell(hooked.tenant)
    (delivery,) = deliveries(hooked.tenant)
    assert delivery.status == "pending"
    assert delivery.detail.startswith("No key of ATOM_ENCRYPTION_KEYS opens what is stored")
    assert hooked.receiver.got == []


def test_what_is_told_is_how_the_job_was_then(hooked: SimpleNamespace) -> None:
    """A worker told of it late: the job has been taken up again."""
    end(hooked.job, "failed", last_error_code="provider_access_denied")
    with tenant_scope(hooked.tenant.id):
        HistoricalSyncJob.objects.filter(id=hooked.job.id).update(last_error_message="Not imported: issues.")
        actions.resume(hooked.actor, hooked.job)
    tell(hooked.tenant)
    said = verified(hooked)["data"]
    assert said["status"] == "failed"
    assert said["last_error"] == {"code": "provider_access_denied", "message": "Not imported: issues."}


def test_what_an_import_completed_without_is_told(hooked: SimpleNamespace, signed_in: Any) -> None:
    signed_in(hooked.cast.alice).post("/settings/notifications", {"completed": "on"})
    end(hooked.job, "completed", last_error_code="provider_access_denied", last_error_message="One of its reasons.")
    with tenant_scope(hooked.tenant.id):
        HistoricalSyncJob.objects.filter(id=hooked.job.id).update(last_error_message="Not imported: issues.")
    tell(hooked.tenant)
    said = verified(hooked)["data"]
    assert said["status"] == "completed"
    assert said["last_error"] == {"code": "provider_access_denied", "message": "Not imported: issues."}
    (sent,) = mail.outbox
    assert "\nNot imported: issues.\n" in sent.body


def test_what_fails_is_tried_again_with_the_same_id_ever_later_and_then_given_up(hooked: SimpleNamespace) -> None:
    hooked.receiver.answers = [500] * 10
    end(hooked.job, "completed")
    now = timezone.now() + MINUTE
    waits = []
    for _ in range(10):
        following = tell(hooked.tenant, now)
        if following is not None:
            waits.append(following - now)
            assert deliver_due(hooked.tenant, following - timedelta(seconds=1)) == following
            now = following
    assert waits == list(delivering.BACK_OFF)
    assert len(hooked.receiver.got) == 10
    assert len({headers["webhook-id"] for headers, _ in hooked.receiver.got}) == 1
    (delivery,) = deliveries(hooked.tenant)
    assert (delivery.status, delivery.attempts, delivery.response_code) == ("failed", 10, 500)
    assert delivery.detail == "The receiver answered with status 500."


def test_what_was_given_up_can_be_sent_again(hooked: SimpleNamespace, signed_in: Any) -> None:
    hooked.receiver.answers = [500]
    end(hooked.job, "completed")
    tell(hooked.tenant)
    with tenant_scope(hooked.tenant.id):
        Delivery.objects.update(status="failed", next_attempt_at=None)
    (delivery,) = deliveries(hooked.tenant)
    client = signed_in(hooked.cast.alice)
    assert "Given up" in client.get("/settings/webhooks").content.decode()
    assert client.post(f"/settings/webhooks/deliveries/{delivery.id}/resend").status_code == 302
    tell(hooked.tenant)
    assert len(hooked.receiver.got) == 2
    verified(hooked)
    page = client.get("/settings/webhooks").content.decode()
    assert "Delivered" in page
    assert "204" in page
    with tenant_scope(hooked.tenant.id):
        webhooks.turn_off(hooked.actor, hooked.endpoint.id)
    client.post(f"/settings/webhooks/deliveries/{delivery.id}/resend")
    assert deliveries(hooked.tenant)[0].status == "delivered", "nothing goes where it was turned off"


def test_redirects_are_not_followed(hooked: SimpleNamespace) -> None:
    hooked.receiver.answers = [302]
    end(hooked.job, "completed")
    tell(hooked.tenant)
    assert len(hooked.receiver.got) == 1
    assert deliveries(hooked.tenant)[0].response_code == 302
    assert deliveries(hooked.tenant)[0].status == "pending"


def test_an_endpoint_that_says_it_is_gone_is_turned_off(hooked: SimpleNamespace) -> None:
    hooked.receiver.answers = [410]
    end(hooked.job, "completed")
    tell(hooked.tenant)
    with tenant_scope(hooked.tenant.id):
        endpoint = WebhookEndpoint.objects.get()
    assert (endpoint.enabled, deliveries(hooked.tenant)[0].status) == (False, "failed")
    assert "gone" in endpoint.disabled_reason


def test_an_endpoint_is_turned_off_after_days_without_a_success(hooked: SimpleNamespace) -> None:
    now = timezone.now()

    def attempt_at(moment: Any, answer: int) -> WebhookEndpoint:
        hooked.receiver.answers = [answer]
        with tenant_scope(hooked.tenant.id):
            HistoricalSyncJob.objects.filter(id=hooked.job.id).update(status="pending", completed_at=None)
            Delivery.objects.all().delete()
        end(hooked.job, "completed")
        after_an_end(str(hooked.tenant.id))
        deliver_due(hooked.tenant, moment)
        with tenant_scope(hooked.tenant.id):
            return WebhookEndpoint.objects.get()

    now += MINUTE
    assert attempt_at(now, 500).failing_since == now
    assert attempt_at(now + 3 * DAY, 200).failing_since is None
    assert attempt_at(now + 4 * DAY, 500).enabled
    assert attempt_at(now + 8 * DAY, 500).enabled
    gone = attempt_at(now + 9 * DAY, 500)
    assert not gone.enabled
    assert "Nothing got through for 5 days" in gone.disabled_reason


def test_a_worker_that_dies_at_it_leaves_it_to_the_next(hooked: SimpleNamespace) -> None:
    end(hooked.job, "completed")
    after_an_end(str(hooked.tenant.id))
    (delivery,) = deliveries(hooked.tenant)
    now = timezone.now()
    assert delivering._claim(hooked.tenant.id, delivery.id, now) is not None, "and nothing more is heard of it"
    tell(hooked.tenant, now + timedelta(seconds=30))
    assert hooked.receiver.got == [], "it may still be at it"
    assert delivering._claim(hooked.tenant.id, delivery.id, now + timedelta(seconds=30)) is None, "nor is it one's own"
    assert hooked.tenant.id in delivering.tenants_with_something_due(now + 2 * MINUTE)
    tell(hooked.tenant, now + 2 * MINUTE)
    verified(hooked)
    assert deliveries(hooked.tenant)[0].status == "delivered"


def test_a_worker_whose_clock_is_ahead_leaves_an_attempt_to_who_is_at_it(hooked: SimpleNamespace) -> None:
    """The claim holds for a minute by the database's clock, whatever a worker's says."""
    end(hooked.job, "completed")
    hooked.receiver.may_answer.clear()
    first = threading.Thread(target=tell, args=[hooked.tenant])
    first.start()
    try:
        wait_for(lambda: hooked.receiver.got)
        with time_machine.travel(timezone.now() + 3 * MINUTE):
            assert hooked.tenant.id in delivering.tenants_with_something_due(timezone.now())
            second = threading.Thread(target=tell, args=[hooked.tenant])
            second.start()
            second.join(5)
            assert len(hooked.receiver.got) == 1
    finally:
        hooked.receiver.may_answer.set()
        first.join(20)
        second.join(20)
    (delivery,) = deliveries(hooked.tenant)
    assert (delivery.status, delivery.attempts) == ("delivered", 1)


def test_a_worker_whose_clock_is_behind_tries_again_in_time(hooked: SimpleNamespace) -> None:
    hooked.receiver.answers = [500]
    end(hooked.job, "completed")
    with time_machine.travel(timezone.now() - 10 * MINUTE):
        tell(hooked.tenant)
        (delivery,) = deliveries(hooked.tenant)
    assert delivery.attempts == 1
    assert timezone.now() < delivery.next_attempt_at < timezone.now() + timedelta(seconds=10)


def test_what_is_heard_late_of_an_attempt_that_was_given_up_for_lost_changes_nothing(hooked: SimpleNamespace) -> None:
    end(hooked.job, "completed")
    after_an_end(str(hooked.tenant.id))
    (delivery,) = deliveries(hooked.tenant)
    now = timezone.now()
    first = delivering._claim(hooked.tenant.id, delivery.id, now)
    second = delivering._claim(hooked.tenant.id, delivery.id, now + 2 * MINUTE)
    assert first
    assert second
    delivering._record(first, 500, "The receiver answered with status 500.", now + 2 * MINUTE)
    (delivery,) = deliveries(hooked.tenant)
    assert delivery.next_attempt_at == second.next_attempt_at, "nobody else makes it while the second is under way"


def test_what_is_on_its_way_to_an_endpoint_that_is_gone_is_given_up(hooked: SimpleNamespace) -> None:
    hooked.receiver.answers = [500, 410]
    end(hooked.job, "completed")
    following = tell(hooked.tenant)
    with tenant_scope(hooked.tenant.id):
        other = make_job(make_connection(hooked.tenant))
    end(other, "completed")
    tell(hooked.tenant)
    tell(hooked.tenant, following)
    assert len(hooked.receiver.got) == 2
    assert [(one.status, one.response_code) for one in deliveries(hooked.tenant)] == [("failed", None), ("failed", 410)]
    assert deliveries(hooked.tenant)[0].detail == "The endpoint is turned off."


def test_an_endpoint_that_is_turned_on_again_has_its_days_anew(hooked: SimpleNamespace) -> None:
    end(hooked.job, "completed")
    tell(hooked.tenant)
    with tenant_scope(hooked.tenant.id):
        long_since = timezone.now() - 6 * DAY
        WebhookEndpoint.objects.update(enabled=False, disabled_reason="Nothing got through.", failing_since=long_since)
        webhooks.turn_on(hooked.actor, hooked.endpoint.id)
        other = make_job(make_connection(hooked.tenant))
    hooked.receiver.answers = [500]
    end(other, "completed")
    tell(hooked.tenant)
    with tenant_scope(hooked.tenant.id):
        assert WebhookEndpoint.objects.get().enabled
        webhooks.turn_off(hooked.actor, hooked.endpoint.id)
    assert [one.status for one in deliveries(hooked.tenant)] == ["delivered", "failed"], "what had arrived has"


def test_an_end_that_nobody_heard_of_is_noticed(hooked: SimpleNamespace) -> None:
    end(hooked.job, "completed")
    assert delivering.tenants_with_something_due(timezone.now()) == {hooked.tenant.id}
    tell(hooked.tenant)
    assert delivering.tenants_with_something_due(timezone.now()) == set()


def test_the_notice_is_written_with_the_end_or_not_at_all(hooked: SimpleNamespace) -> None:
    with tenant_scope(hooked.tenant.id):
        with transaction.atomic():
            HistoricalSyncJob.objects.filter(id=hooked.job.id).update(status="failed", completed_at=timezone.now())
            assert Notice.objects.count() == 1
            transaction.set_rollback(True)
        assert Notice.objects.count() == 0
        actions.pause(hooked.actor, hooked.job)
        assert [notice.event for notice in Notice.objects.all()] == ["paused"]
        actions.cancel(hooked.actor, hooked.job)
        assert Notice.objects.count() == 1, "who cancels knows"


def test_others_are_told_nothing(hooked: SimpleNamespace) -> None:
    with tenant_scope(hooked.cast.globex.id):
        job = make_job(make_connection(hooked.cast.globex))
    end(job, "completed")
    tell(hooked.cast.globex)
    tell(hooked.tenant)
    assert hooked.receiver.got == []
    assert deliveries(hooked.tenant) == []


def test_only_the_chosen_events_are_told_and_nothing_while_off(hooked: SimpleNamespace) -> None:
    with tenant_scope(hooked.tenant.id):
        WebhookEndpoint.objects.update(events=["failed"])
    end(hooked.job, "completed")
    tell(hooked.tenant)
    assert hooked.receiver.got == []
    with tenant_scope(hooked.tenant.id):
        webhooks.turn_off(system_actor(hooked.tenant, "test"), hooked.endpoint.id)
    end(hooked.job, "failed")
    tell(hooked.tenant)
    assert posts(hooked.tenant) == []


def test_a_worker_tells_of_an_import_that_it_finished(
    hooked: SimpleNamespace, sandbox: Sandbox, worker: Worker
) -> None:
    connection = connected(hooked.tenant, "github", sandbox.root)
    hooked.receiver.answers = [503]
    with tenant_scope(hooked.tenant.id):
        job = actions.start_sync(hooked.actor, connection, streams=["repositories"])
    until(job, "completed")
    # The first answer was no success: the second attempt comes five seconds later, not with the next minute.
    wait_for(lambda: len(hooked.receiver.got) == 2, 30)
    said = verified(hooked)
    assert (said["type"], said["data"]["id"]) == ("job.completed", str(job.id))
    assert said["data"] == job_json(job_now(job))


def test_a_receiver_that_does_not_answer_holds_up_no_other(
    hooked: SimpleNamespace, receivers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has more to get than a worker sends it at once; the other gets all of its own, and the retry, meanwhile."""
    monkeypatch.setattr(outgoing, "SECONDS", 40.0)
    slow, quick = hooked.receiver, receivers()
    slow.may_answer.clear()
    quick.answers = [503]
    with tenant_scope(hooked.tenant.id):
        webhooks.add(hooked.actor, quick.url, ["completed", "failed", "paused"])
        jobs = [hooked.job] + [make_job(make_connection(hooked.tenant)) for _ in range(19)]
    for job in jobs:
        end(job, "completed")
    worker = Worker()
    try:
        wait_for(lambda: len(quick.got) == len(jobs) + 1, 15)
        wait_for(lambda: len(slow.got) == delivering.AT_ONCE)
        waiting = [one for one in deliveries(hooked.tenant) if one.endpoint == hooked.endpoint]
        assert (
            sorted(one.attempts for one in waiting) == [0] * (len(jobs) - delivering.AT_ONCE) + [1] * delivering.AT_ONCE
        )
        slow.may_answer.set()
        wait_for(lambda: len(slow.got) == len(jobs))
    finally:
        slow.may_answer.set()
        worker.stop()


def test_a_worker_that_stops_lets_what_it_tells_arrive(hooked: SimpleNamespace) -> None:
    hooked.receiver.may_answer.clear()
    end(hooked.job, "completed")
    worker = Worker()
    wait_for(lambda: hooked.receiver.got)
    threading.Timer(0.5, hooked.receiver.may_answer.set).start()
    worker.stop()
    (delivery,) = deliveries(hooked.tenant)
    assert (delivery.status, delivery.attempts) == ("delivered", 1)


def test_what_ended_while_no_worker_lived_is_told_by_the_next(hooked: SimpleNamespace) -> None:
    end(hooked.job, "failed")
    worker = Worker()
    try:
        wait_for(lambda: hooked.receiver.got)
    finally:
        worker.stop()
    assert verified(hooked)["data"]["id"] == str(hooked.job.id)


@pytest.mark.processes
def test_a_worker_that_is_killed_while_it_tells_loses_nothing(hooked: SimpleNamespace) -> None:
    receiver = hooked.receiver
    receiver.may_answer.clear()
    end(hooked.job, "failed")
    process = Running("manage.py", "sync_worker", **on_the_tests_database(ATOM_ALLOW_PRIVATE_HOSTS="1"))
    try:
        wait_for(lambda: receiver.got, 40)
    finally:
        process.signal(signal.SIGKILL)
        process.ends()
        receiver.may_answer.set()
    (delivery,) = posts(hooked.tenant)
    assert (delivery.status, delivery.attempts) == ("pending", 1)
    tell(hooked.tenant, delivery.next_attempt_at)
    assert posts(hooked.tenant)[0].status == "delivered"
    assert len(receiver.got) == 2
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]
    assert verified(hooked, 0) == verified(hooked, 1)


# -- endpoints ----------------------------------------------------------------------------------------------------------------


def test_an_address_keeps_its_query_to_the_letter(live_cast: SimpleNamespace, receiver: Receiver) -> None:
    """Automation services give out addresses whose key is there."""
    query = "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sig=a%2Bb_c"
    with tenant_scope(live_cast.acme.id):
        webhooks.add(system_actor(live_cast.acme, "Alice"), receiver.url + query, ["completed"])
        job = make_job(make_connection(live_cast.acme), records_processed=12)
        with pytest.raises(InvalidInput):
            webhooks.add(system_actor(live_cast.acme, "Alice"), receiver.url + "#part", ["completed"])
    end(job, "completed")
    tell(live_cast.acme)
    assert receiver.targets == ["/hook" + query]


def test_private_addresses_are_refused_in_the_form_and_at_the_connection(
    hooked: SimpleNamespace, settings: Any
) -> None:
    settings.ALLOW_PRIVATE_HOSTS = False
    with tenant_scope(hooked.tenant.id):
        for url in (
            "http://127.0.0.1:9/x",
            "http://169.254.169.254/latest",
            "http://[::1]/",
            "ftp://a.test/",
            "nonsense",
            "https://8.8.8.8:0/x",
        ):
            with pytest.raises(InvalidInput) as refused:
                webhooks.add(hooked.actor, url, ["failed"])
            assert refused.value.attr == "url"
    # The name may have changed its mind since.
    end(hooked.job, "completed")
    tell(hooked.tenant)
    assert hooked.receiver.got == []
    assert "private network" in deliveries(hooked.tenant)[0].detail


def test_production_asks_for_https(hooked: SimpleNamespace, settings: Any) -> None:
    settings.PRODUCTION = True
    with tenant_scope(hooked.tenant.id), pytest.raises(InvalidInput, match="https"):
        webhooks.add(hooked.actor, hooked.receiver.url, ["failed"])


def test_a_receiver_that_does_not_answer_is_given_up(hooked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(outgoing, "SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with tenant_scope(hooked.tenant.id):
            WebhookEndpoint.objects.update(url=f"http://127.0.0.1:{silent.getsockname()[1]}/")
        end(hooked.job, "completed")
        tell(hooked.tenant)
    assert "No answer" in deliveries(hooked.tenant)[0].detail


def test_a_page_of_the_log_reads_what_belongs_to_its_own_deliveries(hooked: SimpleNamespace, signed_in: Any) -> None:
    """The last page of a hundred thousand read the job and the connection of each of them."""
    end(hooked.job, "completed")
    tell(hooked.tenant)
    with tenant_scope(hooked.tenant.id):
        [first] = Delivery.objects.all()
        notices_ = [
            Notice(tenant=hooked.tenant, job_id=first.notice.job_id, revision=1000 + n, event="completed", snapshot={})
            for n in range(60)
        ]
        Notice.objects.bulk_create(notices_)
        Delivery.objects.bulk_create(
            Delivery(
                tenant=hooked.tenant, notice=one, endpoint=hooked.endpoint, status="delivered", next_attempt_at=None
            )
            for one in notices_
        )
    with CaptureQueriesContext(database) as queries:
        page = signed_in(hooked.cast.alice).get("/settings/webhooks?page=2").content.decode()
    assert page.split('id="log-title"')[1].count("<tr>") == 1 + 11
    [paged] = [query["sql"] for query in queries if " OFFSET " in query["sql"]]
    assert "JOIN" not in paged


def test_the_secret_is_shown_once_and_sealed(hooked: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(hooked.cast.alice)
    form = {"url": hooked.receiver.url + "/2", "events": ["failed", "completed"]}
    assert client.post("/settings/webhooks", form).status_code == 302
    page = client.get("/settings/webhooks")
    assert page["Cache-Control"].count("no-store") == 1
    secret = page.content.decode().split('<code id="secret">whsec_')[1].split("</code>")[0]
    assert "whsec_" not in client.get("/settings/webhooks").content.decode()
    with tenant_scope(hooked.tenant.id):
        made = WebhookEndpoint.objects.last()
    assert secret.encode() not in bytes(made.sealed_secret)
    renewed = client.post(f"/settings/webhooks/{made.id}", {"action": "renew"}, follow=True).content.decode()
    assert '<code id="secret">whsec_' in renewed
    assert secret not in renewed


def test_endpoints_are_turned_off_and_on_and_removed_by_who_may(hooked: SimpleNamespace, signed_in: Any) -> None:
    path = f"/settings/webhooks/{hooked.endpoint.id}"
    assert signed_in(hooked.cast.bob).post(path, {"action": "remove"}).status_code == 403
    client = signed_in(hooked.cast.alice)
    client.post(path, {"action": "off"})
    assert "Turn on" in client.get("/settings/webhooks").content.decode()
    client.post(path, {"action": "on"})
    with tenant_scope(hooked.tenant.id):
        assert WebhookEndpoint.objects.get().enabled
    assert client.post(path, {"action": "explode"}).status_code == 400
    client.post(path, {"action": "remove"})
    with tenant_scope(hooked.tenant.id):
        assert not WebhookEndpoint.objects.exists()
    assert client.post(path, {"action": "remove"}).status_code == 404


@pytest.mark.parametrize("odd", ["\0", "a\nb", "a\r\nb", "\x1b[2J", "\u202e", "?key=\0"], ids=ascii)
def test_an_address_that_can_not_be_seen_whole_is_refused_in_words(
    cast: SimpleNamespace, signed_in: Any, odd: str
) -> None:
    reply = signed_in(cast.alice).post("/settings/webhooks", {"url": f"http://8.8.8.8/{odd}/b", "events": ["failed"]})
    assert reply.status_code == 400
    assert "line breaks or other characters" in reply.content.decode()
    with tenant_scope(cast.acme.id):
        assert not WebhookEndpoint.objects.exists()


def test_bad_input_makes_no_endpoint(hooked: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(hooked.cast.alice)
    for form in ({"url": hooked.receiver.url}, {"url": "", "events": ["failed"]}, {"url": "x", "events": ["nothing"]}):
        reply = client.post("/settings/webhooks", form)
        assert reply.status_code == 400
        assert b'role="alert"' in reply.content
    with tenant_scope(hooked.tenant.id):
        assert WebhookEndpoint.objects.count() == 1
        for number in range(9):
            webhooks.add(hooked.actor, f"{hooked.receiver.url}/{number}", ["failed"])
        with pytest.raises(Refused, match="10 endpoints"):
            webhooks.add(hooked.actor, hooked.receiver.url, ["failed"])


# -- e-mail -------------------------------------------------------------------------------------------------------------------


def test_members_get_the_e_mails_that_they_chose(hooked: SimpleNamespace, signed_in: Any, settings: Any) -> None:
    settings.PUBLIC_URL = "https://atom.example"
    assert signed_in(hooked.cast.alice).post("/settings/notifications", {"failed": "on"}).status_code == 302
    signed_in(hooked.cast.bob).post("/settings/notifications", {"completed": "on"})
    assert signed_in(hooked.cast.alice).get("/settings/notifications").content.decode().count(" checked") == 1
    end(hooked.job, "failed", last_error_code="x", last_error_message="GitHub said no")
    tell(hooked.tenant)
    tell(hooked.tenant)
    (sent,) = mail.outbox
    assert sent.to == ["alice@acme.test"]
    assert sent.subject == "GitHub import failed: acme-github"
    assert "Why: GitHub said no." in sent.body
    assert f"https://atom.example/jobs/{hooked.job.id}" in sent.body
    assert sent.message()["Message-ID"].endswith("@atom.invalid>")


def test_a_schedule_that_goes_on_failing_is_mailed_once_a_day(hooked: SimpleNamespace, signed_in: Any) -> None:
    signed_in(hooked.cast.alice).post("/settings/notifications", {"failed": "on"})
    connection, began = hooked.job.connection, timezone.now() - timedelta(days=2)
    hour = iter(range(100))

    def run(status: str = "failed", code: str = "provider_error", trigger: str = "schedule") -> int:
        """An hour later; the e-mails that it sends."""
        at, before = began + timedelta(hours=next(hour)), len(mail.outbox)
        with tenant_scope(hooked.tenant.id):
            job = make_job(connection, trigger=trigger)
            HistoricalSyncJob.objects.filter(id=job.id).update(created_at=at)
        end(job, status, last_error_code=code if status == "failed" else "")
        with tenant_scope(hooked.tenant.id):
            Notice.objects.filter(job=job).update(at=at)
        tell(hooked.tenant)
        return len(mail.outbox) - before

    end(hooked.job, "cancelled")
    assert [run() for _ in range(22)] == [1, *[0] * 19, 1, 0]
    assert run(code="provider_access_denied") == 1, "another reason"
    assert run(code="provider_access_denied", trigger="manual") == 1, "somebody waits for it"
    with tenant_scope(hooked.tenant.id):
        latest = HistoricalSyncJob.objects.filter(trigger="schedule").latest("created_at")
        seen = Notice.objects.get(job=latest)
    end(latest, "running", completed_at=None)
    end(latest, "failed")
    with tenant_scope(hooked.tenant.id):  # soon after the one before, within the day in which none else is mailed
        Notice.objects.filter(job=latest).exclude(id=seen.id).update(at=seen.at + timedelta(minutes=1))
    tell(hooked.tenant)
    assert len(mail.outbox) == 5, "somebody had it go on, and waits for it, too"
    assert [run("completed"), run(code="provider_access_denied"), run(code="provider_access_denied")] == [0, 1, 0]
    assert len(posts(hooked.tenant)) == 28, "programs are told of each"


def test_a_run_that_took_long_to_fail_is_known_by_its_e_mail_when_the_next_one_does(
    hooked: SimpleNamespace, signed_in: Any
) -> None:
    signed_in(hooked.cast.alice).post("/settings/notifications", {"failed": "on"})
    end(hooked.job, "cancelled")
    for hours in (30, 0):
        with tenant_scope(hooked.tenant.id):
            job = make_job(hooked.job.connection, trigger="schedule")
            HistoricalSyncJob.objects.filter(id=job.id).update(created_at=timezone.now() - timedelta(hours=hours))
        end(job, "failed", last_error_code="provider_error")
        tell(hooked.tenant)
    assert len(mail.outbox) == 1


@pytest.mark.parametrize(
    ("status", "reason", "told"),
    [
        ("failed", "", True),
        ("paused", "reauth_required", True),
        ("paused", "plan", True),
        ("paused", "user", False),
        ("completed", "", False),
    ],
)
def test_owners_and_admins_are_mailed_of_what_needs_somebody_unless_they_chose_otherwise(
    hooked: SimpleNamespace, status: str, reason: str, told: bool
) -> None:
    def member(name: str, role: str, password: str | None = "secret", **fields: Any) -> Membership:
        user = User.objects.create_user(f"{name}@acme.test", password, **fields)
        return Membership.objects.create(tenant=hooked.tenant, user=user, role=role)

    with tenant_scope(hooked.tenant.id):
        member("ada", Role.ADMIN)
        member("barred", Role.OWNER, is_active=False)
        member("invited", Role.ADMIN, password=None)  # who has never been here
        member("content", Role.ADMIN)
        unticked = Membership.objects.get(user__email="content@acme.test")
        NotificationPreference.objects.create(tenant=hooked.tenant, membership=unticked)
    end(hooked.job, status, pause_reason=reason)
    tell(hooked.tenant)
    assert sorted(sent.to[0] for sent in mail.outbox) == (["ada@acme.test", "alice@acme.test"] if told else [])
    assert all(sent.body.endswith("Which e-mails you get: in Atom, under Notifications\n") for sent in mail.outbox)


def test_the_form_shows_what_owners_are_mailed_of_and_keeps_that_they_do_not_want_it(
    hooked: SimpleNamespace, signed_in: Any
) -> None:
    def ticked(client: Any) -> set[str]:
        page = client.get("/settings/notifications").content.decode()
        return set(re.findall(r'<input type="checkbox" name="(\w+)" checked>', page))

    alice, bob = signed_in(hooked.cast.alice), signed_in(hooked.cast.bob)
    assert (ticked(alice), ticked(bob)) == ({"failed", "paused"}, set())
    alice.post("/settings/notifications", {"paused_by_hand": "on"})
    assert ticked(alice) == {"paused_by_hand"}
    end(hooked.job, "failed")
    tell(hooked.tenant)
    assert mail.outbox == []
    with tenant_scope(hooked.tenant.id):
        other = make_job(make_connection(hooked.tenant))
    end(other, "paused")
    tell(hooked.tenant)
    assert [sent.to for sent in mail.outbox] == [["alice@acme.test"]]


def test_nobody_gets_e_mail_that_they_did_not_ask_for_or_after_they_left(hooked: SimpleNamespace) -> None:
    end(hooked.job, "completed")
    tell(hooked.tenant)
    end(hooked.job, "running", completed_at=None)
    with tenant_scope(hooked.tenant.id):
        for user in (hooked.cast.alice, hooked.cast.bob):
            membership = Membership.objects.get(tenant=hooked.tenant, user=user)
            NotificationPreference.objects.create(tenant=hooked.tenant, membership=membership, completed=True)
        Membership.objects.filter(user=hooked.cast.bob).delete()
    hooked.cast.alice.is_active = False
    hooked.cast.alice.save()
    end(hooked.job, "completed")
    tell(hooked.tenant)
    assert mail.outbox == []


def test_an_account_with_odd_letters_makes_no_headers(hooked: SimpleNamespace, signed_in: Any) -> None:
    signed_in(hooked.cast.alice).post("/settings/notifications", {"completed": "on"})
    with tenant_scope(hooked.tenant.id):
        type(hooked.job.connection).objects.update(account_label="acme\r\nBcc: evil@evil.test")
    end(hooked.job, "completed")
    tell(hooked.tenant)
    (sent,) = mail.outbox
    assert sent.subject == "GitHub import completed: acme Bcc: evil@evil.test"
    assert "Bcc" not in sent.message()


def test_a_mail_server_that_is_away_is_tried_again(hooked: SimpleNamespace, signed_in: Any, settings: Any) -> None:
    signed_in(hooked.cast.alice).post("/settings/notifications", {"completed": "on"})
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    end(hooked.job, "completed")
    following = tell(hooked.tenant)
    (mailed,) = [one for one in deliveries(hooked.tenant) if one.membership_id]
    assert (mailed.status, mailed.detail) == ("pending", "The mail server did not take it.")
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    tell(hooked.tenant, following)
    assert len(mail.outbox) == 1


def test_where_no_mail_is_sent_the_form_says_so_and_none_counts_as_delivered(
    hooked: SimpleNamespace, signed_in: Any, settings: Any
) -> None:
    words, client = "This Atom sends no e-mail", signed_in(hooked.cast.alice)
    assert words not in client.get("/settings/notifications").content.decode()
    settings.SENDS_MAIL = False
    page = client.post("/settings/notifications", {"completed": "on"}, follow=True).content.decode()
    assert words in page
    assert " checked" in page, "for when it does"
    end(hooked.job, "completed")
    assert tell(hooked.tenant) is None
    assert mail.outbox == []
    (mailed,) = [one for one in deliveries(hooked.tenant) if one.membership_id]
    assert (mailed.status, mailed.detail) == ("failed", "This Atom sends no e-mail.")


def test_who_is_barred_while_the_mail_server_is_away_gets_nothing_when_it_is_back(
    hooked: SimpleNamespace, signed_in: Any, settings: Any
) -> None:
    signed_in(hooked.cast.alice).post("/settings/notifications", {"completed": "on"})
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    end(hooked.job, "completed")
    following = tell(hooked.tenant)
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    hooked.cast.alice.is_active = False
    hooked.cast.alice.save()
    tell(hooked.tenant, following)
    assert mail.outbox == []
    (mailed,) = [one for one in deliveries(hooked.tenant) if one.membership_id]
    assert (mailed.status, mailed.detail) == ("failed", "The member has no access any more.")


def test_what_was_told_long_ago_is_forgotten(hooked: SimpleNamespace) -> None:
    end(hooked.job, "completed")
    tell(hooked.tenant)
    notices.forget_old(timezone.now() + 29 * DAY)
    assert len(deliveries(hooked.tenant)) == 1
    notices.forget_old(timezone.now() + 31 * DAY)
    assert deliveries(hooked.tenant) == []
