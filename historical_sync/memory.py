"""What a worker knows to be stored, so that it need not be sent again."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from historical_sync.extraction import (
    Ids,
)
from integrations.providers.base import Entity


class Known(NamedTuple):
    """What is stored of a tenant: mentions as they were told; kind and name of mentioned entities; pairs of alias and entity."""

    ids: Ids
    told: set[Entity]
    mentioned: dict[bytes, tuple[str, str]]
    merged: set[tuple[bytes, bytes]]

    @property
    def size(self) -> int:
        return len(self.told) + len(self.mentioned) + len(self.merged)


class Memory:
    """What this worker knows to be stored already, so that it need not be sent again: mentioned entities and aliases of a tenant.

    Forgetting is always safe. Remembering is safe because whoever removes such rows counts the generation up (`tidying.py`).
    """

    LIMIT = 100_000

    def __init__(self) -> None:
        self.tenants: dict[tuple[str, int], Known] = {}

    def of(self, tenant_id: str, generation: int = 0) -> Known:
        """generation: grows when something is taken out of the tenant's graph; what was known before is void then."""
        found = self.tenants.get((tenant_id, generation))
        if found is None or found.size > self.LIMIT:
            if len(self.tenants) > 50:
                self.forget_all()
            self.forget(tenant_id)
            found = self.tenants[tenant_id, generation] = Known(Ids(UUID(tenant_id).bytes), set(), {}, set())
        return found

    def forget_all(self) -> None:
        self.tenants.clear()

    def forget(self, tenant_id: str) -> None:
        for known in [known for known in self.tenants if known[0] == tenant_id]:
            del self.tenants[known]
