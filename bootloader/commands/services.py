"""Run a command on a machine, look at those that were run, cancel one."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

from django.conf import settings

from bootloader.commands import running
from bootloader.models import HostClaim, Machine, MachineCommand, SshHost
from bootloader.models.commands import MachineCommandQuerySet
from bootloader.states import CommandState
from reef_site.common import clock, outside
from reef_site.common.errors import BadInput, Conflict, IllegalMove, LostRace, NotFound
from reef_site.common.ids import new_ulid
from reef_site.common.text import is_storable
from versconfig import vault
from versconfig.screening import sources
from vmtree import permissions
from vmtree.permissions import Action

MAX_COMMAND = 16_000
# Each takes a thread of a worker.
MAX_OPEN = 50
DEFAULT_SECONDS, MAX_SECONDS = 30, 600
# A VM as its provider lists it, or a host that an operator has registered.
Place = Machine | SshHost
LOST = "the worker that ran it did not report its end; it may have run, and may still run"


def check_any(caller: object) -> None:
    """Raise Forbidden for a caller that may run commands nowhere."""
    if not permissions.reach_of(caller, Action.RUN_COMMANDS):
        permissions.check(caller, Action.RUN_COMMANDS, None)


def check_allowed(caller: object, place: Place | None) -> None:
    """Raise Forbidden unless the caller may run commands there; None is the whole fleet.

    A registered SSH host counts as the whole fleet, unless it is a VM of the tree.
    """
    permissions.check(caller, Action.RUN_COMMANDS, vm_of(place) or None)


def find_place(*, vm_id: str = "", ssh_host: str = "", by: object) -> Place:
    """Return the machine of a VM, or the SSH host of this name. Raise Forbidden, NotFound."""
    found: Place | None
    if ssh_host:
        found = SshHost.objects.filter(name=ssh_host).first()
        check_allowed(by, found)
    else:
        permissions.check(by, Action.RUN_COMMANDS, vm_id or None)
        found = Machine.objects.active().filter(vm_id=vm_id).first() if vm_id else None
    if found is None:
        raise NotFound("there is no such machine")
    return found


def vm_of(place: Place | None) -> str:
    """Return the id of the VM that a machine is; empty if it is none."""
    if isinstance(place, Machine):
        return place.vm_id
    if place is None:
        return ""
    claims = HostClaim.objects.active().filter(host=place).values_list("pk", flat=True)
    ids = [str(pk) for pk in claims]
    found = Machine.objects.active().of("ssh").filter(machine_id__in=ids).first()
    return found.vm_id if found else ""


def run(place: Place, text: str, seconds: int = DEFAULT_SECONDS, *, by: object) -> MachineCommand:
    """Have a worker run a command, and return its row.

    Raise Forbidden, BadInput, Conflict.
    """
    check_allowed(by, place)
    text = text.replace("\r\n", "\n")
    if not text.strip():
        raise BadInput("command: may not be empty", "command")
    if len(text) > MAX_COMMAND or not is_storable(text):
        raise BadInput(
            f"command: must be text of at most {MAX_COMMAND} characters, without NUL", "command"
        )
    if not 1 <= seconds <= MAX_SECONDS:
        raise BadInput(f"limitSeconds: must be from 1 to {MAX_SECONDS}", "limitSeconds")
    settle_overdue()
    if MachineCommand.objects.open().count() >= MAX_OPEN:
        raise Conflict(f"{MAX_OPEN} commands run already: wait for one, or cancel it")
    limit = seconds + running.MORE_SECONDS
    row = MachineCommand(id=new_ulid(), vm_id=vm_of(place), place=str(place), actor=str(by)[:200])
    if isinstance(place, SshHost):
        row.ssh_host = place
    else:
        row.machine = place
    row.command = sources.for_node(row.vm_id, recheck=True).cover(text)
    row.sealed = vault.seal(running.SEALED_AS, text)
    row.limit_seconds = seconds
    row.overdue_at = clock.now() + timedelta(seconds=limit + outside.QUEUE_SECONDS + 10)
    row.save(force_insert=True)
    outside.make(running.RUN, {"command_id": row.pk}, by=by, limit=limit)
    row.refresh_from_db()
    return row


def audit_facts(row: MachineCommand) -> dict[str, Any]:
    """Return the attributes of a request by which the audit log records the command."""
    target = f"{row.vm_id or row.place} {row.pk}"
    return {"audit_action": "command", "audit_target": target, "audit_reason": row.command}


def find(command_id: str, *, by: object) -> MachineCommand:
    """Return a command that the caller may see. Raise NotFound, Forbidden."""
    settle_overdue()
    row = MachineCommand.objects.filter(pk=command_id).first()
    if row is None:
        permissions.check(by, Action.RUN_COMMANDS, None)
        raise NotFound("there is no such command")
    permissions.check(by, Action.RUN_COMMANDS, row.vm_id or None)
    return row


def commands(place: Place | None, *, by: object) -> MachineCommandQuerySet:
    """Return the commands on a machine, or on all, newest first. Raise Forbidden."""
    check_allowed(by, place)
    settle_overdue()
    rows = MachineCommand.objects.order_by("-id")
    return rows if place is None else rows.on(place)


def cancel(command_id: str, *, by: object) -> MachineCommand:
    """End a command; one that runs ends within seconds. Raise IllegalMove if it has ended."""
    row = find(command_id, by=by)
    if row.state == CommandState.WAITING:
        with contextlib.suppress(LostRace, IllegalMove):
            note = f"cancelled by {by} before it began"
            row.move(CommandState.CANCELLED, note=note[:1000], cancelled_by=str(by)[:200])
            return row
    asked = MachineCommand.objects.open().filter(pk=row.pk)
    if not asked.update(cancelled_by=str(by)[:200]):
        row.refresh_from_db()
        raise IllegalMove(f"the command has ended: {row.get_state_display()}")
    row.refresh_from_db()
    return row


def settle_overdue() -> None:
    """End commands whose worker has died."""
    for row in MachineCommand.objects.overdue():
        with contextlib.suppress(LostRace, IllegalMove):
            row.move(CommandState.FAILED, note=LOST)


def sweep() -> int:
    """End overdue commands, and delete those that are older than the audit log may be.

    Return how many were deleted.
    """
    settle_overdue()
    return MachineCommand.objects.prune(settings.AUDIT_DAYS)
