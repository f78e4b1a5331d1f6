"""Limits on the number of VMs, and on concurrent provisionings."""

from __future__ import annotations

from django.db import transaction

from bootloader.models import Machine, Provisioning
from bootloader.states import State
from reef_site.common import database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import Conflict, LostRace
from versconfig import config
from vmtree.models import Node


def check_quota(more: int, node: Node | None) -> None:
    """Raise Conflict unless this many more VMs are allowed."""
    maximum = config.integer("REEF_MAX_VMS", node)
    if not maximum:
        return
    there = Machine.objects.active().exclude(vm_id="").count()
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
        database_locks.lock(DatabaseLock.PROVISIONING_STARTS)
        room = max_concurrent() - Provisioning.objects.active().count()
        waiting = Provisioning.objects.filter(state=State.QUEUED).order_by("id")
        for row in waiting[: max(0, room)]:
            try:
                row.move(State.RUNNING, look_at=None)
            except LostRace:
                continue
            begun.append(row.pk)
    for provisioning_id in begun:
        dispatch("bootloader.advance", provisioning_id)
        events.publish_provisionings([provisioning_id])
    return begun
