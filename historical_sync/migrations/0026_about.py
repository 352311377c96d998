"""What records say of an entity is found in all connections at once."""

from importlib import import_module

from django.db import migrations

from historical_sync.sql import RECORDS_ABOUT

# A function that is replaced has its settings anew.
AS_OWNER = import_module("historical_sync.migrations.0019_as_owner")
NARROW = AS_OWNER.EACH.format(AS_OWNER.NARROW)

BEFORE = """
CREATE OR REPLACE FUNCTION atom_records_about(of_tenant uuid, entities uuid[], of_connection uuid, first_id uuid, most int)
RETURNS SETOF uuid LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path FROM CURRENT SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF of_tenant = NULLIF(current_setting('atom.tenant', true), '')::uuid THEN
        RETURN QUERY SELECT r.id FROM historical_sync_syncrecord r
            WHERE r.connection_id = of_connection AND r.tenant_id = of_tenant AND r.id >= first_id
              AND (r.entity_id = ANY(entities) OR r.link_ids && entities)
            ORDER BY r.id LIMIT most;
    END IF;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0025_waited")]

    operations = [migrations.RunSQL([RECORDS_ABOUT, NARROW], [BEFORE, NARROW])]
