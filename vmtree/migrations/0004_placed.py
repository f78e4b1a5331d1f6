from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("vmtree", "0003_kept"),
    ]

    operations = [
        migrations.AlterField(
            model_name="revision",
            name="what",
            field=models.CharField(
                choices=[
                    ("created", "created"),
                    ("placed", "placed"),
                    ("changed", "changed"),
                    ("removed", "removed"),
                    ("restored", "restored"),
                    ("kept", "kept"),
                ],
                max_length=10,
            ),
        ),
    ]
