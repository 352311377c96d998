"""The right to write to a chunk. How it is taken, kept and lost: `claims.py`."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


class LeaseLost(Exception):
    """Somebody else works on the chunk, or nobody may: leave, writing nothing."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write to a chunk, and where it belongs. Ids as PostgreSQL's text form; `connection_bytes` the same as 16 bytes."""

    chunk_id: str
    token: str
    job_id: str
    tenant_id: str
    connection_id: str
    stream: str
    partition: str

    @property
    def connection_bytes(self) -> bytes:
        return UUID(self.connection_id).bytes
