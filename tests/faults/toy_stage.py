"""A tenant with a connection to the toy, and what an import of it left."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.conftest import until
from tests.faults.stage import NAMES, Picture, damage, picture
from tests.faults.toy import END, START, Server

# Which pages a chunk took to be read depends on the way it was read.
WAY = ("chunks",)


@dataclass
class ToyStage:
    """Tenant and connection have fixed ids, so that pictures of two runs can be compared."""

    server: Server
    calm: Picture = field(default_factory=dict)

    @property
    def tenant(self) -> Any:
        from atom.models import Tenant

        made, _ = Tenant.objects.get_or_create(
            id=uuid.uuid5(NAMES, "toy tenant"), defaults={"name": "Toys", "slug": "toys", "plan": "enterprise"}
        )
        return made

    @property
    def actor(self) -> Any:
        from atom.access import system_actor

        return system_actor(self.tenant, "the suite")

    @property
    def connection(self) -> Any:
        from atom.tenancy import tenant_scope
        from integrations.models import Connection

        tenant, fixed = self.tenant, uuid.uuid5(NAMES, "toy connection")
        with tenant_scope(tenant.id):
            found = Connection.objects.of(tenant).filter(id=fixed).first()
            if found is None:
                found = Connection(
                    id=fixed, tenant=tenant, provider_slug="toy", external_account_id="toy-account", account_label="Toy"
                )
                found.set_credentials("access-0", "refresh-0")
                found.save()
        return found

    def other_connection(self) -> Any:
        """A connection to a second account."""
        from integrations.models import Connection

        def make() -> Any:
            made = Connection(
                tenant=self.tenant, provider_slug="toy", external_account_id="another", account_label="Another"
            )
            made.set_credentials("access-0", "refresh-0")
            made.save()
            return made

        return self.within(make)

    def job(self, *, start: datetime = START, end: datetime = END, connection: Any = None, **options: Any) -> Any:
        """An import, started and not waited for."""
        from atom.tenancy import tenant_scope
        from historical_sync import actions

        with tenant_scope(self.tenant.id):
            return actions.start_sync(self.actor, connection or self.connection, start=start, end=end, **options)

    def done(self, job: Any, status: str = "completed", seconds: float = 40) -> Any:
        """The job once it has the status; any other end fails the test."""
        found = until(job, "completed", "failed", "cancelled", "paused", seconds=seconds)
        assert found.status == status, f"{found.status}: {found.last_error_message}"
        return found

    def damage(self, *but: str) -> str:
        """What is different from a calm import, in words; "" for nothing. `but`: parts of the picture that may be."""
        found = damage(
            {name: rows for name, rows in self.calm.items() if name not in (*WAY, *but)}, picture(self.tenant)
        )
        return str(found) if found else ""

    def within(self, action: Any, *args: Any, **kwargs: Any) -> Any:
        """The result of a call in the tenant's scope; querysets as lists."""
        from django.db.models import QuerySet

        from atom.tenancy import tenant_scope

        with tenant_scope(self.tenant.id):
            result = action(*args, **kwargs)
            return list(result) if isinstance(result, QuerySet) else result

    def events(self, job: Any, kind: str) -> list[str]:
        """The details of the job's events of a kind."""
        from historical_sync.models import JobEvent

        return [e.detail for e in self.within(lambda: JobEvent.objects.filter(job_id=job.id, kind=kind))]

    def chunks(self, job: Any, **filters: Any) -> list[Any]:
        from historical_sync.models import SyncChunk

        return list(self.within(lambda: SyncChunk.objects.filter(job_id=job.id, **filters).order_by("ordinal")))
