"""The deployment in numbers, for Prometheus: what comes in, what waits and what is stuck, of all tenants together. Names nobody."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import psycopg
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from atom.probes import check_database
from atom.tenancy import across_tenants
from historical_sync.health import standing


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """What there is to measure just now, for who has the token of `ATOM_METRICS_TOKEN`; nothing where none is set."""
    if not settings.METRICS_TOKEN:
        return _plain("Set ATOM_METRICS_TOKEN for metrics.", 404)
    given = request.headers.get("Authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {settings.METRICS_TOKEN}".encode()):
        refused = _plain("The token of ATOM_METRICS_TOKEN is needed: Authorization: Bearer ...", 401)
        refused["WWW-Authenticate"] = "Bearer"
        return refused
    try:
        check_database()  # which Prometheus has no patience to wait for as pages do
    except (psycopg.Error, OSError) as error:
        return _away(error)
    registry = CollectorRegistry()
    registry.register(_Database())
    try:
        return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
    except (DatabaseError, OSError) as error:
        return _away(error)


def _away(error: Exception) -> HttpResponse:
    return _plain(f"The database does not answer: {type(error).__name__}", 503)


def _plain(words: str, status: int) -> HttpResponse:
    return HttpResponse(f"{words}\n", content_type="text/plain", status=status)


class _Database(Collector):
    """Reads everything at once. What every process knows of itself (memory, processor) is the orchestrator's to measure."""

    def describe(self) -> list[Metric]:
        return []  # or it would be asked for all of it when it is registered

    def collect(self) -> Iterator[Metric]:
        with across_tenants("the deployment in numbers"):
            yield from [*self._work(), *self._counts()]

    def _work(self) -> Iterator[Metric]:
        now = standing()
        yield _gauge("parts_overdue", "Parts of imports whose worker is gone and that nobody took over", now.overdue)
        yield _gauge("stops_unheard", "Imports that should have been paused or cancelled by now", now.unheard)
        yield _gauge("queue_entries", "Work that is due and that no worker has taken", now.queued)
        yield _gauge("queue_age_seconds", "How long the oldest of these has been waiting", now.queue_age or 0)
        if now.heartbeat_age is not None:
            yield _gauge("worker_heartbeat_age_seconds", "Since some worker was last heard of", now.heartbeat_age)

    def _counts(self) -> Iterator[Metric]:
        yield _labelled(
            GaugeMetricFamily("atom_imports", "Imports by status", labels=["status"]),
            "SELECT status, count(*) FROM historical_sync_historicalsyncjob GROUP BY status",
        )
        yield _labelled(
            GaugeMetricFamily("atom_parts", "Parts of imports that are not over, by status", labels=["status"]),
            """
            SELECT chunk.status, count(*) FROM historical_sync_syncchunk chunk
            JOIN historical_sync_historicalsyncjob job ON job.id = chunk.job_id AND job.status IN ('pending', 'running', 'paused')
            GROUP BY chunk.status
            """,
        )
        yield _labelled(
            CounterMetricFamily(
                "atom_records", "Records that were stored, of connections that there are", labels=["provider"]
            ),
            """
            SELECT connection.provider, sum(had.records)
            FROM historical_sync_monthlyrecords had JOIN integrations_connection connection ON connection.id = had.connection_id
            GROUP BY connection.provider
            """,
        )
        yield _labelled(
            GaugeMetricFamily("atom_connections", "Connections by provider and status", labels=["provider", "status"]),
            "SELECT provider, status, count(*) FROM integrations_connection GROUP BY provider, status",
        )
        for name, words, query in (
            ("quarantined_records", "Records that could not be understood and are kept aside",
             "SELECT count(*) FROM historical_sync_quarantinedrecord WHERE replayed_at IS NULL"),
            ("names_waiting", "Entities whose names are not in the search index yet",
             "SELECT COALESCE(sum(cardinality(entity_ids)), 0) FROM historical_sync_namebacklog"),
            ("deliveries_waiting", "Mails and webhooks that are to be delivered, or tried again",
             "SELECT count(*) FROM historical_sync_delivery WHERE status = 'pending'"),
        ):  # fmt: skip
            yield _gauge(name, words, float(_rows(query)[0][0]))


def _gauge(name: str, words: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"atom_{name}", words, value=value)


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, query: str) -> Metric:
    """query: the labels' values, then the number."""
    for *labels, number in _rows(query):
        family.add_metric([str(label) for label in labels], float(number))
    return family


def _rows(query: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()
