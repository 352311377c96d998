"""Functions that run as their owner are the run-time roles' alone, and look at no table that their caller made.

PostgreSQL looks for tables among the caller's temporary ones first, unless the path names those; and lets everybody call functions.
"""

from django.db import migrations

from atom.tenancy import APP_ROLE, SYSTEM_ROLE

EACH = """
DO $$
DECLARE
    one regprocedure;
BEGIN
    FOR one IN SELECT oid FROM pg_proc WHERE prosecdef AND starts_with(proname, 'atom_') AND pronamespace = current_schema()::regnamespace
    LOOP
        {}
    END LOOP;
END $$
"""
NARROW = f"""
        EXECUTE format('ALTER FUNCTION %s SET search_path = %s, pg_temp', one, current_setting('search_path'));
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', one);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {APP_ROLE}, {SYSTEM_ROLE}', one);
"""
WIDEN = """
        EXECUTE format('ALTER FUNCTION %s SET search_path FROM CURRENT', one);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', one);
"""


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0018_renewed")]

    operations = [migrations.RunSQL(EACH.format(NARROW), EACH.format(WIDEN))]
