"""Usage by quarters of an hour, and the sums of the usage that there is."""

from itertools import groupby

import django.db.models.deletion
from django.db import migrations, models

BATCH = 1000
FIGURES = ("input", "output", "cache_read", "cache_write", "cost")


def slot_of(row):
    """Return the lieutenant, and the quarter of an hour of one call."""
    at = row["at"]
    at = at.replace(minute=at.minute - at.minute % 15, second=0, microsecond=0)
    return row["lieutenant_id"], at


def sum_up(apps, schema_editor):
    """Add up all usage. The rows of one lieutenant and quarter follow each other."""
    slots = apps.get_model("lieutenants", "UsageSlot").objects
    usage = apps.get_model("lieutenants", "Usage").objects.order_by("lieutenant_id", "at")
    columns = ("lieutenant_id", "at", "provider", "model", *FIGURES)
    new = []
    for (lieutenant_id, slot), rows in groupby(usage.values(*columns).iterator(BATCH), slot_of):
        sums = {}
        for row in rows:
            found = sums.setdefault(
                (row["provider"], row["model"]), {"calls": 0} | dict.fromkeys(FIGURES, 0)
            )
            found["calls"] += 1
            for name in FIGURES:
                found[name] += row[name]
        for (provider, model), found in sums.items():
            new.append(
                slots.model(
                    lieutenant_id=lieutenant_id, slot=slot, provider=provider, model=model, **found
                )
            )
        if len(new) >= BATCH:
            slots.bulk_create(new)
            new = []
    slots.bulk_create(new)


class Migration(migrations.Migration):
    dependencies = [("lieutenants", "0026_unknown_agents_on_machines")]

    operations = [
        migrations.CreateModel(
            name="UsageSlot",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("slot", models.DateTimeField()),
                ("provider", models.CharField(blank=True, max_length=100)),
                ("model", models.CharField(blank=True, max_length=200)),
                ("calls", models.BigIntegerField(default=0)),
                ("input", models.BigIntegerField(default=0)),
                ("output", models.BigIntegerField(default=0)),
                ("cache_read", models.BigIntegerField(default=0)),
                ("cache_write", models.BigIntegerField(default=0)),
                (
                    "cost",
                    models.DecimalField(
                        decimal_places=9, default=0, help_text="US dollars", max_digits=18
                    ),
                ),
                (
                    "lieutenant",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="usage_slots",
                        to="lieutenants.lieutenant",
                    ),
                ),
            ],
            options={
                "ordering": ["slot", "id"],
                "indexes": [models.Index(fields=["slot"], name="usage_slot_by_time")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("lieutenant", "slot", "provider", "model"), name="one_usage_slot"
                    )
                ],
            },
        ),
        migrations.RunPython(sum_up, migrations.RunPython.noop),
    ]
