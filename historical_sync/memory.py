"""What a worker knows to be stored, so that it need not be sent again."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from historical_sync.extraction import Ids
from integrations.providers.base import Entity


class Known(NamedTuple):
    """What is stored of a tenant: mentions as they were told; kind and name of mentioned entities; pairs of alias and entity."""

    ids: Ids
    told: set[Entity]
    mentioned: dict[bytes, tuple[str, str]]
    merged: set[tuple[bytes, bytes]]

    @property
    def size(self) -> int:
        return len(self.ids) + len(self.told) + len(self.mentioned) + len(self.merged)


class Memory:
    """Mentioned entities and aliases, by tenant and generation of its graph.

    Forgetting is always safe. Remembering is safe because whoever removes such rows counts the generation up (`tidying.py`).
    """

    LIMIT = 80_000  # of all tenants: some 200 bytes each, so 16 MiB of the worker and as much of its mapping process
    TENANTS = 50

    def __init__(self) -> None:
        self.tenants: dict[tuple[str, int], Known] = {}  # who was asked for last comes last

    def of(self, tenant_id: str, generation: int = 0) -> Known:
        """What is known of the tenant. generation: grows when something is taken out of the tenant's graph; what was known before is void then."""
        found = self.tenants.pop((tenant_id, generation), None)
        if found is None or found.size > self.LIMIT:
            self.forget(tenant_id)
            found = Known(Ids(UUID(tenant_id).bytes), set(), {}, set())
        self.tenants[tenant_id, generation] = found
        if len(self.tenants) > 1:
            self._make_room()
        return found

    def _make_room(self) -> None:
        """Of who was asked for longest ago the ids go first, which are soon computed anew, and then everything."""
        beyond = sum([known.size for known in self.tenants.values()]) - self.LIMIT
        others = list(self.tenants.items())[:-1] if beyond > 0 or len(self.tenants) > self.TENANTS else []
        for _, known in others:
            if beyond <= 0:
                break
            beyond -= len(known.ids)
            known.ids.clear()
        for place, known in others:
            if beyond <= 0 and len(self.tenants) <= self.TENANTS:
                break
            beyond -= known.size
            del self.tenants[place]

    def forget_all(self) -> None:
        self.tenants.clear()

    def forget(self, tenant_id: str) -> None:
        for place in [place for place in self.tenants if place[0] == tenant_id]:
            del self.tenants[place]
