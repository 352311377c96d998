"""Search follows what comes to be of another kind, and is not misled where its index is behind."""

from django.db import migrations

from historical_sync.sql import FIND_ENTITIES, NOTE_NAMES

# Those that came to be of another kind while nobody noted it.
MOVE = """
UPDATE historical_sync_entityname n SET kind = one.kind FROM historical_sync_entity one WHERE one.id = n.thing_id AND one.kind <> n.kind
"""


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0017_search_order")]

    operations = [
        migrations.RunSQL(NOTE_NAMES, migrations.RunSQL.noop),
        migrations.RunSQL(MOVE, migrations.RunSQL.noop),
        migrations.RunSQL(FIND_ENTITIES, migrations.RunSQL.noop),
    ]
