"""Pausing the VMs of paused lieutenants: their agents wait there, frozen."""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from bootloader import providers
from bootloader.inventory.vm_handler import ProviderHandler
from bootloader.providers.base import Ability
from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import RUNNING, Status
from lieutenants.supervision.remote_reach import Steps, reach, wake
from lieutenants.supervision.starts import fail
from lieutenants.supervision.transports import ssh_transport_of
from lieutenants.supervision.transports.ssh.transport import links
from reef_site.common import events
from reef_site.common.errors import ReefError
from vmtree.models import Category, Node

logger = logging.getLogger(__name__)

FROZEN = "Its VM is paused, and its agent waits there."


def freeze(lieutenant: Lieutenant, process: Process) -> bool:
    """Pause the VM of a paused lieutenant; return False if that cannot be done.

    The row of the process ends, so that nobody follows it, until the VM is resumed.
    """
    if lieutenant.status != Status.PAUSED or not lieutenant.on_vm or not _can_freeze(process):
        return False
    if not _can_pause(lieutenant):
        return False
    mine = Process.objects.live().filter(pk=process.pk, stop_asked_at__isnull=True)
    frozen = {"ended_at": timezone.now(), "end_reason": FROZEN, "is_frozen": True}
    if not mine.update(**frozen):
        return True
    events.wake_follower(lieutenant.pk)
    try:
        ProviderHandler().pause(lieutenant.on_vm, "reef")
    except ReefError as error:
        logger.warning("%s: its VM cannot be paused, its agent ends: %s", lieutenant, error)
        thaw(process, stop=False)
        return False
    links.drop(ssh_transport_of(lieutenant).place)
    return True


def thaw(process: Process, *, stop: bool) -> None:
    """Let the process be followed again; with `stop` it is to end."""
    facts: dict[str, Any] = {"ended_at": None, "end_reason": "", "is_frozen": False}
    # Another follower may have had it when it was frozen.
    facts |= {"data_folder": settings.DATA_FOLDER_ID, "generation": F("generation") + 1}
    facts |= {"stop_asked_at": timezone.now() if stop else None}
    Process.objects.filter(pk=process.pk, is_frozen=True).update(**facts)
    events.wake_follower(process.lieutenant_id)


def take_up(lieutenant: Lieutenant, process: Process) -> None:
    """Wake the VM, and go on with the agent that waited there, or with its session."""
    process.steps = []
    steps, transport = Steps(process), ssh_transport_of(lieutenant)
    try:
        reach(transport, steps)
        with steps.step("agent") as entry:
            runs = transport.list_runs()
            is_alive = any(each["run"] == process.pk and each["alive"] for each in runs)
            goes_on = is_alive and process.stop_asked_at is None
            entry["note"] = (
                "the same one is there" if goes_on else "another one is started on its session"
            )
    except (ReefError, TransportError, OSError) as error:
        fail(lieutenant, f"The agent could not be reached on {lieutenant.host}: {error}")
        return
    thaw(process, stop=not goes_on)
    if goes_on:
        # The follower detects by itself whether the agent is idle.
        lieutenant.move(Status.WORKING, reason="its VM was resumed, and its agent is there")


def wake_to_end(lieutenant: Lieutenant, process: Process) -> None:
    """Wake the VM of a destroyed lieutenant, so that its agent can end there. Raises ReefError."""
    wake(ssh_transport_of(lieutenant))
    thaw(process, stop=True)


def pause_again(lieutenant: Lieutenant) -> None:
    """Pause the VM that was only woken to end the agent of a destroyed lieutenant there."""
    was_paused = lieutenant.moves.filter(old=Status.PAUSED, new=Status.DESTROYED).exists()
    if not was_paused or not lieutenant.on_vm or not _can_pause(lieutenant):
        return
    try:
        ProviderHandler().pause(lieutenant.on_vm, "reef")
    except ReefError as error:
        logger.warning("%s: its VM stays awake: %s", lieutenant, error)
    links.drop(ssh_transport_of(lieutenant).place)


def _can_freeze(process: Process) -> bool:
    return bool(process.handle and process.ready_at and process.stop_asked_at is None)


def _can_pause(lieutenant: Lieutenant) -> bool:
    """Return whether its provider can pause the VM, and nobody else needs it."""
    if Node.objects.active().filter(vm_id=lieutenant.on_vm, category=Category.INFRA_VM).exists():
        return False
    others = Lieutenant.objects.filter(on_vm=lieutenant.on_vm, status__in=RUNNING)
    if others.exclude(pk=lieutenant.pk).exists():
        return False
    try:
        machine = ssh_transport_of(lieutenant).place.machine()
        return Ability.PAUSE in providers.get(machine.provider).abilities
    except ReefError as error:
        logger.info("%s: its VM is not paused: %s", lieutenant, error)
        return False
