"""Search knows of what it finds where it stands among all, and reads the names that are not in the index yet where they are noted."""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
from django.db import migrations, models

from historical_sync.sql import FIND_ENTITIES, NOTE_NAMES

FILL_BACKLOG = """
UPDATE historical_sync_namebacklog b SET names = (
    SELECT array_agg(COALESCE(e.name, '') ORDER BY noted.place)
    FROM unnest(b.entity_ids) WITH ORDINALITY AS noted(id, place) LEFT JOIN historical_sync_entity e ON e.id = noted.id)
"""
# Rows live for minutes: to compress them costs an import more than the room that it saves.
PLAIN = """
ALTER TABLE historical_sync_namebacklog ALTER entity_ids SET STORAGE EXTERNAL, ALTER names SET STORAGE EXTERNAL
"""
FILL = """
INSERT INTO historical_sync_entityname (entity_id, tenant_id, name, kind, thing_id)
SELECT e.id, e.tenant_id, e.name, COALESCE(one.kind, e.kind), COALESCE(one.id, e.id)
FROM historical_sync_entity e LEFT JOIN historical_sync_entity one ON one.id = e.merged_into
"""
INDEX = django.contrib.postgres.indexes.GinIndex(fields=["name"], name="entity_name", opclasses=["gin_trgm_ops"])


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0016_search_all")]

    operations = [
        # Filled anew, and its index after it: quicker than to change each row.
        migrations.RemoveIndex("entityname", "entity_name"),
        migrations.RunSQL("TRUNCATE historical_sync_entityname", migrations.RunSQL.noop),
        migrations.AddField("entityname", "kind", models.CharField(max_length=40)),
        migrations.AddField("entityname", "thing_id", models.UUIDField()),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
        migrations.AddIndex("entityname", INDEX),
        migrations.AddField(
            "namebacklog",
            "names",
            django.contrib.postgres.fields.ArrayField(models.TextField(), default=list),
            preserve_default=False,
        ),
        migrations.RunSQL(PLAIN, migrations.RunSQL.noop),
        migrations.RunSQL(FILL_BACKLOG, migrations.RunSQL.noop),
        migrations.RunSQL(NOTE_NAMES),  # there is no way back: it fills the new columns
        migrations.RunSQL(FIND_ENTITIES, migrations.RunSQL.noop),
    ]
