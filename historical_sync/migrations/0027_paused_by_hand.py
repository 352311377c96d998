from django.db import migrations, models

# Who wanted e-mail of pauses wanted those by a person as well. The owner sees no tenant's rows; this role sees all. Its rights are given
# after the last migration, so here as well.
FILL = """
GRANT USAGE ON SCHEMA public TO atom_system;
GRANT SELECT, UPDATE ON historical_sync_notificationpreference TO atom_system;
SET LOCAL ROLE atom_system;
UPDATE historical_sync_notificationpreference SET paused_by_hand = paused;
RESET ROLE;
"""


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0026_about")]

    operations = [
        migrations.AddField(
            model_name="notificationpreference",
            name="paused_by_hand",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
