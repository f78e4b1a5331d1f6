from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("lieutenants", "0015_context_usage"),
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
