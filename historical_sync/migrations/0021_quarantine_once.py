import django.db.models.deletion
from django.db import migrations, models

# The same row of several jobs stays with the last of them; the others count it no more. The owner sees no tenant's rows; this role sees
# all. Its rights are given after the last migration, so here as well.
ONCE = """
GRANT USAGE ON SCHEMA public TO atom_system;
GRANT SELECT, UPDATE ON historical_sync_historicalsyncjob, historical_sync_syncchunk TO atom_system;
GRANT SELECT, UPDATE, DELETE ON historical_sync_quarantinedrecord TO atom_system;
GRANT SELECT, INSERT, UPDATE ON historical_sync_dailytotals TO atom_system;
GRANT USAGE ON SEQUENCE historical_sync_dailytotals_id_seq TO atom_system;
SET LOCAL ROLE atom_system;
UPDATE historical_sync_quarantinedrecord q
SET connection_id = job.connection_id,
    fingerprint = CASE WHEN q.external_id = '' THEN q.fingerprint
                       ELSE encode(substring(sha256('id '::bytea || convert_to(q.external_id, 'UTF8')) FOR 16), 'hex')::uuid END
FROM historical_sync_historicalsyncjob job WHERE job.id = q.job_id;
WITH again AS (
    DELETE FROM historical_sync_quarantinedrecord WHERE id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY connection_id, stream, fingerprint
                                          ORDER BY created_at DESC, id DESC) AS nth
            FROM historical_sync_quarantinedrecord WHERE replayed_at IS NULL) ordered
        WHERE nth > 1)
    RETURNING job_id, chunk_id
), of_chunks AS (
    UPDATE historical_sync_syncchunk chunk
    SET records_quarantined = GREATEST(records_quarantined - fewer.n, 0), quarantine_forgiven = GREATEST(quarantine_forgiven - fewer.n, 0)
    FROM (SELECT chunk_id, count(*) AS n FROM again GROUP BY 1) fewer WHERE chunk.id = fewer.chunk_id
)
UPDATE historical_sync_historicalsyncjob job
SET records_quarantined = GREATEST(records_quarantined - fewer.n, 0), revision = revision + 1
FROM (SELECT job_id, count(*) AS n FROM again GROUP BY 1) fewer WHERE job.id = fewer.job_id;
RESET ROLE;
SET CONSTRAINTS ALL IMMEDIATE;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('historical_sync', '0020_monthly_records'),
        ('integrations', '0002_narrowing'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='quarantinedrecord',
            name='quarantine_once',
        ),
        migrations.AddField(
            model_name='quarantinedrecord',
            name='connection',
            field=models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='integrations.connection'),
        ),
        migrations.RunSQL(ONCE, migrations.RunSQL.noop),
        migrations.AlterField(
            model_name='quarantinedrecord',
            name='connection',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='integrations.connection'),
        ),
        migrations.AlterField(
            model_name='quarantinedrecord',
            name='fingerprint',
            field=models.UUIDField(help_text='Hash of its id or, where it has none, of what was received.'),
        ),
        migrations.AlterField(
            model_name='quarantinedrecord',
            name='job',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='quarantine', to='historical_sync.historicalsyncjob'),
        ),
        migrations.AddConstraint(
            model_name='quarantinedrecord',
            constraint=models.UniqueConstraint(fields=('connection', 'stream', 'fingerprint'), condition=models.Q(('replayed_at', None)), name='quarantine_once'),
        ),
    ]
