"""Record the result of a start: a keeper that came up, or none."""

from __future__ import annotations

import logging

from django.db import transaction
from django.utils import timezone

from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision.transports import transport_of
from lieutenants.supervision.transports.base import Handle
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace

logger = logging.getLogger(__name__)


def renew_start(process: Process) -> bool:
    """Restart the keeper's start timeout; return False if the start was given up meanwhile."""
    process.started_at = timezone.now()
    mine = Process.objects.filter(pk=process.pk, handle={}, ended_at__isnull=True)
    return bool(mine.update(started_at=process.started_at))


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
            Process.objects.filter(pk=process.pk).update(end_reason=reason)
        return
    if handle:
        adopt_keeper(process, handle)
    else:
        start_failed(process, reason)


def adopt_keeper(process: Process, handle: Handle) -> None:
    """Store the started keeper's handle, so that the follower opens its session."""
    process.handle = handle
    with transaction.atomic():
        Process.objects.filter(pk=process.pk).update(handle=handle, end_reason="")
        isolation = str(handle.get("isolation") or "")
        Lieutenant.objects.filter(pk=process.lieutenant_id).update(isolation=isolation)
    events.wake_follower(process.lieutenant_id)


def start_failed(process: Process, reason: str) -> None:
    """Close the row of a process that never came up."""
    text = reason or "Its start was cut off."
    mine = Process.objects.filter(pk=process.pk, handle={}, ended_at__isnull=True)
    if mine.update(ended_at=timezone.now(), end_reason=text) and reason:
        fail(Lieutenant.objects.get(pk=process.lieutenant_id), reason)


def fail(lieutenant: Lieutenant, reason: str) -> None:
    """Set the status to error, unless the lieutenant was moved meanwhile."""
    try:
        lieutenant.move(Status.ERROR, reason=reason, error=reason)
    except (LostRace, IllegalMove):
        logger.info("%s moved on while its start failed: %s", lieutenant, reason)
