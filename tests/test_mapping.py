"""Mapping in a process of its own says what mapping in the worker says, and nothing depends on that process."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from historical_sync import mapping_process
from historical_sync.extraction import RecordRow, record_rows
from historical_sync.mapping import Mapped, Mapper, Where
from historical_sync.mapping_process import MapperBeside, Server, Work
from historical_sync.memory import Memory
from integrations.providers import PROVIDERS
from integrations.providers.base import Context, Graph, Record
from tests.conftest import Worker, empty_database, until, wait_for
from tests.contract.stage import Stage as Contract
from tests.contract.stage import staged
from tests.faults.stage import Stage, damage, picture, stage

TENANT, CONNECTION = str(uuid.uuid4()), uuid.uuid4().bytes
ISSUES = PROVIDERS["github"].stream("issues")
WHERE = Where(TENANT, 0, "issues", Context("github"))


def issue(number: int, **given: Any) -> dict[str, Any]:
    person = {"id": number % 7, "login": f"dev{number % 7}", "type": "User"}
    return {
        "id": number, "number": number, "title": f"Issue {number}", "state": "open", "user": person, "labels": [], "assignees": [],
        "repository_url": "https://api.github.com/repos/acme/web", "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "body": "", **given,
    }  # fmt: skip


def rows_of(payloads: Sequence[dict[str, Any]], stream: str = "issues") -> list[RecordRow]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return record_rows([Record(str(row["id"]), moment, row) for row in payloads], CONNECTION, stream)[0]


def through(server: Server, number: int, rows: Sequence[RecordRow], where: Where, **given: Any) -> Mapped | None:
    """The process's answer, by the way that questions and answers take."""
    work = Work(
        number, given.get("committed", []), given.get("forget", []), [row.id for row in rows], [row.document for row in rows],
        [row.moment for row in rows], frozenset(given.get("revised", ())), where,
    )  # fmt: skip
    answer: Mapped | None = pickle.loads(pickle.dumps(server.answer(Work(*pickle.loads(pickle.dumps(tuple(work)))))))
    return answer


# -- the same words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", PROVIDERS)
async def test_the_process_says_what_the_worker_says_of_every_stream(slug: str) -> None:
    server, here = Server(), Mapper()
    async with staged(slug, 120) as provider:
        for number, stream in enumerate(provider.provider.streams):
            rows, parts = await _read(provider, stream.name)
            where = Where(TENANT, 0, stream.name, Context(provider.namespace, parts[0]))
            revised = {row.id for row in rows[::3]}
            expected, remember = await here.map(rows, revised, where, stream.extract)
            found = through(server, number + 1, rows, where, revised=revised, committed=[number])
            remember()
            assert found == expected
            assert expected.said.keys() == revised
            alone, _ = await Mapper().map([row for row in rows if row.id not in revised], (), where, stream.extract)
            assert expected.added is not None
            assert (expected.added, expected.statements) == (alone.added, alone.statements), "of those that are new"


async def _read(provider: Contract, stream: str) -> tuple[list[RecordRow], list[Any]]:
    found = await provider.read(provider.provider.stream(stream))
    records, parts = zip(*found.rows.values(), strict=True)
    rows, bad = record_rows(records, CONNECTION, stream)
    assert not bad
    assert [row.payload for row in rows] == [record.payload for record in records], (
        "what is stored is what was received"
    )
    return rows, list(parts)


async def test_what_cant_be_mapped_is_rejected_there_as_here() -> None:
    rows = rows_of([issue(1), issue(2, user="?"), {"id": 3}, issue(4)])
    expected, _ = await Mapper().map(rows, (), WHERE, ISSUES.extract)
    assert [key for key, _ in expected.rejected] == [rows[1].id, rows[2].id]
    assert through(Server(), 1, rows, WHERE) == expected


def test_a_batch_that_the_process_can_make_nothing_of_is_the_workers_own() -> None:
    rows = rows_of([issue(1)])
    assert through(Server(), 1, rows, replace(WHERE, stream="never heard of")) is None
    beyond_time = [rows[0]._replace(moment=2**70)]
    assert through(Server(), 1, beyond_time, WHERE) is None


def test_mentions_are_told_again_until_they_are_stored() -> None:
    """A transaction that was rolled back has stored nothing."""
    server, rows = Server(), rows_of([issue(1), issue(2)])

    def told(number: int, **given: Any) -> int:
        found = through(server, number, rows, WHERE, **given)
        assert found is not None
        assert found.entities is not None
        return len(found.entities["ids"])

    first = told(1)
    assert told(2) == first
    assert told(3, committed=[2]) < first
    assert told(4, forget=[str(uuid.uuid4())]) < first
    assert told(5, forget=[TENANT]) == first
    assert told(6, committed=[5]) < first
    assert told(7, forget=[None]) == first
    assert told(8, committed=[6]) == first  # stored before all was forgotten


async def test_what_is_remembered_is_bounded_over_all_tenants_and_goes_with_who_was_away_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of([issue(number) for number in range(20)])

    async def entities(tenant: str) -> int:
        mapped, remember = await mapper.map(rows, (), replace(WHERE, tenant_id=tenant), ISSUES.extract)
        remember()
        assert mapped.entities is not None
        return len(mapped.entities["ids"])

    def size() -> int:
        return sum(known.size for known in mapper.memory.tenants.values())

    mapper, tenants = Mapper(), [str(uuid.uuid4()) for _ in range(30)]
    first = await entities(tenants[0])
    one, ids = size(), len(mapper.memory.of(tenants[0]).ids)
    monkeypatch.setattr(Memory, "LIMIT", 10 * one)
    for tenant in tenants[1:]:
        await entities(tenant)
        assert await entities(tenants[0]) < first, "it was asked for a moment ago"
        assert size() <= 11 * one, "what one batch brought may be beyond"
    assert await entities(tenants[-1]) < first
    assert await entities(tenants[1]) == first, "forgotten"
    assert len(mapper.memory.tenants) > 10, "ids go first"
    assert any(len(known.ids) < ids for known in mapper.memory.tenants.values())

    monkeypatch.setattr(Memory, "LIMIT", 10**9)
    monkeypatch.setattr(Memory, "TENANTS", 5)
    mapper = Mapper()
    for tenant in tenants:
        await entities(tenant)
    assert [tenant for tenant, _ in mapper.memory.tenants] == tenants[-5:]


# -- the process --------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def beside(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MapperBeside]:
    """A mapper whose process starts with the first batch, however small."""
    monkeypatch.setattr(mapping_process, "STARTS_AFTER", 0)
    monkeypatch.setattr(mapping_process, "LEAST_RECORDS", 1)
    monkeypatch.setattr(mapping_process, "AGAIN_SECONDS", 0.0)
    async with MapperBeside() as mapper:
        yield mapper


def processes() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [one for one in found if "historical_sync.mapping_process" in " ".join(_command(one))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


async def started(mapper: MapperBeside) -> psutil.Process:
    """Its process, which has answered."""
    async with asyncio.timeout(30):
        while True:
            await mapper.map(rows_of([issue(1)]), (), WHERE, ISSUES.extract)
            if await _is_used(mapper):
                return processes()[0]
            await asyncio.sleep(0.05)


async def _is_used(mapper: MapperBeside) -> bool:
    """Whether a batch goes to the process: then this one's memory is not asked."""
    stranger = replace(WHERE, tenant_id=str(uuid.uuid4()))
    await mapper.map(rows_of([issue(1)]), (), stranger, ISSUES.extract)
    return (stranger.tenant_id, 0) not in mapper.memory.tenants


async def test_batches_go_to_the_process_and_come_back_in_order(beside: MapperBeside) -> None:
    await started(beside)
    batches = [rows_of([issue(n + 100 * batch) for n in range(1, 80)]) for batch in range(20)]
    found = await asyncio.gather(*(beside.map(batch, (), WHERE, ISSUES.extract) for batch in batches))
    for batch, (mapped, _) in zip(batches, found, strict=True):
        expected, _ = await Mapper().map(batch, (), WHERE, ISSUES.extract)
        assert mapped == expected, "nothing is committed yet"
    for _, remember in found:
        remember()
    again, _ = await beside.map(batches[0], (), WHERE, ISSUES.extract)
    assert again.added == found[0][0].added
    assert again.entities is not None
    assert found[0][0].entities is not None
    assert len(again.entities["ids"]) < len(found[0][0].entities["ids"])
    assert await _is_used(beside)


async def test_a_process_that_is_killed_is_done_without_and_started_again(beside: MapperBeside) -> None:
    process = await started(beside)
    asked = [
        asyncio.create_task(beside.map(rows_of([issue(n) for n in range(1, 3000)]), (), WHERE, ISSUES.extract))
        for _ in range(3)
    ]
    await asyncio.sleep(0)
    process.kill()
    async with asyncio.timeout(30):
        for mapped, _ in await asyncio.gather(*asked):
            assert mapped.statements.total() > 2000
        assert (await started(beside)).pid != process.pid


async def test_a_process_that_hangs_is_done_without(
    beside: MapperBeside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = await started(beside)
    monkeypatch.setattr(mapping_process, "PATIENCE_SECONDS", 0.2)
    process.suspend()
    async with asyncio.timeout(30):
        mapped, _ = await beside.map(rows_of([issue(1)]), (), WHERE, ISSUES.extract)
    assert mapped.added is not None
    assert "does not answer" in caplog.text
    await asyncio.to_thread(process.wait, 10)


async def test_a_process_without_work_is_let_go(beside: MapperBeside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_process, "IDLE_SECONDS", 0.3)
    process = await started(beside)
    await asyncio.to_thread(process.wait, 20)
    assert (await started(beside)).pid != process.pid


async def test_a_process_that_is_being_ended_is_waited_for(
    beside: MapperBeside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short, its pipes stay open until the garbage's collector complains."""
    wait, ended = asyncio.subprocess.Process.communicate, asyncio.Event()
    waits = asyncio.Event()

    async def slowly(self: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
        waits.set()
        await asyncio.sleep(0.2)
        result = await wait(self)
        ended.set()
        return result

    process = await started(beside)
    monkeypatch.setattr(asyncio.subprocess.Process, "communicate", slowly)
    process.kill()
    await waits.wait()
    await beside.__aexit__()
    assert ended.is_set()


async def test_small_and_huge_batches_are_not_worth_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping_process, "STARTS_AFTER", 0)
    async with MapperBeside() as mapper:
        await mapper.map(rows_of([issue(n) for n in range(1, 40)]), (), WHERE, ISSUES.extract)
        await mapper.map(rows_of([issue(n, body="x" * 80_000) for n in range(1, 60)]), (), WHERE, ISSUES.extract)

        def of_a_tests_own(payload: dict[str, Any], context: Context) -> Graph:
            return ISSUES.extract(payload, context)

        await mapper.map(rows_of([issue(n) for n in range(1, 60)]), (), WHERE, of_a_tests_own)
        assert processes() == []


async def test_the_process_lives_as_long_as_its_worker(beside: MapperBeside) -> None:
    process = await started(beside)
    for told in (signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, told)  # as a terminal or a service's manager tells all of its processes
    assert await _is_used(beside)
    await beside.__aexit__()
    await asyncio.to_thread(process.wait, 10)


# -- an import ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def theatre(transactional_db: None, sandbox: Any) -> Any:
    sandbox.control(records=700, page_size=15, latency_ms=25)
    with stage(sandbox) as made:
        yield made


def test_an_import_is_the_same_without_with_and_with_a_dying_process(
    theatre: Stage, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(mapping_process, "STARTS_AFTER", 0)
    monkeypatch.setattr(mapping_process, "LEAST_RECORDS", 1)
    monkeypatch.setattr(mapping_process, "AGAIN_SECONDS", 0.0)
    pictures = []
    for beside in (False, True):
        empty_database()
        settings.MAPPING_PROCESS = beside
        worker = Worker()
        try:
            job = theatre.job()
            for _ in range(2 if beside else 0):
                victim = wait_for(processes, 30)[0]
                victim.kill()
                wait_for(lambda victim=victim: victim.pid not in [one.pid for one in processes()], 30)
            job = until(job, "completed", seconds=60)
        finally:
            worker.stop()
        assert processes() == []
        pictures.append(picture(job.tenant))
    assert len(pictures[0]["records"]) > 200
    assert not damage(*pictures)
