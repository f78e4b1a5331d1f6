"""Limits on the number of VMs, and on concurrent provisionings."""

from __future__ import annotations

from django.db import connection, transaction

from bootloader.exceptions import LostRace
from bootloader.models import Machine, Provisioning
from bootloader.provisioning import rings
from bootloader.states import State
from reef_site.common.errors import Conflict
from versconfig import config
from vmtree.models import Node

# PostgreSQL's advisory lock for starting provisionings; the number is arbitrary but unique.
_BEGINNING = 7_202_613


def alone() -> None:
    """Serialize counting and starting until commit. SQLite has one writer at a time anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_BEGINNING])


def check_quota(more: int, node: Node | None) -> None:
    """Raise Conflict unless this many more VMs are allowed."""
    maximum = config.integer("REEF_MAX_VMS", node)
    if not maximum:
        return
    there = Machine.objects.living().exclude(vm_id="").count()
    coming = Provisioning.objects.open().filter(machine__isnull=True).count()
    if there + coming + more > maximum:
        text = f"{there} VMs are there and {coming} are coming; REEF_MAX_VMS allows {maximum}"
        raise Conflict(text)


def max_concurrent() -> int:
    """Return how many provisionings may run concurrently."""
    return max(1, config.integer("REEF_PROVISION_AT_ONCE") or 1)


def why_waiting() -> str:
    """Return the text that tells what queued provisionings wait for."""
    maximum = max_concurrent()
    if Provisioning.objects.active().count() < maximum:
        return "begins as soon as a worker takes it"
    return f"waits for one of {maximum} place{'' if maximum == 1 else 's'} (REEF_PROVISION_AT_ONCE)"


def start_queued() -> list[str]:
    """Start queued provisionings while there are free slots; return their ids."""
    begun: list[str] = []
    with transaction.atomic():
        alone()
        room = max_concurrent() - Provisioning.objects.active().count()
        waiting = Provisioning.objects.filter(state=State.QUEUED).order_by("id")
        for row in waiting[: max(0, room)]:
            try:
                row.move(State.RUNNING, look_at=None)
            except LostRace:
                continue
            begun.append(row.pk)
    for provisioning_id in begun:
        rings.advance(provisioning_id)
        rings.tell(provisioning_id)
    return begun
