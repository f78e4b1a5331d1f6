from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("vmtree", "0002_snapshots"),
    ]

    operations = [
        migrations.AlterField(
            model_name="revision",
            name="what",
            field=models.CharField(
                choices=[
                    ("created", "created"),
                    ("changed", "changed"),
                    ("removed", "removed"),
                    ("restored", "restored"),
                    ("kept", "kept"),
                ],
                max_length=10,
            ),
        ),
    ]
