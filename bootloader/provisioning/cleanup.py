"""Clean up after cancelled and failed provisionings: keep or delete the VM, never lose track of
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from bootloader.exceptions import ProviderUnavailable, RateLimited
from bootloader.inventory import machines
from bootloader.join import tokens as join_tokens
from bootloader.models import LogLine, Provisioning
from bootloader.provisioning import create_step, script_runner
from bootloader.states import CleanupPolicy, State, StepState
from reef_site.common import clock, events
from reef_site.common.errors import ReefError

if TYPE_CHECKING:
    from bootloader.provisioning.steps import Context

# Attempts to reach the provider before the provisioning counts as failed.
MAX_ATTEMPTS = 8


def finish_cancellation(context: Context) -> float | None:
    """Do the work of a cancellation.

    Return the seconds until the next check, or None at its end.
    """
    row = context.row
    try:
        wait = _find_lost(context)
        if wait is not None:
            return wait
        machine = row.machine
        outcome = "no VM was made" if machine is None else "its VM was gone already"
        if machine is not None and not machine.is_gone:
            if row.on_failure == CleanupPolicy.DELETE:
                machines.delete(machine, by=row.actor, note=f"of cancelled provisioning {row.pk}")
                outcome = f"its VM {machine} was deleted"
            else:
                script_runner.stop_script(context)
                machines.set_note(machine, f"kept when provisioning {row.pk} was cancelled")
                outcome = f"its VM {machine} was kept"
            context.say(outcome, None)
    except ProviderUnavailable as error:
        return _retry_later(context, error)
    except ReefError as error:
        # Keep the row visible as failed: the VM still exists.
        _fail_cancellation(row, f"cancelled, but its VM is still there: {error}")
        return None
    _complete(row, outcome)
    return None


def _complete(row: Provisioning, outcome: str) -> None:
    actor = row.reason.rpartition("; its VM is to be ")[0] or row.reason
    with transaction.atomic():
        if row.vm_id:
            join_tokens.revoke_unused(row.vm_id)
        row.steps.cancel()
        row.move(State.CANCELLED, f"{actor}; {outcome}", released_at=clock.now())
    events.publish_provisionings([row.pk])


def _fail_cancellation(row: Provisioning, reason: str) -> None:
    """Mark as failed a provisioning that cannot be cancelled now, and its interrupted step."""
    with transaction.atomic():
        for step in row.steps.filter(state=StepState.RUNNING):
            step.move(StepState.FAILED, "was cut off")
        row.move(State.FAILED, reason)


def _find_lost(context: Context) -> float | None:
    """Look for a VM that the provider may have created without our knowledge."""
    step = context.row.steps.get(name="create")
    if context.row.machine is not None or not create_step.may_have_requested(step):
        return None
    later = create_step.find_lost_vm(context, step)
    return None if later is None else later.seconds


def _retry_later(context: Context, error: ProviderUnavailable) -> float | None:
    """Schedule another attempt to reach the provider, up to a limit."""
    step = context.row.steps.get(name="create")
    tries = int(step.facts.get("clearing", 0)) + 1
    step.keep(clearing=tries)
    if tries >= MAX_ATTEMPTS:
        _fail_cancellation(context.row, f"cancelled, but its VM may still be there: {error}")
        return None
    context.say(f"{error}; trying again", None, LogLine.Kind.ERROR)
    seconds = error.seconds if isinstance(error, RateLimited) and error.seconds else 0.0
    return max(seconds, min(15.0, 0.5 * 2.0**tries))


def apply_failure_policy(row: Provisioning) -> None:
    """Delete the VM of a failed provisioning if its policy says so; a retry then makes a new
    one.
    """
    machine = row.machine
    if row.on_failure != CleanupPolicy.DELETE or machine is None or machine.is_gone:
        return
    try:
        machines.delete(machine, by=row.actor, note=f"of failed provisioning {row.pk}")
        text, kind = f"{machine} is deleted, as was chosen", LogLine.Kind.NOTE
    except ReefError as error:
        text, kind = f"{machine} could not be deleted: {error}", LogLine.Kind.ERROR
    LogLine.objects.create(provisioning=row, kind=kind, text=text[:2000])
    events.publish_provisionings([row.pk])
