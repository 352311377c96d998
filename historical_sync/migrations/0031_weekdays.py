from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("historical_sync", "0030_gone")]

    operations = [
        migrations.AddField(
            model_name="syncschedule",
            name="weekday",
            field=models.PositiveSmallIntegerField(
                blank=True,
                choices=[
                    (0, "Monday"),
                    (1, "Tuesday"),
                    (2, "Wednesday"),
                    (3, "Thursday"),
                    (4, "Friday"),
                    (5, "Saturday"),
                    (6, "Sunday"),
                ],
                help_text="In UTC, for intervals of weeks; none: the day when it was chosen.",
                null=True,
            ),
        ),
        migrations.AddConstraint(
            model_name="syncschedule",
            constraint=models.CheckConstraint(
                condition=models.Q(("weekday", None), ("weekday__lt", 7), _connector="OR"), name="schedule_weekday"
            ),
        ),
    ]
