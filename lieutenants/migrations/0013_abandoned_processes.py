from django.db import migrations, models


def mark_abandoned(apps, schema_editor):
    """Move the mark of earlier versions from the handle to the column."""
    marked = apps.get_model("lieutenants", "Process").objects.filter(handle__abandoned=True)
    marked.update(is_abandoned=True)


class Migration(migrations.Migration):
    dependencies = [
        ("lieutenants", "0012_session_troubles"),
    ]

    operations = [
        migrations.AddField(
            model_name="process",
            name="is_abandoned",
            field=models.BooleanField(
                default=False,
                help_text="Another host ended this row; its own host must end the agent.",
            ),
        ),
        migrations.AddIndex(
            model_name="process",
            index=models.Index(
                condition=models.Q(("is_abandoned", True)),
                fields=["data_folder"],
                name="process_abandoned",
            ),
        ),
        migrations.RunPython(mark_abandoned, migrations.RunPython.noop),
    ]
