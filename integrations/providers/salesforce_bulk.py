"""Salesforce's Bulk API 2.0: what a query finds, prepared by Salesforce and fetched as CSV. For windows that hold very much."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.errors import AccessDenied, CursorExpired, NotReady, RequestRejected, Unavailable
from integrations.http import Api
from integrations.providers.base import JSON

PAGE = 2000  # rows, as a page of REST
_WAITS = (0.2, 0.4, 0.8, 1.6)  # seconds between looks before the chunk is put back into the queue
_LATER = timedelta(seconds=20)
_BOOLEANS = {"true": True, "false": False}
_NUMBERS = frozenset({"Amount"})
_TIMES = ("Date", "DateTime", "Modstamp")


async def start(api: Api, root: str, soql: str) -> str | None:
    """Has a query prepared, deleted rows included; its job's id. None when Salesforce does not take it as a bulk query.

    An org may be out of bulk jobs for the day, and not every object can be had this way: REST can always.
    """
    try:
        reply = await api.request("POST", f"{root}/jobs/query", json={"operation": "queryAll", "query": soql})
    except (RequestRejected, AccessDenied):
        return None
    return str(reply.data["id"])


async def ready(api: Api, root: str, job: str) -> bool:
    """Waits a little for the job. False when it came to nothing. Raises NotReady with a time when it needs longer."""
    for wait in (*_WAITS, None):
        try:
            state = (await api.get(f"{root}/jobs/query/{job}")).data["state"]
        except AccessDenied:
            raise CursorExpired("Salesforce no longer knows the bulk query; going on by date.") from None
        if state == "JobComplete":
            return True
        if state in ("Failed", "Aborted"):
            return False
        if wait is not None:
            await asyncio.sleep(wait)
    raise NotReady("Salesforce is preparing a bulk query.", datetime.now(UTC) + _LATER)


async def rows(api: Api, root: str, job: str, locator: str) -> tuple[list[JSON], str]:
    """(rows as REST would have them, the next locator; "" at the end). The job is kept: a page may be asked for again."""
    params: dict[str, Any] = {"maxRecords": PAGE, **({"locator": locator} if locator else {})}
    try:
        reply = await api.get(f"{root}/jobs/query/{job}/results", params, {"Accept": "text/csv"})
    except AccessDenied:
        raise CursorExpired("Salesforce no longer knows the bulk query; going on by date.") from None
    found = [_row(line) for line in csv.DictReader(io.StringIO(str(reply.data or "")))]
    if str(len(found)) != reply.headers.get("sforce-numberofrecords"):
        raise Unavailable("Salesforce answered with cut-off or invalid data.")
    following = reply.headers.get("sforce-locator", "")
    return found, "" if following == "null" else following


def _row(line: dict[str, str | Any]) -> JSON:
    """A line of CSV in the shape of REST's rows: types, parents as objects, nothing where a field is empty."""
    row: JSON = {}
    parents: dict[str, JSON] = {}
    for name, text in line.items():
        head, dot, tail = name.partition(".")
        if dot:
            parents.setdefault(head, {})[tail] = _value(tail, text)
        else:
            row[head] = _value(head, text)
    return row | {head: parent if any(parent.values()) else None for head, parent in parents.items()}


def _value(name: str, text: str) -> Any:
    if not text:
        return None
    if name in _NUMBERS:
        return float(text)
    if name.startswith("Is"):
        return _BOOLEANS.get(text, text)
    # Times come with a Z here and with an offset in REST. What people typed may look like one.
    return f"{text[:-1]}+0000" if name.endswith(_TIMES) and text.endswith("Z") else text
