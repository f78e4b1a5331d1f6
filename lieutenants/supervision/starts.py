"""Record the begin and the result of a start: a keeper that came up, or none."""

from __future__ import annotations

import logging
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision import machine_locks
from lieutenants.supervision.transports import transport_of
from lieutenants.supervision.transports.base import Handle
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace

logger = logging.getLogger(__name__)


def open_row(process: Process, lieutenant: Lieutenant) -> bool:
    """Insert the row of a process before its start, so that it can always be found.

    Return False if the lieutenant has a process already, or if it is no longer this worker's to
    start: another follower has taken it over, or it was stopped.
    """
    starting = Lieutenant.objects.here().filter(status=Status.STARTING)
    try:
        with transaction.atomic():
            machine_locks.lock(lieutenant.on_vm)
            if not starting.lock_claimed(lieutenant):
                logger.info("%s: another worker has it, or it is to stop", lieutenant)
                return False
            process.save(force_insert=True)
    except IntegrityError:
        logger.info("%s has a process already", lieutenant)
        return False
    return True


def renew_start(process: Process, **facts: Any) -> bool:
    """Restart the keeper's start timeout, and store these columns.

    Return False, and store nothing, if the start was given up meanwhile.
    """
    process.started_at = timezone.now()
    mine = Process.objects.held_by(process).filter(handle={}, ended_at__isnull=True)
    if process.transport != "local":
        # What stops it meanwhile need not wait for its end: a remote start closes the row itself.
        mine = mine.filter(lieutenant__status=Status.STARTING)
    return bool(mine.update(started_at=process.started_at, **facts))


def resolve_lost_start(process: Process, reason: str) -> None:
    """Determine the outcome of a start that was interrupted.

    A keeper that came up is adopted; if there is none, later ones are prevented. While one is still
    coming up the row stays open, so that the follower checks again: no agent runs without a row.
    `reason` says why the lieutenant has failed; empty means that it is started again.
    """
    try:
        handle = transport_of(process).withdraw(process.directory)
    except (TransportError, OSError) as error:
        logger.warning("%s: cannot tell yet what came of its start: %s", process, error)
        if reason:
            Process.objects.held_by(process).update(end_reason=reason)
        return
    if handle:
        adopt_keeper(process, handle)
    else:
        start_failed(process, reason)


def adopt_keeper(process: Process, handle: Handle) -> None:
    """Store the started keeper's handle, so that the follower opens its session.

    That may be another follower than at the begin of the start. If the start was given up
    meanwhile, the row is opened again, and the agent is to end: none runs without a row.
    """
    process.handle = handle
    row = Process.objects.filter(pk=process.pk)
    with transaction.atomic():
        row.lock()
        # Otherwise whoever takes the lieutenant over might not find the row.
        lieutenant = Lieutenant.objects.select_for_update().get(pk=process.lieutenant_id)
        if not row.live().update(handle=handle, end_reason=""):
            _reopen(process, lieutenant)
        isolation = str(handle.get("isolation") or "")
        Lieutenant.objects.filter(pk=lieutenant.pk).update(isolation=isolation)
    events.wake_follower(process.lieutenant_id)


def _reopen(process: Process, lieutenant: Lieutenant) -> None:
    given_up = Process.objects.filter(pk=process.pk, handle={}, ended_at__isnull=False)
    facts: dict[str, Any] = {"ended_at": None, "stop_asked_at": timezone.now(), "end_reason": ""}
    facts |= {"data_folder": lieutenant.data_folder, "generation": F("generation") + 1}
    try:
        with transaction.atomic():
            if given_up.update(handle=process.handle, **facts):
                logger.warning("%s came up after its start was given up; it is ended", process)
    except IntegrityError:
        # Both cannot run: a session has one keeper.
        logger.warning("%s: another process of its lieutenant is followed", process)


def start_failed(process: Process, reason: str) -> None:
    """Close the row of a process that never came up, unless another follower has it."""
    text = reason or "Its start was cut off."
    mine = Process.objects.held_by(process).filter(handle={}, ended_at__isnull=True)
    if mine.update(ended_at=timezone.now(), end_reason=text) and reason:
        fail(Lieutenant.objects.get(pk=process.lieutenant_id), reason)


def fail(lieutenant: Lieutenant, reason: str) -> None:
    """Set the status to error, unless the lieutenant was moved or taken over meanwhile."""
    try:
        with transaction.atomic():
            if not Lieutenant.objects.lock_claimed(lieutenant):
                logger.info("%s: another worker has it; not failed: %s", lieutenant, reason)
                return
            lieutenant.move(Status.ERROR, reason=reason, error=reason)
    except (LostRace, IllegalMove):
        logger.info("%s moved on while its start failed: %s", lieutenant, reason)
