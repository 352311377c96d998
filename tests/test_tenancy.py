"""Tenants see nothing of each other: in the database, whatever the code forgets; and at every address."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.db.utils import DatabaseError

from atom.models import ApiKey, Membership
from atom.tenancy import across_tenants, tenant_scope
from tests.graphs import one_of_everything

pytestmark = pytest.mark.django_db


def tenant_owned(*, views: bool = False) -> list[str]:
    owned = [m._meta for m in apps.get_models() if any(f.name == "tenant" for f in m._meta.fields)]
    return sorted(meta.db_table for meta in owned if meta.managed or views)


def test_every_tenant_owned_table_forces_row_level_security() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, count(p.polname)
            FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid
            WHERE c.relname = ANY(%s) GROUP BY 1, 2, 3
            """,
            [tenant_owned()],
        )
        found = {row[0]: row[1:] for row in cursor.fetchall()}
    assert set(found) == set(tenant_owned())
    assert len(found) > 10
    assert {
        name for name, (enabled, forced, policies) in found.items() if not (enabled and forced and policies == 2)
    } == set()


def test_a_table_with_a_tenant_column_is_known_as_tenant_owned() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name FROM information_schema.columns WHERE column_name = 'tenant_id' AND table_schema = 'public'"
        )
        assert sorted(row[0] for row in cursor.fetchall()) == tenant_owned(views=True)


def test_every_view_reads_as_who_asks() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, reloptions FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace = 'public'::regnamespace"
        )
        found = dict(cursor.fetchall())
    assert "historical_sync_relationship" in found
    assert [name for name, options in found.items() if "security_invoker=true" not in (options or ())] == []


def test_the_run_time_role_owns_nothing_and_cannot_bypass() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("atom_app",)
        cursor.execute("SELECT rolbypassrls, rolsuper FROM pg_roles WHERE rolname IN ('atom_app', 'atom_system')")
        assert cursor.fetchall() == [(False, False), (False, False)]
        cursor.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname LIKE 'atom_%%'"
        )
        assert cursor.fetchone() == (0,)


def test_what_runs_as_its_owner_is_for_the_run_time_roles_alone() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT proname, proconfig, has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc"
            " WHERE prosecdef AND pronamespace = 'public'::regnamespace"
        )
        found = cursor.fetchall()
    assert len(found) >= 3
    for name, settings, for_all in found:
        assert [one for one in settings if one.startswith("search_path=") and one.endswith(", pg_temp")], name
        assert not for_all, name


def test_what_runs_as_its_owner_looks_at_no_table_that_its_caller_made(cast: SimpleNamespace) -> None:
    here = str(cast.acme.id)
    with tenant_scope(here), connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP VIEW historical_sync_syncrecord AS"
            f" SELECT '{here}'::uuid AS id, '{here}'::uuid AS tenant_id, ARRAY['{here}'::uuid] AS link_ids"
        )
        cursor.execute("SELECT * FROM atom_records_linking(%s, ARRAY[%s]::uuid[], 10)", [here, here])
        assert cursor.fetchall() == []


def test_plain_sql_sees_nothing_of_another_tenant(cast: SimpleNamespace) -> None:
    one_of_everything(cast.acme)
    seen: dict[str, dict[str, int]] = {"acme": {}, "globex": {}, "nobody": {}}
    with connection.cursor() as outer:
        assert outer is not None
    for name, tenant in (("acme", cast.acme), ("globex", cast.globex), ("nobody", None)):
        for table in tenant_owned():
            if tenant is None:
                with connection.cursor() as cursor:
                    cursor.execute(f"SELECT count(*) FROM {table}")
                    seen[name][table] = cursor.fetchone()[0]
            else:
                with tenant_scope(tenant.id), connection.cursor() as cursor:
                    cursor.execute(f"SELECT count(*) FROM {table} WHERE tenant_id <> %s", [cast.globex.id])
                    seen[name][table] = cursor.fetchone()[0]
    assert all(count >= 1 for count in seen["acme"].values()), seen["acme"]
    assert set(seen["globex"].values()) == {0}
    assert set(seen["nobody"].values()) == {0}


@pytest.mark.parametrize("statement", ["UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}"])
def test_plain_sql_changes_nothing_of_another_tenant(cast: SimpleNamespace, statement: str) -> None:
    one_of_everything(cast.acme)
    for table in tenant_owned():
        with tenant_scope(cast.globex.id), connection.cursor() as cursor:
            cursor.execute(statement.format(table) + " WHERE tenant_id <> %s", [cast.globex.id])
            assert cursor.rowcount == 0, table


def test_a_row_cannot_be_written_into_another_tenant(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.globex.id), pytest.raises(DatabaseError, match="row-level security"), transaction.atomic():
        Membership.objects.create(tenant=cast.acme, user=cast.charlie, role="owner")


def test_the_scope_ends_with_its_block(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.acme.id):
        assert Membership.objects.count() == 3
        with tenant_scope(cast.globex.id):
            assert Membership.objects.count() == 1
        assert Membership.objects.count() == 3
        with across_tenants("a test"):
            assert Membership.objects.count() == 4
    assert Membership.objects.count() == 0


def test_a_rolled_back_transaction_does_not_leave_its_scope_behind(cast: SimpleNamespace) -> None:
    class Stop(Exception):
        pass

    def fail(inside: Any) -> None:
        with transaction.atomic(), tenant_scope(inside.id):
            assert Membership.objects.count() in (1, 3)
            raise Stop

    for tenant in (cast.acme, cast.globex):
        with pytest.raises(Stop):
            fail(tenant)
        assert Membership.objects.count() == 0


def test_an_api_key_belongs_to_one_tenant(cast: SimpleNamespace) -> None:
    from atom.access import actor_for_key

    with tenant_scope(cast.acme.id):
        _, key = ApiKey.objects.create_key(tenant=cast.acme, role="viewer", name="report")
    actor = actor_for_key(key)
    assert actor is not None
    assert (actor.tenant, actor.role) == (cast.acme, "viewer")
    assert actor_for_key(key[:-1] + ("y" if key.endswith("x") else "x")) is None
    with tenant_scope(cast.acme.id):
        ApiKey.objects.update(revoked=True)
    assert actor_for_key(key) is None


def test_a_savepoint_goes_back_after_an_error_in_whatever_scope(cast: SimpleNamespace) -> None:
    with tenant_scope(cast.globex.id), transaction.atomic():
        with (
            pytest.raises(DatabaseError, match="division by zero"),
            transaction.atomic(),
            tenant_scope(cast.acme.id),
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT 1 / 0")
        assert Membership.objects.get().tenant_id == cast.globex.id, "the scope is applied again"
