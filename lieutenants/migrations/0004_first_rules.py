"""The rules that every reef begins with. Those that end something are off."""

from django.db import migrations

FIRST = [
    {
        "name": "note silent VMs",
        "about": "Writes down each time a VM was not heard of for too long.",
        "enabled": True,
        "event": "vm-silent",
        "action": "note",
        "most_an_hour": 1000,
    },
    {
        "name": "note lieutenants in error",
        "about": "Writes down each error that a lieutenant does not come out of by itself.",
        "enabled": True,
        "event": "lieutenant-error",
        "minutes": 1,
        "action": "note",
        "most_an_hour": 1000,
    },
    {
        "name": "mark VMs stopped after a day of silence",
        "about": "So that discovery and counts leave them out. A beat brings them back.",
        "enabled": True,
        "event": "vm-silent",
        "minutes": 24 * 60,
        "action": "mark-stopped",
        "most_an_hour": 1000,
    },
    {
        "name": "restart lieutenants in error",
        "about": "Tries it once for each error, a quarter of an hour after it. Each try may cost.",
        "event": "lieutenant-error",
        "minutes": 15,
        "action": "restart",
        "most_an_hour": 10,
    },
    {
        "name": "pause idle lieutenants",
        "about": "Ends the agents of lieutenants that had nothing to do for half a day.",
        "event": "lieutenant-idle",
        "minutes": 12 * 60,
        "action": "pause",
    },
    {
        "name": "destroy dead swarm VMs",
        "about": "Only with two proofs of death, and after an hour in which they may come back.",
        "event": "vm-silent",
        "minutes": 24 * 60,
        "category": "swarm_vm",
        "action": "destroy",
        "grace_minutes": 60,
        "most_an_hour": 10,
    },
]


def add(apps, schema_editor):
    rules = apps.get_model("lieutenants", "Rule")
    rules.objects.bulk_create([rules(**each) for each in FIRST])


class Migration(migrations.Migration):
    dependencies = [("lieutenants", "0003_rules")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
