import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [
        ("activity", "0001_first"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Presence",
            fields=[
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("seen_at", models.DateTimeField()),
            ],
        ),
        migrations.RemoveConstraint("delivery", "delivery_state_is_known"),
        migrations.RemoveConstraint("subscriber", "subscriber_has_an_address"),
        migrations.AddField(
            "subscriber",
            "owner",
            models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="channels",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
        migrations.AddField(
            "subscriber",
            "form",
            models.CharField(
                choices=[("generic", "JSON, signed"), ("slack", "Slack"), ("discord", "Discord")],
                default="generic",
                max_length=10,
            ),
        ),
        migrations.AddField("subscriber", "wait_seconds", models.PositiveIntegerField(default=0)),
        migrations.AddField("subscriber", "quiet_from", models.TimeField(blank=True, null=True)),
        migrations.AddField("subscriber", "quiet_until", models.TimeField(blank=True, null=True)),
        migrations.AddField(
            "subscriber", "quiet_zone", models.CharField(blank=True, max_length=64)
        ),
        migrations.AddField("subscriber", "only_away", models.BooleanField(default=False)),
        migrations.AlterField("subscriber", "name", models.CharField(max_length=100)),
        migrations.AlterField(
            "subscriber",
            "channel",
            models.CharField(
                choices=[("webhook", "webhook"), ("email", "e-mail"), ("browser", "browser")],
                max_length=10,
            ),
        ),
        migrations.AlterField(
            "delivery",
            "state",
            models.CharField(
                choices=[
                    ("waiting", "waiting"),
                    ("delivered", "delivered"),
                    ("failed", "failed"),
                    ("skipped", "not sent"),
                ],
                default="waiting",
                max_length=10,
            ),
        ),
        migrations.AddConstraint(
            "subscriber",
            models.CheckConstraint(
                condition=(Q(channel="webhook") & ~Q(url=""))
                | (Q(channel="email") & ~Q(email=""))
                | Q(channel="browser", owner__isnull=False),
                name="subscriber_has_an_address",
            ),
        ),
        migrations.AddConstraint(
            "subscriber",
            models.UniqueConstraint(
                fields=["name"], condition=Q(owner=None), name="one_shared_subscriber_a_name"
            ),
        ),
        migrations.AddConstraint(
            "delivery",
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "delivered", "failed", "skipped"]),
                name="delivery_state_is_known",
            ),
        ),
    ]
