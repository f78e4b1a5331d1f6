import lieutenants.hosts.models
from django.conf import settings
from django.db import migrations, models


def claim_own_rows(apps, schema_editor):
    """Give rows of earlier versions to this data folder, as far as they are surely its own.

    Those of other hosts are claimed by their own followers, by the name of the host.
    """
    lieutenants_ = apps.get_model("lieutenants", "Lieutenant").objects.filter(data_folder="")
    runs = apps.get_model("lieutenants", "Process").objects.filter(data_folder="")
    for rows in (lieutenants_, runs):
        mine = (
            rows if schema_editor.connection.vendor == "sqlite" else rows.filter(host=settings.HOST)
        )
        mine.update(data_folder=settings.DATA_FOLDER_ID)


class Migration(migrations.Migration):
    dependencies = [
        ("lieutenants", "0008_isolation"),
    ]

    operations = [
        migrations.CreateModel(
            name="DataFolder",
            fields=[
                (
                    "id",
                    models.CharField(
                        editable=False, max_length=26, primary_key=True, serialize=False
                    ),
                ),
                ("host", models.CharField(max_length=255)),
                ("path", models.CharField(max_length=1024)),
                ("place", models.CharField(blank=True, max_length=100)),
                ("follower", models.CharField(blank=True, max_length=26)),
                ("seen_at", models.DateTimeField(blank=True, null=True)),
                ("rival", models.CharField(blank=True, max_length=1300)),
                ("rival_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["host", "id"],
            },
        ),
        migrations.AddField(
            model_name="lieutenant",
            name="data_folder",
            field=models.CharField(db_index=True, default="", max_length=26),
        ),
        migrations.AlterField(
            model_name="lieutenant",
            name="data_folder",
            field=models.CharField(
                db_index=True, default=lieutenants.hosts.models.this_folder, max_length=26
            ),
        ),
        migrations.AddField(
            model_name="process",
            name="data_folder",
            field=models.CharField(db_index=True, default="", max_length=26),
        ),
        migrations.AlterField(
            model_name="process",
            name="data_folder",
            field=models.CharField(
                db_index=True, default=lieutenants.hosts.models.this_folder, max_length=26
            ),
        ),
        migrations.RunPython(claim_own_rows, migrations.RunPython.noop),
    ]
