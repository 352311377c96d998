"""Mapping beside the worker's event loop: a process of the worker's own that turns records into columns on another core.

    python -m historical_sync.mapping_process

It reads what to map from standard input and writes what came of it to standard output, each a pickle behind its length, in turn. It has no
database, no secrets of its own and nothing to lose: whatever becomes of it, the worker maps by itself. It ends when its input does, as
when its worker is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import pickle
import signal
import struct
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from atom.garbage import tune_garbage_collection
from historical_sync.extraction import RecordRow
from historical_sync.mapping import Mapped, Mapper, Where, map_rows
from historical_sync.memory import Memory
from integrations import providers
from integrations.providers.base import Extract

log = logging.getLogger(__name__)

STARTS_AFTER = 1_000  # records in batches that could have gone there: what is small is done before the process is there
LEAST_RECORDS = 50  # of such a batch: for fewer the way costs more than the work
MOST_BYTES = 4 * 1024 * 1024  # of JSON in a batch: a larger one would lie in both processes at once
PIPE_BYTES = 1024 * 1024  # what Linux gives anybody
UNCOMMITTED = 64  # batches whose end the process waits to hear of
AGAIN_SECONDS = 60.0  # between two starts: until another try when the process could not be started or has died
PATIENCE_SECONDS = 60.0  # for an answer
IDLE_SECONDS = 300.0  # without work, after which it is let go

_LENGTH = struct.Struct("!I")
_PROJECT = Path(__file__).resolve().parent.parent


class Work(NamedTuple):
    """What the process is asked for. committed: numbers of batches whose word is stored by now. forget: tenants, None for all, of which
    nothing is known any more; it comes before `committed`."""

    number: int
    committed: list[int]
    forget: list[str | None]
    ids: list[bytes]
    documents: list[bytes]
    moments: list[int]
    revised: frozenset[bytes]
    where: Where


# -- the worker's side --------------------------------------------------------------------------------------------------------


class MapperBeside(Mapper):
    """Has large batches mapped by a process of its own, which is started when there are many of them; all others, and while there is
    none, by itself. An async context manager: the process ends with it."""

    def __init__(self) -> None:
        super().__init__()
        self._process: asyncio.subprocess.Process | None = None
        self._running: asyncio.Task[None] | None = None
        self._start_at = 0.0
        self._records = 0  # that could have gone there while there was none
        self._asked: deque[asyncio.Future[Mapped | None]] = deque()
        self._patience: asyncio.Timeout | None = None  # with the next answer
        self._number = 0
        self._committed: list[int] = []
        self._forget: list[str | None] = []

    async def __aenter__(self) -> MapperBeside:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def map(
        self, rows: Sequence[RecordRow], revised: Collection[bytes], where: Where, extract: Extract
    ) -> tuple[Mapped, Callable[[], None]]:
        if self._worth_it(rows, where, extract):
            self._number += 1
            number = self._number
            mapped = await self._ask(number, rows, frozenset(revised), where)
            if mapped is not None:
                return mapped, lambda: self._committed.append(number)
        return await super().map(rows, revised, where, extract)

    def forget(self, tenant_id: str) -> None:
        super().forget(tenant_id)
        if self._process is not None:
            self._forget.append(tenant_id)

    def forget_all(self) -> None:
        super().forget_all()
        if self._process is not None:
            self._forget.append(None)

    def _worth_it(self, rows: Sequence[RecordRow], where: Where, extract: Extract) -> bool:
        if len(rows) < LEAST_RECORDS or sum([len(row.document) for row in rows]) > MOST_BYTES:
            return False
        if _extract(where) is not extract:
            return False  # not one that the process would find
        if self._process is not None:
            return True
        self._records += len(rows)
        idle = self._running is None or self._running.done()
        if idle and self._records > STARTS_AFTER and time.monotonic() >= self._start_at:
            self._start_at = time.monotonic() + AGAIN_SECONDS
            self._running = asyncio.create_task(self._run(), name="mapping process")
        return False

    async def _ask(
        self, number: int, rows: Sequence[RecordRow], revised: frozenset[bytes], where: Where
    ) -> Mapped | None:
        """What the process makes of it; None when it can't, or is gone."""
        assert self._process is not None
        assert self._process.stdin is not None
        ids, documents, moments, *_ = zip(*rows, strict=True)
        work = Work(number, self._committed, self._forget, list(ids), list(documents), list(moments), revised, where)
        message = pickle.dumps(tuple(work), pickle.HIGHEST_PROTOCOL)
        self._committed, self._forget = [], []
        answer: asyncio.Future[Mapped | None] = asyncio.get_running_loop().create_future()
        if not self._asked and self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
        self._asked.append(answer)
        with contextlib.suppress(ConnectionError):  # the reader of answers learns of it
            self._process.stdin.write(_LENGTH.pack(len(message)) + message)
        return await answer

    async def _run(self) -> None:
        """Starts the process and hands out its answers, until either ends."""
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=_PROJECT,
            )
            assert process.stdout is not None
            await process.stdout.readexactly(_LENGTH.size)  # it is ready
            self._process = process
            while True:
                async with asyncio.timeout(PATIENCE_SECONDS if self._asked else IDLE_SECONDS) as self._patience:
                    (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
                    message = await process.stdout.readexactly(length)
                # No wait from here to the next answer's: who asks now counts on its patience.
                answer = pickle.loads(message)  # noqa: S301 - of our own process
                asked = self._asked.popleft()
                if not asked.cancelled():
                    asked.set_result(answer)
        except TimeoutError:
            if self._asked:
                log.warning("the mapping process does not answer, mapping without it")
        except (OSError, asyncio.IncompleteReadError) as error:
            log.warning("the mapping process is gone, mapping without it: %r", error)
        finally:
            self._process, self._patience, self._records = None, None, 0
            self._committed, self._forget = [], []
            for asked in self._asked:
                if not asked.done():
                    asked.set_result(None)
            self._asked.clear()
            if process is not None:
                ending = asyncio.create_task(_end(process))
                while not ending.done():
                    with contextlib.suppress(asyncio.CancelledError):  # this ends anyway, and not by halves
                        await asyncio.shield(ending)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kills it, and closes its pipes while there is a loop to do it."""
    assert process.stdin is not None
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.stdin.close()
    with contextlib.suppress(ConnectionError):
        await process.stdin.wait_closed()
    await process.communicate()


# -- the process's side -------------------------------------------------------------------------------------------------------


def _extract(where: Where) -> Extract | None:
    try:
        return providers.get(where.context.namespace.partition("@")[0]).stream(where.stream).extract
    except KeyError:
        return None


class Server:
    """The process's work. Committed batches are remembered when the worker says so."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.uncommitted: OrderedDict[int, Callable[[], None]] = OrderedDict()

    def answer(self, work: Work) -> Mapped | None:
        """None: the worker is to see for itself what is wrong with it."""
        for tenant in work.forget:
            if tenant is None:
                self.memory.forget_all()
            else:
                self.memory.forget(tenant)
        for number in work.committed:
            if remember := self.uncommitted.pop(number, None):
                remember()
        extract = _extract(work.where)
        if extract is None:
            return None
        try:
            rows = list(zip(work.ids, work.documents, work.moments, strict=True))
            mapped, self.uncommitted[work.number] = map_rows(rows, work.revised, work.where, extract, self.memory)
        except Exception:
            return None
        if len(self.uncommitted) > UNCOMMITTED:
            self.uncommitted.popitem(last=False)
        return mapped


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answers until there are no more questions."""
    server = Server()
    tune_garbage_collection()
    answers.write(_LENGTH.pack(0))
    answers.flush()
    while len(head := questions.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        message = questions.read(length)
        if len(message) < length:
            return
        answer = pickle.dumps(server.answer(Work(*pickle.loads(message))), pickle.HIGHEST_PROTOCOL)  # noqa: S301 - of our own worker
        answers.write(_LENGTH.pack(len(answer)) + answer)
        answers.flush()


def main() -> None:
    # Who stops a service tells all of its processes; the worker still wants its last pages mapped.
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.SIG_IGN)
    # What anything prints must not come between answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for pipe in (sys.stdin.fileno(), answers.fileno()):
        with contextlib.suppress(OSError, AttributeError):  # of other systems
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
