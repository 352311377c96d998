"""Records with what they say, in the database: what is there, what is added, what is written anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncCursor, errors

from historical_sync import pgarrays as pg
from historical_sync.database import Connection
from historical_sync.extraction import RecordRow, Said
from historical_sync.leases import Lease
from historical_sync.stale import Version
from integrations.providers.base import Clock


class Seen(NamedTuple):
    """A record that is stored already. current: nothing to write, its content is the same or newer than ours, and it is not marked as
    gone. own: this job wrote it. subject, link_kinds, link_ids: what it said, payload: its JSON, occurred_at: its time; unless it is
    current."""

    current: bool
    own: bool
    hash: UUID
    subject: UUID | None
    link_kinds: str | None
    link_ids: list[UUID] | None
    payload: str | None
    occurred_at: datetime | None

    def ends(self) -> set[bytes]:
        """What it spoke of."""
        return {key.bytes for key in (self.subject, *(self.link_ids or ())) if key is not None}

    def statements(self) -> set[tuple[str, bytes]]:
        """(kind, other end)."""
        return set(zip((self.link_kinds or "").split(), (key.bytes for key in self.link_ids or ()), strict=True))


async def look_up(
    db: Connection, lease: Lease, rows: dict[bytes, RecordRow], clock: Clock = Clock.UPDATED
) -> AsyncCursor[tuple[Any, ...]]:
    """Asks for the id and the fields of `Seen` of the rows that exist. A meeting's time may move either way: what was read last
    is the newest."""
    return await db.execute(
        """
        SELECT r.id, same.current, r.job_id = %(job)s, r.content_hash, r.entity_id,
               CASE WHEN NOT same.current THEN r.link_kinds END, CASE WHEN NOT same.current THEN r.link_ids END,
               CASE WHEN NOT same.current THEN r.payload::text END, CASE WHEN NOT same.current THEN r.occurred_at END
        FROM unnest(%(ids)s, %(hashes)s, %(times)s) AS u(id, hash, occurred_at)
        JOIN historical_sync_syncrecord r ON r.id = u.id
        CROSS JOIN LATERAL (
            -- What was gone and is met again is written anew, be it as it was.
            SELECT (r.content_hash = u.hash OR (%(by_time)s AND r.occurred_at > u.occurred_at)) AND r.gone_at IS NULL
                   AS current) AS same
        """,
        {
            "job": lease.job_id,
            "by_time": clock is not Clock.EVENT,
            "ids": pg.uuids(list(rows)),
            "hashes": pg.uuids([row.hash for row in rows.values()]),
            "times": pg.instants([row.moment for row in rows.values()]),
        },
        binary=True,
    )


async def add_records(
    db: Connection,
    lease: Lease,
    rows: Sequence[RecordRow],
    said: dict[str, pg.BinaryArray],
    read_at: datetime | None = None,
) -> None:
    """Writes records that are new. said: what they say, as in `Mapped.added`. read_at: kept as the time they were stored at, if they
    count as of then.

    Should another chunk store the same one at the same moment, the key refuses the second one's, and its transaction is made again.
    """
    await db.execute(
        """
        INSERT INTO historical_sync_syncrecord (id, tenant_id, connection_id, job_id, stream, partition, external_id, occurred_at,
            entity_id, link_kinds, link_ids, payload, content_hash, stored_at)
        SELECT u.id, %(tenant)s, %(connection)s, %(job)s, %(stream)s, %(partition)s, u.external_id, u.occurred_at,
               u.entity_id, u.link_kinds, (%(link_ids)s)[u.first:u.last], u.payload, u.hash, COALESCE(%(read_at)s, now())
        FROM unnest(%(ids)s, %(external_ids)s, %(times)s, %(entities)s, %(link_kinds)s, %(firsts)s, %(lasts)s, %(payloads)s, %(hashes)s)
            AS u(id, external_id, occurred_at, entity_id, link_kinds, first, last, payload, hash)
        """,
        _columns(lease, rows)
        | said
        | {
            "tenant": lease.tenant_id,
            "connection": lease.connection_id,
            "stream": lease.stream,
            "partition": lease.partition,
            "external_ids": pg.texts([r.external_id for r in rows]),
            "read_at": read_at,
        },
    )


async def revise_records(
    db: Connection,
    lease: Lease,
    rows: Sequence[RecordRow],
    said: dict[str, pg.BinaryArray],
    seen: Mapping[bytes, Seen],
    read_at: datetime | None = None,
) -> None:
    """The same for records that were stored before. Raises SerializationFailure when one is not as it was when it was looked up."""
    answer = await db.execute(
        """
        UPDATE historical_sync_syncrecord r
        SET job_id = %(job)s, partition = %(partition)s, occurred_at = u.occurred_at, entity_id = u.entity_id, link_kinds = u.link_kinds,
            link_ids = (%(link_ids)s)[u.first:u.last], payload = u.payload, content_hash = u.hash, stored_at = COALESCE(%(read_at)s, now()),
            gone_at = NULL
        FROM unnest(%(ids)s, %(times)s, %(entities)s, %(link_kinds)s, %(firsts)s, %(lasts)s, %(payloads)s, %(hashes)s, %(known)s)
            AS u(id, occurred_at, entity_id, link_kinds, first, last, payload, hash, known)
        WHERE r.id = u.id AND r.content_hash = u.known RETURNING 1
        """,
        _columns(lease, rows)
        | said
        | {
            "partition": lease.partition,
            "read_at": read_at,
            "known": pg.uuids([seen[row.id].hash.bytes for row in rows]),
        },
    )
    if len(await answer.fetchall()) < len(rows):
        raise errors.SerializationFailure("a record was written by another chunk meanwhile")


def _columns(lease: Lease, rows: Sequence[RecordRow]) -> dict[str, Any]:
    ids, documents, moments, hashes, *_ = zip(*rows, strict=True)
    return {
        "job": lease.job_id,
        "ids": pg.uuids(ids),
        "times": pg.instants(moments),
        "payloads": pg.jsons(documents),
        "hashes": pg.uuids(hashes),
    }


def version(row: RecordRow, before: Seen, said: Said) -> Version:
    """The update of a record that said something else `before`."""
    gone = before.ends() - {said.subject, *said.ends}
    return Version(before.payload or "null", before.occurred_at or row.occurred_at, row, gone)


def new_statements(said: Said, before: Seen) -> list[str]:
    """The kinds of the statements that an updated record had not made before."""
    same_subject = before.subject is not None and before.subject.bytes == said.subject
    known = before.statements() if same_subject else set()
    return [
        kind.removeprefix("^")
        for kind, other in zip(said.kinds.split(), said.ends, strict=True)
        if (kind, other) not in known
    ]
