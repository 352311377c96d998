"""Parts of imports that ended long ago, which go: a schedule leaves hundreds of thousands, and coverage goes through all of them.

Those by which coverage is known stay for good (`coverage.py`), so what is here and what is missing is the same without the others.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import connection as database

from atom.tenancy import across_tenants
from historical_sync.coverage import LACKING

PARTS_KEPT = timedelta(days=30)  # of an import that ended; those that are needed are kept for good
JOBS_AT_ONCE = 100  # whose parts are forgotten in one transaction

# A part of an old import goes when none of those who read it would miss it: each is named at its condition.
FORGET = f"""
WITH old AS (
    SELECT id, connection_id, created_at FROM historical_sync_historicalsyncjob
    WHERE completed_at < %(before)s AND NOT parts_forgotten
    ORDER BY completed_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
), marked AS (
    UPDATE historical_sync_historicalsyncjob job SET parts_forgotten = true FROM old WHERE job.id = old.id
), accounted_for AS (  -- what is here, and what incremental jobs that are not old lack as well
    SELECT connection_id, stream, partition, range_agg(spans) AS spans FROM (
        SELECT connection_id, stream, partition, ranges AS spans FROM historical_sync_coverage
        WHERE connection_id IN (SELECT connection_id FROM old)
        UNION ALL
        SELECT job.connection_id, chunk.stream, chunk.partition, tstzmultirange(tstzrange(chunk.since, chunk.until))
        FROM historical_sync_historicalsyncjob job JOIN historical_sync_syncchunk chunk ON chunk.job_id = job.id
        WHERE job.connection_id IN (SELECT connection_id FROM old) AND job.completed_at >= %(before)s
          AND job.kind = 'incremental' AND {LACKING} AND chunk.status IN ('pending', 'failed')
    ) AS here_or_tried_again GROUP BY connection_id, stream, partition
), gone AS (
    DELETE FROM historical_sync_syncchunk chunk USING old
    WHERE chunk.job_id = old.id
      -- `coverage._failures` and `coverage.left_over` read what was not brought: only as long as nothing else accounts for it.
      AND (chunk.status IN ('completed', 'split') OR (chunk.status IN ('pending', 'failed') AND EXISTS (
          SELECT FROM accounted_for held
          WHERE held.connection_id = old.connection_id AND held.stream = chunk.stream AND held.partition = chunk.partition
            AND held.spans @> tstzrange(chunk.since, chunk.until))))
      -- `replaying` reads where what is in quarantine came from.
      AND NOT EXISTS (SELECT FROM historical_sync_quarantinedrecord q WHERE q.chunk_id = chunk.id AND q.replayed_at IS NULL)
      -- `coverage._partitions` reads a partition's newest job and its newest incremental one: one of these came later. This goes along the
      -- connection's jobs by age and ends at the first.
      AND (chunk.status = 'split' OR COALESCE((
          SELECT true FROM historical_sync_historicalsyncjob newer JOIN historical_sync_syncchunk later ON later.job_id = newer.id
          WHERE newer.connection_id = old.connection_id AND newer.created_at > old.created_at
            AND newer.kind = 'incremental' AND newer.completed_at IS NOT NULL
            AND later.stream = chunk.stream AND later.partition = chunk.partition AND later.status <> 'split'
          ORDER BY newer.created_at LIMIT 1), false))
    RETURNING chunk.id
), replayed AS (
    DELETE FROM historical_sync_quarantinedrecord q USING gone WHERE q.chunk_id = gone.id
)
SELECT count(*) FROM gone
"""  # noqa: S608 - a condition of this project's own


def forget_parts(now: datetime) -> int:
    """Removes parts of imports that ended long ago, of every tenant, as far as coverage does not need them; returns how many."""
    with across_tenants("parts of old imports of every tenant are removed"), database.cursor() as cursor:
        cursor.execute(FORGET, {"before": now - PARTS_KEPT, "most": JOBS_AT_ONCE})
        row = cursor.fetchone()
        return int(row[0]) if row else 0
