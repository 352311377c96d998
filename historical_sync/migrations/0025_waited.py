from importlib import import_module

from django.db import migrations, models

# As in 0023, without the time that a job waited.
BEFORE = import_module("historical_sync.migrations.0023_idle").TOTAL
TOTAL = BEFORE.replace("OLD.idle_seconds", "OLD.idle_seconds - OLD.waited_seconds").replace(
    "NEW.idle_seconds", "NEW.idle_seconds - NEW.waited_seconds"
)

# A wait ends with the next page, with the job, or when it is over; one that is made longer goes on.
WAIT = """
CREATE FUNCTION atom_time_wait() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    moment timestamptz := COALESCE(NEW.completed_at, clock_timestamp());
BEGIN
    IF OLD.waiting_since IS NOT NULL THEN
        NEW.waited_seconds := OLD.waited_seconds
            + GREATEST(EXTRACT(epoch FROM LEAST(moment, OLD.waiting_until) - OLD.waiting_since), 0);
        NEW.waiting_since := NULL;
    END IF;
    IF NEW.status = 'running' AND NEW.waiting_until > moment THEN
        NEW.waiting_since := moment;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER wait_changed_job BEFORE UPDATE ON historical_sync_historicalsyncjob
    FOR EACH ROW WHEN (OLD.waiting_until IS DISTINCT FROM NEW.waiting_until
                       OR (OLD.waiting_since IS NOT NULL AND OLD.status <> NEW.status))
    EXECUTE FUNCTION atom_time_wait();
"""
UNWAIT = """
DROP TRIGGER wait_changed_job ON historical_sync_historicalsyncjob;
DROP FUNCTION atom_time_wait();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('historical_sync', '0024_counted'),
    ]

    operations = [
        migrations.AddField(
            model_name='historicalsyncjob',
            name='waited_seconds',
            field=models.FloatField(db_default=0, default=0, editable=False, help_text='Of the time that it ran, waiting for its provider.'),
        ),
        migrations.AddField(
            model_name='historicalsyncjob',
            name='waiting_since',
            field=models.DateTimeField(blank=True, editable=False, help_text='When its present wait for the provider began.', null=True),
        ),
        migrations.RunSQL(TOTAL, BEFORE),
        migrations.RunSQL(WAIT, UNWAIT),
    ]
