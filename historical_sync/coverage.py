"""What a connection's history holds and what it lacks: the ledger that grows with each finished chunk, read.

The ledger (`models.Coverage`) has one row a stream and partition, written in the transaction that completes a chunk and up to the
job's watermark only: what is younger may still change at the provider, or bear the time of a clock that is behind ours. A stream
that is read whole each time (a snapshot) has all up to that moment, without a beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from historical_sync import planning, states
from historical_sync.models import Coverage, HistoricalSyncJob, SyncChunk
from integrations.models import Connection
from integrations.providers.base import Window

Spans = Sequence[tuple[datetime, datetime]]

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)  # of a span without one


@dataclass(frozen=True, slots=True)
class Failed:
    """A span that a job tried to import and could not; `reason` in words."""

    window: Window
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """A stream in a partition: what is here, what is missing and what of that failed, each oldest first, within what was asked.

    label, partition_label: for people.
    """

    stream: str
    label: str
    partition: str
    partition_label: str
    covered: tuple[Window, ...]
    missing: tuple[Window, ...]
    failed: tuple[Failed, ...]


def ledger(connection: Connection) -> Mapping[tuple[str, str], Spans]:
    """(stream, partition) -> covered spans, oldest first, not touching each other."""
    rows = Coverage.objects.filter(tenant_id=connection.tenant_id, connection=connection)
    return {(row.stream, row.partition): [(span.lower or BEGINNING, span.upper) for span in row.ranges] for row in rows}


def watermark(connection: Connection) -> datetime | None:
    """Up to when every stream that has been imported is here, in at least one of its partitions; None when nothing is."""
    newest: dict[str, datetime] = {}
    for (stream, _), spans in ledger(connection).items():
        if spans:
            newest[stream] = max(newest.get(stream, BEGINNING), spans[-1][1])
    return min(newest.values(), default=None)


def of_connection(connection: Connection, since: datetime | None = None, until: datetime | None = None) -> list[Held]:
    """All that was ever asked of the connection, in the order of its provider's streams, then by the partition's name.

    Within [since, until); by default each stream within the range that its jobs spanned.
    """
    spans = ledger(connection)
    hulls = asked(connection)
    labels, tried_at, failures = _chunks(connection)
    found: list[Held] = []
    for stream in connection.provider.streams:
        if stream.name not in hulls:
            continue
        low, high = hulls[stream.name]
        window = Window(since or low, until or high) if (since or low) < (until or high) else None
        names = {key for name, key in (*spans, *labels) if name == stream.name}
        if stream.partitioned and "" in names:
            # That its partitions could not be listed is old news once they were.
            at = tried_at[stream.name, ""]
            if any(tried_at.get((stream.name, key), BEGINNING) > at for key in names):
                names.discard("")
        for key in sorted(names, key=lambda key: (labels.get((stream.name, key), key), key)):
            have = spans.get((stream.name, key), ())
            missing = planning.subtract(window, have) if window else ()
            found.append(
                Held(
                    stream.name,
                    stream.label,
                    key,
                    labels.get((stream.name, key), key),
                    _inside(have, window) if window else (),
                    missing,
                    tuple(
                        Failed(part, code, reason)
                        for failed, code, reason in failures.get((stream.name, key), ())
                        for gap in missing
                        if (part := _common(failed, gap)) is not None
                    ),
                )
            )
    return found


def asked(connection: Connection) -> dict[str, tuple[datetime, datetime]]:
    """stream -> the hull of the ranges that jobs were to bring of it, up to what had settled then."""
    hulls: dict[str, tuple[datetime, datetime]] = {}
    jobs = HistoricalSyncJob.objects.filter(tenant_id=connection.tenant_id, connection=connection)
    jobs = jobs.exclude(kind="repair")  # which asks for nothing that was not asked for before
    for streams, since, until, mark, created in jobs.values_list(
        "streams", "start_date", "end_date", "watermark", "created_at"
    ):
        until = min(until, mark or created)
        if since >= until:
            continue
        for name in streams:
            low, high = hulls.get(name, (since, until))
            hulls[name] = min(low, since), max(high, until)
    return hulls


def _chunks(
    connection: Connection,
) -> tuple[
    dict[tuple[str, str], str], dict[tuple[str, str], datetime], dict[tuple[str, str], list[tuple[Window, str, str]]]
]:
    """(stream, partition) -> label, start of the newest job that was at it, failures: as the chunks tell."""
    chunks = SyncChunk.objects.filter(tenant_id=connection.tenant_id, job__connection=connection)
    labels: dict[tuple[str, str], str] = {}
    tried_at: dict[tuple[str, str], datetime] = {}
    listed = chunks.exclude(status=states.CHUNK_SPLIT).order_by("stream", "partition", "-job__created_at")
    for stream, key, label, at in listed.distinct("stream", "partition").values_list(
        "stream", "partition", "partition_label", "job__created_at"
    ):
        labels[stream, key], tried_at[stream, key] = label or key, at
    failures: dict[tuple[str, str], list[tuple[Window, str, str]]] = {}
    failed = chunks.filter(status=states.CHUNK_FAILED).order_by("since", "-job__created_at")
    for stream, key, since, until, code, reason in failed.values_list(
        "stream", "partition", "since", "until", "error_code", "error_message"
    ):
        known = failures.setdefault((stream, key), [])
        # An older job's failure of the same span adds nothing.
        if not any(window.since <= since and until <= window.until for window, _, _ in known):
            known.append((Window(since, until), code, reason))
    return labels, tried_at, failures


def _inside(spans: Iterable[tuple[datetime, datetime]], window: Window) -> tuple[Window, ...]:
    return tuple(part for span in spans if (part := _common(Window(*span), window)) is not None)


def _common(a: Window, b: Window) -> Window | None:
    since, until = max(a.since, b.since), min(a.until, b.until)
    return Window(since, until) if since < until else None
