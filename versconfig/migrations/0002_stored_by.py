"""Note which node's token stored a value; before, only the actor's text had it."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

PREFIX, MAX_ACTOR = "node ", 200


def fill(apps: Any, _editor: Any) -> None:
    """Find the nodes by the text that names the actor."""
    nodes = apps.get_model("vmtree", "Node")
    for name in ("Setting", "Version"):
        model = apps.get_model("versconfig", name)
        by_nodes = model.objects.filter(actor__startswith=PREFIX)
        for actor in set(by_nodes.values_list("actor", flat=True)):
            vm_id = actor.removeprefix(PREFIX)
            # Long texts were cut.
            cut = {"vm_id__startswith": vm_id} if len(actor) == MAX_ACTOR else {"vm_id": vm_id}
            node = nodes.objects.filter(**cut).order_by("vm_id").first()
            by_nodes.filter(actor=actor).update(stored_by=node)


def _field() -> Any:
    return models.ForeignKey(
        blank=True,
        editable=False,
        null=True,
        on_delete=django.db.models.deletion.PROTECT,
        related_name="+",
        to="vmtree.node",
    )


class Migration(migrations.Migration):
    dependencies = [("versconfig", "0001_first"), ("vmtree", "0001_first")]

    operations = [
        migrations.AddField("setting", "stored_by", _field()),
        migrations.AddField("version", "stored_by", _field()),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
