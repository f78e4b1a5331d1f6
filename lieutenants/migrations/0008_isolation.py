from django.db import migrations, models


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
    ]
