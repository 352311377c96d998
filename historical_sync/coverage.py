"""What a connection's history holds and what it lacks: the ledger that grows with each finished chunk, read.

The ledger (`models.Coverage`) has one row a stream and partition, written in the transaction that completes a chunk and up to the
job's watermark only: what is younger may still change at the provider, or bear the time of a clock that is behind ours. A stream
that is read whole each time (a snapshot) has all up to that moment, without a beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection as database
from django.db.models import Exists, OuterRef, Q

from historical_sync import planning, states
from historical_sync.models import Coverage, SyncChunk
from integrations.models import Connection
from integrations.providers.base import Window, WindowKind

Spans = tuple[tuple[datetime, datetime], ...]
Place = tuple[str, str]  # a stream and a partition

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)  # of a span without one

# Jobs whose data was not removed since: what the others were to bring is nobody's wish any more.
KEPT = """
job.tenant_id = ANY(%(tenants)s) AND job.connection_id = ANY(%(connections)s) AND NOT EXISTS (
    SELECT FROM historical_sync_dataremoval gone
    WHERE gone.connection_id = job.connection_id AND COALESCE(gone.completed_at, 'infinity') > job.created_at)
"""

# Jobs that ended without all that they were to bring.
LACKING = "(job.status IN ('failed', 'cancelled') OR (job.status = 'completed' AND job.failed_chunks > 0))"


@dataclass(frozen=True, slots=True)
class Failed:
    """A span that a job tried to import and could not; `reason` in words."""

    window: Window
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """A stream in a partition: what is here, what is missing and what of that failed, each oldest first, within what was asked.

    Of a partition that is not imported any more, as the connection is narrowed or the provider lists it no longer, nothing is missing:
    no import could bring it. label, partition_label: for people.
    """

    stream: str
    label: str
    partition: str
    partition_label: str
    covered: tuple[Window, ...]
    missing: tuple[Window, ...]
    failed: tuple[Failed, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """A partition as the chunks of jobs tell. tried_at: when the newest job that was at it began; listed_at: the newest incremental
    one that had listed the stream's partitions, for it is at all of them."""

    label: str
    tried_at: datetime
    listed_at: datetime


def ledger(connection: Connection) -> Mapping[Place, Spans]:
    """(stream, partition) -> covered spans, oldest first, not touching each other."""
    return _ledgers([connection])[connection.id]


def watermark(connection: Connection) -> datetime | None:
    """Up to when every stream that has been imported is here, in at least one of its partitions; None when nothing is."""
    newest: dict[str, datetime] = {}
    for (stream, _), spans in ledger(connection).items():
        if spans:
            newest[stream] = max(newest.get(stream, BEGINNING), spans[-1][1])
    return min(newest.values(), default=None)


def begun() -> Exists:
    """Whether something of the outer query's connection is here, so that an import of what is new has where to go on from."""
    return Exists(Coverage.objects.filter(tenant=OuterRef("tenant"), connection=OuterRef("pk")).exclude(ranges=[]))


def of_connection(connection: Connection, since: datetime | None = None, until: datetime | None = None) -> list[Held]:
    """All that was ever asked of the connection, in the order of its provider's streams, then by the partition's name.

    Within [since, until); by default each stream within the range that its jobs spanned.
    """
    return of_connections([connection], since, until)[connection.id]


def of_connections(
    connections: Sequence[Connection], since: datetime | None = None, until: datetime | None = None
) -> dict[UUID, list[Held]]:
    """The same for several connections of one tenant at once: as many queries as for one."""
    spans, hulls = _ledgers(connections), _hulls(connections)
    known, failures = _partitions(connections), _failures(connections)
    return {
        connection.id: _held(
            connection,
            spans[connection.id],
            hulls.get(connection.id, {}),
            known.get(connection.id, {}),
            failures.get(connection.id, {}),
            since,
            until,
        )
        for connection in connections
    }


def asked(connection: Connection) -> dict[str, tuple[datetime, datetime]]:
    """stream -> the hull of the ranges that jobs were to bring of it, up to what had settled then."""
    return _hulls([connection]).get(connection.id, {})


def empty_so_far(connection: Connection) -> set[str]:
    """Streams that were asked for when the provider had nothing to list them by: no part tells of them, and none is missing."""
    names = {stream.name for stream in connection.provider.streams if stream.partitioned} & asked(connection).keys()
    parts = SyncChunk.objects.filter(tenant_id=connection.tenant_id, job__connection=connection, stream__in=names)
    return names - set(parts.exclude(status=states.CHUNK_SPLIT).values_list("stream", flat=True).distinct())


def partly_here(connection: Connection) -> set[str]:
    """Streams that are read whole and of which something came in, whether all of it did or not: such a list counts as imported with its
    last place, and one of these may refuse for good."""
    whole = [stream.name for stream in connection.provider.streams if stream.window is WindowKind.SNAPSHOT]
    parts = SyncChunk.objects.filter(tenant_id=connection.tenant_id, job__connection=connection, stream__in=whole)
    came = parts.filter(Q(records_processed__gt=0) | Q(records_skipped__gt=0))
    return set(came.values_list("stream", flat=True).distinct()) & asked(connection).keys()


def brought(connections: Sequence[Connection]) -> dict[UUID, tuple[int, datetime | None]]:
    """connection -> records that its imports brought, and when the last that completed did; of one tenant.

    By the daily totals, as a schedule leaves tens of thousands of jobs; by the jobs only where some of them came before a removal of
    the connection's data.
    """
    return {
        connection_id: (int(records or 0), last)
        for connection_id, records, last in _rows(
            f"""
            SELECT connection.id, COALESCE(ended.records, 0) + COALESCE(open.records, 0),
                   -- The former is written a moment after the end.
                   GREATEST(connection.last_success_at, CASE WHEN newest.status = 'completed' THEN newest.completed_at END)
            FROM integrations_connection connection
            CROSS JOIN LATERAL (
                SELECT sum(records) AS records FROM historical_sync_dailytotals WHERE connection_id = connection.id) ended
            CROSS JOIN LATERAL (
                SELECT sum(records_processed) AS records FROM historical_sync_historicalsyncjob
                WHERE connection_id = connection.id AND status IN ('pending', 'running', 'paused')) open
            LEFT JOIN LATERAL (
                SELECT status, completed_at FROM historical_sync_historicalsyncjob
                WHERE connection_id = connection.id ORDER BY created_at DESC LIMIT 1) newest ON true
            WHERE connection.tenant_id = ANY(%(tenants)s) AND connection.id = ANY(%(connections)s)
              AND NOT EXISTS (SELECT FROM historical_sync_dataremoval gone WHERE gone.connection_id = connection.id)
            UNION ALL
            SELECT connection_id, sum(records_processed), max(completed_at) FILTER (WHERE status = 'completed')
            FROM historical_sync_historicalsyncjob job
            WHERE {KEPT} AND EXISTS (SELECT FROM historical_sync_dataremoval gone WHERE gone.connection_id = job.connection_id)
            GROUP BY connection_id
            """,  # noqa: S608 - a condition of this module's own
            connections,
        )
    }


def widened(connection: Connection) -> None:
    """Of streams whose rows the connection's choice sorts out (`Stream.parts_of`), those of what was chosen now were left out so far:
    nothing of them counts as imported, and parts that were half read begin anew."""
    names = [stream.name for stream in connection.provider.streams if stream.parts_of is not None]
    mine = {"tenant_id": connection.tenant_id, "stream__in": names}
    Coverage.objects.filter(connection=connection, **mine).update(ranges=[])
    SyncChunk.objects.filter(
        job__connection=connection, status__in=(states.CHUNK_PENDING, states.CHUNK_FAILED), **mine
    ).update(cursor=None, position=None)


def left_over(connection: Connection) -> Mapping[Place, Spans]:
    """(stream, partition) -> spans that incremental jobs were to bring and did not, whether they are here by now or not."""
    left: dict[Place, Spans] = {}
    for stream, key, spans in _rows(
        f"""
        SELECT chunk.stream, chunk.partition, range_agg(tstzrange(chunk.since, chunk.until))
        FROM historical_sync_historicalsyncjob job JOIN historical_sync_syncchunk chunk ON chunk.job_id = job.id
        WHERE {KEPT} AND job.kind = 'incremental' AND {LACKING}
          AND chunk.status IN ('pending', 'failed')
        GROUP BY chunk.stream, chunk.partition
        """,  # noqa: S608 - a condition of this module's own
        [connection],
    ):
        left[stream, key] = tuple((span.lower, span.upper) for span in spans)
    return left


def _held(
    connection: Connection,
    spans: Mapping[Place, Spans],
    hulls: Mapping[str, tuple[datetime, datetime]],
    known: Mapping[Place, Known],
    failures: Mapping[Place, Sequence[Failed]],
    since: datetime | None,
    until: datetime | None,
) -> list[Held]:
    labels, tried_at = {at: one.label for at, one in known.items()}, {at: one.tried_at for at, one in known.items()}
    only = None if connection.only is None else frozenset(connection.only)
    gone = {
        (stream, key)
        for (stream, key), one in known.items()
        if one.tried_at < one.listed_at or (key and only is not None and key not in only)
    }
    names_of: dict[str, set[str]] = {}
    for name, key in (*spans, *labels):
        names_of.setdefault(name, set()).add(key)
    found: list[Held] = []
    for stream in connection.provider.streams:
        if stream.name not in hulls:
            continue
        low, high = hulls[stream.name]
        window = Window(since or low, until or high) if (since or low) < (until or high) else None
        names = names_of.get(stream.name, set())
        unlisted: Sequence[Failed] = ()
        if stream.partitioned and "" in names:
            at, parts = tried_at[stream.name, ""], names - {""}
            if any(tried_at.get((stream.name, key), BEGINNING) > at for key in parts):
                names = parts  # that they could not be listed is old news
            elif any((stream.name, key) not in gone for key in parts):
                # No part of its own, of which nothing is here, but why those that are known lack something.
                names, unlisted = parts, failures.get((stream.name, ""), ())
        looks: dict[Spans, tuple[tuple[Window, ...], tuple[Window, ...]]] = {}  # covered, missing
        for key in sorted(names, key=lambda key: (labels.get((stream.name, key), key), key)):
            have = spans.get((stream.name, key), ())
            if have not in looks:
                looks[have] = (
                    inside((Window(*span) for span in have), window) if window else (),
                    planning.subtract(window, have) if window else (),
                )
            covered, missing = looks[have]
            if (stream.name, key) in gone:
                missing = ()
            found.append(
                Held(
                    stream.name,
                    stream.label,
                    key,
                    labels.get((stream.name, key), key),
                    covered,
                    missing,
                    tuple(
                        Failed(part, failed.code, failed.reason)
                        for failed in (*unlisted, *failures.get((stream.name, key), ()))
                        for gap in missing
                        if (part := _common(failed.window, gap)) is not None
                    ),
                )
            )
    return found


def _ledgers(connections: Sequence[Connection]) -> dict[UUID, dict[Place, Spans]]:
    """connection -> what `ledger` says."""
    spans: dict[UUID, dict[Place, Spans]] = {connection.id: {} for connection in connections}
    # Of thousands of partitions most have the same, which is read once.
    for connection_id, ranges, streams, partitions in _rows(
        """
        SELECT connection_id, ranges, array_agg(stream), array_agg(partition) FROM historical_sync_coverage
        WHERE tenant_id = ANY(%(tenants)s) AND connection_id = ANY(%(connections)s) GROUP BY connection_id, ranges
        """,
        connections,
    ):
        same = tuple((span.lower or BEGINNING, span.upper) for span in ranges)
        spans[connection_id].update(dict.fromkeys(zip(streams, partitions, strict=True), same))
    return spans


def _hulls(connections: Sequence[Connection]) -> dict[UUID, dict[str, tuple[datetime, datetime]]]:
    """connection -> what `asked` says."""
    hulls: dict[UUID, dict[str, tuple[datetime, datetime]]] = {}
    for connection_id, name, since, until in _rows(
        f"""
        -- An incremental job begins where the first of its streams ended, which asks for nothing more of the others.
        SELECT connection_id, name, COALESCE(min(start_date) FILTER (WHERE kind <> 'incremental'), min(start_date)), max(upto)
        FROM (
            SELECT connection_id, kind, unnest(streams) AS name, start_date,
                   LEAST(end_date, COALESCE(watermark, created_at)) AS upto
            FROM historical_sync_historicalsyncjob job
            WHERE {KEPT} AND kind <> 'repair'  -- which asks for nothing that was not asked for before
        ) wanted
        WHERE start_date < upto GROUP BY connection_id, name
        """,  # noqa: S608 - a condition of this module's own
        connections,
    ):
        hulls.setdefault(connection_id, {})[name] = since, until
    return hulls


def _partitions(connections: Sequence[Connection]) -> dict[UUID, dict[Place, Known]]:
    """connection -> (stream, partition) -> what the chunks tell of it."""
    known: dict[UUID, dict[Place, Known]] = {}
    for connection_id, stream, key, label, at, listed_at in _rows(
        f"""
        SELECT connection_id, stream, partition,
               (SELECT max(chunk.partition_label)
                FROM historical_sync_historicalsyncjob job JOIN historical_sync_syncchunk chunk ON chunk.job_id = job.id
                WHERE job.connection_id = part.connection_id AND job.created_at = part.tried_at
                  AND chunk.stream = part.stream AND chunk.partition = part.partition AND chunk.status <> 'split'),
               tried_at, max(listed_at) OVER (PARTITION BY connection_id, stream)
        FROM (
            SELECT job.connection_id, chunk.stream, chunk.partition, max(job.created_at) AS tried_at,
                   max(job.created_at) FILTER (WHERE job.kind = 'incremental' AND chunk.partition <> '') AS listed_at
            FROM historical_sync_syncchunk chunk JOIN historical_sync_historicalsyncjob job ON job.id = chunk.job_id
            WHERE {KEPT} AND chunk.status <> 'split'
            GROUP BY job.connection_id, chunk.stream, chunk.partition
        ) part
        """,  # noqa: S608 - a condition of this module's own
        connections,
    ):
        known.setdefault(connection_id, {})[stream, key] = Known(label or key, at, listed_at or BEGINNING)
    return known


def _failures(
    connections: Sequence[Connection],
) -> dict[UUID, dict[Place, list[Failed]]]:
    """connection -> (stream, partition) -> failures: as the chunks tell."""
    chunks = SyncChunk.objects.filter(
        tenant_id__in={c.tenant_id for c in connections}, job__connection__in=connections, status=states.CHUNK_FAILED
    )
    failures: dict[UUID, dict[Place, list[Failed]]] = {}
    reached: dict[tuple[UUID, str, str], datetime] = {}
    for connection_id, stream, key, since, until, code, reason in chunks.order_by(
        "since", "-job__created_at"
    ).values_list("job__connection", "stream", "partition", "since", "until", "error_code", "error_message"):
        # An older job's failure of the same span adds nothing: one that began no later reaches as far.
        if until > reached.get((connection_id, stream, key), BEGINNING):
            reached[connection_id, stream, key] = until
            known = failures.setdefault(connection_id, {}).setdefault((stream, key), [])
            known.append(Failed(Window(since, until), code, reason))
    return failures


def _rows(query: str, connections: Sequence[Connection]) -> Iterable[tuple[Any, ...]]:
    with database.cursor() as cursor:
        cursor.execute(
            query,
            {
                "tenants": list({connection.tenant_id for connection in connections}),
                "connections": [connection.id for connection in connections],
            },
        )
        return list(cursor.fetchall())


def inside(parts: Iterable[Window], window: Window) -> tuple[Window, ...]:
    """What of the parts lies in the window."""
    return tuple(common for part in parts if (common := _common(part, window)) is not None)


def _common(a: Window, b: Window) -> Window | None:
    since, until = max(a.since, b.since), min(a.until, b.until)
    return Window(since, until) if since < until else None
