"""Every provider's whole history comes in through the real engine: what is stored is what the stand-in holds."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from atom.access import system_actor
from atom.tenancy import tenant_scope
from historical_sync.actions import start_sync
from historical_sync.models import QuarantinedRecord, SyncRecord
from integrations.providers import PROVIDERS
from tests.conftest import connected, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("slug", list(PROVIDERS))
def test_the_whole_history_of_a_provider_comes_in(live_cast: Any, worker: Any, sandbox: Any, slug: str):
    sandbox.control(records=100)
    connection = connected(live_cast.acme, slug, sandbox.root)
    with tenant_scope(connection.tenant_id):
        # Nobody waits here for a vendor that lets ten requests through a minute.
        connection.budget_limit = max(connection.provider.budget.requests, 1000)
        connection.save()
        job = start_sync(system_actor(live_cast.acme, "test"), connection, start=datetime(2020, 1, 1, tzinfo=UTC))
    job = until(job, "completed", "failed", seconds=60)
    with tenant_scope(connection.tenant_id):
        stored = Counter(SyncRecord.objects.filter(connection=connection).values_list("stream", flat=True))
        assert job.status == "completed", job.last_error_message
        assert not QuarantinedRecord.objects.filter(job=job).exists()
    truth = sandbox.truth(slug, until=job.end_date.isoformat())
    assert dict(stored) == {name: count for name, count in truth.items() if count}
