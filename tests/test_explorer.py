"""What came in, searched and paged by people and programs, each in their own tenant."""

from __future__ import annotations

import asyncio
import re
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from django.core.cache import cache
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from atom.models import ApiKey
from atom.tenancy import tenant_scope
from historical_sync import graph, tidying, worker
from historical_sync.database import make_pool, tenant_transaction
from historical_sync.identity import entity_id, placeholder
from historical_sync.models import Address, Entity, SyncRecord
from historical_sync.searching import EntityName, NameBacklog, index_names
from tests.faults.stage import database_url
from tests.graphs import NOW, make_connection


def add(tenant: Any, name: str, kind: str = "person", into: Entity | None = None, **fields: Any) -> Entity:
    with tenant_scope(tenant.id):
        return Entity.objects.create(
            id=uuid.uuid4(), tenant=tenant, kind=kind, key=f"k:{uuid.uuid4()}", name=name,
            merged_into=into.id if into else None, **fields,
        )  # fmt: skip


def add_many(tenant: Any, kind: str, number: int) -> None:
    """Entities of the kind, named "Issue 0" and so on."""
    with tenant_scope(tenant.id):
        Entity.objects.bulk_create(
            Entity(id=uuid.uuid4(), tenant=tenant, kind=kind, key=f"{kind}:{n}", name=f"{kind.capitalize()} {n}")
            for n in range(number)
        )


def told(tenant: Any, entity: Entity, connection: Any, payload: Any = None, *said: tuple[str, uuid.UUID]) -> SyncRecord:
    """A record about the entity. said: (kind, other entity), "^kind" for what the other end is said to be."""
    with tenant_scope(tenant.id):
        return SyncRecord.objects.create(
            id=uuid.uuid4(), tenant=tenant, connection=connection, job_id=uuid.uuid4(), stream="people", external_id="1",
            occurred_at=NOW, payload=payload or {}, content_hash=uuid.uuid4(), entity_id=entity.id,
            link_kinds=" ".join(kind for kind, _ in said), link_ids=[other for _, other in said],
        )  # fmt: skip


def names(tenant: Any, query: str = "", *narrowed: Any, **more: Any) -> list[str]:
    with tenant_scope(tenant.id):
        return sorted(entity.name for entity in graph.search(tenant, query, *narrowed, **more))


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("jane", ["Jane Doe"]),
        ("DOE jan", ["Jane Doe"]),
        ("ja", ["Jane Doe"]),
        ("do", ["Jane Doe"]),
        ("ne", []),
        ("100%", ["100% of it"]),
        ("a_b", ["a_b"]),
        ("%", []),
        ("back\\", ["back\\slash"]),
        ("zoë", ["Zoë 日本語"]),
        ("日本語", ["Zoë 日本語"]),
        ("'; DROP TABLE x", []),
        ("\0", ["100% of it", "Jane Doe", "a_b", "axb", "back\\slash", "Zoë 日本語"]),
    ],
)
def test_names_are_found_by_their_words(cast: SimpleNamespace, query: str, found: list[str]) -> None:
    for name in ("Jane Doe", "100% of it", "a_b", "axb", "back\\slash", "Zoë 日本語"):
        add(cast.acme, name)
    add(cast.globex, "Jane of Globex")
    assert names(cast.acme, query) == sorted(found)


def test_nothing_is_found_for_a_tenant_that_is_not_the_scopes(cast: SimpleNamespace) -> None:
    add(cast.acme, "Jane Doe")
    with tenant_scope(cast.globex.id):
        assert graph.search(cast.acme, "jane") == []


def test_a_thing_is_found_once_by_the_names_of_all_its_keys_and_shown_by_the_best(cast: SimpleNamespace) -> None:
    jane = add(cast.acme, "jane@acme.test")
    add(cast.acme, "Jane Doe", into=jane, as_of=NOW, record_id=uuid.uuid4(), properties={"title": "CEO"})
    add(cast.acme, "jdoe", into=jane)
    for query in ("jane", "jdoe", "doe"):
        assert names(cast.acme, query) == ["Jane Doe"]
    with tenant_scope(cast.acme.id):
        assert graph.search(cast.acme, "jdoe")[0].properties == {"title": "CEO"}


def test_kind_and_source_narrow(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        crm, code = make_connection(cast.acme, "salesforce"), make_connection(cast.acme)
    jane, root = add(cast.acme, "Jane"), add(cast.acme, "Janet")
    add(cast.acme, "Janes issue", kind="issue")
    told(cast.acme, jane, crm)
    told(cast.acme, add(cast.acme, "j", into=root), code)
    assert names(cast.acme, "jan", "person") == ["Jane", "Janet"]
    assert names(cast.acme, "jan", "", crm.id) == ["Jane"]
    assert names(cast.acme, "", "", code.id) == ["Janet"]
    assert names(cast.acme, "j", "", code.id) == ["Janet"], "by the name of another key too"
    assert names(cast.acme, "jane", "issue", code.id) == []


@pytest.mark.parametrize("records", [3, 10_001], ids=["few", "many"])
def test_a_source_of_any_size_narrows_in_the_same_way(cast: SimpleNamespace, records: int) -> None:
    with tenant_scope(cast.acme.id):
        crm, code = make_connection(cast.acme, "salesforce"), make_connection(cast.acme)
    issues = [add(cast.acme, f"Issue {n}", kind="issue") for n in range(3)]
    told(cast.acme, add(cast.acme, "Issue of the CRM", kind="issue"), crm)
    with tenant_scope(cast.acme.id):
        SyncRecord.objects.bulk_create(
            SyncRecord(
                id=uuid.uuid4(), tenant=cast.acme, connection=code, job_id=uuid.uuid4(), stream="issues", external_id=str(n),
                occurred_at=NOW, payload={}, content_hash=uuid.uuid4(), entity_id=issues[n % 3].id,
            )
            for n in range(records)
        )  # fmt: skip
        first = graph.search(cast.acme, "issue", "", code.id, limit=2)
        rest = graph.search(cast.acme, "issue", "", code.id, after=f"issue {first[-1].id}")
    assert names(cast.acme, "", "", code.id) == ["Issue 0", "Issue 1", "Issue 2"]
    assert sorted(row.name for row in [*first, *rest]) == ["Issue 0", "Issue 1", "Issue 2"]
    assert names(cast.acme, "2", "issue", code.id) == ["Issue 2"]


@pytest.mark.parametrize("query", ["", "thing"])
def test_pages_hold_everything_once(cast: SimpleNamespace, query: str) -> None:
    for number in range(23):
        add(cast.acme, f"Thing {number}", kind=("issue", "person")[number % 2])
    seen: list[str] = []
    after = ""
    with tenant_scope(cast.acme.id):
        while page := graph.search(cast.acme, query, after=after, limit=5):
            seen += [entity.name for entity in page]
            after = f"{page[-1].kind} {page[-1].id}"
    assert sorted(seen) == sorted(f"Thing {number}" for number in range(23))


@pytest.mark.parametrize(("broken", "limit"), [(3_000, 700), (51_000, 20_000)])
def test_pages_hold_all_that_a_word_of_very_many_names_finds(cast: SimpleNamespace, broken: int, limit: int) -> None:
    """Most of them of the last kind: neither the order nor the index alone meets them all soon."""
    with tenant_scope(cast.acme.id), database.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO historical_sync_entity (id, tenant_id, kind, key, name, properties)
            SELECT gen_random_uuid(), %(tenant)s, CASE WHEN n <= 1500 THEN 'commit' WHEN n <= 1520 THEN 'issue' ELSE 'person' END, 'k:' || n,
                   CASE WHEN n <= 1500 THEN 'Whole ' ELSE 'Broken ' END || n, '{}'
            FROM generate_series(1, 1500 + %(broken)s) AS n
            """,
            {"tenant": cast.acme.id, "broken": broken},
        )
        cursor.execute(
            """
            INSERT INTO historical_sync_entityname (entity_id, tenant_id, name, kind, thing_id)
            SELECT id, tenant_id, name, kind, id FROM historical_sync_entity;
            DELETE FROM historical_sync_namebacklog
            """
        )
        merged = add(cast.acme, "broken, by another name", into=Entity.objects.filter(name="Whole 7").get())
        cursor.execute(
            """
            INSERT INTO historical_sync_entityname (entity_id, tenant_id, name, kind, thing_id)
            SELECT e.id, e.tenant_id, e.name, one.kind, one.id
            FROM historical_sync_entity e JOIN historical_sync_entity one ON one.id = e.merged_into WHERE e.id = %s
            """,
            [merged.id],
        )
        seen: list[tuple[str, uuid.UUID]] = []
        after = ""
        while page := graph.search(cast.acme, "broken", after=after, limit=limit):
            seen += [(entity.kind, entity.id) for entity in page]
            after = f"{page[-1].kind} {page[-1].id}"
        assert len(graph.search(cast.acme, "broken", "issue", limit=100)) == 20
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen) == broken + 1


@pytest.mark.django_db(transaction=True)
def test_a_search_looks_once_whatever_the_planner_knows_of_the_tenant(live_cast: SimpleNamespace) -> None:
    """A tenant that came in since PostgreSQL last counted is taken to have next to nothing."""

    def import_things(tenant: Any, number: int) -> None:
        with tenant_scope(tenant.id), database.cursor() as cursor:
            cursor.execute(
                """
                INSERT INTO historical_sync_entity (id, tenant_id, kind, key, name, properties)
                SELECT gen_random_uuid(), %s, 'issue', 'k:' || n, 'Issue ' || n, '{}' FROM generate_series(1, %s) AS n
                """,
                [tenant.id, number],
            )

    import_things(live_cast.globex, 42_000)
    with psycopg.connect(database_url(), autocommit=True) as owner:
        owner.execute("ANALYZE historical_sync_entity")
    import_things(live_cast.acme, 2_000)
    with tenant_scope(live_cast.acme.id), CaptureQueriesContext(database) as asked, database.cursor() as cursor:
        assert len(graph.search(live_cast.acme, "issue", limit=5)) == 5
        (search,) = [query["sql"] for query in asked.captured_queries if "atom_find_entities" in query["sql"]]
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {search}")
        plans = [cursor.fetchone()[0][0]["Plan"]]
    looks = []
    for plan in plans:
        plans += plan.get("Plans", [])
        if plan["Node Type"] == "ProjectSet":
            looks.append(plan["Actual Loops"])
    assert looks == [1]


def test_a_things_page_says_where_each_property_comes_from_and_shows_records_to_members_only(
    cast: SimpleNamespace, signed_in: Any
) -> None:
    with tenant_scope(cast.acme.id):
        crm, code = make_connection(cast.acme, "salesforce"), make_connection(cast.acme)
    jane = add(cast.acme, "jane@acme.test")
    for connection, properties in (
        (crm, {"title": "CEO", "until": "9999-12-31T23:59:59-08:00"}),
        (code, {"company": "Acme"}),
    ):
        record = told(cast.acme, jane, connection, {"note": "<script>alert(1)</script>"})
        add(cast.acme, "Jane Doe", into=jane, as_of=NOW, record_id=record.id, properties=properties)
    page = signed_in(cast.bob).get(f"/entities/{jane.id}").content.decode()
    assert "known in 3 ways" in page
    assert page.index("CEO") < page.index("Salesforce")
    assert "9999-12-31T23:59:59-08:00" in page, "a time that no clock of UTC shows"
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "alert(1)" not in signed_in(cast.vera).get(f"/entities/{jane.id}").content.decode()


@pytest.fixture
def program(cast: SimpleNamespace) -> Any:
    """program(path, **query) -> (status, JSON), as a viewer's key of Acme."""
    from django.test import Client

    with tenant_scope(cast.acme.id):
        _, key = ApiKey.objects.create_key(tenant=cast.acme, role="viewer", name="reader")

    def get(path: str, **query: Any) -> tuple[int, Any]:
        reply = Client().get(f"/api/{path}", query, headers={"Authorization": f"Api-Key {key}"})
        return reply.status_code, reply.json()

    return get


def test_a_program_pages_through_entities_and_relationships(cast: SimpleNamespace, program: Any) -> None:
    cache.clear()
    jane = add(cast.acme, "jane@acme.test")
    alias = add(cast.acme, "Jane Doe", into=jane, as_of=NOW, record_id=uuid.uuid4(), properties={"title": "CEO"})
    missing = uuid.uuid4()
    with tenant_scope(cast.acme.id):
        connections = [make_connection(cast.acme), make_connection(cast.acme, "jira")]
        for number in range(5):
            issue = add(cast.acme, f"Issue {number}", kind="issue")
            told(cast.acme, issue, connections[number % 2], {}, ("mentions", alias.id), ("^mentions", missing))
    for path, total in (("entities", 6), ("relationships", 10)):
        seen, cursor = [], ""
        while True:
            status, page = program(path, page_size=4, cursor=cursor)
            assert status == 200
            seen += page["results"]
            cursor = page["next"]
            if cursor is None:
                break
        assert len(seen) == total
        assert len({str(row) for row in seen}) == total
    status, page = program("relationships", kind="mentioned")
    assert page == {"next": None, "results": []}
    status, page = program("relationships", entity=alias.id, kind="mentions")
    assert [row["target"]["name"] for row in page["results"]] == ["Jane Doe"] * 5
    assert {row["target"]["id"] for row in page["results"]} == {str(jane.id)}
    status, page = program("relationships")
    assert {"id": str(missing), "kind": None, "name": None} in [row["source"] for row in page["results"]]
    status, found = program(f"entities/{alias.id}")
    assert (found["id"], found["name"], found["also_known_as"]) == (str(jane.id), "Jane Doe", [alias.key])
    assert found["property_records"] == {"title": str(alias.record_id)}


def keyed(tenant: Any, key: str, **fields: Any) -> Entity:
    """A person that goes by the key."""
    with tenant_scope(tenant.id):
        return Entity.objects.create(
            id=uuid.UUID(bytes=entity_id(tenant.id.bytes, key)), tenant=tenant, kind="person", key=key,
            name=placeholder(key), **fields,
        )  # fmt: skip


def test_a_thing_is_found_by_any_of_its_keys(cast: SimpleNamespace, program: Any, signed_in: Any) -> None:
    """As its page and the API write them. A program that has an address or a number had to guess its name and search."""
    jane = keyed(
        cast.acme, "person:email:jane@acme.test", as_of=NOW, record_id=uuid.uuid4(), properties={"title": "CEO"}
    )
    login = keyed(
        cast.acme, "github:user:7", merged_into=jane.id, as_of=NOW, record_id=uuid.uuid4(), properties={"login": "jd"}
    )
    keyed(cast.globex, "github:user:8")
    with tenant_scope(cast.acme.id):
        address = "jira:site/acme.atlassian.net/browse/WEB-1"
        Address.objects.create(
            id=uuid.UUID(bytes=entity_id(cast.acme.id.bytes, address)), tenant=cast.acme, key=address, within_id=uuid.uuid4(),
            leads_to=login.id,
        )  # fmt: skip
    for key in (jane.key, login.key, address):
        with CaptureQueriesContext(database) as queries:
            status, page = program("entities", key=key)
        assert (status, page["next"], [row["id"] for row in page["results"]]) == (200, None, [str(jane.id)]), key
        [row] = page["results"]
        assert (row["key"], row["properties"]) == (jane.key, {"title": "CEO", "login": "jd"})
        assert len(queries) <= 10, [one["sql"][:150] for one in queries]
    for key in ("github:user:8", "github:user:9", "jane", "", "\0", " github:user:7", "k" * 600):
        assert program("entities", key=key) == (200, {"next": None, "results": []}), key
    explorer = signed_in(cast.vera)
    for key in (login.key, f" {login.key} "):
        assert f"/entities/{jane.id}" in explorer.get("/entities", {"q": key}).content.decode(), key
    for query in ({"q": "github:user:8"}, {"q": login.key, "kind": "issue"}):
        assert f"/entities/{jane.id}" not in explorer.get("/entities", query).content.decode(), query


def test_a_page_of_relationships_looks_through_so_many_records(
    cast: SimpleNamespace, program: Any, monkeypatch: Any
) -> None:
    """Of a kind that few records have, or none, a program is told where to go on: a million of them took as long as it took."""
    monkeypatch.setattr(graph, "LOOKED_THROUGH", 4)
    repository = add(cast.acme, "acme/web", kind="repository")
    with tenant_scope(cast.acme.id):
        for provider, odd in (("salesforce", None), ("jira", 3)):
            connection = make_connection(cast.acme, provider)
            for number in range(10):
                issue = add(cast.acme, f"Issue {number}", kind="issue")
                told(cast.acme, issue, connection, {}, ("blocks" if number == odd else "part_of", repository.id))
            told(cast.acme, add(cast.acme, "Alone"), connection, {})
    for query, total in (
        ({"kind": "blocks"}, 1),
        ({"kind": "nope"}, 0),
        ({"kind": "nope", "entity": repository.id}, 0),
        ({"kind": "part_of", "entity": repository.id}, 19),
        ({}, 20),
    ):
        seen, cursor, pages = [], "", 0
        while cursor is not None:
            with CaptureQueriesContext(database) as queries:
                status, page = program("relationships", cursor=cursor, **query)
            assert (status, len(queries) <= 12) == (200, True), [one["sql"][:150] for one in queries]
            seen += page["results"]
            cursor, pages = page["next"], pages + 1
        assert (len(seen), len({one["record_id"] for one in seen})) == (total, total)
        assert 5 <= pages <= 12


def nine_issues(tenant: Any) -> tuple[Entity, Any]:
    """A repository that nine records speak of, and their connection."""
    repository = add(tenant, "acme/web", kind="repository")
    with tenant_scope(tenant.id):
        connection = make_connection(tenant)
        for number in range(9):
            issue = add(tenant, f"Issue {number}", kind="issue")
            told(tenant, issue, connection, {}, ("part_of", repository.id))
    return repository, connection


def test_a_page_of_what_many_records_say_is_looked_for_once(cast: SimpleNamespace, program: Any) -> None:
    """Along the records of a connection that there is: by the indexes all that speak of the thing were read and sorted for a first page, and
    five thousand records looked through for each later one."""
    repository, connection = nine_issues(cast.acme)
    for query in ({"entity": repository.id}, {}):
        cursor = ""
        for _ in range(2):
            with CaptureQueriesContext(database) as queries:
                _, page = program("relationships", cursor=cursor, page_size=3, **query)
            looks = [
                one["sql"] for one in queries if re.search(r"atom_records_about\(|syncrecord\".\"id\" >= ", one["sql"])
            ]
            assert (len(page["results"]), len(looks)) == (3, 1), looks
            assert connection.id.hex in looks[0].replace("-", "")
            cursor = page["next"]


def test_a_page_that_records_are_removed_from_meanwhile_is_not_taken_for_the_last(
    cast: SimpleNamespace, program: Any
) -> None:
    repository, _ = nine_issues(cast.acme)
    with tenant_scope(cast.acme.id):
        first = list(SyncRecord.objects.order_by("id").values_list("id", flat=True)[:2])

    def removed(execute: Any, sql: str, *given: Any) -> Any:
        answer = execute(sql, *given)
        if "atom_records_about(" in sql:
            with database.cursor() as cursor:
                cursor.execute("DELETE FROM historical_sync_syncrecord WHERE id = ANY(%s)", [first])
        return answer

    with database.execute_wrapper(removed):
        _, page = program("relationships", entity=repository.id, page_size=3)
    assert len(page["results"]) == 3
    assert page["next"]


def test_what_is_said_of_a_thing_is_found_whatever_the_number_of_connections(
    cast: SimpleNamespace, program: Any
) -> None:
    with tenant_scope(cast.acme.id):
        connections = sorted((make_connection(cast.acme) for _ in range(12)), key=lambda one: one.id)
        repository = add(cast.acme, "acme/web", kind="repository")
        for connection in (connections[7], connections[-1]):
            told(cast.acme, add(cast.acme, "Issue", kind="issue"), connection, {}, ("part_of", repository.id))
    program("entities")  # the key's first use of a day is noted
    with CaptureQueriesContext(database) as queries:
        _, page = program("relationships", entity=repository.id)
    assert [row["target"]["name"] for row in page["results"]] == ["acme/web"] * 2
    assert len(queries) < 12, [query["sql"][:150] for query in queries]


@pytest.mark.parametrize(
    ("path", "query", "status", "attr"),
    [
        ("entities", {"cursor": "x"}, 400, "cursor"),
        ("entities", {"cursor": "AAAA"}, 400, "cursor"),
        ("entities", {"cursor": "YSBiADAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMA=="}, 400, "cursor"),
        ("relationships", {"cursor": "cGVyc29uADE="}, 400, "cursor"),
        ("entities", {"page_size": "0"}, 400, "page_size"),
        ("entities", {"page_size": "²"}, 400, "page_size"),
        ("entities", {"q": "x" * 101}, 400, "q"),
        ("entities", {"kind": "a\0b"}, 400, "kind"),
        ("entities", {"source": "1"}, 400, "source"),
        ("entities", {"key": "k" * 601}, 400, "key"),
        ("entities", {"key": "github:user:7", "q": "jane"}, 400, "key"),
        ("entities", {"key": "github:user:7", "kind": "person"}, 400, "key"),
        ("entities", {"key": "github:user:7", "source": str(uuid.UUID(int=7))}, 400, "key"),
        ("relationships", {"entity": "1"}, 400, "entity"),
        ("relationships", {"entity": str(uuid.uuid4())}, 404, None),
        ("entities/1", {}, 404, None),
    ],
)
def test_bad_questions_get_clear_answers(program: Any, path: str, query: Any, status: int, attr: str | None) -> None:
    got, body = program(path, **query)
    assert got == status
    assert body["errors"][0]["attr"] == attr


# -- the index of names -----------------------------------------------------------------------------------------------------


def indexed(**options: Any) -> int:
    """Brings the index up to date, as a worker does; how many times it had something to do."""

    async def run() -> int:
        pool = make_pool(1)
        await pool.open()
        try:
            times = 0
            while await index_names(pool, **options):
                times += 1
            return times
        finally:
            await pool.close()

    return asyncio.run(run())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("importing", "busy", "waited", "left"),
    [
        (False, False, 0, 0),
        (True, False, 50, 30),
        (True, False, 70, 10),
        (True, True, 290, 30),
        (True, True, 310, 10),
    ],
)
def test_names_wait_longer_the_less_time_a_worker_has(
    live_cast: SimpleNamespace, importing: bool, busy: bool, waited: int, left: int
) -> None:
    """left: of thirty statements' names, of which a share is taken at a time beside an import."""
    acme = live_cast.acme
    with tenant_scope(acme.id):
        for n in range(30):
            Entity.objects.create(tenant=acme, id=uuid.uuid4(), kind="person", key=f"k:{n}", name=f"Person {n}")
        NameBacklog.objects.filter(tenant=acme).update(noted_at=timezone.now() - timedelta(seconds=waited))

    async def run() -> None:
        pool = make_pool(1)
        await pool.open()
        try:
            engine = SimpleNamespace(
                pool=pool, leases={"a": "lease"} if importing else {}, buffer=SimpleNamespace(is_busy=lambda: busy)
            )
            await worker.index_names(cast(Any, engine))
        finally:
            await pool.close()

    asyncio.run(run())
    with tenant_scope(acme.id):
        assert NameBacklog.objects.filter(tenant=acme).count() == left
        assert EntityName.objects.filter(tenant=acme).count() == 30 - left


@pytest.mark.django_db(transaction=True)
def test_what_is_taken_out_while_names_are_indexed_leaves_no_name(live_cast: SimpleNamespace) -> None:
    acme = live_cast.acme
    gone, stays = add(acme, "Ada Gone"), add(acme, "Bo Stays")

    async def run() -> None:
        pool = make_pool(2)
        await pool.open()
        try:
            async with tenant_transaction(pool, str(acme.id)) as cursor:
                await tidying.alone(cursor.connection, str(acme.id))
                await cursor.execute("DELETE FROM historical_sync_entity WHERE id = %s", [gone.id])
                indexing = asyncio.create_task(index_names(pool))
                waiting = """
                    SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                                   WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database())
                """
                while not indexing.done() and await (await cursor.execute(waiting)).fetchone() != (True,):
                    await asyncio.sleep(0.01)
            assert await indexing
        finally:
            await pool.close()

    asyncio.run(run())
    with tenant_scope(acme.id):
        assert list(EntityName.objects.filter(tenant=acme).values_list("entity_id", flat=True)) == [stays.id]


@pytest.mark.django_db(transaction=True)
def test_the_index_of_names_follows_what_is_written(live_cast: SimpleNamespace, signed_in: Any) -> None:
    acme, globex = live_cast.acme, live_cast.globex

    def admits_gaps(user: Any = live_cast.bob, **query: str) -> bool:
        return "some of it may be missing here" in signed_in(user).get("/entities", query).content.decode()

    with tenant_scope(acme.id):
        people = [
            Entity(id=uuid.uuid4(), tenant=acme, kind="person", key=f"k:{n}", name=f"Person {n}") for n in range(6000)
        ]
        Entity.objects.bulk_create(people)  # more than the part that is looked through in order
        last = max(people, key=lambda person: person.id)
        Entity.objects.filter(tenant=acme, id=last.id).update(name="Zaphod")
    add(globex, "Zaphod")
    assert names(acme, "zaph") == ["Zaphod"], "before it is indexed"
    assert admits_gaps(q="zaph")
    assert not admits_gaps(), "what is listed in order needs no index"
    assert not admits_gaps(live_cast.charlie, q="zaph")
    assert indexed(older_than=60) == 0, "a worker that imports lets it wait"
    assert indexed() > 0
    with tenant_scope(acme.id):
        assert EntityName.objects.filter(tenant=acme).count() == 6000
        assert NameBacklog.objects.filter(tenant=acme).count() == 0
    assert names(acme, "zaph") == ["Zaphod"]
    assert not admits_gaps(q="zaph")
    with tenant_scope(acme.id):
        Entity.objects.filter(tenant=acme, id=last.id).update(name="Marvin")
    assert names(acme, "zaph") == [], "what the index says is looked at again"
    assert names(acme, "marv") == ["Marvin"]
    indexed()
    with tenant_scope(acme.id):
        Entity.objects.filter(tenant=acme, id=last.id).update(as_of=NOW)
        assert NameBacklog.objects.filter(tenant=acme).count() == 0, "its name is what it was"
        Entity.objects.filter(tenant=acme, id=last.id).delete()
        assert not EntityName.objects.filter(tenant=acme, entity_id=last.id).exists()
    assert names(acme, "marv") == []
    assert names(globex, "zaph") == ["Zaphod"]


@pytest.mark.django_db(transaction=True)
def test_a_name_is_found_where_the_thing_stands_that_it_was_merged_into(live_cast: SimpleNamespace) -> None:
    """Beyond what is looked through in order, so that the index and its backlog are what finds it."""
    acme = live_cast.acme
    add_many(acme, "issue", 2100)
    one, other = add(acme, "Arthur Dent"), add(acme, "Sandwich maker")
    indexed()
    assert names(acme, "sandwich") == ["Sandwich maker"]
    with tenant_scope(acme.id):
        Entity.objects.filter(id=other.id).update(merged_into=one.id)

    def found() -> list[uuid.UUID]:
        with tenant_scope(acme.id):
            return [entity.id for entity in graph.search(acme, "sandwich")]

    assert found() == [one.id], "before it is indexed"
    indexed()
    with tenant_scope(acme.id):
        assert NameBacklog.objects.filter(tenant=acme).count() == 0
    assert found() == [one.id]
    with tenant_scope(acme.id):
        Entity.objects.filter(id=other.id).update(merged_into=None)
    indexed()
    assert found() == [other.id]


@pytest.mark.django_db(transaction=True)
def test_what_comes_to_be_of_another_kind_is_found_there_once_by_all_of_its_names(live_cast: SimpleNamespace) -> None:
    """A mention says less than the thing's own record does. Beyond what is looked through in order."""
    acme = live_cast.acme
    add_many(acme, "issue", 2100)
    one = add(acme, "Arthur Dent", kind="link")
    other = add(acme, "Sandwich maker", kind="link", into=one)
    indexed()
    with tenant_scope(acme.id):
        Entity.objects.filter(id=one.id).update(kind="person")

    def found(query: str, kind: str = "") -> list[uuid.UUID]:
        with tenant_scope(acme.id):
            return [entity.id for entity in graph.search(acme, query, kind)]

    assert found("arthur", "person") == [one.id], "before it is indexed"
    assert found("arthur", "link") == found("sandwich", "link") == []
    with tenant_scope(acme.id):
        Entity.objects.filter(id=other.id).update(name="Arthur, maker of sandwiches")
    assert found("arthur") == [one.id]
    indexed()
    assert found("sandwich", "person") == found("arthur", "person") == found("arthur") == [one.id]
    assert found("arthur", "link") == found("sandwich", "link") == []
    with tenant_scope(acme.id):
        assert set(EntityName.objects.filter(thing_id=one.id).values_list("kind", flat=True)) == {"person"}


@pytest.mark.django_db(transaction=True)
def test_what_is_indexed_is_found_while_its_new_place_waits_behind_a_large_import(live_cast: SimpleNamespace) -> None:
    acme = live_cast.acme
    add_many(acme, "issue", 2100)
    one, other, third = add(acme, "Arthur Dent"), add(acme, "Sandwich maker"), add(acme, "Ford")
    add(acme, "Prefect", into=third)
    indexed()
    with tenant_scope(acme.id):
        Entity.objects.filter(id=other.id).update(merged_into=one.id)
        Entity.objects.filter(id=third.id).update(kind="robot")
        Entity.objects.filter(name="Prefect").update(merged_into=None)
    add_many(acme, "message", 5001)  # more names, not indexed yet, than search looks through
    with tenant_scope(acme.id):
        assert [entity.id for entity in graph.search(acme, "sandwich")] == [one.id]
    assert names(acme, "ford", "robot") == ["Ford"]
    assert names(acme, "prefect") == ["Prefect"]


@pytest.mark.django_db(transaction=True)
def test_what_is_met_in_order_is_found_before_it_is_indexed(live_cast: SimpleNamespace) -> None:
    acme = live_cast.acme
    add(acme, "Sandwich maker", kind="artist")
    add_many(acme, "message", 5001)  # more names, not indexed yet, than search looks through
    assert names(acme, "sandwich") == names(acme, "sandwich", "artist") == ["Sandwich maker"]


def test_pages_go_on_within_a_kind_past_a_gap_in_what_a_word_of_very_many_names_finds(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id), database.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO historical_sync_entity (id, tenant_id, kind, key, name, properties)
            SELECT lpad(to_hex(n), 32, '0')::uuid, %s, CASE WHEN n <= 2520 THEN 'issue' ELSE 'person' END, 'k:' || n,
                   CASE WHEN n BETWEEN 11 AND 2510 THEN 'Whole ' ELSE 'Broken ' END || n, '{}'
            FROM generate_series(1, 54000) AS n
            """,
            [cast.acme.id],
        )
        cursor.execute(
            """
            INSERT INTO historical_sync_entityname (entity_id, tenant_id, name, kind, thing_id)
            SELECT id, tenant_id, name, kind, id FROM historical_sync_entity;
            DELETE FROM historical_sync_namebacklog
            """
        )
        seen: list[str] = []
        after = ""
        for _ in range(5):
            page = graph.search(cast.acme, "broken", after=after, limit=5)
            seen += [entity.name for entity in page]
            after = f"{page[-1].kind} {page[-1].id}"
    assert seen == [f"Broken {n}" for n in (*range(1, 11), *range(2511, 2526))]


def test_what_has_no_name_has_words_to_follow(cast: SimpleNamespace, signed_in: Any) -> None:
    nameless, known = add(cast.acme, " ", "page"), add(cast.acme, "Ada")
    with tenant_scope(cast.acme.id):
        connection = make_connection(cast.acme)
    told(cast.acme, known, connection, None, ("wrote", nameless.id))
    client = signed_in(cast.alice)
    for path in ("/entities", f"/entities/{known.id}"):
        assert f'href="/entities/{nameless.id}">Without a name</a>' in client.get(path).content.decode()
    assert "<title>Without a name" in client.get(f"/entities/{nameless.id}").content.decode()
