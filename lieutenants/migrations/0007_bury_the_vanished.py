"""A rule about findings, off like all that end something."""

from django.db import migrations

RULE = {
    "about": "Removes from tree and registry what its provider deleted or lost, ten minutes later.",
    "event": "finding-vanished",
    "action": "do-proposed",
    "grace_minutes": 10,
    "most_an_hour": 10,
}


def add(apps, schema_editor):
    rules = apps.get_model("lieutenants", "Rule")
    rules.objects.get_or_create(name="bury VMs that vanished at their provider", defaults=RULE)


class Migration(migrations.Migration):
    dependencies = [("lieutenants", "0006_findings_as_causes")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
