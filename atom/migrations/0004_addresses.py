from django.db import migrations, models


# As before, and the deployment may forget an address: a line without it is otherwise the same.
APPEND_ONLY = """
CREATE OR REPLACE FUNCTION atom_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'atom_app' THEN
        IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
        OLD.address := NULL;
        IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append only';
END $$;
"""
BEFORE = """
CREATE OR REPLACE FUNCTION atom_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_user <> 'atom_app' THEN RETURN OLD; END IF;
    RAISE EXCEPTION 'the audit log is append only';
END $$;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('atom', '0003_last_used'),
    ]

    operations = [
        migrations.AddField(
            model_name='auditevent',
            name='address',
            field=models.GenericIPAddressField(blank=True, null=True),
        ),
        migrations.AddIndex(
            model_name='auditevent',
            index=models.Index(condition=models.Q(('address__isnull', False)), fields=['at'], name='audit_addresses'),
        ),
        migrations.RunSQL(APPEND_ONLY, BEFORE),
    ]
