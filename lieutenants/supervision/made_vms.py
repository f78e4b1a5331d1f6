"""VMs that are made for lieutenants: by a profile, or restored from a saved machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from bootloader.inventory import machines
from bootloader.models import BootStep, Machine, Provisioning
from bootloader.provisioning import requests
from bootloader.provisioning import services as provisioning
from bootloader.provisioning.requests import ProvisionRequest
from bootloader.states import CleanupPolicy, State, StepState
from lieutenants.exceptions import NotNow
from lieutenants.models import Lieutenant, MadeVM
from lieutenants.states import Status
from lieutenants.supervision import machine_locks
from lieutenants.supervision.starts import fail
from reef_site.common import database_locks, events
from reef_site.common.database_locks import DatabaseLock
from reef_site.common.errors import BadInput, Conflict, LostRace, NotFound, ReefError
from reef_site.common.text import clip
from registry import services as registry
from vmtree import services as tree
from vmtree.models import Node
from vmtree.services import NodeChange

logger = logging.getLogger(__name__)

# A VM that could not be deleted is tried again after this time.
AGAIN = timedelta(seconds=10)


@dataclass(frozen=True)
class NewVM:
    """Request for a VM: by a profile, from a saved machine, or by both."""

    profile: str = ""
    commit: str = ""
    on_failure: str = CleanupPolicy.DELETE

    def order(self, lieutenant: Lieutenant, *, parent: Node | None, actor: object) -> None:
        """Start the provisioning. Raises BadInput, Conflict, Forbidden and errors of config."""
        request = ProvisionRequest(
            # Names of VMs are unique beyond the lives of lieutenants.
            name=f"{lieutenant.name[:56]}-{lieutenant.pk[-6:].lower()}",
            profile=requests.parse_profile(self.profile) if self.profile else "",
            parent_vm_id=parent.vm_id if parent else "",
            commit=self.commit,
            on_failure=self.on_failure,
        )
        requests.check(request)
        started = provisioning.start(request, by=actor)
        if started.existing:
            raise Conflict(f"name: a VM '{request.name}' is there already")
        MadeVM.objects.create(
            lieutenant=lieutenant, provisioning=started.rows[0], on_failure=self.on_failure
        )


def present_of(lieutenant: Lieutenant) -> MadeVM | None:
    """Return the VM that was made for a lieutenant, unless it is removed or there is none."""
    rows = MadeVM.objects.present().select_related("provisioning__machine")
    found = rows.filter(pk=lieutenant.pk).first()
    if found is not None:
        # As it was read when its lease was taken.
        found.lieutenant = lieutenant
    return found


def bring_up(lieutenant: Lieutenant) -> bool:
    """Return whether the lieutenant's machine is there; otherwise do the next step towards it.

    A failed provisioning fails the lieutenant. Its next start tries again.
    """
    made = present_of(lieutenant)
    if made is None or (lieutenant.on_vm and not made.deleting_since):
        return True
    row = made.provisioning
    if made.deleting_since:
        _show_wait(lieutenant, "its former VM, which is being deleted")
        return False
    if row.is_open:
        step = row.steps.next()
        _show_wait(lieutenant, f"its VM: {step.get_name_display()}" if step else "its VM")
        return False
    if row.state == State.DONE and row.machine and not row.machine.is_gone:
        return _take(lieutenant, row, row.machine)
    if row.state_since > lieutenant.status_since:
        why = row.reason or "its VM is gone"
        fail(lieutenant, f"The VM could not be made: {why} (provisioning {row.pk})")
        return False
    try:
        _make_again(lieutenant, made)
    except ReefError as error:
        fail(lieutenant, f"The VM could not be made: {error}")
    return False


def _make_again(lieutenant: Lieutenant, made: MadeVM) -> None:
    """Make another VM, unless the lieutenant has ended meanwhile: that one would be nobody's.

    Raises what the provisioning raises.
    """
    row = made.provisioning
    starting = Lieutenant.objects.here().filter(status=Status.STARTING)
    with transaction.atomic():
        if not starting.lock_claimed(lieutenant) or not _lock_unchanged(made):
            logger.info("%s: no other VM is made, it does not start any more", lieutenant)
        elif row.state == State.FAILED:
            provisioning.retry(row.pk, by="reef")
        else:
            again = provisioning.repeat(row, by="reef")
            MadeVM.objects.filter(pk=made.pk).update(provisioning=again, prepared_at=None)


def begin_removal(made: MadeVM) -> bool:
    """Mark the VM as being deleted, so that nothing new begins on it.

    Return False if it stays, since other lieutenants are on it. Raises LostRace.
    """
    return bool(made.deleting_since) or _mark_deleting(made, Status.DESTROYED)


def _mark_deleting(made: MadeVM, status: Status) -> bool:
    """Mark the VM unless others use it. Raises LostRace if its lieutenant changed meanwhile."""
    vm_id = _vm_id_of(made)
    mine = Lieutenant.objects.here().filter(status=status)
    with transaction.atomic():
        machine_locks.lock(vm_id)
        others = Lieutenant.objects.active().filter(on_vm=vm_id).exclude(pk=made.pk)
        if vm_id and others.exists():
            return False
        if not mine.lock_claimed(made.lieutenant) or not _lock_unchanged(made):
            raise LostRace(f"{made} is no longer to be deleted")
        MadeVM.objects.filter(pk=made.pk).update(deleting_since=timezone.now())
    return True


def check_stays(vm_id: str) -> None:
    """Raise NotNow if the VM is being deleted. The caller has locked it."""
    same = Q(provisioning__vm_id=vm_id) | Q(provisioning__machine__vm_id=vm_id)
    if MadeVM.objects.deleting().filter(same).exists():
        raise NotNow(f"vmId: the VM '{clip(vm_id, 100)}' is being deleted")


def _vm_id_of(made: MadeVM) -> str:
    machine = made.provisioning.machine
    return (machine.vm_id if machine else "") or made.provisioning.vm_id


def remove(made: MadeVM) -> bool:
    """Delete the VM, or stop making it; return False if that goes on. Raises ProviderError."""
    row = made.provisioning
    if row.is_open or row.state == State.FAILED:
        if row.state != State.FAILED or timezone.now() - row.state_since > AGAIN:
            provisioning.cancel(row.pk, CleanupPolicy.DELETE, by="reef")
        return False
    _delete(made)
    with transaction.atomic():
        if not _lock_claimed(made):
            # Another one was ordered meanwhile, which the next call deletes.
            return False
        MadeVM.objects.filter(pk=made.pk).update(removed_at=timezone.now())
        Lieutenant.objects.filter(pk=made.pk).update(has_remote_files=False)
    return True


def _lock_claimed(made: MadeVM) -> bool:
    """Lock the rows of lieutenant and VM; return False if others have changed either meanwhile."""
    return Lieutenant.objects.here().lock_claimed(made.lieutenant) and _lock_unchanged(made)


def _lock_unchanged(made: MadeVM) -> bool:
    """Lock the row; return False if the VM is another one now, or is removed."""
    same = MadeVM.objects.present().filter(pk=made.pk, provisioning=made.provisioning_id)
    return bool(same.select_for_update().values_list("pk"))


def to_clean_up() -> list[str]:
    """Return the lieutenants here whose VMs are to be deleted while they stay.

    These are VMs of first starts that have failed, unless they are to be kept.
    """
    here = MadeVM.objects.here()
    failed = here.of_failed_starts().filter(on_failure=CleanupPolicy.DELETE)
    failed = failed.filter(provisioning__state=State.DONE)
    begun = here.deleting().exclude(lieutenant__status=Status.DESTROYED)
    return sorted({*failed.values_list("pk", flat=True), *begun.values_list("pk", flat=True)})


def clean_up_failed(lieutenant: Lieutenant) -> None:
    """Delete the VM of a lieutenant whose first start has failed. The next start makes another.

    The caller holds the lieutenant's lease.
    """
    made = present_of(lieutenant)
    if made is None or made.pk not in to_clean_up():
        return
    try:
        if not made.deleting_since and not _mark_deleting(made, Status.ERROR):
            return
        _delete(made)
    except ReefError as error:
        logger.warning("%s cannot be deleted yet: %s", made, error)
        return
    with transaction.atomic():
        if not _lock_claimed(made):
            logger.info("%s: its lieutenant was taken over while it was deleted", made)
            return
        if lieutenant.live_process():
            # The follower finds it gone with its VM, by which it still knows it.
            return
        Lieutenant.objects.filter(pk=made.pk).update(on_vm="", has_remote_files=False)
        MadeVM.objects.filter(pk=made.pk).update(deleting_since=None)
        events.publish_lieutenant(made.pk)


def steps_of(lieutenants: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Map lieutenants to the steps in which their VMs were made, like those of a start."""
    if not lieutenants:
        return {}
    made = MadeVM.objects.filter(pk__in=lieutenants).values_list("provisioning", "pk")
    owners: Mapping[str, str] = dict(made)
    found: dict[str, list[dict[str, Any]]] = {}
    begun = BootStep.objects.filter(provisioning__in=owners, started_at__isnull=False)
    for step in begun.order_by("provisioning", "position"):
        found.setdefault(owners[step.provisioning_id], []).append(step_json(step))
    return found


def step_json(step: BootStep) -> dict[str, Any]:
    """Return a step that has begun as JSON."""
    assert step.started_at
    entry: dict[str, Any] = {"name": f"provision-{step.name}", "at": step.started_at.isoformat()}
    if step.ended_at:
        entry |= {"seconds": round((step.ended_at - step.started_at).total_seconds(), 3)}
    if step.reason:
        entry |= {"problem" if step.state == StepState.FAILED else "note": step.reason[:500]}
    return entry


def _delete(made: MadeVM) -> None:
    machine = made.provisioning.machine
    if made.provisioning.state == State.DONE and machine and not machine.is_gone:
        machines.delete(machine, by="reef", note=f"was made for {made.lieutenant}")


def _show_wait(lieutenant: Lieutenant, text: str) -> None:
    mine = Lieutenant.objects.filter(pk=lieutenant.pk, status=Status.STARTING)
    if mine.exclude(waiting_for=text).update(waiting_for=text):
        events.publish_lieutenant(lieutenant.pk)


def _take(lieutenant: Lieutenant, row: Provisioning, machine: Machine) -> bool:
    """Let the lieutenant run on its VM, and stand below it in the tree.

    Return False if it is not to start any more.
    """
    starting = Lieutenant.objects.here().filter(status=Status.STARTING)
    with transaction.atomic():
        if not starting.lock_claimed(lieutenant):
            return False
        # Creating a node shares this lock: two that both did could not move their nodes then.
        database_locks.lock(DatabaseLock.TREE_STRUCTURE)
        if not Node.objects.filter(vm_id=machine.vm_id).exists():
            machines.import_machine(machine, by="reef", parent_vm_id=row.parent_vm_id)
            machine.refresh_from_db()
        lieutenant.on_vm, lieutenant.host = machine.vm_id, machine.name or machine.vm_id
        facts = {"on_vm": lieutenant.on_vm, "host": lieutenant.host, "waiting_for": ""}
        Lieutenant.objects.filter(pk=lieutenant.pk).update(**facts)
        with suppress(BadInput, NotFound), transaction.atomic():
            tree.change(lieutenant.pk, NodeChange(parent_vm_id=machine.vm_id), by="reef")
        with suppress(BadInput, NotFound), transaction.atomic():
            changes = {"address": lieutenant.host, "parent_vm_id": machine.vm_id}
            registry.patch(lieutenant.pk, changes)
        events.publish_lieutenant(lieutenant.pk)
    return True
