"""Replay on a job's page: what was kept aside is tried again by whoever may operate imports."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from atom.tenancy import tenant_scope
from historical_sync import states
from historical_sync.models import HistoricalSyncJob, QuarantinedRecord, SyncChunk, SyncRecord
from integrations.crypto import encrypt
from integrations.providers.wire import reader, records
from tests.graphs import make_connection, make_job

GOOD = {"id": 7, "number": 7, "title": "Now it can be read", "state": "open", "user": {"id": 1, "login": "ada"}}


def kept_aside(cast: SimpleNamespace, *payloads: Any) -> HistoricalSyncJob:
    with tenant_scope(cast.acme.id):
        now = timezone.now()
        job = make_job(
            make_connection(cast.acme), status=states.COMPLETED, completed_at=now, records_quarantined=len(payloads)
        )
        chunk = SyncChunk.objects.create(
            tenant=cast.acme, job=job, ordinal=0, stream="issues", partition="1", since=job.start_date, until=job.end_date,
            status=states.CHUNK_COMPLETED, records_quarantined=len(payloads),
        )  # fmt: skip
        for i, payload in enumerate(payloads):
            QuarantinedRecord.objects.create(
                tenant=cast.acme, connection=job.connection, job=job, chunk=chunk, stream="issues", external_id=str(i), reason="odd",
                occurred_at=now - timedelta(days=1), fingerprint=uuid.uuid4(), sealed_payload=encrypt(payload),
            )  # fmt: skip
        return job


def test_replay_brings_in_what_can_be_read_now_and_says_so(live_cast: SimpleNamespace, signed_in: Any) -> None:
    job = kept_aside(live_cast, GOOD, {"id": 8})
    client = signed_in(live_cast.bob)
    assert f"/jobs/{job.id}/replay" in client.get(f"/jobs/{job.id}").content.decode()
    reply = client.post(f"/jobs/{job.id}/replay", headers={"HX-Request": "true"})
    text = reply.content.decode()
    assert reply["X-Fragments"] == "1"
    assert 'class="toast warn"' in text
    assert "1 record is in." in text
    assert "1 record still can't be understood and stays kept aside." in text
    assert 'id="job-details"' in text, "the table follows"
    with tenant_scope(live_cast.acme.id):
        assert SyncRecord.objects.filter(tenant=live_cast.acme, stream="issues").count() == 1
        job.refresh_from_db()
        assert (job.records_processed, job.records_quarantined) == (1, 1)
        assert list(job.events.values_list("actor", "kind")) == [("Bob", "replayed")]


def test_replay_without_scripts_says_it_on_the_jobs_page(live_cast: SimpleNamespace, signed_in: Any) -> None:
    job = kept_aside(live_cast, GOOD)
    page = signed_in(live_cast.alice).post(f"/jobs/{job.id}/replay", follow=True).content.decode()
    assert "1 of 1 quarantined records were mapped." in page
    assert 'class="notice success"' in page
    assert "quarantine-title" not in page, "nothing is kept aside any more"


def test_what_still_can_not_be_read_is_told_as_a_warning(live_cast: SimpleNamespace, signed_in: Any) -> None:
    job = kept_aside(live_cast, {"id": 8})
    page = signed_in(live_cast.alice).post(f"/jobs/{job.id}/replay", follow=True).content.decode()
    assert 'class="notice warn"' in page, "a class that the style sheet knows"


def test_how_many_more_are_kept_aside_than_the_page_shows_is_said(live_cast: SimpleNamespace, signed_in: Any) -> None:
    client = signed_in(live_cast.alice)
    few, many = kept_aside(live_cast, *[{}] * 50), kept_aside(live_cast, *[{}] * 53)
    with CaptureQueriesContext(database) as queries:
        shown = client.get(f"/jobs/{many.id}").content.decode()
    assert not [one for one in queries if "sealed_payload" in one["sql"]], "each may be of megabytes"
    assert shown.count('id="quarantined-') == 50
    assert "and 3 more" in shown
    assert "and 3 more" in client.post(f"/jobs/{many.id}/replay", headers={"HX-Request": "true"}).content.decode()
    assert " more</p>" not in client.get(f"/jobs/{few.id}").content.decode()


def test_who_may_only_look_sees_what_is_kept_aside_but_no_replay(live_cast: SimpleNamespace, signed_in: Any) -> None:
    job = kept_aside(live_cast, GOOD)
    client = signed_in(live_cast.vera)
    text = client.get(f"/jobs/{job.id}").content.decode()
    assert "Kept aside" in text
    assert "/replay" not in text
    assert client.post(f"/jobs/{job.id}/replay").status_code == 403
    with tenant_scope(live_cast.acme.id):
        assert QuarantinedRecord.objects.filter(tenant=live_cast.acme, replayed_at=None).count() == 1


def test_why_a_record_is_kept_aside_is_said_in_words(live_cast: SimpleNamespace, signed_in: Any) -> None:
    """What Python said of it is for who mends the mapping."""
    shapes = ({"id": None}, {"id": 7, "created_at": None}, {"id": 8, "created_at": "2026-01-31T09:00:00Z", "user": 1})
    job = kept_aside(live_cast, *shapes)
    with tenant_scope(live_cast.acme.id):
        QuarantinedRecord.objects.filter(job=job, external_id__in="01").update(occurred_at=None)
    client = signed_in(live_cast.bob)
    client.post(f"/jobs/{job.id}/replay")
    page = client.get(f"/jobs/{job.id}").content.decode()
    whys = re.findall(r'data-label="Why"><span(?: title="([^"]*)")?>([^<]*)<', page)
    assert {words for _, words in whys} == {
        "It has no id, or no time, that can be read.", "It does not look as others of its kind do.",
    }  # fmt: skip
    assert all("Error" in detail for detail, _ in whys)
    # As the provider's file keeps it aside at once.
    _, rejected = records(list(shapes), reader("id", "created_at"))
    assert {QuarantinedRecord(reason=why).why for _, _, why in rejected} == {
        "It has no id, or no time, that can be read."
    }
