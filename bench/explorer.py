"""Search as you type over a million entities, as the run-time role sees them: DATABASE_URL=... python -m bench.explorer [entities]

Fills a tenant of an empty, migrated database, asks as the page does, and says how long the slowest of some tries took.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from typing import Any

QUERIES = {
    "a full name": "jane doe 77",
    "three letters": "jan",
    "two letters": "ja",
    "one letter": "j",
    "a word in every name of a kind": "issue",
    "a word and a number": "issue 123456",
    "nothing like it": "xyzzy",
    "two letters, nothing like it": "qx",
    "no words": "",
}
FILL = """
INSERT INTO historical_sync_entity (id, tenant_id, kind, key, name, properties)
SELECT gen_random_uuid(), %(tenant)s, k.kind, k.kind || ':' || n,
       CASE k.kind WHEN 'person' THEN (ARRAY['Jane','John','Maria','Wei','Olga','Ahmed','Priya','Lucas'])[1 + (n / 6) %% 8] || ' ' ||
                        (ARRAY['Doe','Smith','Garcia','Chen','Ivanova','Khan','Patel','Silva'])[1 + (n / 48) %% 8] || ' ' || n
                   ELSE initcap(k.kind) || ' ' || n || ': ' || md5(n::text) END, '{}'
FROM generate_series(%(from)s, %(to)s) AS n,
     LATERAL (SELECT (ARRAY['commit','issue','issue','message','message','person'])[1 + n %% 6] AS kind) k
"""


async def index() -> None:
    """Brings the index of names up to date, as workers do."""
    from historical_sync.database import make_pool
    from historical_sync.searching import index_names

    pool = make_pool(1)
    await pool.open()
    try:
        while await index_names(pool):
            pass
    finally:
        await pool.close()


def main(count: int) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atom.settings")
    import django

    django.setup()
    from django.db import connection

    from atom.db.base import as_owner
    from atom.models import Tenant
    from atom.tenancy import tenant_scope
    from historical_sync import graph

    tenants = [
        Tenant.objects.get_or_create(slug=slug, defaults={"name": slug})[0] for slug in ("bench-many", "bench-few")
    ]
    began = time.perf_counter()
    for tenant, most in ((tenants[0], count), (tenants[1], count // 100)):
        with tenant_scope(tenant.id), connection.cursor() as cursor:
            for start in range(0, most, 20_000):
                cursor.execute(FILL, {"tenant": tenant.id, "from": start + 1, "to": min(start + 20_000, most)})
    print(f"{count:,} entities filled in {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    asyncio.run(index())
    print(f"names indexed in {time.perf_counter() - began:.1f} s")
    with as_owner(), connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE historical_sync_entity, historical_sync_entityname")
    for tenant in tenants:
        for words, query in QUERIES.items():
            with tenant_scope(tenant.id):
                print(f"{tenant.slug:12} {words:32} {_times(lambda q=query, t=tenant: graph.search(t, q, limit=51))}")


def _times(ask: Any) -> str:
    taken = []
    found = 0
    for _ in range(9):
        began = time.perf_counter()
        found = len(ask())
        taken.append((time.perf_counter() - began) * 1000)
    return f"{found:3} found, median {statistics.median(taken):7.1f} ms, slowest {max(taken):7.1f} ms"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
