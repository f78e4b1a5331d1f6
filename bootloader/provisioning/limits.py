"""How many VMs there may be, and how many come up at a time."""

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


def check_room(more: int, node: Node | None) -> None:
    """Raise Conflict unless there may be so many more VMs."""
    most = config.integer("REEF_MAX_VMS", node)
    if not most:
        return
    there = Machine.objects.living().exclude(vm_id="").count()
    coming = Provisioning.objects.open().filter(machine__isnull=True).count()
    if there + coming + more > most:
        text = f"{there} VMs are there and {coming} are coming; REEF_MAX_VMS allows {most}"
        raise Conflict(text)


def places() -> int:
    """How many may come up at a time."""
    return max(1, config.integer("REEF_PROVISION_AT_ONCE") or 1)


def why_waiting() -> str:
    """What those wait for that are queued now."""
    most = places()
    if Provisioning.objects.at_work().count() < most:
        return "begins as soon as a worker takes it"
    return f"waits for one of {most} place{'' if most == 1 else 's'} (REEF_PROVISION_AT_ONCE)"


def begin() -> list[str]:
    """Let those begin for which there is room now; their ids."""
    begun: list[str] = []
    with transaction.atomic():
        database_locks.lock(DatabaseLock.PROVISIONING_STARTS)
        room = places() - Provisioning.objects.at_work().count()
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
