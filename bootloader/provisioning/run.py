"""Advance provisionings step by step, in whichever worker holds the lease.

`advance` may run twice, late or never. The lease is renewed while a step runs, so a killed worker
loses it within seconds, and another one continues from the rows.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from django.db import connection

from bootloader.exceptions import (
    IllegalMove,
    LostRace,
    NoSuchMachine,
    ProviderAway,
    RateLimited,
    ShellAway,
)
from bootloader.models import BootStep, LogLine, Provisioning
from bootloader.provisioning import booting, ending, limits, machines, rings, steps
from bootloader.provisioning.steps import Context, Later
from bootloader.states import State, StepName, StepState
from reef_site.common import clock
from reef_site.common.errors import ReefError

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=10)
# Maximum time between two checks of a step, including clock differences.
LONGEST_WAIT = timedelta(minutes=10) + clock.SKEW
# Time after which a task yields the worker to others.
BUDGET_SECONDS = 20.0
# Maximum retries while something is unreachable; pauses grow up to LONGEST_PAUSE.
MOST_MISSES = 12
LONGEST_PAUSE = 15.0
OURS = "an error of reef's own; its log tells more"


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
        with _held(row.pk, holder):
            wait = _move_on(Context(row, holder))
    except LostRace as error:
        logger.info("%s was moved by somebody else: %s", row, error)
        wait = 1.0
    finally:
        _release(row.pk, holder, wait)
    if wait is None:
        limits.begin()
    else:
        rings.advance(row.pk, later=wait)


def tick() -> None:
    """Dispatch provisionings that a lost message or a dead worker left behind."""
    now = clock.now()
    late = now - timedelta(seconds=3)
    for row in Provisioning.objects.at_work().order_by("id"):
        held = row.leased_until is not None and now < row.leased_until < now + LEASE + clock.SKEW
        # A time too far ahead was written before the clock was set back.
        waits = row.look_at is not None and late <= row.look_at < now + LONGEST_WAIT
        if not held and not waits:
            rings.advance(row.pk)
    limits.begin()


def _release(provisioning_id: str, holder: str, wait: float | None) -> None:
    """Release the lease, and store the time of the next check."""
    look_at = None if wait is None else clock.now() + timedelta(seconds=wait)
    mine = Provisioning.objects.filter(pk=provisioning_id, leased_by=holder)
    mine.update(leased_until=None, leased_by="", look_at=look_at)


@contextlib.contextmanager
def _held(provisioning_id: str, holder: str) -> Iterator[None]:
    """Renew the lease in a thread while the block runs."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(LEASE.total_seconds() / 4):
            mine = Provisioning.objects.filter(pk=provisioning_id, leased_by=holder)
            try:
                if not mine.update(leased_until=clock.now() + LEASE):
                    return
            except Exception:
                logger.exception("the lease of %s could not be renewed", provisioning_id)
            finally:
                connection.close()

    thread = threading.Thread(target=renew, name="reef-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5)


def _move_on(context: Context) -> float | None:
    """Run steps until one has to wait. Return the seconds until the next check, None at the end."""
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
            rings.tell(row.pk)
            return None
        wait = _do(context, step)
        rings.tell(row.pk)
        if wait is not None:
            return wait
    return 0.0


def _do(context: Context, step: BootStep) -> float | None:
    """Run a step once. Return the seconds until the next check, None to continue at once."""
    row = context.row
    if step.state == StepState.FAILED:
        # A worker was interrupted before it failed the provisioning as well.
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
    """Fail a step that took too long, and end its script if that can be reached."""
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
    """Schedule a retry with growing pauses after a connection failure, up to a limit."""
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
    """Mark step and provisioning as failed, and apply the cleanup policy."""
    if step.state == StepState.RUNNING:
        step.move(StepState.FAILED, reason)
    row.move(State.FAILED, f"{step.get_name_display()}: {reason}")
    rings.tell(row.pk)
    ending.after_failure(row)
    return None


__all__ = ["Later", "advance", "tick"]
