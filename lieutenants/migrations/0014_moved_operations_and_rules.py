"""Operations and rules are apps of their own; their tables stay as they are."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("lieutenants", "0013_abandoned_processes")]
    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.DeleteModel("Step"),
                migrations.DeleteModel("Job"),
                migrations.DeleteModel("Firing"),
                migrations.DeleteModel("Rule"),
            ]
        )
    ]
