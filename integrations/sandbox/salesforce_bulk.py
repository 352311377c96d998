"""Salesforce's Bulk API 2.0 in the sandbox: query jobs and their results as CSV."""

from __future__ import annotations

import csv
import io
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from integrations.sandbox.wire import Request, Response, whole

PATH = re.compile(r"/services/data/v([0-9]{1,3})\.0/jobs/query(?:/([0-9A-Za-z]+)(/results)?)?/?")
PAGE, MOST_JOBS = 50_000, 100
LOOKS = 2  # at a job before it is done
OPERATIONS = {"query": False, "queryAll": True}


@dataclass
class Job:
    """A query job. fields: (column, "") or (relationship, field). rows: places in the table."""

    id: str
    account: str
    version: str
    table: str
    operation: str
    fields: Sequence[tuple[str, str]]
    rows: Sequence[int]
    state: str = "UploadComplete"
    looks: int = 0

    def shown(self) -> dict[str, Any]:
        done = self.state == "JobComplete"
        return {
            "id": self.id,
            "operation": self.operation,
            "object": self.table,
            "state": self.state,
            "concurrencyMode": "Parallel",
            "contentType": "CSV",
            "apiVersion": float(self.version),
            "lineEnding": "LF",
            "columnDelimiter": "COMMA",
            **({"numberRecordsProcessed": len(self.rows), "retries": 0} if done else {}),
            **(
                {"errorMessage": "QUERY_TIMEOUT: Your query request was running for too long."}
                if self.state == "Failed"
                else {}
            ),
        }


def error(status: int, code: str, message: str) -> Response:
    return Response(status, [{"errorCode": code, "message": message}])


NO_JOB = error(404, "NOT_FOUND", "The requested resource does not exist")


class Jobs:
    """The query jobs of an organization's users. left: how many more may be made; None is the vendor's 10,000."""

    def __init__(self) -> None:
        self.found: dict[str, Job] = {}
        self.left: int | None = None

    def make(
        self, account: str, version: str, table: str, operation: str, fields: Any, rows: Sequence[int]
    ) -> Response:
        if self.left == 0:
            return error(400, "LIMIT_EXCEEDED", "Max bulk v2 query jobs per 24 hrs has been exceeded.")
        if self.left is not None:
            self.left -= 1
        while len(self.found) >= MOST_JOBS:
            self.found.pop(next(iter(self.found)))
        job = Job("750sb" + secrets.token_hex(5), account, version, table, operation, fields, rows)
        self.found[job.id] = job
        return Response(200, job.shown())

    def of(self, account: str, job_id: str) -> Job | None:
        job = self.found.get(job_id)
        return job if job is not None and job.account == account else None

    def look(self, job: Job) -> Response:
        """Each look brings a job on by one state."""
        job.looks += 1
        if job.state in ("UploadComplete", "InProgress"):
            job.state = "JobComplete" if job.looks >= LOOKS else "InProgress"
        return Response(200, job.shown())

    def change(self, job: Job, request: Request) -> Response:
        if request.method == "DELETE":
            del self.found[job.id]
            return Response(204)
        if not isinstance(request.json, dict) or request.json.get("state") != "Aborted":
            return error(400, "INVALIDJOBSTATE", "A query job can only be aborted.")
        job.state = "Aborted"
        return Response(200, job.shown())

    def results(self, job: Job, request: Request, render: Callable[[int], dict[str, Any]], page_size: int) -> Response:
        """A page of CSV from the locator on. page_size: what the switches make of the vendor's; 0 is the vendor's own."""
        if job.state != "JobComplete":
            return error(400, "INVALIDJOBSTATE", "The job is not complete.")
        begin = whole(request.query.get("locator"), 0, 0, len(job.rows))
        size = whole(request.query.get("maxRecords"), PAGE, 1, PAGE)
        end = min(begin + min(size, page_size or size), len(job.rows))
        text = io.StringIO()
        lines = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        lines.writerow([f"{name}.{tail}" if tail else name for name, tail in job.fields])
        for place in job.rows[begin:end]:
            row = render(place)
            lines.writerow([_text((row[name] or {}).get(tail) if tail else row[name]) for name, tail in job.fields])
        headers = {
            "Content-Type": "text/csv",
            "Sforce-NumberOfRecords": str(end - begin),
            "Sforce-Locator": str(end) if end < len(job.rows) else "null",
        }
        return Response(200, text.getvalue().encode(), headers)


def _text(value: object) -> str:
    """As the Bulk API writes a value: nothing for null, lower-case booleans, times with a Z."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text.removesuffix("+0000") + "Z" if text.endswith("+0000") else text
