"""Search within one connection looks through what its records are about, where those are few."""

from django.db import migrations

from historical_sync.sql import FIND_ENTITIES


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0012_links")]

    operations = [migrations.RunSQL(FIND_ENTITIES, migrations.RunSQL.noop)]
