"""A connector of Airbyte's CDK, and a bulk loader that reads its messages: staging COPY and upsert of 5,000 records a batch.

python airbyte_peer.py ROOT DSN RECORDS WINDOWS
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import orjson
import psycopg

root, dsn, records, windows = sys.argv[1:]
BATCH = 5_000
STORE = "INSERT INTO airbyte_issues SELECT * FROM staging ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, updated_at = excluded.updated_at"


def batches(lines):
    batch = []
    for line in lines:
        message = orjson.loads(line)
        if message["type"] == "RECORD":
            row = message["record"]["data"]
            batch.append((row["id"], row["updated_at"], orjson.dumps(row).decode()))
            if len(batch) >= BATCH:
                yield batch
                batch = []
    yield batch


with psycopg.connect(dsn, autocommit=True) as owner:
    owner.execute("DROP TABLE IF EXISTS airbyte_issues")
    owner.execute("CREATE TABLE airbyte_issues (id bigint PRIMARY KEY, updated_at timestamptz, payload jsonb)")
command = [sys.executable, str(Path(__file__).with_name("airbyte_connector.py")), root, records, windows]
with subprocess.Popen(command, stdout=subprocess.PIPE) as source, psycopg.connect(dsn) as connection:
    connection.execute("CREATE TEMP TABLE staging (LIKE airbyte_issues) ON COMMIT DELETE ROWS")
    connection.commit()
    next(source.stdout)  # it has started
    began = time.perf_counter()
    for batch in batches(source.stdout):
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy("COPY staging FROM STDIN") as copy:
                for row in batch:
                    copy.write_row(row)
            cursor.execute(STORE)
seconds = time.perf_counter() - began
assert source.returncode == 0
with psycopg.connect(dsn, autocommit=True) as owner:
    count = owner.execute("SELECT count(*) FROM airbyte_issues").fetchone()[0]
    owner.execute("DROP TABLE airbyte_issues")
print(json.dumps({"seconds": seconds, "records": count}))
