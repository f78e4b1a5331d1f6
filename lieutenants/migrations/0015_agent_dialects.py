from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lieutenants", "0014_context_usage"),
        ("lieutenants", "0014_moved_operations_and_rules"),
    ]

    operations = [
        migrations.AddField(
            model_name="lieutenant",
            name="agent",
            field=models.CharField(default="pi", help_text="Its kind of agent.", max_length=20),
        ),
        migrations.AddField(
            model_name="lieutenant",
            name="command",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text="Program and arguments, for the agent 'command'.",
            ),
        ),
    ]
