from typing import Any

from django.db import migrations, models
from django.db.models import F


def mark_paused(apps: Any, _editor: object) -> None:
    """Note that the VMs of frozen processes were paused: empty would mean that they are to be."""
    frozen = apps.get_model("lieutenants", "Process").objects.filter(is_frozen=True)
    frozen.filter(vm_paused_at__isnull=True).update(vm_paused_at=F("ended_at"))


class Migration(migrations.Migration):
    dependencies = [("lieutenants", "0022_questions")]

    operations = [
        migrations.AddField(
            model_name="lieutenant",
            name="leased_by",
            field=models.CharField(blank=True, default="", editable=False, max_length=26),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="madevm",
            name="deleting_since",
            field=models.DateTimeField(
                blank=True, help_text="Since when it is being deleted.", null=True
            ),
        ),
        migrations.AddField(
            model_name="process",
            name="vm_paused_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When its VM was paused; empty while that is under way.",
                null=True,
            ),
        ),
        migrations.RunPython(mark_paused, migrations.RunPython.noop),
    ]
