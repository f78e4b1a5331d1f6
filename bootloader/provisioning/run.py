"""Moving a provisioning on: step after step, by whichever worker holds its lease.

`advance` may run twice, late or never. The lease is renewed while a step takes its time, so a
worker that was killed loses it within seconds, and another one goes on where the rows say.
"""

from __future__ import annotations

import logging
import secrets
import time
from datetime import timedelta

from bootloader.exceptions import (
    NoSuchMachine,
    ProviderAway,
    RateLimited,
    ShellAway,
)
from bootloader.models import BootStep, LogLine, Provisioning
from bootloader.provisioning import booting, ending, limits, machines, steps
from bootloader.provisioning.steps import Context, Later
from bootloader.states import State, StepName, StepState
from reef_site.common import clock, events
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import IllegalMove, LostRace, ReefError
from reef_site.common.leases import is_leased

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=10)
# No step waits for longer before it is looked at again, with what two clocks may differ.
LONGEST_WAIT = timedelta(minutes=10) + clock.SKEW
# How long one task moves a provisioning on before it lets others have the worker.
BUDGET_SECONDS = 20.0
# What cannot be reached is tried again so often, with pauses that grow up to the longest.
MOST_MISSES = 12
LONGEST_PAUSE = 15.0
OURS = "an error of reef's own; its log tells more"


def advance(provisioning_id: str) -> None:
    """Move it on for a while. Does nothing while somebody else does, or at its end."""
    holder = secrets.token_hex(8)
    row = Provisioning.objects.claim(provisioning_id, holder, LEASE)
    if row is None:
        return
    wait: float | None = None
    try:
        with Provisioning.objects.renewing(row.pk, holder, LEASE):
            wait = _move_on(Context(row, holder))
    except LostRace as error:
        logger.info("%s was moved by somebody else: %s", row, error)
        wait = 1.0
    finally:
        _release(row.pk, holder, wait)
    if wait is None:
        limits.begin()
    else:
        dispatch("bootloader.advance", row.pk, countdown=wait)


def tick() -> None:
    """Ring for whatever nobody looks at: what a lost ring or a dead worker left behind."""
    now = clock.now()
    late = now - timedelta(seconds=3)
    for row in Provisioning.objects.at_work().order_by("id"):
        # One that lies too far ahead was written before the clock was set back.
        waits = row.look_at is not None and late <= row.look_at < now + LONGEST_WAIT
        if not is_leased(row.leased_until, now, LEASE) and not waits:
            dispatch("bootloader.advance", row.pk)
    limits.begin()


def _release(provisioning_id: str, holder: str, wait: float | None) -> None:
    """Give the lease back, and note when somebody is going to look again."""
    look_at = None if wait is None else clock.now() + timedelta(seconds=wait)
    Provisioning.objects.release_held(provisioning_id, holder, look_at=look_at)


def _move_on(context: Context) -> float | None:
    """Do steps until one has to wait; after how many seconds to look again, None at its end."""
    end = time.monotonic() + BUDGET_SECONDS
    while time.monotonic() < end:
        row = context.fresh()
        if row.state == State.CANCELLING:
            return ending.clear_up(context)
        if row.state != State.RUNNING:
            return None
        step = row.steps.next()
        if step is None:
            row.move(State.DONE)
            events.publish_provisionings([row.pk])
            return None
        wait = _do(context, step)
        events.publish_provisionings([row.pk])
        if wait is not None:
            return wait
    return 0.0


def _do(context: Context, step: BootStep) -> float | None:
    """One go at a step; after how many seconds to look again, None to go on at once."""
    row = context.row
    if step.state == StepState.FAILED:
        # Whoever failed it was cut off before the provisioning followed.
        return _fail(row, step, step.reason)
    if step.state == StepState.WAITING:
        step.move(StepState.RUNNING)
        context.say(f"{step.get_name_display()} …", step)
    try:
        later = steps.TO_DO[StepName(step.name)](context, step)
    except (ProviderAway, ShellAway) as error:
        return _missed(context, step, error)
    except (LostRace, IllegalMove):
        raise
    except NoSuchMachine as error:
        if row.machine is not None:
            machines.gone(row.machine, f"vanished while it came up: {error}")
        return _fail(row, step, f"{_gone_at(row)}: {error}")
    except ReefError as error:
        return _fail(row, step, str(error))
    except Exception:
        logger.exception("step %s of provisioning %s", step, row.pk)
        return _fail(row, step, OURS)
    if later is not None:
        return _wait(context, step, later)
    step.move(StepState.DONE)
    return None


def _give_up(context: Context, step: BootStep, why: str) -> float | None:
    """The step took too long. A script that can still be reached is ended."""
    if step.name == StepName.RUN:
        booting.stop(context)
    return _fail(context.row, step, why)


def _gone_at(row: Provisioning) -> str:
    return f"the VM is gone at {row.provider}; a retry makes a new one"


def _wait(context: Context, step: BootStep, later: Later) -> float | None:
    if steps.is_gone(context, step):
        return _fail(context.row, step, _gone_at(context.row))
    if why := steps.overdue(context, step):
        return _give_up(context, step, why)
    if later.why != step.reason or step.misses:
        BootStep.objects.filter(pk=step.pk).update(reason=later.why[:2000], misses=0)
    return later.seconds


def _missed(context: Context, step: BootStep, error: ReefError) -> float | None:
    """Somebody could not be reached: try again, with growing pauses, but not for ever."""
    if steps.is_gone(context, step, steps.LOOK_EVERY_UNREACHED):
        return _fail(context.row, step, _gone_at(context.row))
    if why := steps.overdue(context, step):
        return _give_up(context, step, f"{why}; {error}")
    if step.misses + 1 >= MOST_MISSES:
        return _fail(context.row, step, str(error))
    BootStep.objects.filter(pk=step.pk).update(misses=step.misses + 1, reason=str(error)[:2000])
    if step.reason != str(error)[:2000]:
        context.say(f"{error}; trying again", step, LogLine.Kind.ERROR)
    pause: float = min(LONGEST_PAUSE, 0.5 * 2**step.misses)
    if isinstance(error, RateLimited) and error.seconds:
        pause = max(pause, min(error.seconds, 120.0))
    return pause


def _fail(row: Provisioning, step: BootStep, reason: str) -> float | None:
    """The step and with it the provisioning have failed; what becomes of the VM was chosen."""
    if step.state == StepState.RUNNING:
        step.move(StepState.FAILED, reason)
    row.move(State.FAILED, f"{step.get_name_display()}: {reason}")
    events.publish_provisionings([row.pk])
    ending.after_failure(row)
    return None


__all__ = ["Later", "advance", "tick"]
