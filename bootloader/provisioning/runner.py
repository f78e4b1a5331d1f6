"""Advance provisionings step by step, in whichever worker holds the lease.

`advance` may run twice, late or never. The lease is renewed while a step runs, so a killed worker
loses it within seconds, and another one continues from the rows.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from datetime import timedelta

from bootloader.exceptions import (
    NoSuchMachine,
    ProviderUnavailable,
    RateLimited,
    ShellUnavailable,
)
from bootloader.inventory import machines
from bootloader.models import BootStep, LogLine, Provisioning
from bootloader.provisioning import cleanup, quota, script_runner, steps
from bootloader.provisioning.steps import CheckAgain, Context
from bootloader.states import State, StepName, StepState
from reef_site.common import clock, events
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import IllegalMove, LostRace, ReefError
from reef_site.common.hooks import Hook
from reef_site.common.leases import is_leased

logger = logging.getLogger(__name__)

# Called after the last step, and in whatever worker; a lost call must do no harm.
end_listeners: Hook[Callable[[str], None]] = Hook(
    "provisionings.end_listeners", "Called with the id of a provisioning that has ended."
)

LEASE = timedelta(seconds=10)
# Maximum time between two checks of a step, including clock differences.
MAX_WAIT = timedelta(minutes=10) + clock.SKEW
# Time after which a task yields the worker to others.
BUDGET_SECONDS = 20.0
# Maximum retries while something is unreachable; pauses grow up to MAX_PAUSE.
MAX_MISSES = 12
MAX_PAUSE = 15.0
INTERNAL_ERROR = "an error of reef's own; its log tells more"


def advance(provisioning_id: str) -> None:
    """Advance the provisioning for a while.

    Do nothing if another worker does, or if it has ended.
    """
    holder = secrets.token_hex(8)
    row = Provisioning.objects.claim(provisioning_id, holder, LEASE)
    if row is None:
        return
    wait: float | None = None
    try:
        with Provisioning.objects.renewing(row.pk, holder, LEASE):
            wait = _run_steps(Context(row, holder))
    except LostRace as error:
        logger.info("%s was moved by somebody else: %s", row, error)
        wait = 1.0
    finally:
        _release(row.pk, holder, wait)
    if wait is None:
        quota.start_queued()
        for listener in end_listeners:
            listener(row.pk)
    else:
        dispatch("bootloader.advance", row.pk, countdown=wait)


def tick() -> None:
    """Dispatch provisionings that a lost message or a dead worker left behind."""
    now = clock.now()
    late = now - timedelta(seconds=3)
    for row in Provisioning.objects.active().order_by("id"):
        # A time too far ahead was written before the clock was set back.
        waits = row.look_at is not None and late <= row.look_at < now + MAX_WAIT
        if not is_leased(row.leased_until, now, LEASE) and not waits:
            dispatch("bootloader.advance", row.pk)
    quota.start_queued()


def _release(provisioning_id: str, holder: str, wait: float | None) -> None:
    """Release the lease, and store the time of the next check."""
    look_at = None if wait is None else clock.now() + timedelta(seconds=wait)
    Provisioning.objects.release_held(provisioning_id, holder, look_at=look_at)


def _run_steps(context: Context) -> float | None:
    """Run steps until one has to wait. Return the seconds until the next check, None at the end."""
    end = time.monotonic() + BUDGET_SECONDS
    while time.monotonic() < end:
        row = context.fresh()
        if row.state == State.CANCELLING:
            return cleanup.finish_cancellation(context)
        if row.state != State.RUNNING:
            return None
        step = row.steps.next()
        if step is None:
            row.move(State.DONE)
            events.publish_provisionings([row.pk])
            return None
        wait = _run_step(context, step)
        events.publish_provisionings([row.pk])
        if wait is not None:
            return wait
    return 0.0


def _run_step(context: Context, step: BootStep) -> float | None:
    """Run a step once. Return the seconds until the next check, None to continue at once."""
    row = context.row
    if step.state == StepState.FAILED:
        # A worker was interrupted before it failed the provisioning as well.
        return _fail(row, step, step.reason)
    if step.state == StepState.WAITING:
        step.move(StepState.RUNNING)
        context.say(f"{step.get_name_display()} …", step)
    try:
        later = steps.STEP_FUNCTIONS[StepName(step.name)](context, step)
    except (ProviderUnavailable, ShellUnavailable) as error:
        return _retry_later(context, step, error)
    except (LostRace, IllegalMove):
        raise
    except NoSuchMachine as error:
        if row.machine is not None:
            machines.mark_gone(row.machine, f"vanished while it came up: {error}")
        return _fail(row, step, f"{_gone_at(row)}: {error}")
    except ReefError as error:
        return _fail(row, step, str(error))
    except Exception:
        logger.exception("step %s of provisioning %s", step, row.pk)
        return _fail(row, step, INTERNAL_ERROR)
    if later is not None:
        return _wait(context, step, later)
    step.move(StepState.DONE)
    return None


def _abandon(context: Context, step: BootStep, why: str) -> float | None:
    """Fail a step that took too long, and end its script if that can be reached."""
    if step.name == StepName.RUN:
        script_runner.stop_script(context)
    return _fail(context.row, step, why)


def _gone_at(row: Provisioning) -> str:
    return f"the VM is gone at {row.provider}; a retry makes a new one"


def _wait(context: Context, step: BootStep, later: CheckAgain) -> float | None:
    if steps.is_gone(context, step):
        return _fail(context.row, step, _gone_at(context.row))
    if why := steps.overdue(context, step):
        return _abandon(context, step, why)
    if later.why != step.reason or step.misses:
        BootStep.objects.filter(pk=step.pk).update(reason=later.why[:2000], misses=0)
    return later.seconds


def _retry_later(context: Context, step: BootStep, error: ReefError) -> float | None:
    """Schedule a retry with growing pauses after a connection failure, up to a limit."""
    if steps.is_gone(context, step, steps.UNREACHABLE_CHECK_INTERVAL):
        return _fail(context.row, step, _gone_at(context.row))
    if why := steps.overdue(context, step):
        return _abandon(context, step, f"{why}; {error}")
    if step.misses + 1 >= MAX_MISSES:
        return _fail(context.row, step, str(error))
    BootStep.objects.filter(pk=step.pk).update(misses=step.misses + 1, reason=str(error)[:2000])
    if step.reason != str(error)[:2000]:
        context.say(f"{error}; trying again", step, LogLine.Kind.ERROR)
    pause: float = min(MAX_PAUSE, 0.5 * 2**step.misses)
    if isinstance(error, RateLimited) and error.seconds:
        pause = max(pause, min(error.seconds, 120.0))
    return pause


def _fail(row: Provisioning, step: BootStep, reason: str) -> float | None:
    """Mark step and provisioning as failed, and apply the cleanup policy."""
    if step.state == StepState.RUNNING:
        step.move(StepState.FAILED, reason)
    row.move(State.FAILED, f"{step.get_name_display()}: {reason}")
    events.publish_provisionings([row.pk])
    cleanup.apply_failure_policy(row)
    return None


__all__ = ["CheckAgain", "advance", "tick"]
