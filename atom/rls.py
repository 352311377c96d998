"""Row-level security as a migration operation: every tenant-owned table carries it from its first migration."""

from __future__ import annotations

from django.db import migrations

from atom.tenancy import APP_ROLE, SYSTEM_ROLE

# Who finds them made needs no right to make them.
CREATE_ROLES = "".join(
    f"""
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE {role} NOLOGIN; END IF;
-- Roles belong to the whole server; another database of it may have made them, perhaps at this very moment.
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
"""
    for role in (APP_ROLE, SYSTEM_ROLE)
)

# The owner takes on both roles, and the functions that it owns see what they see. Since PostgreSQL 16 who makes a role is a member
# that may do neither until it grants itself that.
IS_MEMBER = f"""
SELECT bool_and(pg_has_role(current_user, oid, 'USAGE')
    AND pg_has_role(current_user, oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END))
FROM pg_roles WHERE rolname IN ('{APP_ROLE}', '{SYSTEM_ROLE}')
"""
GRANT_MEMBERSHIP = f"GRANT {APP_ROLE}, {SYSTEM_ROLE} TO CURRENT_USER"

GRANTS = f"""
GRANT USAGE ON SCHEMA public TO {APP_ROLE}, {SYSTEM_ROLE};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APP_ROLE}, {SYSTEM_ROLE};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {APP_ROLE}, {SYSTEM_ROLE};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {APP_ROLE}, {SYSTEM_ROLE};
REVOKE INSERT, UPDATE, DELETE ON django_migrations FROM {APP_ROLE}, {SYSTEM_ROLE};
"""


def protect(table: str, column: str = "tenant_id") -> migrations.RunSQL:
    """Force row-level security on `table`: under the run-time role only the rows of the current tenant exist.

    The sub-select makes PostgreSQL read the setting once a statement rather than once a row.
    """
    return migrations.RunSQL(
        f"""
        ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
        ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
        CREATE POLICY tenant_only ON {table} TO {APP_ROLE}
            USING ({column} = (SELECT NULLIF(current_setting('atom.tenant', true), '')::uuid));
        CREATE POLICY all_tenants ON {table} TO {SYSTEM_ROLE} USING (true);
        """,
        reverse_sql=f"""
        DROP POLICY tenant_only ON {table};
        DROP POLICY all_tenants ON {table};
        ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;
        """,
    )
