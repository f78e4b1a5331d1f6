"""VMs that are made for lieutenants: by a profile, or restored from a saved machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from bootloader.inventory import machines
from bootloader.models import BootStep, Machine, Provisioning
from bootloader.provisioning import requests
from bootloader.provisioning import services as provisioning
from bootloader.provisioning.requests import ProvisionRequest
from bootloader.states import CleanupPolicy, State, StepState
from lieutenants.models import Lieutenant, MadeVM
from lieutenants.states import Status
from lieutenants.supervision.starts import fail
from reef_site.common import events
from reef_site.common.errors import BadInput, Conflict, NotFound, ReefError
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
    rows = MadeVM.objects.present().select_related("lieutenant", "provisioning__machine")
    return rows.filter(pk=lieutenant.pk).first()


def bring_up(lieutenant: Lieutenant) -> bool:
    """Return whether the lieutenant's machine is there; otherwise do the next step towards it.

    A failed provisioning fails the lieutenant. Its next start tries again.
    """
    made = None if lieutenant.on_vm else present_of(lieutenant)
    if made is None:
        return True
    row = made.provisioning
    if row.is_open:
        _show_wait(lieutenant, row)
        return False
    if row.state == State.DONE and row.machine and not row.machine.is_gone:
        _take(lieutenant, row, row.machine)
        return True
    try:
        if row.state_since > lieutenant.status_since:
            why = row.reason or "its VM is gone"
            fail(lieutenant, f"The VM could not be made: {why} (provisioning {row.pk})")
        elif row.state == State.FAILED:
            provisioning.retry(row.pk, by="reef")
        else:
            again = provisioning.repeat(row, by="reef")
            MadeVM.objects.filter(pk=made.pk).update(provisioning=again, prepared_at=None)
    except ReefError as error:
        fail(lieutenant, f"The VM could not be made: {error}")
    return False


def is_shared(made: MadeVM) -> bool:
    """Return whether other lieutenants are on the VM. It stays for them."""
    vm_id = made.provisioning.vm_id
    others = Lieutenant.objects.active().filter(on_vm=vm_id).exclude(pk=made.pk)
    return bool(vm_id) and others.exists()


def remove(made: MadeVM) -> bool:
    """Delete the VM, or stop making it; return False if that goes on. Raises ProviderError."""
    row = made.provisioning
    if row.is_open or row.state == State.FAILED:
        if row.state != State.FAILED or timezone.now() - row.state_since > AGAIN:
            provisioning.cancel(row.pk, CleanupPolicy.DELETE, by="reef")
        return False
    _delete(made)
    MadeVM.objects.filter(pk=made.pk).update(removed_at=timezone.now())
    return True


def clean_up_failed() -> None:
    """Delete VMs of lieutenants whose first start has failed, unless they are to be kept.

    The next start makes another one.
    """
    rows = MadeVM.objects.here().of_failed_starts().filter(on_failure=CleanupPolicy.DELETE)
    for made in rows.filter(provisioning__state=State.DONE).select_related(
        "lieutenant", "provisioning__machine"
    ):
        if is_shared(made):
            continue
        try:
            _delete(made)
        except ReefError as error:
            logger.warning("%s cannot be deleted yet: %s", made, error)
            continue
        mine = Lieutenant.objects.filter(pk=made.pk, status=Status.ERROR)
        mine.update(on_vm="", has_remote_files=False)
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
        found.setdefault(owners[step.provisioning_id], []).append(_step(step))
    return found


def _step(step: BootStep) -> dict[str, Any]:
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


def _show_wait(lieutenant: Lieutenant, row: Provisioning) -> None:
    step = row.steps.next()
    text = f"its VM: {step.get_name_display()}" if step else "its VM"
    mine = Lieutenant.objects.filter(pk=lieutenant.pk, status=Status.STARTING)
    if mine.exclude(waiting_for=text).update(waiting_for=text):
        events.publish_lieutenant(lieutenant.pk)


def _take(lieutenant: Lieutenant, row: Provisioning, machine: Machine) -> None:
    """Let the lieutenant run on its VM, and stand below it in the tree."""
    with transaction.atomic():
        if not Node.objects.filter(vm_id=machine.vm_id).exists():
            machines.import_machine(machine, by="reef", parent_vm_id=row.parent_vm_id)
        lieutenant.on_vm, lieutenant.host = machine.vm_id, machine.name or machine.vm_id
        facts = {"on_vm": lieutenant.on_vm, "host": lieutenant.host, "waiting_for": ""}
        Lieutenant.objects.filter(pk=lieutenant.pk).update(**facts)
        with suppress(BadInput, NotFound), transaction.atomic():
            tree.change(lieutenant.pk, NodeChange(parent_vm_id=machine.vm_id), by="reef")
        with suppress(BadInput, NotFound), transaction.atomic():
            changes = {"address": lieutenant.host, "parent_vm_id": machine.vm_id}
            registry.patch(lieutenant.pk, changes)
        events.publish_lieutenant(lieutenant.pk)
