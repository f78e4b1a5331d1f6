"""Exactly one VM for a provisioning, whatever is lost on the way.

Before the provider is asked, that it will be asked is written down. Whoever comes back to such a
mark without a machine looks with the provider's `find_created` before asking again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.db.models import Q

from bootloader import providers
from bootloader.exceptions import NoSuchMachine, OutcomeUnknown, ProviderAway, ProviderRefused
from bootloader.models import BootStep, LogLine, Machine, Provisioning
from bootloader.providers import base
from bootloader.provisioning import machines
from reef_site.common import clock

if TYPE_CHECKING:
    from bootloader.provisioning.steps import Context, Later

# For so long after an answer was lost the VM may still turn up.
LOOK_FOR = timedelta(seconds=20)
LOOK_EVERY = 2.0
LABEL = "reef-provisioning"


def spec_of(row: Provisioning) -> base.Spec:
    """What config and wish came to, with a label that is this provisioning's own."""
    kept: dict[str, Any] = dict(row.spec)
    labels = {**kept.pop("labels", {}), LABEL: row.pk, "reef-name": row.name}
    return base.Spec(name=row.name, labels=labels, elsewhere=row.asked_by_node, **kept)


def create(context: Context, step: BootStep) -> Later | None:
    """Have one VM: the one that is there, one that a lost answer made, or a new one."""
    row = context.row
    if _is_there(context):
        return None
    if may_have_asked(step):
        found = look(context, step)
        if found is not None or context.row.machine is not None:
            return found
    context.must_hold()
    # Committed before the question: whoever comes after a crash knows that it may have been asked.
    step.keep(asked_at=clock.now().isoformat(), lost_at=None)
    provider = providers.get(row.provider)
    try:
        made = provider.create(spec_of(row))
    except (ProviderAway, ProviderRefused):
        step.keep(asked_at=None)
        raise
    except OutcomeUnknown as error:
        step.keep(lost_at=clock.now().isoformat())
        context.say(f"{error}; looking whether it was made", step, LogLine.Kind.ERROR)
        return context.later(LOOK_EVERY, "looks whether the VM was made")
    if not _take(context, made, "made"):
        # Who looked for the VM of a lost answer took ours for it; that one is for us to find.
        return context.later(LOOK_EVERY, "looks for a VM that is nobody's")
    return None


def may_have_asked(step: BootStep) -> bool:
    """Whether the provider was asked, and nobody knows what came of it."""
    return bool(step.facts.get("asked_at"))


def look(context: Context, step: BootStep) -> Later | None:
    """Look for the VM of a question whose answer was lost.

    None when that is settled: the provisioning has it now, or it was never made.
    """
    row, asked = context.row, clock.parse_iso(step.facts["asked_at"])
    provider = providers.get(row.provider)
    # One that turned up in the provider's list meanwhile, and is nobody's, may be ours.
    others = Q(known_since__lt=asked) | Q(provisionings__isnull=False)
    rows = Machine.objects.of(row.provider).filter(others)
    known = frozenset(rows.values_list("machine_id", flat=True))
    found = provider.find_created(spec_of(row), asked, known)
    for each in sorted(found, key=lambda one: one.id):
        if _take(context, each, "found again"):
            return None
    if not step.facts.get("lost_at"):
        # Who asked died with the question; its answer is lost since now.
        step.keep(lost_at=clock.now().isoformat())
    if clock.now() - clock.parse_iso(step.facts["lost_at"]) < LOOK_FOR:
        return context.later(LOOK_EVERY, "looks whether the VM was made")
    step.keep(asked_at=None)
    context.say("no VM came of it", step)
    return None


def _is_there(context: Context) -> bool:
    """Whether it has a VM. One that is gone is its VM no longer."""
    machine = context.row.machine
    if machine is None:
        return False
    if not machine.is_gone and machines.look(machine) is not None:
        return True
    Provisioning.objects.filter(pk=context.row.pk, machine=machine).update(machine=None, vm_id="")
    context.row.machine, context.row.vm_id = None, ""
    return False


def _take(context: Context, seen: base.Machine, how: str) -> bool:
    """Note the machine as this provisioning's; False if another one has it."""
    row = context.row
    try:
        machine, held = _note(row, seen)
    except IntegrityError:
        return False
    if held is None:
        row.machine, row.vm_id = machine, machine.vm_id
        context.say(f"VM {machine.machine_id} is {how}", None)
    elif held.pk != machine.pk:
        # Two workers asked, since one of them was taken for dead: one VM is enough.
        context.say(f"VM {machine.machine_id} is one too many and is deleted", None)
        machines.end(machine, by=f"provisioning {row.pk}, which has another one")
    return True


@transaction.atomic
def _note(row: Provisioning, seen: base.Machine) -> tuple[Machine, Machine | None]:
    """The machine's row, and the machine that the provisioning had before.

    Raises IntegrityError if another provisioning has it.
    """
    held = Provisioning.objects.select_for_update(of=("self",)).get(pk=row.pk).machine
    others = Provisioning.objects.filter(
        machine__provider=row.provider, machine__machine_id=seen.id
    )
    if others.exclude(pk=row.pk).exists():
        raise IntegrityError(f"machine {seen.id} is another one's")
    vm_id = "" if held else machines.place_of(seen.id)
    machine = machines.record(row.provider, seen, name=row.name, vm_id=vm_id)
    if held is None:
        # The constraint is the lock: one of two that found the same machine gets it.
        Provisioning.objects.filter(pk=row.pk).update(machine=machine, vm_id=vm_id)
        BootStep.objects.get(provisioning=row, name="create").keep(asked_at=None)
    return machine, held


def address_of(row: Provisioning) -> str:
    """Under which name the fleet may find its VM."""
    if row.machine is None:
        raise NoSuchMachine(f"'{row.name}' has no VM")
    return providers.get(row.provider).address(row.machine.machine_id)
