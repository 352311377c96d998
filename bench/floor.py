"""The floor: the least that Python has to do to bring the rows in. No graph, no checkpoints, no progress, no second chance.

python -m bench.floor ROOT DSN RECORDS IN_FLIGHT
orjson for the pages, a staging table filled by COPY and one upsert a batch of 5,000, two writers beside the fetchers.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import orjson
import psycopg

BATCH = 5_000


async def main(root: str, dsn: str, records: int, in_flight: int) -> None:
    host, port = root.removeprefix("http://").split(":")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        await owner.execute("DROP TABLE IF EXISTS floor_issues")
        await owner.execute("CREATE TABLE floor_issues (id bigint PRIMARY KEY, updated_at timestamptz, payload jsonb)")
    began = time.perf_counter()
    pages = iter(range(1, -(-records // 100) + 1))
    ready: asyncio.Queue[list[tuple[int, str, str]] | None] = asyncio.Queue(4)
    gathered: list[tuple[int, str, str]] = []

    async def fetcher() -> None:
        nonlocal gathered
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
        for page in pages:
            writer.write(f"GET /rows?page={page}&per_page=100 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
            for row in orjson.loads(await reader.readexactly(length)):
                gathered.append((row["id"], row["updated_at"], orjson.dumps(row).decode()))
            if len(gathered) >= BATCH:
                batch, gathered = gathered, []
                await ready.put(batch)
        writer.close()

    async def storer(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute("CREATE TEMP TABLE staging (LIKE floor_issues) ON COMMIT DELETE ROWS")
            await connection.commit()
            while (batch := await ready.get()) is not None:
                async with connection.transaction(), connection.cursor() as cursor:
                    async with cursor.copy("COPY staging FROM STDIN") as copy:
                        for row in batch:
                            await copy.write_row(row)
                    await cursor.execute(
                        "INSERT INTO floor_issues SELECT * FROM staging ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, updated_at = excluded.updated_at"
                    )

    storers = [asyncio.create_task(storer(n)) for n in range(2)]
    await asyncio.gather(*(fetcher() for _ in range(in_flight)))
    if gathered:
        await ready.put(gathered)
    for _ in storers:
        await ready.put(None)
    await asyncio.gather(*storers)
    seconds = time.perf_counter() - began
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as owner:
        row = await (await owner.execute("SELECT count(*) FROM floor_issues")).fetchone()
        await owner.execute("DROP TABLE floor_issues")
    assert row is not None
    print(json.dumps({"seconds": seconds, "records": row[0]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
