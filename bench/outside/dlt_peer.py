"""dlt, tuned: merge by upsert, rows as they are (no child tables), CSV files into COPY, two normalizing and loading workers.

python dlt_peer.py ROOT DSN RECORDS WINDOWS
"""

import json
import os
import sys
import tempfile
import time

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
    "NORMALIZE__WORKERS": "2",
    "LOAD__WORKERS": "4",
    "EXTRACT__WORKERS": "16",
    "EXTRACT__MAX_PARALLEL_ITEMS": "32",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "20000",
    "NORMALIZE__DATA_WRITER__FILE_MAX_ITEMS": "50000",
}

import dlt
import psycopg2
from dlt.sources.helpers import requests
from psycopg.conninfo import conninfo_to_dict

root, dsn, records, windows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pages = -(-records // 100)


def window(number):
    def rows():
        session = requests.Client().session
        for page in range(1 + number * pages // windows, 1 + (number + 1) * pages // windows):
            reply = session.get(f"{root}/rows", params={"page": page, "per_page": 100})
            yield [
                {**row, "user": json.dumps(row["user"]), "labels": json.dumps(row["labels"])} for row in reply.json()
            ]

    return dlt.resource(
        rows, name=f"window_{number}", table_name="issues", primary_key="id", parallelized=windows > 1, max_table_nesting=0,
        write_disposition={"disposition": "merge", "strategy": "upsert"}, columns={"user": {"data_type": "text"}, "labels": {"data_type": "text"}},
    )  # fmt: skip


info = conninfo_to_dict(dsn)
credentials = {
    "drivername": "postgresql", "database": info["dbname"], "username": info["user"], "password": info.get("password", ""), "host": "localhost",
}  # fmt: skip
# dlt takes no socket's path for a host, which the embedded server has; psycopg2 does.
connect = psycopg2.connect
psycopg2.connect = lambda *args, **options: connect(
    *args, **{**options, "host": info["host"], "port": info.get("port") or 5432}
)

with tempfile.TemporaryDirectory() as folder:
    pipeline = dlt.pipeline(
        "peer", pipelines_dir=folder, destination=dlt.destinations.postgres(credentials), dataset_name="dlt_peer"
    )
    began = time.perf_counter()
    pipeline.run([window(n) for n in range(windows)], loader_file_format="csv")
    seconds = time.perf_counter() - began
    with pipeline.sql_client() as client:
        count = client.execute_sql("SELECT count(*) FROM issues")[0][0]
        client.drop_dataset()
print(json.dumps({"seconds": seconds, "records": count}))
