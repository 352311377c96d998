"""What Prometheus reads."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from atom.tenancy import tenant_scope
from historical_sync.allowance import MonthlyRecords
from historical_sync.models import HistoricalSyncJob, SyncChunk
from tests.graphs import one_of_everything

TOKEN = "what-prometheus-knows"


@pytest.fixture
def prometheus(settings: Any) -> Client:
    settings.METRICS_TOKEN = TOKEN
    return Client(headers={"Authorization": f"Bearer {TOKEN}", "Host": "10.1.2.3:8000"})


def read(client: Client) -> dict[str, float]:
    """sample with its labels' values -> value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


def test_the_numbers_are_those_of_all_tenants_and_name_nobody(cast: SimpleNamespace, prometheus: Client) -> None:
    before = read(prometheus)
    long_ago = timezone.now() - timedelta(minutes=5)
    for tenant in (cast.acme, cast.globex):
        made = one_of_everything(tenant)
        with tenant_scope(tenant.id):
            MonthlyRecords.objects.filter(connection=made.connection).delete()
            MonthlyRecords.objects.create(
                tenant=tenant, connection=made.connection, month=long_ago.date().replace(day=1), records=1200
            )
    with tenant_scope(cast.globex.id):
        HistoricalSyncJob.objects.filter(tenant=cast.globex, id=made.job.id).update(
            status="running", control="pause", control_at=long_ago
        )
        SyncChunk.objects.filter(tenant=cast.globex, id=made.chunk.id).update(
            status="running", lease=made.job.id, lease_until=long_ago
        )
    found = read(prometheus)
    grown = {name: found[name] - before.get(name, 0) for name in found}
    assert grown["atom_imports pending"] == 1
    assert grown["atom_imports running"] == 1
    assert grown["atom_parts running"] == 1
    assert grown["atom_connections github connected"] == 2
    assert grown["atom_records_total github"] == 2400
    assert grown["atom_parts_overdue"] == 1
    assert grown["atom_stops_unheard"] == 1
    assert grown["atom_quarantined_records"] == 2
    text = prometheus.get("/metrics").content.decode().lower()
    assert not [name for name in ("acme", "globex", str(made.connection.id)) if name in text]


def test_work_that_waits_and_the_last_word_of_a_worker_have_their_age(db: None, prometheus: Client) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM procrastinate_jobs")
        cursor.execute("DELETE FROM procrastinate_workers")
    idle = read(prometheus)
    assert (idle["atom_queue_entries"], idle["atom_queue_age_seconds"]) == (0, 0)
    assert "atom_worker_heartbeat_age_seconds" not in idle
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '90 seconds')")
        cursor.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, status, scheduled_at)"
            " VALUES ('history', 'historical_sync.work', 'todo', now() - interval '10 minutes'),"
            " ('history', 'historical_sync.work', 'todo', now() + interval '10 minutes')"
        )
    busy = read(prometheus)
    assert busy["atom_queue_entries"] == 1
    assert 600 <= busy["atom_queue_age_seconds"] < 700
    assert 90 <= busy["atom_worker_heartbeat_age_seconds"] < 190


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}])
def test_nobody_else_reads_them(given: dict[str, str], db: None, prometheus: Client) -> None:
    answer = Client(headers=given).get("/metrics")
    assert answer.status_code == 401
    assert b"atom_" not in answer.content


def test_where_no_token_is_set_there_is_nothing(db: None, settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert Client(headers={"Authorization": "Bearer "}).get("/metrics").status_code == 404
