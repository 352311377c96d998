from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0028_last_error_at")]

    operations = [
        migrations.AddField(
            model_name="syncschedule",
            name="hour",
            field=models.PositiveSmallIntegerField(
                blank=True,
                null=True,
                help_text="Of the day, in UTC, for intervals of days; none: the time when it was chosen.",
            ),
        ),
        migrations.AddConstraint(
            model_name="syncschedule",
            constraint=models.CheckConstraint(
                condition=models.Q(("hour", None), ("hour__lt", 24), _connector="OR"), name="schedule_hour"
            ),
        ),
    ]
