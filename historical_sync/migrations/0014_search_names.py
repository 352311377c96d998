"""The index of names in a table of its own, kept behind the imports: see docs/decisions/0006-search.md."""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from atom.rls import protect
from historical_sync.sql import DROP_NOTE_NAMES, FIND_ENTITIES, NOTE_NAMES, NOTE_NAMES_OF_STATEMENTS

FILL = """
INSERT INTO historical_sync_entityname (entity_id, tenant_id, name) SELECT id, tenant_id, name FROM historical_sync_entity
"""


class Migration(migrations.Migration):

    dependencies = [
        ('atom', '0002_audit'),
        ('historical_sync', '0013_search_by_source'),
    ]

    operations = [
        migrations.CreateModel(
            name='EntityName',
            fields=[
                ('entity_id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('name', models.TextField()),
            ],
        ),
        migrations.CreateModel(
            name='NameBacklog',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('entity_ids', django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), size=None)),
                ('noted_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.RemoveIndex(
            model_name='entity',
            name='entity_name',
        ),
        migrations.AddField(
            model_name='entityname',
            name='tenant',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='atom.tenant'),
        ),
        migrations.AddField(
            model_name='namebacklog',
            name='tenant',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='atom.tenant'),
        ),
        migrations.AddIndex(
            model_name='entityname',
            index=django.contrib.postgres.indexes.GinIndex(fields=['name'], name='entity_name', opclasses=['gin_trgm_ops']),
        ),
        migrations.AddIndex(
            model_name='namebacklog',
            index=models.Index(fields=['tenant', 'id'], name='backlog_of_tenant'),
        ),
        protect("historical_sync_entityname"),
        protect("historical_sync_namebacklog"),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
        migrations.RunSQL(NOTE_NAMES, migrations.RunSQL.noop),
        migrations.RunSQL(NOTE_NAMES_OF_STATEMENTS, DROP_NOTE_NAMES),
        migrations.RunSQL(FIND_ENTITIES, migrations.RunSQL.noop),
    ]
