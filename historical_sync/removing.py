"""Takes out what only one connection brought: its records, and of the graph exactly what nobody says any more (`tidying.py`).

In transactions of a bounded size that keep out who adds to the graph for as long as each takes. They can end anywhere: the next try
goes on.
"""

from __future__ import annotations

import asyncio

from django.db import transaction

from atom.access import Actor
from historical_sync import states, tasks
from historical_sync.database import Pool, retried, tenant_transaction
from historical_sync.models import Coverage, DataRemoval, SyncRecord
from historical_sync.stale import mark
from historical_sync.tidying import Read, alone, new_generation, tidy
from integrations.models import Connection as Account

RECORDS_AT_ONCE = 500
WAIT_SECONDS = 1.0  # for a page in hand of an import that was told to stop


def request(actor: Actor, connection: Account) -> None:
    """Has the connection's data removed in the background; from now on nothing counts as imported."""
    with transaction.atomic():
        mine = {"tenant": actor.tenant, "connection": connection}
        Coverage.objects.filter(**mine).delete()
        DataRemoval.objects.update_or_create(
            connection=connection,
            defaults={
                "tenant": actor.tenant,
                "records_total": SyncRecord.objects.filter(**mine).count(),
                "records_removed": 0,
                "created_by_label": actor.label,
                "completed_at": None,
            },
        )
        tasks.remove.defer(connection_id=str(connection.id), tenant_id=str(actor.tenant.id))


async def remove(pool: Pool, connection_id: str, tenant_id: str, read: Read | None = None) -> None:
    """Removes the connection's data, from wherever an earlier try ended. read: maps a record; for tests."""
    while await _being_imported(pool, connection_id, tenant_id):  # noqa: ASYNC110 - other processes work on it
        await asyncio.sleep(WAIT_SECONDS)
    async with tenant_transaction(pool, tenant_id, "remove") as cursor:
        # A chunk that was ending while the removal was asked for has counted itself as imported since.
        await cursor.execute("DELETE FROM historical_sync_coverage WHERE connection_id = %s", [connection_id])
        # First of all: a replay would bring in again what is taken out.
        await cursor.execute("DELETE FROM historical_sync_quarantinedrecord WHERE connection_id = %s", [connection_id])
        await cursor.execute(
            """
            DELETE FROM historical_sync_rollcall
            WHERE job_id IN (SELECT id FROM historical_sync_historicalsyncjob WHERE connection_id = %s)
            """,
            [connection_id],
        )
    while await _remove_records(pool, connection_id, tenant_id):
        pass
    await tidy(pool, tenant_id, read)
    async with tenant_transaction(pool, tenant_id, "remove") as cursor:
        await cursor.execute(
            "UPDATE historical_sync_dataremoval SET completed_at = clock_timestamp() WHERE connection_id = %s AND completed_at IS NULL",
            [connection_id],
        )


async def _being_imported(pool: Pool, connection_id: str, tenant_id: str) -> bool:
    async with tenant_transaction(pool, tenant_id) as cursor:
        await cursor.execute(
            """
            SELECT EXISTS (SELECT FROM historical_sync_historicalsyncjob
                           WHERE connection_id = %s AND (status = ANY(%s) OR EXISTS (
                               SELECT FROM historical_sync_syncchunk c WHERE c.job_id = historical_sync_historicalsyncjob.id AND c.status = 'running')))
            """,
            [connection_id, [states.PENDING, states.RUNNING]],
        )
        row = await cursor.fetchone()
        return bool(row and row[0])


@retried
async def _remove_records(pool: Pool, connection_id: str, tenant_id: str) -> bool:
    """Removes some records and what they say; False when there were none."""
    async with tenant_transaction(pool, tenant_id, "remove") as cursor:
        db = cursor.connection
        await alone(db, tenant_id)
        gone = await db.execute(
            """
            DELETE FROM historical_sync_syncrecord WHERE id IN (
                SELECT id FROM historical_sync_syncrecord WHERE tenant_id = %s AND connection_id = %s LIMIT %s)
            RETURNING array_append(link_ids, entity_id)
            """,
            [tenant_id, connection_id, RECORDS_AT_ONCE],
        )
        rows = await gone.fetchall()
        if not rows:
            return False
        spoken_of = {key.bytes for (keys,) in rows for key in keys if key is not None}
        await mark(db, tenant_id, dict.fromkeys(spoken_of))
        await db.execute(
            "UPDATE historical_sync_dataremoval SET records_removed = records_removed + %s WHERE connection_id = %s",
            [len(rows), connection_id],
        )
        await new_generation(db, tenant_id)
    return True
