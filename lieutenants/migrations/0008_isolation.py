import os

from django.db import migrations, models


def resolve_folders(apps, schema_editor):
    """Keep where folders of earlier versions really are; from now on a link there is refused."""
    for lieutenant in apps.get_model("lieutenants", "Lieutenant").objects.exclude(folder=""):
        resolved = os.path.realpath(lieutenant.folder)
        if resolved != lieutenant.folder and os.path.isdir(resolved):
            lieutenant.folder = resolved
            lieutenant.save(update_fields=["folder"])


class Migration(migrations.Migration):
    dependencies = [("lieutenants", "0007_bury_the_vanished")]

    operations = [
        migrations.AddField(
            model_name="lieutenant",
            name="isolation",
            field=models.CharField(
                blank=True,
                help_text="What kept its newest process away from reef.",
                max_length=20,
            ),
        ),
        migrations.RunPython(resolve_folders, migrations.RunPython.noop),
    ]
