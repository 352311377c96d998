"""Search pages through all that a word finds: see docs/decisions/0006-search.md."""

from django.db import migrations

from historical_sync.sql import FIND_ENTITIES


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0015_search_backlog")]

    operations = [migrations.RunSQL(FIND_ENTITIES, migrations.RunSQL.noop)]
