from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('atom', '0002_audit'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='last_used',
            field=models.DateField(editable=False, null=True),
        ),
    ]
