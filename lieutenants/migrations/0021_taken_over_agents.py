from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lieutenants", "0020_shares"),
    ]

    operations = [
        migrations.AddField(
            model_name="lieutenant",
            name="is_taken_over",
            field=models.BooleanField(
                default=False, help_text="An older server has started its agent on its machine."
            ),
        ),
    ]
