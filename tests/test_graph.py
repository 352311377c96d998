"""The graph is a function of the records: any order, batching and number of workers end in the same one."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import orjson
import psycopg
import pytest
from django.db import connection as database
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from atom.access import system_actor
from atom.tenancy import tenant_scope
from historical_sync import actions, graph, tasks, tidying
from historical_sync.database import Pool, make_pool, pipelined_transaction, retried
from historical_sync.extraction import newest, record_rows
from historical_sync.leases import Lease
from historical_sync.mapping import Mapper
from historical_sync.models import (
    Address,
    Coverage,
    DataRemoval,
    Entity,
    EntityAlias,
    Relationship,
    StaleEntity,
    SyncRecord,
)
from historical_sync.records import look_up
from historical_sync.removing import remove
from historical_sync.storage import enter_graph, write_rows
from historical_sync.tidying import Witness, tidy
from historical_sync.upkeep import by_the_clock
from integrations.providers.base import Clock, Context, Graph, Partition, Provider, Record
from integrations.providers.base import Entity as Thing
from integrations.providers.github import GITHUB
from integrations.providers.google import GOOGLE
from integrations.providers.jira import JIRA
from integrations.providers.links import linked
from integrations.providers.microsoft365 import MICROSOFT365
from tests.conftest import connected, until, wait_for
from tests.faults.stage import database_url
from tests.test_locks import lock_waits

START = datetime(2026, 1, 1, tzinfo=UTC)
TOOLS = [str(uuid.UUID(int=n + 1)) for n in range(2)]
TABLES = ("syncrecord", "entity", "entityalias", "address", "staleentity")


@pytest.fixture
def stage(live_cast: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A tenant, an event loop and a pool, as a worker has them; two of anything are many for a removal."""
    for most in ("WITNESSES_AT_ONCE", "ENTITIES_AT_ONCE", "STALE_AT_ONCE"):
        monkeypatch.setattr(tidying, most, 2)
    loop = asyncio.new_event_loop()
    pool = make_pool(4)
    loop.run_until_complete(pool.open())
    yield SimpleNamespace(do=loop.run_until_complete, pool=pool, tenant=live_cast.acme, stranger=live_cast.globex)
    loop.run_until_complete(pool.close())
    loop.close()


# -- records that say anything --------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A record of one of two tools, and what it says."""

    tool: int
    name: str
    hour: int
    says: dict[str, Any]


def extract(payload: dict[str, Any], context: Context) -> Graph:
    things = [Thing(k, key, n, p, tuple(a), tuple(h)) for k, key, n, p, a, h in payload["things"]]
    said = Graph(things[0])
    said.entities += things[1:]
    said.later = payload.get("later", 0)
    for kind, source, target in payload["links"]:
        told, other = (said.refer, target) if source == said.own else (said.referred, source)
        assert said.own in (source, target)
        told(kind, [other])
    return said


PEOPLE = ["person:email:a@x.io", "person:email:b@x.io", "code:user:1", "code:user:2", "crm:user:3"]
HANDLES = ["code:login:ann", "code:login:bob"]
NAMES = ["Ann", "Bo", "Ann B. Chen", "1"]
# Things whose addresses lack the id that is in their keys; two repositories may have had one name.
PLACES = {"github:repository:7": "repository", "github:repository:8": "repository", "github:issue:7#12": "issue"}
PLACE_NAMES = ["github:named:acme/web", "github:named:acme/old"]
TEXTS = [
    "",
    "",
    "https://github.com/acme/web/issues/12",
    "https://github.com/Acme/old/pull/12 https://github.com/acme/web",
]
keys = st.sampled_from(PEOPLE)
few = {"max_size": 2, "unique": True}
people = st.tuples(
    st.just("person"),
    keys,
    st.sampled_from(NAMES),
    st.none() | st.fixed_dictionaries({"title": st.sampled_from(["CEO", "CTO"])}),
    st.lists(keys, **few),
    st.lists(st.sampled_from(HANDLES), **few),
).map(list)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """Records of two tools, no two versions of one at the same time."""
    found = []
    for number in range(draw(st.integers(2, 8))):
        tool, own = draw(st.integers(0, 1)), draw(st.sampled_from(["code:issue:1", "code:issue:2", *PLACES]))
        others = draw(st.lists(people, min_size=1, max_size=2))
        kind = draw(st.sampled_from(["issue", "pull_request"]))
        links = [["authored", person[1], own] for person in others]
        links += [["mentions", own, key] for key in draw(st.lists(st.sampled_from(PEOPLE + HANDLES), **few))]
        handles = draw(st.lists(st.sampled_from(PLACE_NAMES), **few)) if "repository" in own else []
        things = [[PLACES.get(own, kind), own, draw(st.sampled_from(NAMES)), {"n": number}, [], handles], *others]
        says = {
            "things": things,
            "links": links,
            "text": draw(st.sampled_from(TEXTS)),
            "later": draw(st.integers(-1, 1)),
        }
        found.append(Row(tool, f"r{number}", draw(st.integers(0, 3)), says))
    return found


def updates_of(found: Sequence[Row], data: st.DataObject) -> list[Row]:
    """Later versions of some of the records, in the order of their coming."""
    updates: list[Row] = []
    for version in data.draw(rows()):
        old = data.draw(st.sampled_from([*found, *updates]))
        # What is later says so: a row of the same content has not changed.
        says = {**version.says, "version": len(updates) + 1}
        hour = old.hour + data.draw(st.integers(0, 1))
        updates.append(version._replace(tool=old.tool, name=old.name, hour=hour, says=says))
    return updates


def latest(versions: Sequence[Row]) -> list[Row]:
    """The version of each record that counts in the end."""
    kept: dict[tuple[int, str], Row] = {}
    for row in versions:
        if row.hour >= kept.get((row.tool, row.name), row).hour:
            kept[row.tool, row.name] = row
    return list(kept.values())


async def store(
    pool: Pool,
    tenant: Any,
    batches: Sequence[Sequence[Row]],
    mapper: Mapper,
    tools: tuple[str, str] = ("code", "code"),
    partition: str = "",
    clock: Clock = Clock.UPDATED,
    read_at: datetime | None = None,
) -> tuple[Counter[str], int]:
    """Stores the batches one after the other, as one worker; returns entities by kind and statements, as they were counted."""
    entities: Counter[str] = Counter()
    statements = 0

    @retried
    async def save(lease: Lease, batch: Sequence[Row], tool: str) -> Any:
        records = [Record(row.name, START + timedelta(hours=row.hour), row.says) for row in batch]
        found = newest(record_rows(records, lease.connection_bytes, lease.stream)[0], clock)
        async with pipelined_transaction(pool, lease.tenant_id) as db:
            await enter_graph(db, lease.tenant_id)
            before = await look_up(db, lease, found, clock)
            number = await db.execute("SELECT number FROM historical_sync_graphgeneration")
            (generation,) = await number.fetchone() or (0,)
            written = await write_rows(
                db, lease, found, before, extract, Context(tool), mapper, generation, read_at=read_at
            )
        written.remember()
        return written

    for batch in batches:
        for tool, part in itertools.groupby(batch, key=lambda row: row.tool):
            lease = Lease("", "", str(uuid.uuid4()), str(tenant.id), TOOLS[tool], "rows", partition)
            written = await save(lease, list(part), tools[tool])
            assert not written.rejected
            entities.update(written.entities)
            statements += written.relationships.total()
    return entities, statements


def empty(tenant: Any) -> None:
    with tenant_scope(tenant.id), database.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"DELETE FROM historical_sync_{table} WHERE tenant_id = %s", [tenant.id])


def graph_of(tenant: Any) -> dict[str, Any]:
    """All of the tenant's graph, by keys."""
    with tenant_scope(tenant.id):
        entities = list(Entity.objects.filter(tenant=tenant))
        key = {entity.id: entity.key for entity in entities}
        return {
            "entities": {e.key: (e.kind, e.name, e.properties, e.as_of, e.record_id) for e in entities},
            "groups": {e.key: key[e.merged_into] for e in entities if e.merged_into},
            "aliases": {
                (key[a.alias_id], key[a.entity_id], a.proof) for a in EntityAlias.objects.filter(tenant=tenant)
            },
            "links": {
                (key.get(r.source_id, r.source_id), r.kind, key.get(r.target_id, r.target_id), r.record_id)
                for r in Relationship.objects.filter(tenant=tenant)
            },
            "addresses": set(Address.objects.filter(tenant=tenant).values_list("key", "within_id", "leads_to")),
            "records": set(SyncRecord.objects.filter(tenant=tenant).values_list("id", "entity_id", "content_hash")),
        }


def counted(tenant: Any) -> tuple[dict[str, int], int]:
    """How many entities of each kind stand for themselves, and how many statements there are."""
    with tenant_scope(tenant.id):
        standing = Entity.objects.filter(tenant=tenant, merged_into=None).values_list("kind", flat=True)
        return dict(Counter(standing)), Relationship.objects.filter(tenant=tenant).count()


few_examples = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.django_db(transaction=True)
def test_any_order_and_batching_ends_in_the_same_graph(stage: SimpleNamespace) -> None:
    @few_examples
    @given(first=rows(), data=st.data())
    def check(first: list[Row], data: st.DataObject) -> None:
        graphs = []
        for order in (first, data.draw(st.permutations(first)), data.draw(st.permutations(first))):
            size = data.draw(st.integers(1, len(order)))
            empty(stage.tenant)
            batches = [order[n : n + size] for n in range(0, len(order), size)]
            entities, statements = stage.do(store(stage.pool, stage.tenant, batches, Mapper()))
            graphs.append(graph_of(stage.tenant))
            kinds, links = counted(stage.tenant)
            assert links == statements
            assert sum(kinds.values()) == entities.total()
        for part in graphs[0]:
            assert graphs[0][part] == graphs[1][part] == graphs[2][part], part

    check()


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_end_in_the_same_graph(stage: SimpleNamespace) -> None:
    async def both(first: list[Row], second: list[Row]) -> None:
        async with asyncio.TaskGroup() as group:
            for part in (first, second):
                batches = [part[n : n + 2] for n in range(0, len(part), 2)]
                group.create_task(store(stage.pool, stage.tenant, batches, Mapper()))

    @few_examples
    @given(found=rows())
    def check(found: list[Row]) -> None:
        empty(stage.tenant)
        stage.do(store(stage.pool, stage.tenant, [found], Mapper()))
        alone = graph_of(stage.tenant)
        empty(stage.tenant)
        stage.do(both(found[::2], found[1::2]))
        together = graph_of(stage.tenant)
        for part in alone:
            assert alone[part] == together[part], part

    check()


@pytest.mark.parametrize("aliases", [[], ["crm:user:{}"]], ids=("handles", "proven aliases"))
@pytest.mark.django_db(transaction=True)
def test_a_tenants_people_are_merged_without_a_look_at_anybody_elses(
    stage: SimpleNamespace, aliases: list[str]
) -> None:
    with tenant_scope(stage.stranger.id), database.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO historical_sync_entity (id, tenant_id, kind, key, name, properties)
            SELECT gen_random_uuid(), %s, 'person', 'person:' || n, 'Somebody', '{}' FROM generate_series(1, 5000) AS n
            """,
            [stage.stranger.id],
        )
    with psycopg.connect(database_url(), autocommit=True) as owner:
        # Plans follow statistics, and those of whatever other tests left here may favour reading all of a small table.
        owner.execute("ANALYZE historical_sync_entity, historical_sync_entityalias")
    said = [
        ["person", f"code:user:{n}", f"P{n}", None, [a.format(n) for a in aliases], [f"code:login:p{n % 10}"]]
        for n in range(20)
    ]
    own = ["issue", "code:issue:1", "It breaks", {}, [], []]
    row = Row(0, "r", 1, {"things": [own, *said], "links": []})
    before = _entities_read()
    stage.do(store(stage.pool, stage.tenant, [[row]], Mapper()))
    stage.do(stage.pool.close())  # a connection that ends tells the server what it has read
    assert wait_for(lambda: _entities_read() - before, 10) < 1000


@pytest.mark.django_db(transaction=True)
def test_what_a_worker_has_committed_is_on_disk_whatever_the_databases_default(stage: SimpleNamespace) -> None:
    """It goes on from there: behind a gap, where a crash of the database took some of it back."""

    async def setting() -> str:
        async with make_pool(1) as pool, pipelined_transaction(pool, str(stage.tenant.id)) as db:
            row = await (await db.execute("SHOW synchronous_commit")).fetchone()
            return str(row and row[0])

    with psycopg.connect(database_url(), autocommit=True) as owner:
        name = f'"{owner.info.dbname}"'
        owner.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        try:
            assert stage.do(setting()) == "on"
        finally:
            owner.execute(f"ALTER DATABASE {name} RESET synchronous_commit")


def _entities_read() -> int:
    with database.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'historical_sync_entity'"
        )
        return int(cursor.fetchone()[0])


# -- taking out -----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_who_adds_to_a_graph_waits_for_who_takes_out_of_it(stage: SimpleNamespace) -> None:
    """It might speak of what is being taken out."""
    own = ["issue", "code:issue:1", "It breaks", {}, [], []]

    async def both() -> None:
        async with pipelined_transaction(stage.pool, str(stage.tenant.id)) as db:
            await tidying.alone(db, str(stage.tenant.id))
            await (await db.execute("SELECT 1")).fetchone()
            row = Row(0, "r", 1, {"things": [own], "links": []})
            adding = asyncio.create_task(store(stage.pool, stage.tenant, [[row]], Mapper()))
            while not adding.done() and not lock_waits():
                await asyncio.sleep(0.02)
            assert not adding.done()
        await adding

    stage.do(both())


async def read(_: Any, witness: Witness) -> Graph:
    return extract(witness.payload, Context("code"))


@pytest.mark.django_db(transaction=True)
def test_what_is_left_without_a_tools_data_is_what_the_others_alone_would_have_brought(stage: SimpleNamespace) -> None:
    @few_examples
    @given(found=rows(), data=st.data())
    def check(found: list[Row], data: st.DataObject) -> None:
        updates = updates_of(found, data)
        empty(stage.tenant)
        others = [row for row in latest([*found, *updates]) if row.tool == 1]
        stage.do(store(stage.pool, stage.tenant, [others], Mapper()))
        alone = graph_of(stage.tenant)
        empty(stage.tenant)
        # What the updates took back has not been seen to yet when the removal begins.
        batches = [data.draw(st.permutations(found)), *([row] for row in updates)]
        stage.do(store(stage.pool, stage.tenant, batches, Mapper()))
        stage.do(remove(stage.pool, TOOLS[0], str(stage.tenant.id), read))
        left = graph_of(stage.tenant)
        for part in alone:
            assert left[part] == alone[part], part
        stage.do(remove(stage.pool, TOOLS[0], str(stage.tenant.id), read))
        assert graph_of(stage.tenant) == left, "once more changes nothing"

    check()


@pytest.mark.django_db(transaction=True)
def test_after_updates_is_left_what_a_fresh_import_would_bring(stage: SimpleNamespace) -> None:
    @few_examples
    @given(found=rows(), data=st.data())
    def check(found: list[Row], data: st.DataObject) -> None:
        updates = updates_of(found, data)
        empty(stage.tenant)
        stage.do(store(stage.pool, stage.tenant, [latest([*found, *updates])], Mapper()))
        fresh = graph_of(stage.tenant)
        empty(stage.tenant)
        mapper = Mapper()
        middle = len(updates) // 2
        for batches in ([found, *([row] for row in updates[:middle])], [updates[middle:]]):
            stage.do(store(stage.pool, stage.tenant, batches, mapper))
            stage.do(tidy(stage.pool, str(stage.tenant.id), read))
        updated = graph_of(stage.tenant)
        for part in fresh:
            assert updated[part] == fresh[part], part

    check()


@pytest.mark.django_db(transaction=True)
def test_what_only_the_former_version_of_a_record_said_goes_by_itself(
    stage: SimpleNamespace,
) -> None:
    def version(hour: int, name: str, label: str) -> Row:
        things = [["issue", "code:issue:1", "It breaks", {}, [], []], ["person", "code:user:1", name, None, [], []]]
        links = [["authored", "code:user:1", "code:issue:1"], ["labelled", "code:issue:1", f"code:label:{label}"]]
        label_of = ["label", f"code:label:{label}", label, None, [], []]
        return Row(0, "r", hour, {"things": [*things, label_of], "links": links})

    def names() -> set[str]:
        with tenant_scope(stage.tenant.id):
            return set(Entity.objects.filter(tenant=stage.tenant).values_list("name", flat=True))

    stage.do(store(stage.pool, stage.tenant, [[version(1, "Ann B. Chen", "bug")]], Mapper()))
    stage.do(store(stage.pool, stage.tenant, [[version(2, "Ann", "fixed")]], Mapper()))
    assert names() == {"It breaks", "Ann B. Chen", "bug", "fixed"}
    stage.do(tidy(stage.pool, str(stage.tenant.id), read))
    assert names() == {"It breaks", "Ann", "fixed"}


def of_issue(name: str, hour: int, title: str, key: str = "code:issue:1") -> Row:
    return Row(0, name, hour, {"things": [["issue", key, title, {"title": title}, [], []]], "links": []})


def titles(tenant: Any) -> set[str]:
    with tenant_scope(tenant.id):
        return {entity.properties.get("title") for entity in Entity.objects.filter(tenant=tenant)}


@pytest.mark.django_db(transaction=True)
def test_a_meeting_that_was_moved_to_an_earlier_time_is_told_anew(stage: SimpleNamespace) -> None:
    """Its time is when it takes place, and says nothing of how old the row is."""
    told = partial(store, stage.pool, stage.tenant, mapper=Mapper(), clock=Clock.EVENT)
    stage.do(told([[of_issue("a", 5, "at five")]]))
    stage.do(told([[of_issue("a", 2, "at two")]]))
    with tenant_scope(stage.tenant.id):
        assert SyncRecord.objects.get(tenant=stage.tenant).occurred_at == START + timedelta(hours=2)
    stage.do(tidy(stage.pool, str(stage.tenant.id), read))
    assert titles(stage.tenant) == {"at two"}
    # In another calendar it is at three: of both copies the later one counts, whichever was read first.
    stage.do(told([[of_issue("b", 3, "at three")]]))
    stage.do(told([[of_issue("b", 1, "at one"), of_issue("b", 0, "at none")]]))
    stage.do(tidy(stage.pool, str(stage.tenant.id), read))
    assert titles(stage.tenant) == {"at two"}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("others", [True, False], ids=["in another calendar", "alone"])
@pytest.mark.parametrize(("provider", "private"), [(GOOGLE, "private"), (MICROSOFT365, "confidential")])
def test_an_event_that_becomes_private_is_known_as_other_calendars_have_it(
    stage: SimpleNamespace, provider: Provider, private: str, others: bool
) -> None:
    """Whichever of its copies is marked: the one whose id is the lesser stands for both."""
    mapped, slug = provider.stream("events").extract, provider.slug
    when = {side: {"dateTime": f"2026-01-07T{hour}:00:00Z"} for side, hour in (("start", "09"), ("end", "10"))}
    planned = {"id": "e", "iCalUID": "u", "iCalUId": "u", "summary": "Salaries", "subject": "Salaries", **when}
    marked = {**planned, "visibility": private, "sensitivity": private}

    def told(name: str, row: dict[str, Any]) -> None:
        said = mapped({**row, "id": name}, Context(slug, Partition(f"{name}@acme.test", name)))
        batch = [[Row(0, name, 9, saying(said))]]
        stage.do(store(stage.pool, stage.tenant, batch, Mapper(), (slug, slug), clock=Clock.EVENT))
        stage.do(tidy(stage.pool, str(stage.tenant.id), read))

    def events() -> list[str]:
        with tenant_scope(stage.tenant.id):
            found = list(Entity.objects.filter(tenant=stage.tenant, kind="event", merged_into=None))
            graph.whole(stage.tenant, found)
        return sorted(event.name for event in found)

    for own, other in (("a", "b"), ("b", "a")):
        for row, name in [(planned, own)] + [(planned, other)] * others:
            told(name, row)
        assert events() == ["Salaries"], "one meeting"
        told(own, marked)
        assert events() == ["Private event"] + ["Salaries"] * others
        told(own, planned)
        assert events() == ["Salaries"]
        empty(stage.tenant)


@pytest.mark.django_db(transaction=True)
def test_what_a_row_says_when_it_is_read_counts_against_what_became_of_it_by_time(stage: SimpleNamespace) -> None:
    """The row keeps the time at which its thing was made; events tell what became of it, and after a while are forgotten."""
    tenant, mapper = stage.tenant, Mapper()

    def told(row: Row, read_at: int | None = None) -> None:
        at = None if read_at is None else START + timedelta(hours=read_at)
        stage.do(store(stage.pool, tenant, [[row]], mapper, read_at=at))

    told(of_issue("thing", 0, "made"), 1)
    told(of_issue("event 1", 2, "changed"))
    assert titles(tenant) == {"changed"}
    told(of_issue("thing", 0, "changed again"), 5)
    assert titles(tenant) == {"changed again"}
    told(of_issue("event 2", 4, "on the way"))
    assert titles(tenant) == {"changed again"}, "it was read after that"
    with tenant_scope(tenant.id):
        before = SyncRecord.objects.get(tenant=tenant, external_id="thing").stored_at
    told(of_issue("thing", 0, "changed again"), 9)
    with tenant_scope(tenant.id):
        assert SyncRecord.objects.get(tenant=tenant, external_id="thing").stored_at == before, "nothing is written"
    told(of_issue("event 3", 8, "in the end"))
    assert titles(tenant) == {"in the end"}


@pytest.mark.django_db(transaction=True)
def test_a_row_that_counts_as_of_its_reading_does_so_when_it_is_mapped_again(
    live_cast: SimpleNamespace, sandbox: Any, worker: Any
) -> None:
    tenant, actor = live_cast.acme, system_actor(live_cast.acme, "test")
    connection = connected(tenant, "stripe", sandbox.root)
    with tenant_scope(tenant.id):
        job = actions.start_sync(
            actor, connection, start=datetime.now(UTC) - timedelta(days=60), streams=["customers", "events"]
        )
    until(job, "completed", seconds=60)

    async def again() -> None:
        async with make_pool(1) as pool:
            await tidy(pool, str(tenant.id))

    with tenant_scope(tenant.id):
        mine = Entity.objects.filter(tenant=tenant, key__contains=":customer:", record_id__isnull=False)
        before = set(mine.values_list("key", "as_of", "record_id"))
        customers = set(SyncRecord.objects.filter(tenant=tenant, stream="customers").values_list("id", flat=True))
        assert customers <= {record for _, _, record in before}, "each was read after whatever became of it"
        StaleEntity.objects.bulk_create(StaleEntity(tenant=tenant, entity_id=one.id) for one in mine)
    asyncio.run(again())
    with tenant_scope(tenant.id):
        assert set(mine.values_list("key", "as_of", "record_id")) == before


@pytest.mark.django_db(transaction=True)
def test_a_record_is_of_the_part_that_its_present_version_was_read_in(stage: SimpleNamespace) -> None:
    """Its context says what it is part of, and so it is mapped again with that."""
    for hour, partition in enumerate(("here", "there")):
        row = Row(0, "r", hour, {"things": [["issue", "code:issue:1", partition, {}, [], []]], "links": []})
        stage.do(store(stage.pool, stage.tenant, [[row]], Mapper(), partition=partition))
    with tenant_scope(stage.tenant.id):
        assert SyncRecord.objects.get(tenant=stage.tenant).partition == "there"


@pytest.mark.django_db(transaction=True)
def test_updates_of_an_import_are_tidied_up_when_it_ends(live_cast: SimpleNamespace, sandbox: Any, worker: Any) -> None:
    tenant, actor = live_cast.acme, system_actor(live_cast.acme, "test")
    connection = connected(tenant, "github", sandbox.root)
    gone = uuid.uuid4()
    with tenant_scope(tenant.id):
        Entity.objects.create(id=gone, tenant=tenant, kind="label", key="github:label:1:gone", name="gone")
        StaleEntity.objects.create(tenant=tenant, entity_id=gone)
        job = actions.start_sync(
            actor, connection, start=datetime(2026, 9, 1, tzinfo=UTC), end=datetime(2026, 9, 8, tzinfo=UTC)
        )
    until(job, "completed", seconds=60)

    def is_gone() -> bool:
        with tenant_scope(tenant.id):
            return not Entity.objects.filter(id=gone).exists() and not StaleEntity.objects.exists()

    wait_for(is_gone)


@pytest.mark.django_db
def test_what_nobody_tidied_up_yet_is_seen_to_within_a_minute(cast: SimpleNamespace) -> None:
    for tenant in (cast.acme, cast.globex):
        with tenant_scope(tenant.id):
            StaleEntity.objects.create(tenant=tenant, entity_id=uuid.uuid4())
    by_the_clock()
    by_the_clock()
    with database.cursor() as cursor:
        cursor.execute("SELECT args ->> 'tenant_id' FROM procrastinate_jobs WHERE task_name = %s", [tasks.TIDY])
        waiting = [row[0] for row in cursor.fetchall()]
    assert sorted(waiting) == sorted([str(cast.acme.id), str(cast.globex.id)]), "once each"


@pytest.mark.django_db(transaction=True)
def test_disconnecting_with_delete_its_data_leaves_what_another_tool_brought_and_it_can_come_back(
    live_cast: SimpleNamespace, sandbox: Any, worker: Any, signed_in: Any
) -> None:
    tenant, actor = live_cast.acme, system_actor(live_cast.acme, "test")

    def bring(row: Any) -> None:
        with tenant_scope(tenant.id):
            job = actions.start_sync(
                actor, row, start=datetime(2026, 8, 1, tzinfo=UTC), end=datetime(2026, 10, 1, tzinfo=UTC)
            )
        until(job, "completed", seconds=90)

    crm, code = connected(tenant, "salesforce", sandbox.root), connected(tenant, "github", sandbox.root, account="2")
    bring(crm)
    before = graph_of(tenant)
    bring(code)
    both = graph_of(tenant)
    assert both["groups"].keys() - before["groups"].keys()
    form = signed_in(live_cast.alice).get(f"/connections/{code.id}/disconnect").content.decode()
    assert "lost for good" in form
    signed_in(live_cast.alice).post(f"/connections/{code.id}/disconnect", {"delete_data": "on"})

    def removal() -> Any:
        with tenant_scope(tenant.id):
            found = DataRemoval.objects.filter(connection=code).first()
        return found if found and found.completed_at else None

    done = wait_for(removal, 60)
    assert done.words == f"{done.records_total:,} records were removed"
    assert done.records_total > 0
    left = graph_of(tenant)
    for part in before:
        assert left[part] == before[part], part
    with tenant_scope(tenant.id):
        assert not Coverage.objects.filter(connection=code).exists()
        assert Coverage.objects.filter(connection=crm).exists()
        code.refresh_from_db()
        code.set_credentials(connected(tenant, "github", sandbox.root, account="3").credentials["access_token"])
        code.status = "connected"
        code.save()
    # The same worker, which once knew what is gone.
    bring(code)
    again = graph_of(tenant)
    for part in both:
        assert again[part] == both[part], part


# -- across tools ---------------------------------------------------------------------------------------------------------

PAGE = "3c90c3cc-0d44-4b50-8888-8dd25736052a"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("see https://linear.app/acme/issue/ENG-7/fix-it, please", ["linear:identifier:acme/ENG-7"]),
        (f"https://www.notion.so/acme/Roadmap-{PAGE.replace('-', '')}?pvs=4", [f"notion:page:{PAGE}"]),
        (f"https://www.notion.so/{PAGE.replace('-', '')}", [f"notion:page:{PAGE}"]),
        (f"https://notion.so/acme/{PAGE.replace('-', '')}", [f"notion:page:{PAGE}"]),
        (f"https://app.notion.com/p/acme/Roadmap-{PAGE.replace('-', '')}", [f"notion:page:{PAGE}"]),
        (f"https://acme.notion.site/Roadmap-{PAGE.replace('-', '')}", [f"notion:page:{PAGE}"]),
        (f"https://acme.notion.site.evil.example/Roadmap-{PAGE.replace('-', '')}", []),
        ("https://app.asana.com/0/12/34 https://app.asana.com/1/9/project/8/task/34", ["asana:task:34"]),
        ("https://linear.app.evil.example/acme/issue/ENG-7 http://linear.app/acme/issue/ENG-7", []),
        ("https://linear.app/acme/issue/eng", []),
        ("https://github.com/Acme/Web/pull/13/files#diff-1", ["github:address:acme/web#13"]),
        ("(https://github.com/acme/web/issues/12#issuecomment-5)", ["github:address:acme/web#12"]),
        ("on https://github.com/Acme/web.js. And", ["github:named:acme/web.js"]),
        ("git clone https://github.com/acme/web.git", ["github:named:acme/web"]),
        ("<https://github.com/acme/web|web>\n", ["github:named:acme/web"]),
        ("https://github.com/acme/web/blob/main/a.py https://github.com/acme/web/issues/new", []),
        (
            f"https://github.com/acme/web/pull/4/commits/{'a' * 40}",
            ["github:address:acme/web#4", f"github:commit:{'a' * 40}"],
        ),
        (f"https://github.com/acme/web/commit/{'a' * 40}", [f"github:commit:{'a' * 40}"]),
        ("https://github.com/Bob-1, https://github.com", ["github:login:bob-1"]),
        ("https://acme.atlassian.net/browse/eng-12?focusedId=1", ["jira:address:acme.atlassian.net/ENG-12"]),
        (
            "https://acme.atlassian.net/jira/software/c/projects/ENG/boards/3?view=x&selectedIssue=ENG-9",
            ["jira:address:acme.atlassian.net/ENG-9"],
        ),
        ("https://acme.atlassian.net/browse/ENG", ["jira:address:acme.atlassian.net/ENG"]),
        ("https://acme.atlassian.net.evil.example/browse/ENG-1 https://atlassian.net/browse/ENG-1", []),
    ],
)
def test_an_address_of_another_tool_says_what_it_means(text: str, keys: list[str]) -> None:
    assert list(linked(orjson.dumps({"a": [{"text": text}]}), "slack")) == keys


def test_a_tool_reads_its_own_addresses_itself() -> None:
    assert linked(b'"https://linear.app/acme/issue/ENG-7"', "linear") == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("arrives", ["before", "after"])
def test_a_link_leads_to_its_target_whichever_arrives_first(stage: SimpleNamespace, arrives: str) -> None:
    handle = "linear:identifier:acme/ENG-7"
    target = Row(0, "i", 1, {"things": [["issue", "linear:issue:1", "Fix it", {}, [], [handle]]], "links": []})
    note = {"things": [["message", "chat:message:1", "Look", {}, [], []]], "links": []}
    source = Row(1, "m", 1, {**note, "text": "https://linear.app/acme/issue/ENG-7"})
    order = [target, source] if arrives == "before" else [source, target]
    stage.do(store(stage.pool, stage.tenant, [[row] for row in order], Mapper()))
    with tenant_scope(stage.tenant.id):
        said = Relationship.objects.get(tenant=stage.tenant)
        things = graph.things(stage.tenant, [said.source_id, said.target_id])
        assert said.kind == "mentions"
        assert [things[end].name for end in (said.source_id, said.target_id)] == ["Look", "Fix it"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_former_key_that_only_an_issues_history_tells_leads_to_it(
    stage: SimpleNamespace, order: tuple[int, ...]
) -> None:
    moved = [
        ["event", "jira:change:1", "Key", {}, [], []],
        ["issue", "jira:issue:1", "OPS-7", None, [], ["jira:key:SUP-3"]],
    ]
    rows = [
        Row(0, "c", 1, {"things": moved, "links": [["about", "jira:change:1", "jira:issue:1"]]}),
        Row(0, "i", 1, {"things": [["issue", "jira:issue:1", "Fix it", {}, [], ["jira:key:OPS-7"]]], "links": []}),
        Row(0, "m", 1, {"things": [["message", "jira:comment:1", "Look", {}, [], []]],
                        "links": [["mentions", "jira:comment:1", "jira:key:SUP-3"]]}),
    ]  # fmt: skip
    stage.do(store(stage.pool, stage.tenant, [[rows[at]] for at in order], Mapper()))
    with tenant_scope(stage.tenant.id):
        said = next(one for one in Relationship.objects.filter(tenant=stage.tenant) if one.kind == "mentions")
        assert graph.things(stage.tenant, [said.target_id])[said.target_id].name == "Fix it"


REPOSITORY = {"id": 77, "full_name": "Acme/Web", "updated_at": "2026-01-01T00:00:00Z"}
ISSUE = {
    "id": 5,
    "number": 12,
    "title": "It breaks",
    "state": "open",
    "html_url": "https://github.com/Acme/Web/issues/12",
}
SITE = {"id": "c-1", "url": "https://acme.atlassian.net"}
IN_PROJECT = Partition("c-1:100", "Engine (ENG)", {"site": "c-1", "url": SITE["url"]})


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize(
    ("container", "thing", "address"),
    [
        (
            GITHUB.stream("repositories").extract(REPOSITORY, Context("github")),
            GITHUB.stream("issues").extract(ISSUE, Context("github", Partition("77", "Acme/Web"))),
            "https://github.com/acme/web/issues/12 https://github.com/acme/web/pull/12/files",
        ),
        (
            JIRA.stream("projects").extract({"id": "100", "key": "ENG", "site": SITE}, Context("jira")),
            JIRA.stream("issues").extract(
                {"id": "9", "key": "ENG-12", "fields": {"summary": "It breaks"}}, Context("jira", IN_PROJECT)
            ),
            "https://acme.atlassian.net/browse/ENG-12",
        ),
    ],
    ids=["github", "jira"],
)
def test_an_address_without_the_id_leads_to_its_thing_in_any_order(
    stage: SimpleNamespace, container: Graph, thing: Graph, address: str, order: tuple[int, ...]
) -> None:
    note = {"things": [["message", "chat:message:1", "Look", {}, [], []]], "links": [], "text": address}
    said = [Row(0, "container", 1, saying(container)), Row(0, "thing", 1, saying(thing)), Row(1, "note", 1, note)]
    slug = container.entities[0].key.partition(":")[0]
    stage.do(store(stage.pool, stage.tenant, [[said[n]] for n in order], Mapper(), (slug, "chat")))
    elsewhere = [row._replace(tool=1 - row.tool) for row in (said[2], said[0])]  # in connections of their own
    stage.do(store(stage.pool, stage.stranger, [elsewhere], Mapper(), ("chat", slug)))
    with tenant_scope(stage.tenant.id):
        issue = Entity.objects.get(tenant=stage.tenant, key=thing.entities[0].key)
        around = graph.neighbourhood(stage.tenant, issue)["links"]
        assert [[other.name for other in part["others"]] for part in around if part["kind"] == "mentions"] == [["Look"]]
        link = Relationship.objects.filter(tenant=stage.tenant, kind="mentions")[0]
        assert graph.things(stage.tenant, [link.target_id])[link.target_id].name == "It breaks"
    with tenant_scope(stage.stranger.id):
        link = Relationship.objects.filter(tenant=stage.stranger, kind="mentions")[0]
        assert graph.things(stage.stranger, [link.target_id]) == {}, "its own thing has not arrived"


def saying(said: Graph) -> dict[str, Any]:
    return {"things": [list(entity) for entity in said.entities], "links": [list(link) for link in said.relationships]}
