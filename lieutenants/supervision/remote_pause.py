"""Pausing the VMs of paused lieutenants: their agents wait there, frozen."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from bootloader import providers
from bootloader.exceptions import OutcomeUnknown, ProviderUnavailable
from bootloader.inventory import machines
from bootloader.inventory.vm_handler import ProviderHandler
from bootloader.providers.base import Ability, MachineState
from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import RUNNING, Status
from lieutenants.supervision import machine_locks
from lieutenants.supervision.remote_reach import Steps, reach, wake
from lieutenants.supervision.starts import fail
from lieutenants.supervision.transports import ssh_transport_of
from lieutenants.supervision.transports.ssh.transport import links
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace, ReefError
from vmtree.models import Category, Node

logger = logging.getLogger(__name__)

# What others have left on a VM, such as a running agent that reef does not know after its database
# was restored, may never be removed.
CLEANING_LIMIT = timedelta(minutes=5)
FROZEN = "Its VM is paused, and its agent waits there."


def freeze(lieutenant: Lieutenant, process: Process) -> bool:
    """Pause the VM of a paused lieutenant; return False if that cannot be done.

    The row of the process ends, so that nobody follows it, until the VM is resumed. The caller
    holds the lieutenant's lease.
    """
    if lieutenant.status != Status.PAUSED or not lieutenant.on_vm or not _can_freeze(process):
        return False
    if not _provider_can_pause(lieutenant):
        return False
    frozen = {"ended_at": timezone.now(), "end_reason": FROZEN, "is_frozen": True}
    with transaction.atomic():
        machine_locks.lock(lieutenant.on_vm)
        Process.objects.filter(pk=process.pk).lock()
        if _is_needed(lieutenant) or not Lieutenant.objects.lock_claimed(lieutenant):
            return False
        mine = Process.objects.held_by(process).live().filter(stop_asked_at__isnull=True)
        if not mine.update(vm_paused_at=None, **frozen):
            return True
    events.wake_follower(lieutenant.pk)
    # Otherwise `finish_freeze` pauses the VM when the others have ended there.
    return _is_being_cleaned(lieutenant) or _pause_vm(lieutenant, process)


def finish_freeze(lieutenant: Lieutenant) -> None:
    """Pause the VM of a frozen process, where the worker that wanted that did not come to it.

    If the VM is needed, cannot be paused, or is not rid of what others have left there, the agent
    ends instead. The caller holds the lease.
    """
    process = lieutenant.frozen_process()
    if lieutenant.status != Status.PAUSED or process is None or process.vm_paused_at:
        return
    if not _provider_can_pause(lieutenant):
        thaw(lieutenant, process, stop=False)
    elif _is_needed_now(lieutenant):
        # The worker may have died when it had paused the VM.
        if _wake_if_paused(lieutenant):
            thaw(lieutenant, process, stop=False)
    elif not _is_being_cleaned(lieutenant):
        _pause_vm(lieutenant, process, again=True)
    elif process.ended_at and timezone.now() - process.ended_at > CLEANING_LIMIT:
        logger.warning(
            "%s: its VM stays awake, and its agent ends, since what others have left there could "
            "not be removed for %g minutes",
            *(lieutenant, CLEANING_LIMIT.total_seconds() / 60),
        )
        thaw(lieutenant, process, stop=True)


def _pause_vm(lieutenant: Lieutenant, process: Process, *, again: bool = False) -> bool:
    """Pause the VM; return False, with the process thawed, if that failed.

    Where the VM may be paused already, a later reconcile goes on: a thawed agent could not end.
    """
    unclear = (OutcomeUnknown, ProviderUnavailable) if again else (OutcomeUnknown,)
    try:
        ProviderHandler().pause(lieutenant.on_vm, "reef")
    except unclear as error:
        logger.warning("%s: whether its VM is paused is not known yet: %s", lieutenant, error)
        return True
    except ReefError as error:
        logger.warning("%s: its VM cannot be paused, its agent ends: %s", lieutenant, error)
        thaw(lieutenant, process, stop=False)
        return False
    if not _record_pause(lieutenant, process):
        _wake_again(lieutenant)
    links.drop(ssh_transport_of(lieutenant).place)
    return True


def _record_pause(lieutenant: Lieutenant, process: Process) -> bool:
    """Record that the VM is paused; return False if it is needed since that began.

    Then the frozen processes stay marked, and `finish_freeze` decides on them.
    """
    frozen = Process.objects.frozen_on(lieutenant.on_vm)
    with transaction.atomic():
        machine_locks.lock(lieutenant.on_vm)
        if _is_needed(lieutenant) or not frozen.filter(pk=process.pk).exists():
            return False
        frozen.filter(lieutenant__status=Status.PAUSED).update(vm_paused_at=timezone.now())
    return True


def _wake_again(lieutenant: Lieutenant) -> None:
    """Resume a VM that became needed while it was being paused.

    An agent there was discovered, and is followed again, or another lieutenant has begun there.
    """
    try:
        ProviderHandler().resume(lieutenant.on_vm, "reef")
    except ReefError as error:
        logger.warning("%s: its VM cannot be resumed: %s", lieutenant, error)


def _wake_if_paused(lieutenant: Lieutenant) -> bool:
    """Resume the VM if it is paused; return whether it is awake, as far as its provider tells."""
    place = ssh_transport_of(lieutenant).place
    try:
        seen = machines.refresh(place.machine())
        if seen is not None and seen.state is MachineState.PAUSED:
            ProviderHandler().resume(lieutenant.on_vm, "reef")
            # A connection from before may hang.
            links.drop(place)
    except ReefError as error:
        logger.warning("%s: its VM may be paused, though it is needed: %s", lieutenant, error)
        return False
    return True


def thaw(lieutenant: Lieutenant, process: Process, *, stop: bool) -> bool:
    """Let the process be followed again; with `stop` it is to end.

    Return False if another worker has the lieutenant now.
    """
    facts: dict[str, Any] = {"ended_at": None, "end_reason": "", "is_frozen": False}
    # Another follower may have had it when it was frozen.
    facts |= {"data_folder": settings.DATA_FOLDER_ID, "generation": F("generation") + 1}
    facts |= {"stop_asked_at": timezone.now() if stop else None, "vm_paused_at": None}
    with transaction.atomic():
        Process.objects.filter(pk=process.pk).lock()
        if not Lieutenant.objects.here().lock_claimed(lieutenant):
            return False
        Process.objects.filter(pk=process.pk, is_frozen=True).update(**facts)
        # Otherwise the caller's commands and writes would be those of an earlier follower.
        process.refresh_from_db()
        events.wake_follower(process.lieutenant_id)
    return True


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
    try:
        with transaction.atomic():
            if thaw(lieutenant, process, stop=not goes_on) and goes_on:
                # The follower detects by itself whether the agent is idle.
                reason = "its VM was resumed, and its agent is there"
                lieutenant.move(Status.WORKING, reason=reason)
    except (LostRace, IllegalMove) as error:
        logger.info("%s: its VM was resumed in vain: %s", lieutenant, error)


def wake_to_end(lieutenant: Lieutenant, process: Process) -> None:
    """Wake the VM of a destroyed lieutenant, so that its agent can end there. Raises ReefError."""
    wake(ssh_transport_of(lieutenant))
    thaw(lieutenant, process, stop=True)


def pause_again(lieutenant: Lieutenant) -> None:
    """Pause the VM that was only woken to end the agent of a destroyed lieutenant there."""
    was_paused = lieutenant.moves.filter(old=Status.PAUSED, new=Status.DESTROYED).exists()
    if not was_paused or not lieutenant.on_vm or _is_needed(lieutenant):
        return
    if _is_being_cleaned(lieutenant) or not _provider_can_pause(lieutenant):
        return
    try:
        ProviderHandler().pause(lieutenant.on_vm, "reef")
        if _is_needed_now(lieutenant):
            # What began there meanwhile may have seen it awake.
            ProviderHandler().resume(lieutenant.on_vm, "reef")
    except ReefError as error:
        logger.warning("%s: its VM stays awake: %s", lieutenant, error)
    links.drop(ssh_transport_of(lieutenant).place)


def _can_freeze(process: Process) -> bool:
    return bool(process.handle and process.ready_at and process.stop_asked_at is None)


def _is_needed(lieutenant: Lieutenant) -> bool:
    """Return whether others run on the VM, or are about to, or whether it must stay awake."""
    if Node.objects.active().filter(vm_id=lieutenant.on_vm, category=Category.INFRA_VM).exists():
        return True
    others = Lieutenant.objects.filter(on_vm=lieutenant.on_vm, status__in=RUNNING)
    return others.exclude(pk=lieutenant.pk).exists()


def _is_needed_now(lieutenant: Lieutenant) -> bool:
    """Return the same, also if something begins there at this moment."""
    with transaction.atomic():
        machine_locks.lock(lieutenant.on_vm)
        return _is_needed(lieutenant)


def _is_being_cleaned(lieutenant: Lieutenant) -> bool:
    """Return whether what others have left on the VM is to be removed first."""
    others = Lieutenant.objects.with_leftovers().filter(on_vm=lieutenant.on_vm)
    others = others.filter(has_remote_files=True).exclude(pk=lieutenant.pk)
    live = Process.objects.live().filter(lieutenant__on_vm=lieutenant.on_vm)
    return others.exists() or live.exclude(lieutenant=lieutenant.pk).exists()


def _provider_can_pause(lieutenant: Lieutenant) -> bool:
    try:
        machine = ssh_transport_of(lieutenant).place.machine()
        return Ability.PAUSE in providers.get(machine.provider).abilities
    except ReefError as error:
        logger.info("%s: its VM is not paused: %s", lieutenant, error)
        return False
