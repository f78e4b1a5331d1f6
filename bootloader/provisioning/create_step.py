"""Create exactly one VM for a provisioning, even if responses are lost.

The intent to call the provider is stored before the call. If a stored intent has no machine, the
provider's `find_created` is used before the next call.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from bootloader import providers
from bootloader.exceptions import (
    NoSuchMachine,
    OutcomeUnknown,
    ProviderRefused,
    ProviderUnavailable,
)
from bootloader.inventory import machines
from bootloader.models import BootStep, LogLine, Machine, Provisioning
from bootloader.providers import base
from reef_site.common import clock

if TYPE_CHECKING:
    from bootloader.provisioning.steps import CheckAgain, Context

# After a lost response the VM may appear within this time.
LOST_VM_WINDOW = timedelta(seconds=20)
POLL_SECONDS = 2.0
LABEL = "reef-provisioning"


def spec_of(row: Provisioning) -> base.Spec:
    """Return the resolved specification, with a label unique to this provisioning."""
    kept: dict[str, Any] = dict(row.spec)
    labels = {**kept.pop("labels", {}), LABEL: row.pk, "reef-name": row.name}
    return base.Spec(name=row.name, labels=labels, elsewhere=row.asked_by_node, **kept)


def create(context: Context, step: BootStep) -> CheckAgain | None:
    """Obtain one VM: the existing one, one from a call whose response was lost, or a new one."""
    row = context.row
    if _has_vm(context):
        return None
    if may_have_requested(step):
        found = find_lost_vm(context, step)
        if found is not None or context.row.machine is not None:
            return found
    context.check_lease()
    # Committed before the call, so that a crash cannot hide it.
    step.keep(asked_at=clock.now().isoformat(), lost_at=None)
    provider = providers.get(row.provider)
    try:
        made = provider.create(spec_of(row))
    except (ProviderUnavailable, ProviderRefused):
        step.keep(asked_at=None)
        raise
    except OutcomeUnknown as error:
        step.keep(lost_at=clock.now().isoformat())
        context.say(f"{error}; looking whether it was made", step, LogLine.Kind.ERROR)
        return context.later(POLL_SECONDS, "looks whether the VM was made")
    if not _assign(context, made, "made"):
        # Another provisioning, looking for its lost VM, took ours; its VM is left for us to find.
        return context.later(POLL_SECONDS, "looks for a VM that is nobody's")
    return None


def may_have_requested(step: BootStep) -> bool:
    """Return whether the provider was called and the outcome is unknown."""
    return bool(step.facts.get("asked_at"))


def find_lost_vm(context: Context, step: BootStep) -> CheckAgain | None:
    """Look for the VM of a call whose response was lost.

    Return None when it is resolved: the provisioning has the VM now, or none was created.
    """
    row, requested_at = context.row, clock.parse_iso(step.facts["asked_at"])
    provider = providers.get(row.provider)
    # A machine first listed since then, without a provisioning, may be ours.
    others = Q(known_since__lt=requested_at) | Q(provisionings__isnull=False)
    rows = Machine.objects.of(row.provider).filter(others)
    known = frozenset(rows.values_list("machine_id", flat=True))
    found = provider.find_created(spec_of(row), requested_at, known)
    for each in sorted(found, key=lambda one: one.id):
        if _assign(context, each, "found again"):
            return None
    if not step.facts.get("lost_at"):
        # The caller crashed during the call: the response counts as lost from now on.
        step.keep(lost_at=clock.now().isoformat())
    if clock.now() - clock.parse_iso(step.facts["lost_at"]) < LOST_VM_WINDOW:
        return context.later(POLL_SECONDS, "looks whether the VM was made")
    step.keep(asked_at=None)
    context.say("no VM came of it", step)
    return None


def _has_vm(context: Context) -> bool:
    """Return whether the provisioning has a VM. Detach one that is gone."""
    machine = context.row.machine
    if machine is None:
        return False
    if not machine.is_gone and machines.refresh(machine) is not None:
        return True
    Provisioning.objects.filter(pk=context.row.pk, machine=machine).update(machine=None, vm_id="")
    context.row.machine, context.row.vm_id = None, ""
    return False


def _assign(context: Context, seen: base.Machine, how: str) -> bool:
    """Assign the machine to this provisioning; return False if another one has it."""
    row = context.row
    try:
        machine, previous = _assign_row(row, seen)
    except IntegrityError:
        return False
    if previous is None:
        row.machine, row.vm_id = machine, machine.vm_id
        context.say(f"VM {machine.machine_id} is {how}", None)
    elif previous.pk != machine.pk:
        # Two workers called because one was presumed dead: one VM is enough.
        context.say(f"VM {machine.machine_id} is one too many and is deleted", None)
        machines.delete_at_provider(machine, by=f"provisioning {row.pk}, which has another one")
    return True


@transaction.atomic
def _assign_row(row: Provisioning, seen: base.Machine) -> tuple[Machine, Machine | None]:
    """Return the machine's row, and the machine that the provisioning had before.

    Raise IntegrityError if another provisioning has the machine.
    """
    previous = Provisioning.objects.select_for_update(of=("self",)).get(pk=row.pk).machine
    others = Provisioning.objects.filter(
        machine__provider=row.provider, machine__machine_id=seen.id
    )
    if others.exclude(pk=row.pk).exists():
        raise IntegrityError(f"machine {seen.id} is another one's")
    vm_id = "" if previous else machines.new_vm_id(seen.id)
    machine = machines.record(row.provider, seen, name=row.name, vm_id=vm_id)
    if previous is None:
        # The constraint is the lock: only one of two finders gets the machine.
        Provisioning.objects.filter(pk=row.pk).update(machine=machine, vm_id=vm_id)
        BootStep.objects.get(provisioning=row, name="create").keep(asked_at=None)
    return machine, previous


def address_of(row: Provisioning) -> str:
    """Return the host name by which the fleet reaches the VM."""
    if row.machine is None:
        raise NoSuchMachine(f"'{row.name}' has no VM")
    return providers.get(row.provider).address(row.machine.machine_id)
