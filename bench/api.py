"""Pages and API with ten thousand jobs and a million records in the tenant, while an import runs, as compose.yaml sets it up."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import psycopg

from bench import stage

JOBS, CHUNKS_A_JOB, RECORDS = 10_000, 10, 1_000_000
RATE, SECONDS = 50, 20
WARM_UP = 3  # seconds at that rate in which connections are opened; not counted
IMPORTED = 400_000  # more than come in meanwhile
PASSWORD = "a password for the bench"


def seed(tenant: Any, connection: Any) -> None:
    """Rows as imports would have left them, made by the database, with their indexes made after them."""
    with psycopg.connect(stage.dsn(), autocommit=True) as owner:
        values = {
            "tenant": tenant.id,
            "connection": connection.id,
            "jobs": JOBS,
            "chunks": CHUNKS_A_JOB,
            "records": RECORDS,
        }
        owner.execute("SET maintenance_work_mem = '512MB'")
        owner.execute("SET synchronous_commit = off")
        with indexes_after(owner, "historical_sync_entity", "historical_sync_entityname", "historical_sync_syncrecord"):
            for statement in ROWS:
                owner.execute(statement, values)
        owner.execute("VACUUM ANALYZE")


@contextmanager
def indexes_after(owner: Any, *tables: str) -> Iterator[None]:
    """The tables without their indexes, but for those of constraints, until the block ends: filling them takes a third of the time."""
    made = owner.execute(
        """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
        WHERE indrelid = ANY(%s::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
        """,
        [list(tables)],
    ).fetchall()
    for name, _ in made:
        owner.execute(f"DROP INDEX {name}")
    try:
        yield
    finally:
        for _, definition in made:
            owner.execute(definition)


ROWS = (
    """
    INSERT INTO historical_sync_historicalsyncjob
        (id, tenant_id, connection_id, kind, trigger, streams, start_date, end_date, "full", status, control, pause_reason, planned, phase_detail,
         total_chunks, completed_chunks, failed_chunks, estimate_quality, records_processed, records_skipped, records_quarantined,
         entities_extracted, relationships_extracted, entities_by_kind, relationships_by_kind, progress, progress_total, pace_progress,
         pace_records, earlier_pace_progress, earlier_pace_records, last_error_code, last_error_message, retry_count, revision,
         idempotency_key, created_by_label, created_at, started_at, completed_at)
    SELECT gen_random_uuid(), %(tenant)s, %(connection)s, 'historical', 'manual', '{issues}', now() - interval '90 days', now(), false,
           (ARRAY['completed', 'completed', 'completed', 'failed', 'cancelled'])[1 + n %% 5], 'none', '', true, '',
           10, 10, 0, 'exact', 100, 5, 0, 100, 400, '{"issue": 100}', '{"part_of": 100}', 10, 10, 0, 0, 0, 0, '', '', 0, 9, '', 'Bench',
           now() - n * interval '20 minutes', now() - n * interval '20 minutes', now() - n * interval '19 minutes'
    FROM generate_series(1, %(jobs)s) AS n
    """,
    """
    INSERT INTO historical_sync_syncchunk
        (id, tenant_id, job_id, ordinal, stream, partition, partition_label, partition_facts, since, until, status, attempts, weight, progress,
         pages, records_processed, records_skipped, records_quarantined, error_code, error_message, started_at, completed_at)
    SELECT gen_random_uuid(), tenant_id, id, n, 'issues', '1', 'bench/r0', '{}', start_date + n * interval '1 day', start_date + (n + 1) * interval '1 day',
           'completed', 0, 1, 1, 1, 10, 0, 0, '', '', started_at, completed_at
    FROM historical_sync_historicalsyncjob, generate_series(1, %(chunks)s) AS n WHERE tenant_id = %(tenant)s
    """,
    # Titles of six words, as people write them; an entity in five hundred is called broken.
    """
    INSERT INTO historical_sync_entity (id, tenant_id, kind, key, name, properties, as_of, record_id)
    SELECT gen_random_uuid(), %(tenant)s, (ARRAY['issue', 'person', 'message', 'deal'])[1 + n %% 4], 'bench:' || n,
           CASE WHEN n %% 500 = 0 THEN 'Broken ' ELSE '' END || (
               SELECT string_agg(words[1 + (hashint4(n * 7 + place) & 31)], ' ') || ' ' || n FROM generate_series(1, 6) AS place
           ), '{}', now(), gen_random_uuid()
    FROM generate_series(1, %(records)s) AS n, (SELECT string_to_array(
        'search page import slow after the export of a large table fails with an error when users sign in again on mobile and then '
        'nothing happens until reload of cache', ' ') AS words)
    """,
    """
    INSERT INTO historical_sync_syncrecord
        (id, tenant_id, connection_id, job_id, stream, partition, external_id, occurred_at, entity_id, link_kinds, link_ids, payload, content_hash)
    SELECT record_id, tenant_id, %(connection)s, gen_random_uuid(), 'issues', '1', key, as_of, id, '', '{}', '{"title": "made for the bench"}', gen_random_uuid()
    FROM historical_sync_entity WHERE tenant_id = %(tenant)s
    """,
    # Search's index, as a worker would have brought it up to date long ago.
    """
    INSERT INTO historical_sync_entityname (entity_id, tenant_id, name, kind, thing_id)
    SELECT id, tenant_id, name, kind, id FROM historical_sync_entity WHERE tenant_id = %(tenant)s
    """,
    "DELETE FROM historical_sync_namebacklog WHERE tenant_id = %(tenant)s",
)


def measure() -> dict[str, Any]:
    """path -> {"p50_ms", "p99_ms"}; "all" over everything asked."""
    from atom.models import Membership, User
    from atom.tenancy import across_tenants, tenant_scope

    stage.empty_tables()
    tenant = stage.make_tenant()
    old = stage.connect(tenant, "http://127.0.0.1:1", "old")
    seed(tenant, old)
    with across_tenants("the bench's user of an earlier run"):
        User.objects.filter(email="bench@example.com").delete()
    user = User.objects.create_user("bench@example.com", PASSWORD, name="Bench")
    with tenant_scope(tenant.id):
        Membership.objects.create(tenant=tenant, user=user, role="owner")
    key = stage.api_key(tenant)
    with (
        stage.redis_server() as redis_url,
        stage.mock_api(IMPORTED) as root,
        stage.workers(1, give_way=True, REDIS_URL=redis_url),
        stage.web(redis_url) as (address, process),
    ):
        job = stage.start(stage.connect(tenant, root, "running"))
        stage.wait_for(lambda: _records(job) > 0, 60)
        waits = asyncio.run(_ask(address, key, str(old.id), str(job.id)))
        assert _records(job) > 0
        found: dict[str, Any] = {
            path: {"p50_ms": stage.percentile(times, 0.5), "p99_ms": stage.percentile(times, 0.99)}
            for path, times in waits.items()
        }
        together = [t for times in waits.values() for t in times]
        found["all"] = {"p50_ms": stage.percentile(together, 0.5), "p99_ms": stage.percentile(together, 0.99)}
        found["web_mib"] = process.peak_mib()
    return found


def _records(job: Any) -> int:
    from atom.tenancy import tenant_scope
    from historical_sync.actions import get_job

    with tenant_scope(job.tenant_id):
        return int(get_job(job.tenant, job.id).records_processed)


async def _ask(address: str, key: str, connection: str, job: str) -> dict[str, list[float]]:
    api = {"Authorization": f"Api-Key {key}"}
    cookies = aiohttp.CookieJar(unsafe=True)  # of a host without a name, too
    limit = aiohttp.ClientTimeout(30)
    async with (
        aiohttp.ClientSession(address, timeout=limit, cookie_jar=cookies) as client,  # a person's browser, signed in
        aiohttp.ClientSession(address, timeout=limit, headers=api) as program,
    ):
        page = await (await client.get("/sign-in")).text()
        token = page.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
        form = {"email": "bench@example.com", "password": PASSWORD, "csrfmiddlewaretoken": token}
        async with client.post("/sign-in", data=form, allow_redirects=False) as reply:
            assert reply.status == 302, await reply.text()
        asked: list[tuple[str, str, aiohttp.ClientSession]] = [
            (f"/api/integrations/{connection}/historical-sync/jobs", "GET jobs", program),
            (f"/api/integrations/historical-sync/jobs/{job}", "GET job", program),
            ("/integrations", "integrations page", client),
            ("/jobs", "jobs page", client),
            (f"/jobs/{job}", "job page", client),
            ("/entities?q=broken", "explorer search", client),
        ]
        waits: dict[str, list[float]] = {name: [] for _, name, _ in asked}

        async def one(path: str, name: str, who: aiohttp.ClientSession, due: float) -> None:
            async with who.get(path, allow_redirects=False) as reply:
                assert reply.status == 200, (path, reply.status)
                await reply.read()
            waits[name].append((time.perf_counter() - due) * 1000)

        async def all_of(seconds: float) -> None:
            began = time.perf_counter()
            tasks = []
            for number in range(int(RATE * seconds)):
                due = began + number / RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(asyncio.create_task(one(*asked[number % len(asked)], due)))
            await asyncio.gather(*tasks)

        for path, name, who in asked:  # the first of each loads templates
            await one(path, name, who, time.perf_counter())
        await all_of(WARM_UP)
        for times in waits.values():
            times.clear()
        # What is alive by now is no garbage: a walk over all of it here would be counted as somebody's wait.
        gc.collect()
        gc.freeze()
        try:
            await all_of(SECONDS)
        finally:
            gc.unfreeze()
    return waits
