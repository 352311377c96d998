from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0027_paused_by_hand")]

    operations = [
        migrations.AddField(
            model_name="historicalsyncjob",
            name="last_error_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="When it was met; later than the last page, it is what holds up the next.",
                null=True,
            ),
        ),
    ]
