"""A window that holds very much is read by the Bulk API, as if it had come by REST; and by REST where that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest

from integrations.errors import CursorExpired, NotReady, ReauthRequired, Unavailable
from integrations.http import Reply
from integrations.providers import salesforce, salesforce_bulk
from integrations.providers.base import WHOLE, Context, Window
from integrations.providers.salesforce import SALESFORCE
from integrations.sandbox.salesforce import Salesforce
from tests.contract.stage import ALL, Stage, staged

CONTACTS = SALESFORCE.stream("contacts")
STREAMS = [stream.name for stream in SALESFORCE.streams]


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(salesforce, "BULK_FROM", 10)
    monkeypatch.setattr(salesforce_bulk, "_WAITS", (0.0, 0.0))
    async with staged("salesforce") as stage:
        yield stage


def stand_in(stage: Stage) -> Salesforce:
    assert isinstance(stage.stand_in, Salesforce)
    return stage.stand_in


async def step(stage: Stage, cursor: Any) -> Any:
    return await CONTACTS.fetch(stage.api(), WHOLE, ALL, cursor)


def without_envelopes(payload: Any) -> Any:
    if isinstance(payload, dict):
        return {name: without_envelopes(value) for name, value in payload.items() if name != "attributes"}
    return payload


@pytest.mark.parametrize("name", STREAMS)
async def test_the_rows_are_those_of_rest(stage: Stage, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SALESFORCE.stream(name)
    await stage.control(page_size=7)
    by_bulk = await stage.read(stream)
    assert {entry["path"].rpartition("/")[2] for entry in stage.app.control.log} >= {"results", "query"}
    monkeypatch.setattr(salesforce, "BULK_FROM", 10_000)
    by_rest = await stage.read(stream)
    assert by_bulk.ids == by_rest.ids == stage.truth(stream, ALL)
    for external_id, (record, _) in by_bulk.rows.items():
        other = by_rest.rows[external_id][0]
        assert record.occurred_at == other.occurred_at
        assert record.payload == without_envelopes(other.payload)
        graphs = [stream.extract(row.payload, Context("salesforce")) for row in (record, other)]
        assert graphs[0] == graphs[1]


async def test_windows_are_half_open(stage: Stage) -> None:
    rows = sorted((await stage.read(CONTACTS)).rows.values(), key=lambda row: row[0].occurred_at)
    edge = rows[len(rows) // 2][0].occurred_at
    for window in (Window(ALL.since, edge), Window(edge, ALL.until)):
        assert (await stage.read(CONTACTS, window)).ids == stage.truth(CONTACTS, window)


async def test_a_job_that_takes_long_lets_the_worker_go(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = (await step(stage, None)).next_cursor
    monkeypatch.setattr("integrations.sandbox.salesforce_bulk.LOOKS", 5)
    with pytest.raises(NotReady) as caught:
        await step(stage, cursor)
    assert caught.value.retry_at is not None
    assert "Salesforce" in str(caught.value)
    assert (await step(stage, cursor)).records


@pytest.mark.parametrize("state", ["Failed", "Aborted"])
async def test_a_job_that_fails_is_done_again_by_rest(stage: Stage, state: str) -> None:
    cursor = (await step(stage, None)).next_cursor
    for job in stand_in(stage).jobs.found.values():
        job.state = state
    page = await step(stage, cursor)
    assert not page.records
    page = await step(stage, page.next_cursor)
    assert {record.external_id for record in page.records} == stage.truth(CONTACTS, ALL)


async def test_an_org_without_bulk_jobs_left_is_read_by_rest(stage: Stage) -> None:
    stand_in(stage).jobs.left = 0
    assert (await stage.read(CONTACTS)).ids == stage.truth(CONTACTS, ALL)


async def test_a_job_that_is_gone_ends_the_cursor(stage: Stage) -> None:
    cursor = (await step(stage, None)).next_cursor
    stand_in(stage).jobs.found.clear()
    with pytest.raises(CursorExpired):
        await step(stage, cursor)


async def test_a_page_of_results_can_be_had_again(stage: Stage) -> None:
    await stage.control(page_size=5)
    first = await step(stage, (await step(stage, None)).next_cursor)
    again = [await step(stage, first.next_cursor) for _ in range(2)]
    assert [r.external_id for r in again[0].records] == [r.external_id for r in again[1].records]


async def test_cut_off_results_are_no_results(stage: Stage) -> None:
    cursor = (await step(stage, None)).next_cursor
    await step(stage, cursor)
    await stage.control(reset=True, truncate_every=2)  # the job's state is whole, its results are not
    with pytest.raises(Unavailable):
        await step(stage, cursor)


async def test_a_revoked_grant_is_not_taken_for_a_refused_job(stage: Stage) -> None:
    cursor = (await step(stage, None)).next_cursor
    await stage.control(revoke="salesforce")
    with pytest.raises(ReauthRequired):
        await step(stage, cursor)


async def test_a_row_at_an_edge_finer_than_salesforces_clock_is_in_one_window(stage: Stage) -> None:
    """The end of an import is the moment it was asked for, to the microsecond."""
    rows = sorted((await stage.read(CONTACTS)).rows.values(), key=lambda row: row[0].occurred_at)
    edge = rows[len(rows) // 2][0].occurred_at + timedelta(microseconds=456)
    found = [await stage.read(CONTACTS, window) for window in (Window(ALL.since, edge), Window(edge, ALL.until))]
    kept = [
        {key for key, (record, _) in part.rows.items() if window.since <= record.occurred_at < window.until}
        for part, window in zip(found, (Window(ALL.since, edge), Window(edge, ALL.until)), strict=True)
    ]
    assert kept[0] | kept[1] == stage.truth(CONTACTS, ALL)


async def test_text_stays_what_people_typed() -> None:
    line = "Id,Name,Subject,IsDeleted,CloseDate,SystemModstamp\n1,ACME-XYZ,true,false,2026-01-31,2026-01-31T09:00:00.000Z\n"

    class Api:
        async def get(self, *_: Any, **__: Any) -> Reply:
            return Reply(200, {"sforce-numberofrecords": "1"}, line, line, "")

    rows, _ = await salesforce_bulk.rows(cast(Any, Api()), "", "job", "")
    assert rows == [
        {
            "Id": "1", "Name": "ACME-XYZ", "Subject": "true", "IsDeleted": False, "CloseDate": "2026-01-31",
            "SystemModstamp": "2026-01-31T09:00:00.000+0000",
        }
    ]  # fmt: skip
