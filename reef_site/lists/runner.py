"""Carries out confirmed actions, row by row.

`advance` may run twice, late or never: the lease of an action admits one worker at a time. A row
is changed and gets its result in one transaction, so one that was under way when a worker died has
not been changed, and is tried again.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery.exceptions import SoftTimeLimitExceeded
from django.contrib.auth.models import User
from django.db import transaction

from reef_site.common import clock
from reef_site.common.dispatch import dispatch
from reef_site.common.errors import ReefError
from reef_site.common.lists.bulk import BulkAction, Turn, bulk_lists
from reef_site.lists.models import OPEN_ITEMS, BulkItem, BulkRun, ItemState, RunState
from vmtree import snapshots
from vmtree.snapshot_models import Why

logger = logging.getLogger(__name__)

# A row takes a fraction of a second. One that takes longer is still changed by one worker only.
LEASE = timedelta(seconds=15)
# Of one task; the next one goes on.
SECONDS_PER_TASK = 20.0
MAX_LOOKED_AT = 100


def tick() -> None:
    """Dispatch `advance` for all open actions, in case a task was lost.

    Rows that a worker left under way when it died, and whose action was cancelled, are cancelled.
    """
    ended = BulkRun.objects.exclude(state=RunState.OPEN).free(clock.now(), LEASE)
    left = BulkItem.objects.filter(state=ItemState.RUNNING, run__in=ended)
    left.update(state=ItemState.CANCELLED, ended_at=clock.now())
    for pk in BulkRun.objects.open().order_by("id").values_list("pk", flat=True)[:MAX_LOOKED_AT]:
        dispatch("lists.advance", pk)


def advance(run_id: str) -> None:
    """Go on with an action for some seconds, unless another worker does."""
    until = BulkRun.objects.open().acquire(run_id, LEASE)
    if until is None:
        return
    lease = _Lease(run_id, until)
    try:
        is_over = _advance(BulkRun.objects.get(pk=run_id), lease)
    finally:
        lease.release()
    if not is_over:
        dispatch("lists.advance", run_id)


@dataclass
class _Lease:
    """The lease of an action. It is short, so that another worker soon goes on after a death."""

    run_id: str
    until: datetime | None

    def extend(self) -> bool:
        """Have the lease begin anew; False if another worker has taken the action over."""
        if self.until:
            self.until = BulkRun.objects.extend(self.run_id, self.until, LEASE)
        return self.until is not None

    def release(self) -> None:
        """Free the action, unless another worker has taken it over."""
        if self.until:
            BulkRun.objects.release(self.run_id, self.until)


def _advance(run: BulkRun, lease: _Lease) -> bool:
    """Carry out the next rows; return whether this worker has nothing more to do."""
    action, problem = _action_of(run), _problem_of(run)
    if action is None or problem:
        return _give_up(run, problem or "this reef does not have the action any more")
    if action.takes_snapshot and not run.snapshot and not _take_snapshot(run):
        return True
    end = time.monotonic() + SECONDS_PER_TASK
    while time.monotonic() < end:
        if not lease.extend():
            return True
        item = run.items.filter(state__in=OPEN_ITEMS).order_by("position").first()
        if item is None:
            run.end(RunState.DONE)
            return True
        # A cancelled action has no waiting rows left.
        rows = BulkItem.objects.filter(pk=item.pk, state__in=OPEN_ITEMS)
        if rows.update(state=ItemState.RUNNING):
            _carry_out(run, action, item)
    return False


def _action_of(run: BulkRun) -> BulkAction | None:
    bulk_list = bulk_lists.get(run.list)
    return bulk_list.actions.get(run.action) if bulk_list else None


def _problem_of(run: BulkRun) -> str:
    """Return why nothing may be done for the person any more; empty if it may."""
    if run.user is None or not run.user.is_active:
        return f"the account of {run.actor} is gone or switched off"
    return ""


def _give_up(run: BulkRun, reason: str) -> bool:
    fields = {"state": ItemState.FAILED, "result": reason, "ended_at": clock.now()}
    run.items.filter(state__in=OPEN_ITEMS).update(**fields)
    run.end(RunState.DONE, reason=reason)
    return True


def _take_snapshot(run: BulkRun) -> bool:
    """Take one snapshot before anything is destroyed. Without one nothing is done."""
    try:
        taken = snapshots.take(by=f"{run.actor}, action {run.pk}", why=Why.CHANGE).snapshot
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        logger.exception("action %s: no snapshot", run.pk)
        _give_up(run, f"nothing was destroyed, for there could be no snapshot before: {error}")
        return False
    run.snapshot = taken.file
    BulkRun.objects.filter(pk=run.pk).update(snapshot=run.snapshot)
    return True


def _carry_out(run: BulkRun, action: BulkAction, item: BulkItem) -> None:
    """Change one row and store its result."""
    ended = {"state": ItemState.FAILED, "ended_at": clock.now()}
    mine = BulkItem.objects.filter(pk=item.pk, state=ItemState.RUNNING)
    try:
        _change(run, action, item)
    except ReefError as error:
        mine.update(**ended, result=str(error))
    except SoftTimeLimitExceeded:
        # The next task tries the row again.
        raise
    except Exception:
        logger.exception("action %s: row %s", run.pk, item.pk)
        mine.update(**ended, result="internal error; the log of the worker has more")


def _change(run: BulkRun, action: BulkAction, item: BulkItem) -> None:
    """Change one row and store the result in the same transaction."""
    assert isinstance(run.user, User), "checked by the caller"
    turn = Turn(item.target, f"bulk-{item.pk}", item.warning, item.count, run.text, run.snapshot)
    with transaction.atomic():
        # A worker whose lease has ended may be at the same row; the lock admits one of them.
        mine = BulkItem.objects.filter(pk=item.pk, state=ItemState.RUNNING)
        if mine.select_for_update().order_by("pk").first() is None:
            return
        result = action.run(turn, run.user)
        mine.update(state=ItemState.DONE, result=result.text, job=result.job, ended_at=clock.now())
