"""The page reader of Airbyte's CDK alone, and a bulk loader in the same process: staging COPY and upsert of 5,000 records a batch.

Nobody runs it so: what a connector does besides (its messages, counts and state) is left out. The least that can be built on it.

python airbyte_reader_peer.py ROOT DSN RECORDS WINDOWS
"""

import json
import queue
import sys
import threading
import time

import orjson
import psycopg
from airbyte_cdk.models import AirbyteMessage, AirbyteRecordMessage, SyncMode, Type
from airbyte_cdk.sources.streams.http import HttpStream

root, dsn, records, windows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pages, BATCH = -(-records // 100), 5_000


class Issues(HttpStream):
    url_base = root + "/"
    primary_key = "id"

    def path(self, **_):
        return "rows"

    def stream_slices(self, **_):
        for n in range(windows):
            yield {"first": 1 + n * pages // windows, "last": (n + 1) * pages // windows}

    def request_params(self, stream_state, stream_slice=None, next_page_token=None):
        return {"per_page": 100, "page": (next_page_token or {}).get("page", stream_slice["first"])}

    def next_page_token(self, response):
        return None

    def parse_response(self, response, **_):
        yield from response.json()

    def get_json_schema(self):
        return {"type": "object", "additionalProperties": True, "properties": {}}

    def read_window(self, stream_slice):
        for page in range(stream_slice["first"], stream_slice["last"] + 1):
            yield from self._read_pages(
                lambda req, res, state, part: self.parse_response(res),
                stream_slice={**stream_slice, "first": page},
                stream_state={},
            )


ready: queue.Queue = queue.Queue(8)


def read(stream_slice):
    batch = []
    for row in Issues().read_window(stream_slice):
        message = AirbyteMessage(
            type=Type.RECORD, record=AirbyteRecordMessage(stream="issues", data=row, emitted_at=int(time.time() * 1000))
        )
        batch.append(
            (message.record.data["id"], message.record.data["updated_at"], orjson.dumps(message.record.data).decode())
        )
        if len(batch) >= BATCH:
            ready.put(batch)
            batch = []
    if batch:
        ready.put(batch)


def load():
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TEMP TABLE staging (LIKE airbyte_issues) ON COMMIT DELETE ROWS")
        connection.commit()
        while (batch := ready.get()) is not None:
            with connection.transaction(), connection.cursor() as cursor:
                with cursor.copy("COPY staging FROM STDIN") as copy:
                    for row in batch:
                        copy.write_row(row)
                cursor.execute(
                    "INSERT INTO airbyte_issues SELECT * FROM staging ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, updated_at = excluded.updated_at"
                )


with psycopg.connect(dsn, autocommit=True) as owner:
    owner.execute("DROP TABLE IF EXISTS airbyte_issues")
    owner.execute("CREATE TABLE airbyte_issues (id bigint PRIMARY KEY, updated_at timestamptz, payload jsonb)")
began = time.perf_counter()
loader = threading.Thread(target=load)
loader.start()
readers = [threading.Thread(target=read, args=(s,)) for s in Issues().stream_slices(sync_mode=SyncMode.full_refresh)]
for reader in readers:
    reader.start()
for reader in readers:
    reader.join()
ready.put(None)
loader.join()
seconds = time.perf_counter() - began
with psycopg.connect(dsn, autocommit=True) as owner:
    count = owner.execute("SELECT count(*) FROM airbyte_issues").fetchone()[0]
    owner.execute("DROP TABLE airbyte_issues")
print(json.dumps({"seconds": seconds, "records": count}))
