"""What people would pick instead, in a virtual environment of their own (`.bench/`), on the same rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import stage

OUTSIDE = stage.PROJECT / "bench" / "outside"
WINDOWS = 16  # requests in flight where the provider is slow: as many as the floor and Atom have
Run = Callable[[str, int], dict[str, Any]]


def python() -> str:
    """The peers' interpreter; makes their environment when it is not there yet. ATOM_BENCH_PEERS names one that is."""
    home = Path(os.environ.get("ATOM_BENCH_PEERS", str(stage.PROJECT / ".bench" / "peers")))
    interpreter = home / "bin" / "python"
    if not interpreter.exists():
        print("  installing the peers (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run(
            [str(interpreter), "-m", "pip", "install", "-q", "-r", str(OUTSIDE / "requirements.txt")], check=True
        )
    return str(interpreter)


def runs(*, parallel: bool) -> dict[str, Run]:
    """name -> run(root, records)."""
    interpreter = python()

    def run(script: str, windows: int) -> Run:
        def once(root: str, records: int) -> dict[str, Any]:
            return stage.outside([interpreter, str(OUTSIDE / script), root, stage.dsn(), str(records), str(windows)])

        return once

    return {
        "Airbyte CDK connector, bulk upsert": run("airbyte_peer.py", WINDOWS if parallel else 1),
        "Airbyte CDK's page reader alone, bulk upsert": run("airbyte_reader_peer.py", WINDOWS if parallel else 1),
        "dlt, merge": run("dlt_peer.py", WINDOWS if parallel else 1),
    }
