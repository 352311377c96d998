"""The index that search reads, kept behind the imports: a name's trigrams cost an import as much as storing its record.

Triggers on entities note which are new, renamed, of another kind or merged (`NameBacklog`) and take out the names of what is gone. Workers bring the
index up to date when they have nothing to import; beside an import they take a share of what has waited for a minute, or for five where
the import has all of the worker's time. Search looks through the newest of the backlog as well, so a small import is found at once.
See docs/decisions/0006-search.md.
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import connection, models
from django.db.models.functions import Now

from atom.models import Tenant
from historical_sync.database import Pool, system_transaction

STATEMENTS_AT_ONCE = 20
PATIENCE_SECONDS = 60.0  # that names wait for a worker that imports,
BUSY_PATIENCE_SECONDS = 300.0  # and for one that has no time to spare

# Of the backlog search looks through the newest statements, and of these the newest names (`sql.FIND_ENTITIES`).
STATEMENTS_SEARCHED = 200
NAMES_SEARCHED = 5000


class EntityName(models.Model):
    """A name as search knows it; the entity's own may be newer for a moment.

    `kind` and `thing_id`: the place in what search lists of the entity, or of the one that it was merged into.
    """

    entity_id = models.UUIDField(primary_key=True, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    name = models.TextField()
    kind = models.CharField(max_length=40)
    thing_id = models.UUIDField()

    class Meta:
        app_label = "historical_sync"
        indexes = [GinIndex(fields=["name"], opclasses=["gin_trgm_ops"], name="entity_name")]

    def __str__(self) -> str:
        return self.name


class NameBacklog(models.Model):
    """Entities that one statement named, merged or gave another kind, and that are not in the index yet as they are."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    entity_ids = ArrayField(models.UUIDField())
    names = ArrayField(models.TextField())  # of these, in their order, for search to look through
    noted_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "historical_sync"
        indexes = [models.Index(fields=["tenant", "id"], name="backlog_of_tenant")]

    def __str__(self) -> str:
        return f"{len(self.entity_ids)} names"


def is_behind(tenant: Tenant) -> bool:
    """Whether more names of the tenant's wait for the index than search looks through."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) > %s OR COALESCE(sum(names), 0) > %s FROM (
                SELECT cardinality(entity_ids) AS names FROM historical_sync_namebacklog
                WHERE tenant_id = %s ORDER BY id DESC LIMIT %s) newest
            """,
            [STATEMENTS_SEARCHED, NAMES_SEARCHED, tenant.id, STATEMENTS_SEARCHED + 1],
        )
        row = cursor.fetchone()
        return bool(row and row[0])


async def index_names(pool: Pool, *, older_than: float = 0.0) -> bool:
    """Indexes the oldest names of the backlog, those that have waited for so many seconds; False when there were none.

    One worker at a time: of two, the one that read an older name could write it last. And not while something is taken out of the
    tenant's graph: its name, read just before, would be written just after, and stay.
    """
    async with system_transaction(pool, "names of all tenants") as cursor:
        await cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended('names', 0))")
        row = await cursor.fetchone()
        if not (row and row[0]):
            return False
        await cursor.execute(
            """
            SELECT id, tenant_id::text FROM historical_sync_namebacklog
            WHERE noted_at <= clock_timestamp() - make_interval(secs => %s) ORDER BY id LIMIT %s
            """,
            [older_than, STATEMENTS_AT_ONCE],
        )
        due = await cursor.fetchall()
        if not due:
            return False
        for tenant_id in sorted({tenant_id for _, tenant_id in due}):
            # As `storage.enter_graph`: this module is part of the models, and can't import it.
            await cursor.execute(
                "SELECT pg_advisory_xact_lock_shared(hashtextextended('graph ' || %s, 0))", [tenant_id]
            )
        await cursor.execute(
            """
            WITH due AS (
                DELETE FROM historical_sync_namebacklog WHERE id = ANY(%s) RETURNING entity_ids
            ), noted AS (
                SELECT DISTINCT unnest(entity_ids) AS id FROM due
            ), written AS (
                INSERT INTO historical_sync_entityname AS n (entity_id, tenant_id, name, kind, thing_id)
                SELECT e.id, e.tenant_id, e.name, COALESCE(one.kind, e.kind), COALESCE(one.id, e.id)
                FROM historical_sync_entity e LEFT JOIN historical_sync_entity one ON one.id = e.merged_into
                WHERE e.id IN (
                    SELECT id FROM noted
                    -- What was merged into it stands where it stands, and moves with its kind.
                    UNION ALL SELECT m.id FROM noted JOIN historical_sync_entity m ON m.merged_into = noted.id)
                ON CONFLICT (entity_id) DO UPDATE SET name = excluded.name, kind = excluded.kind, thing_id = excluded.thing_id
                WHERE (n.name, n.kind, n.thing_id) IS DISTINCT FROM (excluded.name, excluded.kind, excluded.thing_id)
            )
            SELECT count(*) FROM due
            """,
            [[number for number, _ in due]],
        )
        return True
