"""Records to rows and into PostgreSQL: computed ids, the newest wins, arrays that arrive as they left, nothing written twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atom.access import system_actor
from atom.tenancy import tenant_scope
from historical_sync import actions
from historical_sync import pgarrays as pg
from historical_sync.database import connect_arguments
from historical_sync.groups import key_rank
from historical_sync.identity import content_hash, entity_id, record_id
from historical_sync.models import Entity, Relationship, SyncRecord
from historical_sync.moments import moment
from tests.conftest import connected, job_now, until

A, B = uuid.uuid4().bytes, uuid.uuid4().bytes


# -- ids ------------------------------------------------------------------------------------------------------------------


@given(keys=st.sets(st.text(max_size=40) | st.integers(0, 10**16).map(lambda n: f"github:issue:{n}"), max_size=50))
def test_different_keys_have_different_ids_and_tenants_never_meet(keys: set[str]) -> None:
    ids = [entity_id(tenant, key) for tenant in (A, B) for key in keys]
    assert len(set(ids)) == 2 * len(keys)
    assert {len(i) for i in ids} <= {16}
    assert ids == [entity_id(tenant, key) for tenant in (A, B) for key in keys]


def test_a_records_id_is_of_its_connection_and_stream() -> None:
    assert len({record_id(c, s, e) for c in (A, B) for s in ("issues", "pulls") for e in ("1", "01", "1 ")}) == 12


def test_neighbours_have_neighbouring_ids() -> None:
    ids = [entity_id(A, f"github:issue:1#{n}") for n in (9, 10, 11, 99, 100, 5000)]
    assert ids == sorted(ids)


def test_content_counts_whole() -> None:
    assert content_hash(b"{}") != content_hash(b"{} ")


def test_a_key_that_means_the_same_everywhere_stands_for_the_others() -> None:
    keys = ["github:user:1", "person:email:a@b.c", "salesforce:user:0", "org:domain:b.c"]
    assert min(keys, key=key_rank).startswith(("org:", "person:"))


# -- arrays ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wire(db: None) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the engine's: parameters travel in binary."""
    with psycopg.connect(**connect_arguments()) as connection:
        yield connection


def there_and_back(wire: psycopg.Connection[Any], array: Any, kind: str) -> list[Any]:
    found = wire.execute(f"SELECT value FROM unnest(%s::{kind}[]) WITH ORDINALITY AS u(value, n) ORDER BY n", [array])
    return [row[0] for row in found.fetchall()]


once = settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
no_nul = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@once
@given(values=st.lists(no_nul, max_size=20))
def test_texts_arrive_as_they_left(wire: Any, values: list[str]) -> None:
    assert there_and_back(wire, pg.texts(values), "text") == values


@once
@given(values=st.lists(st.uuids() | st.none(), max_size=20))
def test_uuids_arrive_as_they_left(wire: Any, values: list[uuid.UUID | None]) -> None:
    assert there_and_back(wire, pg.nullable_uuids([v.bytes if v else None for v in values]), "uuid") == values
    known = [v for v in values if v]
    assert there_and_back(wire, pg.uuids([v.bytes for v in known]), "uuid") == known


@once
@given(values=st.lists(times | st.none(), max_size=20))
def test_times_arrive_as_they_left(wire: Any, values: list[datetime | None]) -> None:
    assert there_and_back(wire, pg.timestamps(values), "timestamptz") == values


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | no_nul,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(no_nul, inner, max_size=3),
    max_leaves=8,
)


@once
@given(values=st.lists(json_values, max_size=10))
def test_documents_arrive_as_they_left(wire: Any, values: list[Any]) -> None:
    assert there_and_back(wire, pg.jsonbs([orjson.dumps(v) for v in values]), "jsonb") == values


def test_nul_which_postgresql_can_not_hold_is_replaced(wire: Any) -> None:
    assert there_and_back(wire, pg.texts(["a\0b", "c"]), "text") == ["a\ufffdb", "c"]
    document = orjson.dumps({"a\0": "\0", "b": "\\u0000"})
    (arrived,) = there_and_back(wire, pg.jsonbs([document]), "jsonb")
    assert arrived == {"a\ufffd": "\ufffd", "b": "\\u0000"}


# -- dates ----------------------------------------------------------------------------------------------------------------


@given(value=st.text(max_size=30))
def test_a_date_is_understood_or_refused_and_nothing_else(value: str) -> None:
    try:
        found = moment(value)
    except ValueError:
        return
    assert found.tzinfo is not None


@given(day=st.dates())
def test_a_date_is_its_beginning_or_its_end(day: Any) -> None:
    assert moment(day.isoformat()).date() == day
    if day < date.max:
        assert moment(day.isoformat(), end=True) == moment(day.isoformat()) + timedelta(days=1)


def test_what_is_later_than_a_clock_can_tell_is_the_last_moment() -> None:
    assert moment("9999-12-31", end=True) == moment("9999-12-31T23:59:59-12:00") == datetime.max.replace(tzinfo=UTC)


# -- stored ---------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_person_met_in_two_tools_under_one_address_is_one_and_counters_count_what_is_stored(
    live_cast: SimpleNamespace, sandbox: Any, worker: Any
) -> None:
    tenant = live_cast.acme
    jobs = []
    for slug in ("github", "salesforce"):
        row = connected(tenant, slug, sandbox.root)
        with tenant_scope(tenant.id):
            job = actions.start_sync(system_actor(tenant, "test"), row, start=datetime(2020, 1, 1, tzinfo=UTC))
        jobs.append(until(job, "completed", seconds=90))
    with tenant_scope(tenant.id):
        assert sum(job.records_processed for job in jobs) == SyncRecord.objects.count()
        assert sum(job.relationships_extracted for job in jobs) == Relationship.objects.count()
        kinds: dict[str, int] = {}
        for job in jobs:
            for kind, n in job.entities_by_kind.items():
                kinds[kind] = kinds.get(kind, 0) + n
        stored = Entity.objects.filter(merged_into=None)
        for kind, n in kinds.items():
            assert stored.filter(kind=kind).count() == n, kind
        assert sum(job.entities_extracted for job in jobs) == stored.count()

        people = stored.filter(kind="person", key__startswith="person:email:")
        both = []
        for person in people:
            keys = [person.id, *Entity.objects.filter(merged_into=person.id).values_list("id", flat=True)]
            said = Relationship.objects.filter(source_id__in=keys) | Relationship.objects.filter(target_id__in=keys)
            tools = SyncRecord.objects.filter(id__in=said.values("record_id")).values_list(
                "connection__provider_slug", flat=True
            )
            if {"github", "salesforce"} <= set(tools):
                both.append(person.key)
        assert both, "the sandbox's people work in both tools"
        assert len(both) == len(set(both))

    # The same once more: nothing changes and nothing is counted.
    with tenant_scope(tenant.id):
        before = set(Entity.objects.values_list("id", "name", "as_of", "merged_into"))
        again = actions.start_sync(
            system_actor(tenant, "test"), jobs[0].connection, start=datetime(2020, 1, 1, tzinfo=UTC), full=True
        )
    again = until(again, "completed", seconds=90)
    assert (again.records_processed, again.entities_extracted, again.relationships_extracted) == (0, 0, 0)
    assert job_now(again).records_skipped == jobs[0].records_processed
    with tenant_scope(tenant.id):
        assert set(Entity.objects.values_list("id", "name", "as_of", "merged_into")) == before
