"""What a record says moves into the record: see docs/decisions/0007-links-in-the-record.md."""

import django.contrib.postgres.fields
from django.contrib.postgres.indexes import GinIndex
from django.db import migrations, models

from historical_sync.sql import (
    DROP_RECORDS_ABOUT,
    DROP_RECORDS_LINKING,
    DROP_RELATIONSHIP_VIEW,
    RECORDS_ABOUT,
    RECORDS_LINKING,
    RELATIONSHIP_VIEW,
)

MOVE = """
UPDATE historical_sync_syncrecord r SET link_kinds = said.kinds, link_ids = said.ids
FROM (
    SELECT s.id,
           string_agg(CASE WHEN l.source_id = s.entity_id THEN l.kind ELSE '^' || l.kind END, ' ' ORDER BY l.kind, l.source_id, l.target_id) AS kinds,
           array_agg(CASE WHEN l.source_id = s.entity_id THEN l.target_id ELSE l.source_id END ORDER BY l.kind, l.source_id, l.target_id) AS ids
    FROM historical_sync_relationship l JOIN historical_sync_syncrecord s ON s.id = l.record_id GROUP BY s.id
) said
WHERE said.id = r.id;
"""


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0011_addresses")]

    operations = [
        migrations.AddField("syncrecord", "link_kinds", models.TextField(blank=True, default="")),
        migrations.AddField(
            "syncrecord",
            "link_ids",
            django.contrib.postgres.fields.ArrayField(models.UUIDField(), blank=True, default=list),
        ),
        migrations.RunSQL(MOVE, migrations.RunSQL.noop),
        migrations.DeleteModel("relationship"),
        migrations.RemoveIndex("syncrecord", "record_of_connection"),
        migrations.AddIndex("syncrecord", models.Index(fields=["connection", "id"], name="record_of_connection")),
        migrations.AddIndex("syncrecord", GinIndex(fields=["link_ids"], name="record_links")),
        migrations.CreateModel(
            name="Relationship",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "record_id", "position", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("record_id", models.UUIDField()),
                ("position", models.BigIntegerField()),
                ("kind", models.TextField()),
                ("source_id", models.UUIDField()),
                ("target_id", models.UUIDField()),
                (
                    "tenant",
                    models.ForeignKey(
                        on_delete=models.deletion.DO_NOTHING, related_name="+", to="atom.tenant"
                    ),
                ),
            ],
            options={"db_table": "historical_sync_relationship", "managed": False},
        ),
        migrations.RunSQL(RELATIONSHIP_VIEW, DROP_RELATIONSHIP_VIEW),
        migrations.RunSQL(RECORDS_LINKING, DROP_RECORDS_LINKING),
        migrations.RunSQL(RECORDS_ABOUT, DROP_RECORDS_ABOUT),
    ]
