"""How a provisioning ends that did not reach its goal: its VM is kept or deleted, not forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from bootloader import joining
from bootloader.exceptions import ProviderAway, RateLimited
from bootloader.models import LogLine, Provisioning
from bootloader.provisioning import booting, creating, machines, rings
from bootloader.states import Leftover, State
from vmtree import dates
from vmtree.exceptions import FleetError

if TYPE_CHECKING:
    from bootloader.provisioning.steps import Context

# So often somebody who cannot be reached is asked before the provisioning counts as failed.
MOST_TRIES = 8


def clear_up(context: Context) -> float | None:
    """What a cancellation has to do; after how many seconds to look again, None at its end."""
    row = context.row
    try:
        wait = _find_lost(context)
        if wait is not None:
            return wait
        machine = row.machine
        if machine is not None and not machine.is_gone:
            if row.on_failure == Leftover.DELETE:
                machines.delete(machine, by=row.actor, note=f"of cancelled provisioning {row.pk}")
                context.say(f"{machine} is deleted", None)
            else:
                booting.stop(context)
                machines.note(machine, f"kept when provisioning {row.pk} was cancelled")
                context.say(f"{machine} is kept", None)
    except ProviderAway as error:
        return _again(context, error)
    except FleetError as error:
        # Nothing is forgotten: the VM is still there, and the page says so.
        row.move(State.FAILED, f"cancelled, but its VM is still there: {error}")
        return None
    _let_go(row)
    return None


def _let_go(row: Provisioning) -> None:
    with transaction.atomic():
        if row.vm_id:
            joining.void(row.vm_id)
        row.move(State.CANCELLED, row.reason, released_at=dates.now())
    rings.tell(row.pk)


def _find_lost(context: Context) -> float | None:
    """If the provider may have made a VM of which we do not know, look for it first."""
    step = context.row.steps.get(name="create")
    if context.row.machine is not None or not creating.may_have_asked(step):
        return None
    later = creating.look(context, step)
    return None if later is None else later.seconds


def _again(context: Context, error: ProviderAway) -> float | None:
    """The provider cannot be reached: ask again, but not for ever."""
    step = context.row.steps.get(name="create")
    tries = int(step.facts.get("clearing", 0)) + 1
    step.keep(clearing=tries)
    if tries >= MOST_TRIES:
        context.row.move(State.FAILED, f"cancelled, but its VM may still be there: {error}")
        return None
    context.say(f"{error}; trying again", None, LogLine.Kind.ERROR)
    seconds = error.seconds if isinstance(error, RateLimited) and error.seconds else 0.0
    return max(seconds, min(15.0, 0.5 * 2.0**tries))


def after_failure(row: Provisioning) -> None:
    """Delete the VM of a failed one if that was the choice; a retry then makes a new one."""
    machine = row.machine
    if row.on_failure != Leftover.DELETE or machine is None or machine.is_gone:
        return
    try:
        machines.delete(machine, by=row.actor, note=f"of failed provisioning {row.pk}")
        text, kind = f"{machine} is deleted, as was chosen", LogLine.Kind.NOTE
    except FleetError as error:
        text, kind = f"{machine} could not be deleted: {error}", LogLine.Kind.ERROR
    LogLine.objects.create(provisioning=row, kind=kind, text=text[:2000])
    rings.tell(row.pk)
