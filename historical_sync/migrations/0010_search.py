"""Search as you type over entities, for the run-time role: see docs/decisions/0006-search.md."""

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import TrigramExtension
from django.db import migrations, models

from historical_sync.sql import DROP_FIND_ENTITIES, FIND_ENTITIES


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0009_notices")]

    operations = [
        TrigramExtension(),
        migrations.AddIndex(
            model_name="entity",
            index=models.Index(
                condition=models.Q(("merged_into__isnull", True)), fields=["tenant", "kind", "id"], name="entity_listing"
            ),
        ),
        migrations.AddIndex(
            model_name="entity", index=GinIndex(fields=["name"], name="entity_name", opclasses=["gin_trgm_ops"])
        ),
        migrations.RunSQL(FIND_ENTITIES, DROP_FIND_ENTITIES),
    ]
