"""python -m bench [--only pipeline,graph,start,live,api,many,growth] [--records N] [--rounds N] [--no-peers]

Prints what it measured and writes docs/performance.md's table (between its two marks) when everything was measured.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import stage

PARTS = ("pipeline", "graph", "start", "live", "api", "many", "growth")
MARKS = ("<!-- measured -->", "<!-- /measured -->")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--growth-records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write docs/performance.md though not everything was measured, or not in full",
    )
    options = parser.parse_args()
    as_usual = all(
        getattr(options, name) == parser.get_default(name)
        for name in ("only", "records", "growth_records", "rounds", "no_peers")
    )
    chosen = [part for part in PARTS if part in options.only.split(",")]
    stage.set_up_django()
    lines = [f"Measured on {datetime.now(UTC):%d %B %Y}: {machine()}.", ""]
    try:
        for part in chosen:
            print(f"{part}:", flush=True)
            found = SECTIONS[part](options)
            print("\n".join(found) + "\n", flush=True)
            lines += [*found, ""]
    finally:
        stage.tear_down()
    if options.write or as_usual:
        write(lines)


def machine() -> str:
    import psycopg

    with psycopg.connect(stage.dsn()) as owner:
        row = owner.execute("SHOW server_version").fetchone()
    assert row is not None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("django", "psycopg", "procrastinate", "aiohttp", "orjson", "channels", "daphne")
    )
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, PostgreSQL {row[0].split()[0]}, Python {platform.python_version()}, {versions}"


def pipeline(options: Any) -> list[str]:
    from bench import pipeline as measured

    lines = []
    for latency in (0.0, 50.0):
        results = measured.measure(options.records, options.rounds, latency, not options.no_peers)
        floor = stage.median([run["seconds"] for run in results["floor"]])
        lines += [
            f"### {options.records:,} issues, {latency:g} ms a response" if latency else f"### {options.records:,} issues, no latency", "",
            "| | seconds (median; least to most) | records/s | ratio to the floor | peak memory |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for name, runs in results.items():
            seconds = [run["seconds"] for run in runs]
            middle = stage.median(seconds)
            lines.append(
                f"| {name} | {middle:.1f} ({min(seconds):.1f} to {max(seconds):.1f}) | {options.records / middle:,.0f} | {middle / floor:.1f} | {max(run['peak_mib'] for run in runs):.0f} MiB |"
            )
        atom = results["Atom"]
        if "again_seconds" in atom[0]:
            again = stage.median([run["again_seconds"] for run in atom])
            lines.append(
                f"| Atom, the same range again (`full`): nothing rewritten | {again:.1f} | {options.records / again:,.0f} | {again / floor:.1f} | |"
            )
        lines += [
            "",
            f"Atom also stored {atom[0]['entities']:,} entities and {atom[0]['relationships']:,} relationships in {atom[0]['chunks']} chunks.",
            "",
        ]
    return lines


def graph(options: Any) -> list[str]:
    from bench import graph as measured

    count = options.records // 4
    found = measured.measure(count)
    return [
        f"### What happens to {count:,} records, by the store alone", "",
        "| | | µs a record | of the worker's CPU | of PostgreSQL's CPU |", "|---|---|---|---|---|",
        *[f"| {kind} | {cost.what} | {cost.clock_us:.0f} | {cost.worker_us:.0f} | {cost.database_us:.0f} |" for kind, costs in found.items() for cost in costs],
    ]  # fmt: skip


def start(options: Any) -> list[str]:
    from bench import start as measured

    found = measured.measure()
    return [
        f"### Start: POST to the provider's first request, {measured.RUNNING} jobs running", "", "| p50 | p99 | most |", "|---|---|---|",
        f"| {found['p50_ms']:.0f} ms | {found['p99_ms']:.0f} ms | {found['most_ms']:.0f} ms |",
    ]  # fmt: skip


def live(options: Any) -> list[str]:
    from bench import live as measured

    found = measured.measure()
    words = {
        "spread": "1,000 sockets over 350 jobs, each changing once a second",
        "one": "1,000 sockets on one job, two changes a second",
    }
    return [
        "### Live: commit to a client's message, Redis, one web process",
        "",
        "| | p50 | p99 | web process's CPU a message | its memory |",
        "|---|---|---|---|---|",
    ] + [
        f"| {words[name]} | {row['p50_ms']:.1f} ms | {row['p99_ms']:.1f} ms | {row['web_us']:.0f} µs | {row['web_mib']:.0f} MiB |"
        for name, row in found.items()
    ]


def api(options: Any) -> list[str]:
    from bench import api as measured

    found = measured.measure()
    memory = found.pop("web_mib")
    return [
        f"### API and pages: {measured.JOBS:,} jobs, {measured.JOBS * measured.CHUNKS_A_JOB:,} chunks, {measured.RECORDS:,} records in the tenant, an import running, {measured.RATE} requests a second",
        "", "| | p50 | p99 |", "|---|---|---|",
        *[f"| {name} | {row['p50_ms']:.0f} ms | {row['p99_ms']:.0f} ms |" for name, row in found.items()],
        "", f"The web process took {memory:.0f} MiB at most.",
    ]  # fmt: skip


def many(options: Any) -> list[str]:
    from bench import many as measured

    found = measured.measure()
    return [
        f"### {measured.JOBS:,} jobs of {measured.RECORDS:,} records at once, {measured.TENANTS} tenants, two workers", "",
        "| last job's first page | all completed | records/s | workers' CPU a record | PostgreSQL's | worker's memory | connections to PostgreSQL |", "|---|---|---|---|---|---|---|",
        f"| {found['first_page_seconds']:.1f} s | {found['seconds']:.1f} s | {found['records'] / found['seconds']:,.0f} | {found['worker_us']:.0f} µs | {found['database_us']:.0f} µs | {found['worker_mib']:.0f} MiB | {found['connections']} |",
    ]  # fmt: skip


def growth(options: Any) -> list[str]:
    from bench import growth as measured

    found = measured.measure(options.growth_records)
    pair = measured.two_workers(options.records)
    return [
        f"### Growth: one import of {options.growth_records:,} records", "", "| records so far | µs a record | of the worker's CPU | of PostgreSQL's CPU | worker's memory |", "|---|---|---|---|---|",
        *[f"| {step.records:,} | {step.clock_us:.0f} | {step.worker_us:.0f} | {step.database_us:.0f} | {step.worker_mib:.0f} MiB |" for step in found["steps"]],
        "", f"CPU a record in the last step: {found['growth']:.2f} times the first's. Peak memory {found['peak_mib']:.0f} MiB. {options.records:,} records took one worker {pair['1']:.1f} s and two {pair['2']:.1f} s ({pair['1'] / pair['2']:.2f} times as fast).",
    ]  # fmt: skip


SECTIONS = {
    "pipeline": pipeline,
    "graph": graph,
    "start": start,
    "live": live,
    "api": api,
    "many": many,
    "growth": growth,
}


def write(lines: list[str]) -> None:
    page = Path(stage.PROJECT, "docs", "performance.md")
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n\n" + "\n".join(lines).strip() + f"\n\n{MARKS[1]}{after}")
    print(f"written to {page.relative_to(stage.PROJECT)}")


if __name__ == "__main__":
    main()
