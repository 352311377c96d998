from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('atom', '0004_addresses'),
    ]

    operations = [
        migrations.AddField(
            model_name='membership',
            name='entered_at',
            field=models.DateTimeField(editable=False, null=True),
        ),
    ]
